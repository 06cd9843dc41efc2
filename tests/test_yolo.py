import math

import numpy as np
import pytest
import torch

from adapters import images
from adapters.detection import yolo_augmentation, yolo_grid, yolov1
from adapters.detection.yolo import Yolo, YoloBatch, YoloOptions
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.errors import UsageError
from harness.task import Annotations, Sample

CLASSES = ("a", "b", "c")
S, B, C = 4, 2, len(CLASSES)


class Shapes:
    """A data set with one coloured rectangle per image on noise, whose class is square, wide or tall."""

    classes = CLASSES

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        image = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        x, y = generator.integers(2, 30, 2)
        side, label = generator.integers(12, 16), index % C
        width, height = [(side, side), (2 * side, side), (side, 2 * side)][label]
        image[y : y + height, x : x + width, generator.integers(3)] = 250
        return Sample(f"{index:03d}", image, Annotations.of_boxes([x, y, x + width, y + height], [label]))


def make(options: YoloOptions = YoloOptions(grid=S, width=8), seed: int = 0) -> Yolo:
    torch.manual_seed(seed)
    adapter = Yolo(options, Runtime())
    adapter.build(Shapes())
    return adapter


def random_objects(seed, images=3, max_per_image=9):
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, max_per_image * images, (), generator=generator))
    centre, half = torch.rand(count, 2, generator=generator), torch.rand(count, 2, generator=generator) / 4
    boxes = torch.cat([centre - half, centre + half], dim=1)
    boxes = torch.where(torch.rand(count, 1, generator=generator) < 0.2, boxes.round(decimals=1), boxes)
    return (
        boxes,
        torch.randint(0, C, (count,), generator=generator),
        torch.randint(0, images, (count,), generator=generator).sort().values,
    )


@pytest.mark.parametrize("seed", range(12))
def test_assignment_equals_a_loop_over_objects(seed):
    boxes, labels, owners = random_objects(seed)
    chosen = {}
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        column = min(max(int((x1 + x2) / 2 * S), 0), S - 1)
        row = min(max(int((y1 + y2) / 2 * S), 0), S - 1)
        cell = (int(owners[i]) * S + row) * S + column
        size = ((boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])).item()
        if cell not in chosen or size > chosen[cell][0]:
            chosen[cell] = (size, i)
    targets = yolo_grid.assign(boxes, labels, owners, (S, S), 3)
    expected = {cell: (labels[i].item(), boxes[i].tolist()) for cell, (_, i) in chosen.items()}
    assigned = zip(targets.cells.tolist(), targets.labels.tolist(), targets.boxes.tolist(), strict=True)
    assert {cell: (label, box) for cell, label, box in assigned} == expected
    assert len(targets.cells) == len(expected)


