import numpy as np
import pytest
import torch

from adapters.segmentation.fcn import Fcn8s, Fcn16s, Fcn32s, FcnOptions, Upsample
from adapters.segmentation.segmenter import pixel_loss
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.errors import UsageError
from harness.task import Sample


class Bars:
    """A bright bar per image, upright (class 1) or lying (class 2)."""

    classes = ("background", "upright", "lying")

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        image = generator.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), dtype=np.uint8)
        x, y = generator.integers(4, 20, 2)
        width, height = [(12, 40), (40, 12)][index % 2]
        image[y : y + height, x : x + width] = 230
        mask[y : y + height, x : x + width] = 1 + index % 2
        return Sample(f"{index:03d}", image, mask)


def make(net=Fcn8s):
    torch.manual_seed(0)
    adapter = net(FcnOptions(width=8), Runtime())
    adapter.build(Bars())
    adapter.module.eval()
    return adapter


def noise(*sizes) -> list[Sample]:
    generator = np.random.default_rng(0)
    return [Sample(str(s), generator.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in sizes]


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_upsampling_starts_as_bilinear_interpolation_of_each_channel(factor):
    scores = torch.randn(2, 3, 6, 5)
    found = Upsample(3, factor, learnt=True)(scores)
    expected = torch.nn.functional.interpolate(scores, scale_factor=factor, mode="bilinear")
    assert found.shape == expected.shape
    inner = (..., slice(factor, -factor), slice(factor, -factor))  # at the border it fades to 0 instead
    torch.testing.assert_close(found[inner], expected[inner])


@pytest.mark.parametrize(("upsampling", "stays"), [("bilinear", True), ("learnt", False)])
def test_bilinear_upsampling_is_constant_and_learnt_upsampling_is_not(upsampling, stays):
    torch.manual_seed(0)
    adapter = Fcn8s(FcnOptions(width=8, upsampling=upsampling), Runtime())
    adapter.build(Bars())
    weights = adapter.module.state_dict()
    kernels = {name: kernel for name, kernel in weights.items() if name.startswith(("up", "last"))}
    before = {name: kernel.clone() for name, kernel in kernels.items()}
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=1e-2)
    adapter.loss(adapter.training_batch([Bars()[0], Bars()[1]], np.random.default_rng(0)))[
        "pixels"
    ].backward()
    optimiser.step()
    assert len(before) == 3
    assert [torch.equal(before[name], kernel) for name, kernel in kernels.items()] == [stays] * 3


