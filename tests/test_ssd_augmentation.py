import numpy as np
import pytest

from adapters.detection import ssd_augmentation
from adapters.detection.ssd import Ssd, SsdOptions
from harness.adapter import Runtime
from harness.task import Annotations, Sample

COLOURS = np.array([[250, 0, 0], [0, 250, 0]], dtype=np.uint8)
BOXES = np.array([[10.0, 12, 40, 50], [60, 30, 90, 58]])
SEEDS = pytest.mark.parametrize("seed", range(12))


def picture(height=80, width=100):
    """Two rectangles, each of its own colour, on black."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for colour, (x1, y1, x2, y2) in zip(COLOURS, BOXES.astype(int), strict=True):
        image[y1:y2, x1:x2] = colour
    return image


def shows(image, box, colour):
    """The box holds the colour, and no pixel of it is outside."""
    x1, y1, x2, y2 = box.astype(int)
    own = (image == colour).all(axis=2)
    return own[y1:y2, x1:x2].all() and own.sum() == (y2 - y1) * (x2 - x1)


@SEEDS
def test_zooming_out_moves_boxes_with_their_pixels(seed):
    image, boxes = ssd_augmentation.zoom_out(picture(), BOXES, np.random.default_rng(seed))
    assert 1 <= image.shape[0] / 80 <= 4 and abs(image.shape[0] / 80 - image.shape[1] / 100) < 0.02
    assert all(shows(image, box, colour) for box, colour in zip(boxes, COLOURS, strict=True))


@SEEDS
def test_a_part_keeps_the_objects_whose_centres_it_shows(seed):
    image, boxes, kept = ssd_augmentation.crop(picture(), BOXES, np.random.default_rng(seed))
    height, width = image.shape[:2]
    assert 0.5 <= height / width <= 2 and len(kept)
    assert height >= 0.3 * 80 - 1 and width >= 0.3 * 100 - 1
    assert (boxes >= 0).all() and (boxes <= (width, height, width, height)).all()
    assert all(shows(image, box, COLOURS[k]) for box, k in zip(boxes, kept, strict=True))
    if len(kept) < 2:
        (gone,) = {0, 1} - set(kept.tolist())
        seen = (image == COLOURS[gone]).all(axis=2).sum()
        assert seen <= np.prod(BOXES[gone, 2:] - BOXES[gone, :2]) * 0.75  # two quarters and less, at a corner


def test_parts_overlap_an_object_by_each_of_the_least_shares():
    """IoU of the part with the best object; all seven kinds of part occur, and small overlaps among them."""
    best, whole = [], 0
    for seed in range(200):
        image, _, kept = ssd_augmentation.crop(picture(), BOXES, np.random.default_rng(seed))
        whole += image.shape == (80, 100, 3)
        area = image.shape[0] * image.shape[1]
        best.append(max(np.prod(BOXES[k, 2:] - BOXES[k, :2]) for k in kept) / area)
    assert 20 <= whole <= 120  # one of seven draws, and where no part would do
    assert max(best) > 0.5 > 0.2 > min(best)


def test_nothing_to_find_is_not_cut():
    image, boxes, kept = ssd_augmentation.crop(picture(), np.zeros((0, 4)), np.random.default_rng(0))
    assert image.shape == (80, 100, 3) and len(boxes) == len(kept) == 0


@SEEDS
def test_distortion_changes_colours_not_places(seed):
    found = ssd_augmentation.distort_colours(picture(), np.random.default_rng(seed))
    assert found.shape == (80, 100, 3) and found.dtype == np.uint8
    background = found[(picture() == 0).all(axis=2)]
    assert (background == background[0]).all()
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 3


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