def loss_by_hand(raw, targets, weights, linear):
    """Equation 3, number by number; if not linear, with the differences listed in yolo_grid.Variant."""
    centre_weight, sides_weight, object_weight, empty_weight = weights
    terms = dict.fromkeys(("centre", "sides", "confidence", "class"), 0.0)
    objects = {
        cell: (box, label)
        for cell, box, label in zip(
            targets.cells.tolist(), targets.boxes.tolist(), targets.labels.tolist(), strict=True
        )
    }
    sigmoid = lambda v: v if linear else 1 / (1 + math.exp(-v))  # noqa: E731
    for n in range(raw.shape[0]):
        for row in range(S):
            for column in range(S):
                values = raw[n, row, column].tolist()
                logits, confidences, rest = values[:C], values[C : C + B], values[C + B :]
                boxes_of_cell = [rest[4 * b : 4 * b + 4] for b in range(B)]
                aims = [0.0] * B
                box, label = objects.get((n * S + row) * S + column, (None, None))
                responsible = None
                if box is not None:
                    overlaps = []
                    for x, y, root_w, root_h in boxes_of_cell:
                        cx, cy = (column + sigmoid(x)) / S, (row + sigmoid(y)) / S
                        w, h = max(root_w, 0) ** 2, max(root_h, 0) ** 2
                        ix = max(0, min(cx + w / 2, box[2]) - max(cx - w / 2, box[0]))
                        iy = max(0, min(cy + h / 2, box[3]) - max(cy - h / 2, box[1]))
                        union = w * h + (box[2] - box[0]) * (box[3] - box[1]) - ix * iy
                        overlaps.append(ix * iy / union)
                    responsible = overlaps.index(max(overlaps))
                    aims[responsible] = overlaps[responsible]
                    x, y, root_w, root_h = boxes_of_cell[responsible]
                    tx = (box[0] + box[2]) / 2 * S - column
                    ty = (box[1] + box[3]) / 2 * S - row
                    terms["centre"] += centre_weight * ((sigmoid(x) - tx) ** 2 + (sigmoid(y) - ty) ** 2)
                    tw, th = math.sqrt(box[2] - box[0]), math.sqrt(box[3] - box[1])
                    terms["sides"] += sides_weight * ((root_w - tw) ** 2 + (root_h - th) ** 2)
                    if linear:
                        terms["class"] += sum((v - (c == label)) ** 2 for c, v in enumerate(logits))
                    else:
                        terms["class"] += math.log(sum(map(math.exp, logits))) - logits[label]
                for b in range(B):
                    p = sigmoid(confidences[b])
                    if linear:
                        error = (p - aims[b]) ** 2
                    else:
                        error = -aims[b] * math.log(p) - (1 - aims[b]) * math.log(1 - p)
                    terms["confidence"] += (object_weight if b == responsible else empty_weight) * error
    return {name: term / raw.shape[0] for name, term in terms.items()}


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        (yolo_grid.LOGISTIC, (2.0, 50.0, 2.0, 0.5)),
        (yolo_grid.PAPER, (5.0, 5.0, 1.0, 0.5)),
    ],  # the paper's λ: 5 and .5
)
@pytest.mark.parametrize("seed", range(4))
def test_loss_equals_equation_3_computed_number_by_number(seed, variant, weights):
    raw = torch.randn(3, S, S, C + 5 * B, generator=torch.Generator().manual_seed(seed))
    targets = yolo_grid.assign(*random_objects(seed + 100), (S, S), 3)
    terms = yolo_grid.loss(raw, targets, B, variant)
    expected = loss_by_hand(raw, targets, weights, variant.linear)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("variant", [yolo_grid.LOGISTIC, yolo_grid.PAPER])
def test_a_batch_without_objects_has_a_finite_loss_and_gradient(variant):
    raw = torch.randn(2, S, S, C + 5 * B, requires_grad=True)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    terms = yolo_grid.loss(raw, yolo_grid.assign(*nothing, (S, S), 2), B, variant)
    sum(terms.values()).backward()
    assert terms["centre"] == terms["sides"] == terms["class"] == 0 < terms["confidence"]
    assert raw.grad.isfinite().all()


def test_a_box_encoded_in_the_raw_output_is_decoded():
    box, label, cell = torch.tensor([0.3, 0.55, 0.62, 0.85]), 1, (2, 1)  # centre (.46, .70): row 2, column 1
    raw = torch.full((1, S, S, C + 5 * B), -20.0)
    target = torch.cat([(box[:2] + box[2:]) / 2 * S - torch.tensor([1.0, 2.0]), (box[2:] - box[:2]).sqrt()])
    raw[0, *cell, label] = 20
    raw[0, *cell, C + 1] = 20
    raw[0, *cell, C + B + 4 :] = torch.cat([target[:2].logit(), target[2:]])
    boxes, scores = yolo_grid.decode_all(raw, B, yolo_grid.LOGISTIC)
    best = scores[0].flatten().argmax().item()
    assert (best // C, best % C) == ((cell[0] * S + cell[1]) * B + 1, label)
    assert boxes[0, best // C].tolist() == pytest.approx(box.tolist(), abs=1e-6)
    assert scores.sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 50), (31, 200), (7, 7), (480, 640), (1, 9)])