def test_without_a_background_all_classes_weigh_the_same():
    adapter = make()
    adapter.classes = ("road", "wall", "sky")
    assert adapter.class_weights().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("net", "skips", "upsampled"),
    [
        (Fcn32s, {}, [32]),  # Long et al. 2015, figure 3: prediction at stride 32, upsampled 32 times
        (Fcn16s, {16: 64}, [2, 16]),  # … added to that of pool4
        (Fcn8s, {16: 64, 8: 32}, [2, 2, 8]),  # … and of pool3
    ],
)
def test_each_net_scores_the_strides_of_the_paper(net, skips, upsampled):
    """`skips` maps the stride of a scored feature map to its channels; the first stage has 8."""
    network = make(net).module
    pixels = torch.randn(2, 3, 96, 128)
    passed = {}

    def note(layer, inputs, output):
        passed[layer] = inputs[0], output

    for layer in [network.score, *network.finer, *network.upsample, network.last]:
        layer.register_forward_hook(note)
    found = network(pixels)
    assert found.shape == (2, 3, 96, 128)
    assert passed[network.score][1].shape == (2, 3, 96 // 32, 128 // 32)
    maps = {map_.shape[-1]: map_ for map_ in network.backbone(pixels)}
    assert len(network.finer) == len(skips)
    for layer, (stride, channels) in zip(network.finer, skips.items(), strict=True):
        scored, scores = passed[layer]
        torch.testing.assert_close(scored, maps[128 // stride])
        assert scored.shape == (2, channels, 96 // stride, 128 // stride)
        assert scores.shape == (2, 3, 96 // stride, 128 // stride) and not scores.any()
    kernels = [*network.upsample, network.last]
    for layer, factor in zip(kernels, upsampled, strict=True):
        small, large = (tensor.shape[-1] for tensor in passed[layer])
        assert large == factor * small
    weights = sum(kernel.weight.numel() for kernel in kernels)
    assert weights == 3 * sum((2 * factor) ** 2 for factor in upsampled)  # one kernel per class


def test_fcn_32s_starts_as_the_coarse_scores_interpolated():
    network = make(Fcn32s).module
    image = torch.randn(1, 3, 128, 160)
    coarse = network.score(network.context(network.backbone(image)[-1]))
    expected = torch.nn.functional.interpolate(coarse, scale_factor=32, mode="bilinear")
    inner = (..., slice(32, -32), slice(32, -32))
    torch.testing.assert_close(network(image)[inner], expected[inner])


def test_skips_contribute_nothing_at_initialisation():
    network = make().module
    image = torch.randn(1, 3, 64, 64)
    coarse = network.score(network.context(network.backbone(image)[-1]))
    expected = network.last(network.upsample[1](network.upsample[0](coarse)))
    torch.testing.assert_close(network(image), expected)
    torch.nn.init.ones_(network.finer[1].weight)
    assert not torch.allclose(network(image), expected)


@pytest.mark.parametrize("size", [(64, 64), (33, 97), (1, 1), (31, 32), (100, 7)])
def test_a_mask_has_the_size_of_its_image(size):
    (mask,) = make().predict(noise(size))
    assert mask.shape == size
    assert mask.dtype == np.uint8 and mask.max() < 3


def test_predictions_do_not_depend_on_the_rest_of_the_batch():
    adapter = make()
    samples = noise((64, 64), (40, 90), (64, 64), (33, 64), (90, 40))

    def scores_of(samples):
        batch = adapter.preprocess(samples)
        return {
            place: row
            for group in batch.groups
            for place, row in zip(
                group.indices, adapter.scores(adapter.to_input(group.first_chunk)), strict=True
            )
        }

    with torch.no_grad():
        together = scores_of(samples)
        for place, sample in enumerate(samples):
            torch.testing.assert_close(together[place], scores_of([sample])[0], atol=1e-5, rtol=1e-5)
    assert [mask.shape for mask in adapter.predict(samples)] == [sample.input.shape[:2] for sample in samples]


def test_loss_is_the_weighted_mean_over_pixels_that_are_not_ignored():
    scores = torch.randn(2, 3, 4, 4)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, :2] = 255
    logs = scores.log_softmax(1)
    total = weights = 0.0
    for n, y, x in np.ndindex(2, 4, 4):
        label = masks[n, y, x].item()
        if label != 255:
            weight = 1.0 if label == 0 else 2.0
            total -= weight * logs[n, label, y, x].item()
            weights += weight
    given = torch.tensor([1.0, 2.0, 2.0])
    assert pixel_loss(scores, masks, given).item() == pytest.approx(total / weights, rel=1e-5)
    scores[0, :, :2] += 100 * torch.rand(3, 2, 4)
    assert pixel_loss(scores, masks, given).item() == pytest.approx(total / weights, rel=1e-5)


def test_loss_of_half_precision_scores_is_summed_in_full():
    scores, masks = torch.randn(2, 3, 64, 64).bfloat16(), torch.randint(0, 3, (2, 64, 64))
    loss = pixel_loss(scores, masks, torch.ones(3))
    assert loss.dtype == torch.float32 and loss == pixel_loss(scores.float(), masks, torch.ones(3))


def test_an_image_of_ignored_pixels_has_loss_and_gradient_zero():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(scores, torch.full((1, 4, 4), 255), torch.ones(3))
    loss.backward()
    assert loss.item() == 0 and not scores.grad.any()


def test_class_weights_are_by_name_and_an_unknown_name_is_refused():
    adapter = make()
    second = adapter.classes[1]
    assert adapter.class_weights().tolist() == [1, 2, 2]
    adapter.options = FcnOptions(width=8, class_weights={second: 5.0})
    assert adapter.class_weights().tolist() == [1, 5, 1]
    other = Fcn8s(FcnOptions(width=8, class_weights={second + "x": 5.0}), Runtime())
    with pytest.raises(UsageError, match=f"class_weights: .*'{second}x'; did you mean '{second}'"):
        other.build(Bars())


def test_weights_that_leave_nothing_to_learn_are_refused():
    nothing = Fcn8s(FcnOptions(width=8, class_weights=dict.fromkeys(Bars.classes, 0.0)), Runtime())
    with pytest.raises(UsageError, match="class_weights: every class has weight 0"):
        nothing.build(Bars())


def test_256_classes_leave_no_mask_value_for_ignored_pixels():
    class Many(Bars):
        classes = tuple(map(str, range(256)))

    with pytest.raises(UsageError, match="expected at most 255 classes to learn, found 256"):
        Fcn8s(FcnOptions(width=4), Runtime()).build(Many())
    Many.classes = Many.classes[:-1]
    Fcn8s(FcnOptions(width=4), Runtime()).build(Many())


def test_images_of_several_sizes_share_a_batch_and_padding_is_ignored():
    small, large = Bars()[0], Bars()[1]
    small = Sample("small", small.input[:40, :33], small.target[:40, :33])
    adapter = make()
    batch = adapter.training_batch([small, large], np.random.default_rng(0))
    assert batch.pixels.shape[2:] == batch.masks.shape[1:] == large.target.shape
    assert (batch.masks[0, 40:] == 255).all() and (batch.masks[0, :, 33:] == 255).all()
    assert torch.isfinite(adapter.loss(batch)["pixels"])


def test_a_shift_moves_mask_and_pixels_alike_and_ignores_uncovered_pixels():
    adapter = make()
    seen = set()
    for index in range(20):
        sample = Bars()[index]
        batch = adapter.training_batch([sample], np.random.default_rng(index))
        mask, image = batch.masks[0], batch.pixels[0]
        label = 1 + index % 2
        assert (mask == label).sum() == (sample.target == label).sum()
        bar, rest = image[:, mask == label], image[:, mask == 0]
        assert bar.std() < 1e-5
        assert (bar.mean() - rest.mean()).abs() > 1
        seen |= set(mask.unique().tolist())
    assert seen == {0, 1, 2, 255}


@pytest.mark.parametrize("background", [1, None])
def test_objects_are_the_classes_not_named_background(background):
    """An object as large as the image cannot move; if no class is the background, there are no objects."""
    adapter = make()
    adapter.classes = tuple("background" if label == background else f"class {label}" for label in range(3))
    whole = Sample("0", Bars()[0].input, np.zeros((64, 64), np.uint8))
    empty = Sample("1", Bars()[0].input, np.ones((64, 64), np.uint8))
    moved = [
        any(
            (adapter.training_batch([sample], np.random.default_rng(seed)).masks == 255).any()
            for seed in range(5)
        )
        for sample in (whole, empty)
    ]
    assert moved == [background is None, True]


def test_odd_training_sizes_are_padded_with_ignored_pixels():
    sample = Bars()[0]
    cut = Sample("cut", sample.input[:50, :60], sample.target[:50, :60])
    batch = make().training_batch([cut], np.random.default_rng(0))
    assert batch.pixels.shape == (1, 3, 64, 64) and batch.masks.shape == (1, 64, 64)
    assert (batch.masks[0, 50:] == 255).all() and (batch.masks[0, :, 60:] == 255).all()


@pytest.fixture(scope="module")
def trained() -> Fcn8s:
    adapter = make()
    samples = [Bars()[i] for i in range(4)]
    optimiser = torch.optim.AdamW(adapter.module.parameters(), lr=1e-2)
    adapter.module.train()
    for _ in range(50):
        loss = adapter.loss(adapter.training_batch(samples, np.random.default_rng(0)))["pixels"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    adapter.module.eval()
    return adapter


def test_a_few_images_are_learnt(trained):
    batch = trained.training_batch([Bars()[i] for i in range(4)], np.random.default_rng(0))
    with torch.no_grad():
        found = trained.module(batch.pixels).argmax(1)
    counted = batch.masks != 255
    assert (found == batch.masks)[counted].float().mean() > 0.97
    objects = counted & (batch.masks > 0)
    assert (found == batch.masks)[objects].float().mean() > 0.9


def test_stored_weights_predict_alike_and_set_the_architecture_options(trained, tmp_path):
    checkpoints.save(trained.checkpoint(), tmp_path / "w.safetensors")
    reloaded = Fcn8s(FcnOptions(), Runtime())  # whose default is another width
    reloaded.load(checkpoints.load(tmp_path / "w.safetensors"))
    samples = [Sample("0", Bars()[0].input), Sample("1", Bars()[1].input)]
    for before, after in zip(trained.predict(samples), reloaded.predict(samples), strict=True):
        assert (before == after).mean() > 0.99  # fp16


def test_weights_of_another_model_are_refused():
    made = make().checkpoint()
    with pytest.raises(UsageError, match="option 'width' is 16, but the checkpoint was trained with 8"):
        Fcn8s(FcnOptions(width=16), Runtime()).load(made)
    other = checkpoints.Checkpoint(made.tensors, "yolo", made.options, made.classes)
    with pytest.raises(UsageError, match="checkpoint of adapter 'yolo' cannot be loaded by 'fcn-8s'"):
        Fcn8s(FcnOptions(), Runtime()).load(other)
