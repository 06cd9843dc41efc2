import numpy as np
import pytest

from adapters.detection import ssd_augmentation
from adapters.detection.ssd import Ssd, SsdOptions
from harness.adapter import Runtime
from harness.task import Annotations, Sample

COLOURS = np.array([[250, 0, 0], [0, 250, 0]], dtype=np.uint8)
BOXES = np.array([[10.0, 12, 40, 50], [60, 30, 90, 58]])
SEEDS = pytest.mark.parametrize("seed", range(12))


def two_rectangles(height=80, width=100):
    """Return an image of two rectangles of different colours on black."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for colour, (x1, y1, x2, y2) in zip(COLOURS, BOXES.astype(int), strict=True):
        image[y1:y2, x1:x2] = colour
    return image


def shows(image, box, colour):
    """Return whether exactly the pixels of the box have the colour."""
    x1, y1, x2, y2 = box.astype(int)
    coloured = (image == colour).all(axis=2)
    return coloured[y1:y2, x1:x2].all() and coloured.sum() == (y2 - y1) * (x2 - x1)


@SEEDS
def test_zooming_out_moves_boxes_with_their_pixels(seed):
    image, boxes = ssd_augmentation.zoom_out(two_rectangles(), BOXES, np.random.default_rng(seed))
    assert 1 <= image.shape[0] / 80 <= 4 and abs(image.shape[0] / 80 - image.shape[1] / 100) < 0.02
    assert all(shows(image, box, colour) for box, colour in zip(boxes, COLOURS, strict=True))


@SEEDS
def test_a_crop_keeps_the_objects_whose_centres_it_contains(seed):
    image, boxes, indices = ssd_augmentation.crop(two_rectangles(), BOXES, np.random.default_rng(seed))
    height, width = image.shape[:2]
    assert 0.5 <= height / width <= 2 and len(indices)
    assert height >= 0.3 * 80 - 1 and width >= 0.3 * 100 - 1
    assert (boxes >= 0).all() and (boxes <= (width, height, width, height)).all()
    assert all(shows(image, box, COLOURS[k]) for box, k in zip(boxes, indices, strict=True))
    if len(indices) < 2:
        (gone,) = {0, 1} - set(indices.tolist())
        visible = (image == COLOURS[gone]).all(axis=2).sum()
        # at most, if its centre is outside the crop
        assert visible <= np.prod(BOXES[gone, 2:] - BOXES[gone, :2]) * 0.75


def test_crops_have_each_of_the_minimum_overlaps_with_an_object():
    """IoU of the crop with the best object; all seven kinds of crop occur, including small overlaps."""
    best, whole = [], 0
    for seed in range(200):
        image, _, indices = ssd_augmentation.crop(two_rectangles(), BOXES, np.random.default_rng(seed))
        whole += image.shape == (80, 100, 3)
        area = image.shape[0] * image.shape[1]
        best.append(max(np.prod(BOXES[k, 2:] - BOXES[k, :2]) for k in indices) / area)
    assert 20 <= whole <= 120  # one of seven draws, and when no crop is accepted
    assert max(best) > 0.5 > 0.2 > min(best)


def test_an_image_without_objects_is_not_cropped():
    image, boxes, indices = ssd_augmentation.crop(
        two_rectangles(), np.zeros((0, 4)), np.random.default_rng(0)
    )
    assert image.shape == (80, 100, 3) and len(boxes) == len(indices) == 0


@SEEDS
def test_distortion_changes_colours_but_not_positions(seed):
    distorted = ssd_augmentation.distort_colours(two_rectangles(), np.random.default_rng(seed))
    assert distorted.shape == (80, 100, 3) and distorted.dtype == np.uint8
    background = distorted[(two_rectangles() == 0).all(axis=2)]
    assert (background == background[0]).all()
    assert len(np.unique(distorted.reshape(-1, 3), axis=0)) <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (80, 100)])
def test_training_batches_of_any_size_have_their_objects_inside(size):
    image = np.full((*size, 3), 200, dtype=np.uint8)
    sample = Sample("0", image, Annotations.of_boxes([[0, 0, size[1], size[0]]], [3]))
    adapter = Ssd(SsdOptions(backbone="vgg16"), Runtime())
    for seed in range(5):
        batch = adapter.training_batch([sample] * 2, np.random.default_rng(seed))
        assert batch.pixels.shape == (2, 3, 300, 300) and batch.pixels.isfinite().all()
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True):
            assert labels.tolist() == [3] * len(boxes)
            assert (boxes[:, 2:] > boxes[:, :2]).all() and boxes.min() >= 0 and boxes.max() <= 300.001