def test_an_image_of_any_size_fits_and_its_boxes_are_restored(height, width):
    fitted, (fx, fy) = images.fit(np.full((height, width, 3), 200, dtype=np.uint8), (64, 64))
    assert fitted.shape == (64, 64, 3)
    assert max(height * fy, width * fx) == pytest.approx(64)
    inside = fitted[: round(height * fy), : round(width * fx)]
    assert (inside == 200).all()
    assert (fitted != 200).sum() == fitted.size - inside.size
    predicted = make().predict([Sample("x", np.zeros((height, width, 3), dtype=np.uint8))])[0]
    assert predicted.boxes.min(initial=0) >= 0
    assert (predicted.boxes[:, 2:] <= (width, height)).all()


def test_predictions_do_not_depend_on_the_rest_of_the_batch():
    adapter = make(YoloOptions(grid=S, width=8, score_threshold=0))
    adapter.module.eval()
    generator = np.random.default_rng(0)
    sizes = [(64, 64), (40, 90), (64, 64), (20, 20)]
    samples = [Sample(str(s), generator.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]
    together = adapter.predict(samples)
    for sample, joint in zip(samples, together, strict=True):
        (alone,) = adapter.predict([sample])
        np.testing.assert_allclose(alone.scores, joint.scores, atol=1e-5)
        assert sorted(map(tuple, alone.boxes.round(2))) == sorted(map(tuple, joint.boxes.round(2)))


def test_shifts_move_boxes_with_their_pixels_and_clip_none():
    adapter = make()
    for index in range(20):
        batch = adapter.training_batch([Shapes()[index]], np.random.default_rng(index))
        x1, y1, x2, y2 = (batch.targets.boxes[0] * 64).round().long().tolist()
        assert min(x1, y1) >= 0 and max(x2, y2) <= 64
        saturation = batch.pixels[0].amax(0) - batch.pixels[0].amin(0)  # recolouring keeps the saturation
        assert saturation[y1:y2, x1:x2].min() > 1.4
        outside = saturation.clone()
        outside[y1:y2, x1:x2] = 0
        assert outside.max() < 0.5


@pytest.fixture(scope="module")
def trained() -> Yolo:
    adapter = make()
    samples = [Shapes()[i] for i in range(6)]
    corners = np.concatenate([sample.target.boxes for sample in samples]) / 64
    labels = torch.tensor([sample.target.labels[0] for sample in samples])
    targets = yolo_grid.assign(torch.from_numpy(corners).float(), labels, torch.arange(6), (S, S), 6)
    batch = YoloBatch(adapter.preprocess(samples).pixels, targets)
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=5e-3)
    adapter.module.train()
    for _ in range(60):
        loss = sum(adapter.loss(batch).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    adapter.module.eval()
    return adapter


def test_a_few_images_are_learnt(trained):
    for index in range(6):
        sample = Shapes()[index]
        (prediction,) = trained.predict([Sample(sample.id, sample.input)])
        assert prediction.labels[0] == sample.target.labels[0]
        box, truth = prediction.boxes[0], sample.target.boxes[0]
        low, high = np.maximum(box[:2], truth[:2]), np.minimum(box[2:], truth[2:])
        common = np.prod(high - low)
        assert common / (np.prod(box[2:] - box[:2]) + np.prod(truth[2:] - truth[:2]) - common) > 0.6
        assert (np.diff(prediction.scores) <= 0).all() and len(prediction.scores) <= 100


def test_saved_weights_give_the_same_predictions_and_determine_the_options(trained, tmp_path):
    checkpoints.save(trained.checkpoint(), tmp_path / "w.safetensors")
    reloaded = Yolo(YoloOptions(), Runtime())  # with another grid and width by default
    reloaded.load(checkpoints.load(tmp_path / "w.safetensors"))
    sample = [Sample("0", Shapes()[0].input)]
    before, after = trained.predict(sample)[0], reloaded.predict(sample)[0]
    assert after.scores[0] == pytest.approx(before.scores[0], abs=0.01)  # fp16
    np.testing.assert_allclose(after.boxes[0], before.boxes[0], atol=0.1)


def test_convolutions_are_channels_last_and_compute_in_the_requested_precision(trained, tmp_path):
    checkpoints.save(trained.checkpoint(), tmp_path / "w.safetensors")
    half = Yolo(YoloOptions(), Runtime(precision="bf16"))
    half.load(checkpoints.load(tmp_path / "w.safetensors"))
    outputs = []
    first = half.module.backbone.stages[0][0]
    first.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    half.predict([Sample("0", Shapes()[0].input)])
    assert outputs[0].dtype == torch.bfloat16
    assert outputs[0].is_contiguous(memory_format=torch.channels_last)


def test_bf16_predicts_nearly_the_same(trained, tmp_path):
    checkpoints.save(trained.checkpoint(), tmp_path / "w.safetensors")
    half = Yolo(YoloOptions(), Runtime(precision="bf16"))
    half.load(checkpoints.load(tmp_path / "w.safetensors"))
    sample = [Sample("0", Shapes()[0].input)]
    assert half.predict(sample)[0].labels[0] == trained.predict(sample)[0].labels[0]


@pytest.mark.parametrize(
    ("options", "damage", "message"),
    [
        ({"width": 16}, {}, "option 'width' is 16, but the checkpoint was trained with 8"),
        ({}, {"adapter": "fcn-8s"}, "checkpoint of adapter 'fcn-8s' cannot be loaded by 'yolo'"),
        ({}, {"classes": ("a", "b")}, r"tensor 'output\.\w+' has shape"),
        ({}, {"tensors": {}}, "tensor .* is missing from the file"),
        ({"backbone": "yolov1"}, {}, "option 'backbone' is 'yolov1', but the checkpoint was .* 'small'"),
        ({}, {"options": {"grid": 4}}, "option 'backbone' is missing from it"),
        ({}, {"options": {"backbone": "small", "grid": "x", "boxes": 2, "width": 8}}, "bad options"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_rejected(options, damage, message):
    checkpoint = make().checkpoint()
    content = {name: getattr(checkpoint, name) for name in ("tensors", "adapter", "options", "classes")}
    with pytest.raises(UsageError, match=message):
        Yolo(YoloOptions(**options), Runtime()).load(checkpoints.Checkpoint(**(content | damage)))


def test_a_missing_checkpoint_is_an_error():
    with pytest.raises(UsageError, match="adapter 'yolo' needs a checkpoint"):
        Yolo(YoloOptions(), Runtime()).load(None)


def test_nan_weights_are_rejected():
    checkpoint = make().checkpoint()
    broken = {
        name: torch.full_like(t, float("nan")) if name.endswith("output.bias") else t
        for name, t in checkpoint.tensors.items()
    }
    with pytest.raises(UsageError, match=r"tensor 'output.bias' has NaN or infinite values"):
        Yolo(YoloOptions(), Runtime()).load(
            checkpoints.Checkpoint(broken, "yolo", checkpoint.options, CLASSES)
        )


def test_nan_outputs_are_an_error_and_not_an_empty_image():
    adapter = make()
    batch = adapter.preprocess([Sample("0", Shapes()[0].input)])
    with pytest.raises(UsageError, match="the model's outputs are NaN or infinite"):
        adapter.postprocess(adapter.forward(batch) * float("nan"), batch)


class TestPaperScale:
    @pytest.fixture(scope="class")
    def small(self):
        """The paper's layers with 2 × 2 cells: an image of 128 px, and a third of the parameters."""
        options = YoloOptions(backbone="yolov1", grid=2)
        torch.manual_seed(0)
        adapter = Yolo(options, Runtime())
        adapter.build(Shapes())
        adapter.module.eval()
        return adapter

    def test_parameters_and_output_are_figure_3s(self):
        """By hand: 60,155,968 of 24 convolutions, 50,176 · 4,096 + 4,096 and 4,096 · 1,470 + 1,470."""
        options = YoloOptions(backbone="yolov1")
        with torch.device("meta"):
            network = yolov1.Network(20, options.boxes, options.cells)
            raw = network(torch.zeros(2, 3, 448, 448))
        assert raw.shape == (2, 7, 7, 30)
        convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) == 24
        assert sum(p.numel() for m in convolutions for p in m.parameters()) == 60_155_968
        assert sum(p.numel() for p in network.parameters()) == 60_155_968 + 205_524_992 + 6_022_590

    def test_linear_outputs_are_decoded_as_in_the_paper(self):
        raw = torch.zeros(1, 7, 7, 20 + 10)
        raw[0, 4, 3, 14] = 0.75  # Pr(class 14 | object)
        raw[0, 4, 3, 20 + 1] = 0.5  # confidence of the second predictor
        raw[0, 4, 3, 22 + 4 :] = torch.tensor([0.25, 0.5, 0.6, 0.3])
        raw[0, 0, 0, :22] = -1.0  # two negative outputs must not give a positive score
        boxes, scores = yolo_grid.decode_all(raw, 2, yolo_grid.PAPER)
        place = (4 * 7 + 3) * 2 + 1
        centre, sides = (3.25 / 7, 4.5 / 7), (0.36, 0.09)
        low = [c - side / 2 for c, side in zip(centre, sides, strict=True)]
        assert boxes[0, place].tolist() == pytest.approx([*low, low[0] + sides[0], low[1] + sides[1]])
        assert scores[0, place, 14].item() == 0.375
        assert scores.sum().item() == 0.375

    def test_images_of_any_shape_are_stretched_and_boxes_are_restored(self, small):
        generator = np.random.default_rng(0)
        sizes = [(1, 1), (60, 200), (480, 64)]
        samples = [Sample(str(k), generator.integers(0, 256, (*k, 3), np.uint8)) for k in sizes]
        batch = small.preprocess(samples)
        assert batch.pixels.shape == (3, 3, 128, 128)
        raw = torch.zeros(3, 2, 2, C + 10)
        raw[..., C], raw[..., 0] = 1, 1
        raw[..., C + 2 : C + 6] = torch.tensor([0.5, 0.5, 0.5**0.5, 0.5**0.5])
        for (height, width), prediction in zip(sizes, small.postprocess(raw, batch), strict=True):
            quarter = [0, 0, width / 2, height / 2]
            assert np.abs(prediction.boxes - quarter).max(axis=1).min() < 1e-4
            assert len(prediction.boxes) == 4

    @pytest.mark.parametrize("seed", range(6))
    def test_windows_move_boxes_with_their_pixels(self, seed):
        image = np.zeros((60, 100, 3), np.uint8)
        image[20:40, 30:70] = 255
        generator = np.random.default_rng(seed)
        window, boxes, indices = yolo_augmentation.jitter(image, np.array([[30.0, 20, 70, 40]]), generator)
        assert indices.tolist() == [0]
        x1, y1, x2, y2 = boxes[0].astype(int)
        assert (window[y1:y2, x1:x2] == 255).all()
        assert (window == 255).all(axis=2).sum() == (y2 - y1) * (x2 - x1) == 800
        assert 0.6 * 60 <= window.shape[0] <= 1.4 * 60 and 0.6 * 100 <= window.shape[1] <= 1.4 * 100
        exposed = yolo_augmentation.distort_exposure(window, generator)
        assert exposed.shape == window.shape and exposed.dtype == np.uint8

    def test_objects_outside_a_window_are_dropped(self):
        image = np.zeros((100, 100, 3), np.uint8)
        corner, middle = [0.0, 0, 4, 4], [40.0, 40, 60, 60]
        remaining = [
            yolo_augmentation.jitter(image, np.array([corner, middle]), np.random.default_rng(i))[2]
            for i in range(30)
        ]
        assert all(1 in indices for indices in remaining)
        assert {len(indices) for indices in remaining} == {1, 2}
