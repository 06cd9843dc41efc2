"""Segmentation figures, checked against their definitions in plain loops and SciPy's erosion."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from jackknife_oracle import jackknife_interval
from scipy import ndimage

from harness.errors import UsageError
from harness.metrics.iou import Iou, boundary

IGNORE = 255


def masks(values, shape):
    return npst.arrays(np.uint8, shape, elements=st.sampled_from(values))


@st.composite
def image_pairs(draw, classes=4):
    """Draw a few images with blocks of classes, some of which have an interior, and ignored pixels.

    Some classes are only annotated, some only predicted, some neither.
    """
    some = st.lists(st.sampled_from(range(classes)), min_size=1, unique=True)
    annotated, predicted = draw(some), draw(some)
    pairs = []
    for _ in range(draw(st.integers(1, 3))):
        shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
        scale = draw(st.sampled_from([1, 5, 12]))
        target = np.kron(draw(masks([*annotated, IGNORE], shape)), np.ones((scale, scale), np.uint8))
        prediction = np.kron(draw(masks(predicted, shape)), np.ones((scale, scale), np.uint8))
        pairs.append((target, np.roll(prediction, draw(st.integers(0, 2)), axis=1)))
    return pairs


def eroded_boundary(mask):
    """Return the boundary by its definition: d erosions of a Boolean mask; outside is False."""
    d = max(1, round(0.02 * np.hypot(*mask.shape)))
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=d, border_value=0)


def brute_force(pairs, classes):
    """Compute each figure from its definition over all pixels of all images, class by class."""
    iou, accuracy, boundary_iou, frequency = {}, {}, {}, {}
    valid = [target != IGNORE for target, _ in pairs]
    for label in range(classes):
        annotated = [target == label for target, _ in pairs]
        predicted = [(prediction == label) & keep for (_, prediction), keep in zip(pairs, valid, strict=True)]
        both = sum((a & p).sum() for a, p in zip(annotated, predicted, strict=True))
        either = sum((a | p).sum() for a, p in zip(annotated, predicted, strict=True))
        frequency[label] = sum(a.sum() for a in annotated)
        if either:
            iou[label] = both / either
            edges = [
                (eroded_boundary(a), eroded_boundary(p)) for a, p in zip(annotated, predicted, strict=True)
            ]
            boundary_iou[label] = sum((a & p).sum() for a, p in edges) / sum((a | p).sum() for a, p in edges)
        if frequency[label]:
            accuracy[label] = both / frequency[label]
    pixels = sum(frequency.values())
    correct = sum(
        ((target == prediction) & keep).sum() for (target, prediction), keep in zip(pairs, valid, strict=True)
    )

    def mean(values):
        return sum(values) / len(values) if values else None

    return {
        "miou": mean(iou.values()),
        "pixel_accuracy": correct / pixels if pixels else None,
        "mean_accuracy": mean(accuracy.values()),
        "frequency_weighted_iou": sum(frequency[i] * iou[i] for i in iou) / pixels if pixels else None,
        "boundary_iou": mean(boundary_iou.values()),
        "foreground_iou": mean([value for label, value in iou.items() if label]),
    }


def scored(pairs, classes=4, **options):
    metric = Iou(["background", *(f"class {i}" for i in range(1, classes))], ignore_index=IGNORE)
    return metric.summarise([metric.statistics(*pair) for pair in pairs], **options)


@given(image_pairs())
@settings(max_examples=150, deadline=None)
def test_every_figure_equals_its_definition(pairs):
    expected = brute_force(pairs, 4)
    for name, figure in scored(pairs).metrics.items():
        assert figure.value == (
            None if expected[name] is None else pytest.approx(expected[name], abs=1e-12)
        ), name


@given(masks(range(3), (9, 7)), st.sampled_from([1, 8, 20]))
@settings(max_examples=60, deadline=None)
def test_the_boundary_of_all_classes_at_once_equals_that_of_each_class_mask(mask, scale):
    mask = np.kron(mask, np.ones((scale, scale), np.uint8))
    expected = np.zeros(mask.shape, dtype=bool)
    for label in range(3):
        expected |= eroded_boundary(mask == label)
    np.testing.assert_array_equal(boundary(mask), expected)


def test_the_interval_equals_that_of_rescoring_without_each_image():
    generator = np.random.default_rng(4)
    pairs = [(generator.integers(0, 4, (12, 12), np.uint8), generator.integers(0, 4, (12, 12), np.uint8))] * 2
    pairs += [(target, np.where(generator.random((12, 12)) < 0.6, target, guess)) for target, guess in pairs]
    pairs.append((np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)))
    naive = [brute_force([pairs[i] for i in range(5) if i != left_out], 4) for left_out in range(5)]
    for name, figure in scored(pairs).metrics.items():
        expected = jackknife_interval(figure.value, [row[name] for row in naive])
        assert (figure.low, figure.high) == pytest.approx(expected, abs=1e-12), name


def test_pixels_are_counted_over_the_data_set_and_not_averaged_over_images():
    """Class 1: 1 of 1 pixel right in one image, 0 of 9 in the other: IoU 1/10, not 1/2."""
    small = np.ones((1, 1), np.uint8)
    large = np.ones((3, 3), np.uint8)
    scores = scored([(small, small), (large, np.zeros_like(large))], classes=2)
    assert scores.per_class["class 1"]["iou"].value == pytest.approx(0.1)


def test_a_class_that_is_only_predicted_has_iou_0_and_an_absent_class_has_none():
    scores = scored([(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8))], classes=3)
    values = {label: {name: f.value for name, f in row.items()} for label, row in scores.per_class.items()}
    assert values["class 1"] == {"iou": 0.0, "accuracy": None, "boundary_iou": 0.0}
    assert values["class 2"] == {"iou": None, "accuracy": None, "boundary_iou": None}
    assert [row["iou"].n for row in scores.per_class.values()] == [1, 0, 0], "images with the class"
    assert scores.metrics["miou"].value == pytest.approx((3 / 4 + 0) / 2)


def test_counts_beyond_two_to_the_24_are_exact():
    """float32 would lose the last pixel: 2²⁴ + 1 = 16,777,217."""
    metric = Iou(["a", "b"])
    counts = np.array([[2**24 + 1, 0], [2**24 + 2, 0], [2**24 + 1, 1], [1, 0], [1, 1]])
    assert metric.summarise([counts]).metrics["pixel_accuracy"].value == (2**24 + 1) / (2**24 + 2)


def test_intervals_of_counts_beyond_two_to_the_24_are_exact():
    metric = Iou(["a", "b"])
    counts = [
        np.array([[2**24 + 1, 0], [2**24 + 2 + k, 0], [2**24 + 1, k], [1, 0], [1, 1]]) for k in (0, 9, 99)
    ]
    naive = [(2**24 + 1) * 2 / (2 * 2**24 + 4 + total) for total in (108, 99, 9)]
    figure = metric.summarise(counts).metrics["pixel_accuracy"]
    assert (figure.low, figure.high) == pytest.approx(jackknife_interval(figure.value, naive), abs=1e-13)


def test_without_a_class_called_background_foreground_iou_is_undefined():
    mask = np.array([[0, 1]], np.uint8)
    metric = Iou(["road", "sky"])
    figures = metric.summarise([metric.statistics(mask, mask)] * 2).metrics
    assert (figures["miou"].value, figures["foreground_iou"].value, figures["foreground_iou"].low) == (
        1,
        None,
        None,
    )


def test_foreground_iou_is_the_mean_over_classes_and_not_the_binary_iou():
    """Background 1/1, class 1 1/2, class 2 1/2; any object against none would be 3/3."""
    scores = scored([(np.array([[0, 1, 1, 2]], np.uint8), np.array([[0, 1, 2, 2]], np.uint8))], classes=3)
    assert scores.metrics["foreground_iou"].value == pytest.approx(1 / 2)


def test_the_background_is_the_class_of_that_name_at_any_index():
    metric = Iou(["a", "background"])
    scores = metric.summarise(
        [metric.statistics(np.array([[0, 1, 1]], np.uint8), np.array([[0, 0, 1]], np.uint8))]
    )
    assert scores.metrics["foreground_iou"].value == pytest.approx(1 / 2)  # that of a: 1 of 2 pixels


def test_memory_grows_only_by_the_statistics():
    def used(count):
        """Return the bytes held by the statistics, and the peak; maps are created and freed one by one."""
        metric = Iou([str(label) for label in range(classes)])
        generator = np.random.default_rng(0)
        tracemalloc.start()
        statistics = []
        for _ in range(count):
            target, prediction = generator.integers(0, classes, (2, 64, 64), dtype=np.uint8)
            statistics.append(metric.statistics(target, prediction))
        held = tracemalloc.get_traced_memory()[0]
        metric.summarise(statistics)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held, peak

    classes = 21
    counts = 5 * classes * 8  # bytes per image
    used(10)  # imports and caches
    (few, few_peak), (many, many_peak) = used(200), used(2000)
    assert counts < (many - few) / 1800 < counts + 200  # up to 200 bytes of NumPy's header
    # As much again for the sums without each image. An image with its prediction has 8,192.
    assert (many_peak - few_peak) / 1800 < 4 * counts


def test_without_images_every_figure_is_undefined():
    scores = scored([])
    assert {figure.value for figure in scores.metrics.values()} == {None}


@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([[0, 4]], [[0, 1]], "annotation has pixels of value 4; expected 0 to 3, or 255"),
        ([[0, 1]], [[0, 9]], "prediction has pixels of value 9"),
        ([[0, 1]], [[0, IGNORE]], "ignore index 255 where a class is annotated.*object=1\\+255"),
        ([[0, 1]], [[0], [1]], "the annotation is 2×1, the prediction 1×2 pixels"),
    ],
)
def test_pixels_that_are_not_a_class_are_rejected(target, prediction, message):
    with pytest.raises(UsageError, match=message):
        scored([(np.array(target, np.uint8), np.array(prediction, np.uint8))])


def test_with_256_classes_an_ignore_index_is_rejected():
    with pytest.raises(UsageError, match="256 classes leave no value for it, found 255"):
        Iou([str(label) for label in range(256)], ignore_index=255)


def test_the_signature_has_the_version_of_the_figures_and_not_of_the_harness():
    assert Iou(["a", "b"]).signature("miou", []).endswith("|v:1")


def test_an_ignore_index_that_is_a_class_is_rejected():
    with pytest.raises(UsageError, match="ignore_index"):
        Iou(["a", "b"], ignore_index=1)


def test_the_interval_of_a_class_equals_that_of_rescoring_without_each_image() -> None:
    generator = np.random.default_rng(4)
    metric = Iou(("a", "b"))
    pairs = generator.integers(0, 2, (6, 2, 4, 5), dtype=np.uint8)
    rows = [metric.statistics(*pair) for pair in pairs]
    scores = metric.summarise(rows)
    values = [
        metric.summarise(rows[:i] + rows[i + 1 :], intervals=False).per_class["b"]["iou"].value
        for i in range(6)
    ]
    expected = jackknife_interval(scores.per_class["b"]["iou"].value, values, 1)
    assert scores.per_class["b"]["iou"].interval == pytest.approx(expected)
