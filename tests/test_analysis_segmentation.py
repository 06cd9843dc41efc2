"""Analysis of segmentation: confusion against scikit-learn, figures against the metric, images read back."""

from __future__ import annotations

import io

import numpy as np
import pytest
from jackknife_oracle import jackknife_interval
from PIL import Image
from sklearn.metrics import confusion_matrix

from harness.analysis.images import colour, error_file, mask_file
from harness.analysis.segmentation import SegmentationAnalyser
from harness.metrics.iou import Iou
from harness.task import Sample

CLASSES = ("background", "b", "c", "never")
IGNORE = 255


def pairs(count=12, seed=0):
    """Return (target, prediction): three of the four classes; some pixels are ignored, most are right."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        target = np.kron(generator.integers(0, 3, (4, 5), dtype=np.uint8), np.ones((6, 6), np.uint8))
        guess = generator.integers(0, 3, target.shape, dtype=np.uint8)
        prediction = np.where(generator.random(target.shape) < 0.7, target, guess)
        masks.append(
            (np.where(generator.random(target.shape) < 0.1, IGNORE, target).astype(np.uint8), prediction)
        )
    return masks


def analyser_of(masks, classes=CLASSES):
    analyser = SegmentationAnalyser(classes)
    for index, (target, prediction) in enumerate(masks):
        analyser.add(Sample(str(index), np.zeros((*target.shape, 3), np.uint8), target), prediction)
    return analyser


def test_the_confusion_matrix_equals_scikit_learns():
    masks = pairs()
    targets, predictions = (
        np.concatenate([mask.ravel() for mask in side]) for side in zip(*masks, strict=True)
    )
    counted = targets != IGNORE
    expected = confusion_matrix(targets[counted], predictions[counted], labels=range(4))
    assert analyser_of(masks).conclude([]).confusion == expected.tolist()


def test_class_figures_equal_those_of_the_metric():
    masks = pairs()
    metric = Iou(CLASSES, ignore_index=IGNORE)
    expected = metric.summarise([metric.statistics(*pair) for pair in masks]).per_class
    for record in analyser_of(masks).conclude([]).per_class:
        for name in ("iou", "accuracy", "boundary_iou"):
            value, reference = getattr(record, name).value, expected[record.label][name].value
            assert value == (None if reference is None else pytest.approx(reference)), (record.label, name)


def test_the_interval_of_a_class_equals_that_of_rescoring_without_each_image():
    masks = pairs(6)
    values = []
    for left_out in range(6):
        rest = [pair for index, pair in enumerate(masks) if index != left_out]
        both = sum(((target == 1) & (guess == 1)).sum() for target, guess in rest)
        either = sum(((target == 1) | ((guess == 1) & (target != IGNORE))).sum() for target, guess in rest)
        values.append(both / either)
    figure = analyser_of(masks).conclude([]).per_class[1].iou
    assert (figure.low, figure.high) == pytest.approx(jackknife_interval(figure.value, values))


def test_the_worst_image_has_the_lowest_mean_iou_of_its_own_classes():
    right = np.zeros((4, 4), np.uint8)
    half = np.where(np.arange(4) < 2, 0, 1).astype(np.uint8)[None].repeat(4, axis=0)
    worst = analyser_of([(right, right)] * 9 + [(half, right)]).picks()[0]
    # Class 0: 8 of 16 pixels; class 1: none of 8; the others are in neither: (1/2 + 0) / 2.
    assert (worst.index, worst.score) == (9, pytest.approx(0.25))


@pytest.mark.parametrize(
    ("classes", "first"),
    [(("background", "a", "b"), 1), (("a", "background", "b"), 0), (("a", "b", "c"), 2)],
)
def test_of_equal_images_the_one_with_the_most_objects_comes_first(classes, first):
    masks = [np.array([row], np.uint8) for row in ([0, 2, 2], [1, 2, 2], [0, 1, 2])]
    assert analyser_of([(mask, mask) for mask in masks], classes).picks()[0].index == first


def test_an_image_with_only_ignored_pixels_has_no_errors():
    ignored = np.full((4, 4), IGNORE, np.uint8)
    assert [p.score for p in analyser_of([(ignored, np.zeros((4, 4), np.uint8))]).picks()] == [1.0]


class TestImageFiles:
    def test_masks_are_read_back_unchanged_with_vocs_colours(self):
        mask = np.array([[0, 1], [2, IGNORE]], np.uint8)
        stored = Image.open(io.BytesIO(mask_file(mask, 4)))
        assert (stored.mode, np.asarray(stored).tolist()) == ("P", mask.tolist())
        assert np.asarray(stored.convert("RGB")).tolist() == [
            [[0, 0, 0], [128, 0, 0]],
            [[0, 128, 0], [224, 224, 192]],
        ]

    def test_colours_equal_those_published_for_voc(self):
        """VOCdevkit: 1 aeroplane, 3 boat, 15 person, 20 tv/monitor."""
        assert [colour(label) for label in (1, 3, 15, 20)] == [
            (128, 0, 0),
            (128, 128, 0),
            (192, 128, 128),
            (0, 64, 128),
        ]

    def test_only_wrong_and_ignored_pixels_are_opaque_in_the_errors(self):
        target, prediction = np.array([[0, 1, IGNORE]], np.uint8), np.array([[0, 0, 0]], np.uint8)
        stored = np.asarray(Image.open(io.BytesIO(error_file(target, prediction, 4))).convert("RGBA"))
        assert stored[0, :, 3].tolist() == [0, 255, 255]
        assert stored[0, 1].tolist() != stored[0, 2].tolist()

    def test_a_sample_has_four_images_of_one_size_and_no_new_classes(self):
        target = np.kron(np.arange(3, dtype=np.uint8), np.ones((400, 200), np.uint8))
        analyser = analyser_of([(target, target)])
        sample = Sample("x", np.zeros((400, 600, 3), np.uint8), target)
        shown, files = analyser.show(analyser.picks()[0], sample, target)
        assert set(files) == {shown.image, shown.annotation, shown.prediction, shown.errors}
        assert {Image.open(io.BytesIO(content)).size for content in files.values()} == {(256, 171)}
        assert set(np.unique(np.asarray(Image.open(io.BytesIO(files[shown.annotation]))))) == {0, 1, 2}
        assert (shown.width, shown.height) == (600, 400)
