"""The small detectors learn, predict images of any size, and can be saved and loaded."""

import numpy as np
import pytest
import torch

from adapters.detection.fast_rcnn import FastRcnn
from adapters.detection.faster_rcnn import FasterRcnn
from adapters.detection.rcnn import Rcnn
from adapters.detection.selective_search_detector import RegionTrainingBatch, SelectiveSearchDetector
from adapters.detection.ssd import Ssd
from adapters.detection.training_batch import TrainingBatch
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.errors import UsageError
from harness.task import Annotations, Sample

DETECTORS = [Ssd, Rcnn, FastRcnn, FasterRcnn]
SCENES = Scenes(ScenesOptions(), "train", "detection")
STEPS = 120
STORED = ("tensors", "adapter", "options", "classes")
LEARNT = [SCENES[i] for i in (1, 3)]


def make(cls, **options):
    torch.manual_seed(0)
    adapter = cls(cls.Options(width=8, **options), Runtime())
    adapter.build(SCENES)
    return adapter


def training_batch(adapter, samples):
    """The samples unchanged: neither shifted nor recoloured."""
    batch = adapter.preprocess(samples)
    (group,) = batch if isinstance(batch, list) else (batch,)
    group_images = group.images if isinstance(adapter, SelectiveSearchDetector) else group
    transforms = group_images.transforms
    boxes = [
        torch.from_numpy(transform.apply(sample.target.boxes)).float()
        for sample, transform in zip(samples, transforms, strict=True)
    ]
    labels = [torch.from_numpy(sample.target.labels) for sample in samples]
    unchanged = TrainingBatch(group_images.pixels, transforms, boxes, labels)
    if isinstance(adapter, SelectiveSearchDetector):
        return RegionTrainingBatch(unchanged, group.regions)
    return unchanged


@pytest.fixture(scope="module", params=DETECTORS, ids=lambda cls: cls.name)
def trained(request):
    adapter = make(request.param)
    batch = training_batch(adapter, LEARNT)
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=3e-3)
    adapter.module.train()
    losses = []
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        loss = sum(adapter.loss(batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    adapter.module.eval()
    return adapter


def overlap(box, other):
    low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
    common = np.prod((high - low).clip(0))
    return common / (np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - common)


def test_two_scenes_are_learnt(trained):
    predictions = trained.predict([Sample(sample.id, sample.input) for sample in LEARNT])
    objects = learnt = 0
    for sample, prediction in zip(LEARNT, predictions, strict=True):
        for box, label in zip(sample.target.boxes, sample.target.labels, strict=True):
            boxes = prediction.boxes[(prediction.labels == label) & (prediction.scores > 0.3)]
            objects += 1
            learnt += any(overlap(box, detected) > 0.5 for detected in boxes)
    assert objects >= 4
    assert learnt >= 0.6 * objects


def test_every_layer_learns(trained):
    scenes = [SCENES[i] for i in range(8)]
    batch = trained.training_batch(scenes, np.random.default_rng(0))
    trained.module.train()
    trained.module.zero_grad()
    sum(trained.loss(batch).values()).backward()
    trained.module.eval()
    idle = [name for name, p in trained.module.named_parameters() if p.grad is None or not p.grad.any()]
    assert {name.rpartition(".")[0] for name in idle} <= {
        "heads.offsets.3"
    }  # SSD's largest boxes fit none here


def test_images_of_any_size_give_the_same_predictions_alone_as_in_a_batch(trained):
    generator = np.random.default_rng(0)
    sizes = [(1, 1), (128, 128), (1, 60), (90, 40), (300, 200)]
    samples = [Sample(str(s), generator.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]
    together = trained.predict(samples)
    for (height, width), sample, joint in zip(sizes, samples, together, strict=True):
        (alone,) = trained.predict([sample])
        np.testing.assert_allclose(alone.scores, joint.scores, atol=1e-4)
        assert joint.boxes.min(initial=0) >= 0
        assert (joint.boxes <= (width, height, width, height)).all()
        assert (np.diff(joint.scores) <= 0).all()


def test_saved_weights_give_the_same_predictions(trained, tmp_path):
    checkpoints.save(trained.checkpoint(), tmp_path / "w.safetensors")
    reloaded = type(trained)(type(trained).Options(), Runtime())  # with another width by default
    reloaded.load(checkpoints.load(tmp_path / "w.safetensors"))
    sample = [Sample("0", LEARNT[0].input)]
    before, after = trained.predict(sample)[0], reloaded.predict(sample)[0]
    assert after.scores[:3] == pytest.approx(before.scores[:3], abs=0.02)  # fp16


def test_convolutions_are_channels_last_and_compute_in_the_requested_precision(trained):
    half = type(trained)(type(trained).Options(), Runtime(precision="bf16"))
    half.load(checkpoints.Checkpoint(**{key: getattr(trained.checkpoint(), key) for key in STORED}))
    convolutions = [m for m in half.module.modules() if isinstance(m, torch.nn.Conv2d)]
    calls = []
    for convolution in convolutions:
        convolution.register_forward_hook(lambda module, inputs, out: calls.append((inputs[0], out)))
    sample = [Sample("0", LEARNT[0].input)]
    (half_precision,), (full_precision,) = half.predict(sample), trained.predict(sample)
    assert len(calls) >= len(convolutions)
    assert all(out.dtype == torch.bfloat16 for _, out in calls)
    assert all(inputs.is_contiguous(memory_format=torch.channels_last) for inputs, _ in calls)
    assert half_precision.scores.dtype == half_precision.boxes.dtype == np.float32
    np.testing.assert_allclose(half_precision.scores[:3], full_precision.scores[:3], atol=0.05)


def test_values_that_overflow_the_precision_are_an_error_and_not_an_empty_image(trained):
    checkpoint = trained.checkpoint()
    content = {key: getattr(checkpoint, key) for key in STORED}
    content["tensors"] = {name: t * 1e30 if t.ndim == 4 else t for name, t in checkpoint.tensors.items()}
    adapter = type(trained)(type(trained).Options(), Runtime())
    adapter.load(checkpoints.Checkpoint(**content))  # every weight is finite
    with pytest.raises(UsageError, match="the model's outputs are NaN or infinite"):
        adapter.predict([Sample("0", LEARNT[0].input)])


def test_scenes_without_objects_have_a_finite_loss(trained):
    nothing = Annotations.of_boxes(np.zeros((0, 4)), [])
    batch = trained.training_batch([Sample("0", LEARNT[0].input, nothing)] * 2, np.random.default_rng(0))
    assert sum(trained.loss(batch).values()).isfinite()


def test_nan_weights_and_those_of_another_model_are_rejected(trained):
    checkpoint = trained.checkpoint()
    name = next(iter(dict(trained.module.named_parameters())))
    broken = {**checkpoint.tensors, name: torch.full_like(checkpoint.tensors[name], float("nan"))}
    adapter = type(trained)(type(trained).Options(), Runtime())
    with pytest.raises(UsageError, match=f"tensor '{name}' has NaN or infinite values"):
        adapter.load(
            checkpoints.Checkpoint(broken, checkpoint.adapter, checkpoint.options, checkpoint.classes)
        )
    with pytest.raises(
        UsageError, match=f"checkpoint of adapter 'yolo' cannot be loaded by '{checkpoint.adapter}'"
    ):
        adapter.load(
            checkpoints.Checkpoint(checkpoint.tensors, "yolo", checkpoint.options, checkpoint.classes)
        )
