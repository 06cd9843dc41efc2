import itertools
from dataclasses import replace

import numpy as np
import pytest

from adapters.detection import proposal_cache
from adapters.detection.selective_search import (
    MODES,
    SPACES,
    Strategy,
    describe,
    duplicates_last,
    propose,
    segment,
)
from adapters.detection.selective_search_grouping import Regions, group, neighbours

PLAIN = Strategy(("rgb",), ("CTSF",), (50,))


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patches(seed: int) -> Regions:
    """An image of 9×12 px divided into blocks of 3×4 px, some of which are joined."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 7, (3, 3))
    _, labels = np.unique(np.kron(blocks, np.ones((3, 4), dtype=int)), return_inverse=True)
    labels = labels.reshape(9, 12)
    return describe(SPACES["rgb"](noise(9, 12, seed)), labels)


def box_of(mask):
    rows, columns = mask.nonzero()
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def grouped_by_hand(regions, measures):
    """Algorithm 1 with masks instead of running sums: every similarity is computed from the pixels."""
    pixels = regions.labels.size
    parts = {i: {i} for i in range(len(regions.sizes))}  # region → regions of the segmentation
    boxes = [box_of(regions.labels == i) for i in parts]

    def mask(i):
        return np.isin(regions.labels, list(parts[i]))

    def touch(i, j):
        one, other = np.pad(mask(i), 1), mask(j)
        around = one[:-2, 1:-1] | one[2:, 1:-1] | one[1:-1, :-2] | one[1:-1, 2:]
        return (around & other).any()

    def similarity(i, j):
        size = mask(i).sum() + mask(j).sum()
        found = 0.0
        for sign, kind in (("C", regions.colours), ("T", regions.textures)):
            if sign in measures:
                one, other = (kind[list(parts[k])].sum(axis=0) for k in (i, j))
                found += np.minimum(one / one.sum(), other / other.sum()).sum()
        if "S" in measures:
            found += 1 - size / pixels
        if "F" in measures:
            x1, y1, x2, y2 = box_of(mask(i) | mask(j))
            found += 1 - ((x2 - x1) * (y2 - y1) - size) / pixels
        return found

    while len(parts) > 1:
        pairs = [(i, j) for i, j in itertools.combinations(sorted(parts), 2) if touch(i, j)]
        i, j = max(pairs, key=lambda pair: (round(similarity(*pair), 12), -pair[0], -pair[1]))
        parts[len(boxes)] = parts[i] | parts[j]
        boxes.append(box_of(mask(i) | mask(j)))
        del parts[i], parts[j]
    return boxes


@pytest.mark.parametrize("measures", ["CTSF", "TSF", "CT", "F", "S"])
@pytest.mark.parametrize("seed", range(4))
def test_grouping_equals_a_version_that_recomputes_every_similarity(seed, measures):
    regions = patches(seed)
    assert len(regions.sizes) > 3
    assert group(regions, measures).tolist() == grouped_by_hand(regions, measures)


def test_neighbours_share_an_edge_not_a_corner():
    assert neighbours(np.array([[0, 1], [2, 3]])) == [(0, 1), (0, 2), (1, 3), (2, 3)]


def test_histograms_count_the_pixels_of_a_region():
    image = noise(20, 30)
    labels = np.random.default_rng(1).integers(0, 4, (20, 30))
    regions = describe(SPACES["rgb"](image), labels)
    for region in range(4):
        inside = image[labels == region]
        by_hand = [np.histogram(inside[:, k], bins=np.arange(26) * 255 / 25)[0] for k in range(3)]
        assert regions.colours[region].tolist() == np.concatenate(by_hand).tolist()
        assert regions.textures[region].sum() == 3 * 8 * (labels == region).sum()


def test_a_vertical_edge_has_horizontal_texture_only():
    """Brighter to the right: derivatives to the right are large, those up and down are 0."""
    channels = np.zeros((16, 16, 1))
    channels[:, 8:] = 1
    textures = describe(channels, np.zeros((16, 16), dtype=np.int64)).textures.reshape(8, 10)
    assert textures[0, 5:].sum() > 0  # to the right
    assert textures[[2, 4, 6], 1:].sum() == 0  # down, left, up


@pytest.mark.parametrize("mode", ["small", "single", "fast"])
@pytest.mark.parametrize(
    "image",
    [
        noise(1, 1),
        noise(1, 9),
        noise(7, 1),
        np.full((24, 20, 3), 77, dtype=np.uint8),
        np.zeros((24, 20, 3), dtype=np.uint8),
        np.repeat(noise(24, 20)[..., :1], 3, axis=2),
        noise(24, 20),
    ],
    ids=["pixel", "row", "column", "constant", "black", "grey", "noise"],
)
def test_boxes_of_any_image_are_inside_it_and_all_different(image, mode):
    height, width = image.shape[:2]
    boxes = propose(image, MODES[mode])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert [0, 0, width, height] in boxes.tolist()
    assert (propose(image, MODES[mode]) == boxes).all()


def test_the_initial_regions_are_among_the_boxes():
    image = noise(30, 40)
    labels = segment(SPACES["rgb"](image), PLAIN.scales[0])
    assert labels.max() > 2
    proposals = {tuple(box) for box in propose(image, PLAIN).tolist()}
    assert {tuple(box_of(labels == i)) for i in range(labels.max() + 1)} <= proposals


def test_near_duplicates_of_earlier_boxes_come_last():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 5], [50, 0, 60, 10], [0, 0, 10, 8]])
    # IoU with the first: .9, .5, 0, .8
    assert duplicates_last(boxes, 0.55).tolist() == boxes[[0, 2, 3, 1, 4]].tolist()
    assert duplicates_last(boxes, 0.85).tolist() == boxes[[0, 2, 3, 4, 1]].tolist()
    assert duplicates_last(boxes, 1.0).tolist() == boxes.tolist()


def test_moving_duplicates_to_the_end_loses_no_box():
    image, fast = noise(30, 40), MODES["fast"]
    plain = propose(image, replace(fast, duplicate_iou=None))
    reordered = propose(image, fast)
    assert sorted(map(tuple, reordered.tolist())) == sorted(map(tuple, plain.tolist()))
    assert reordered.tolist() != plain.tolist()


def test_colour_spaces_span_zero_to_one():
    image = noise(40, 40)
    for name, space in SPACES.items():
        channels = space(image)
        assert channels.min() >= 0 and channels.max() <= 1, name
        assert channels.std() > 0.05, name


@pytest.mark.slow
def test_modes_propose_about_as_many_boxes_as_in_the_paper():
    """Table 5 has 362, 2,147 and 10,108 for VOC's images; here, one photograph of their size."""
    from sklearn.datasets import load_sample_image

    photograph = load_sample_image("china.jpg")[:375, :500]
    counts = [len(propose(photograph, MODES[mode])) for mode in ("single", "fast", "quality")]
    assert 180 < counts[0] < 800
    assert 1000 < counts[1] < 4000
    assert counts[2] > 4000


def test_cached_regions_are_not_searched_again(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    image = noise(20, 20)
    first = proposal_cache.cached_proposals(image, PLAIN)
    assert (first == propose(image, PLAIN)).all()
    searches = []
    monkeypatch.setattr(proposal_cache, "propose", lambda *arguments: searches.append(arguments) or first)
    assert (proposal_cache.cached_proposals(image.copy(), PLAIN) == first).all()
    assert not searches
    other = image.copy()
    other[3, 4, 1] ^= 1
    proposal_cache.cached_proposals(other, PLAIN)
    proposal_cache.cached_proposals(image, MODES["small"])
    proposal_cache.cached_proposals(image.reshape(10, 40, 3), PLAIN)
    assert len(searches) == 3
    assert len(list(tmp_path.rglob("*.npy"))) == 4
    assert not list(tmp_path.rglob(".*"))  # no partial file remains
