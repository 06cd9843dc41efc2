import pytest
import torch

from adapters.detection import box_regression, matching
from adapters.detection.box_regression import SCALED_WEIGHTS, UNIT_WEIGHTS


def random_boxes(n, seed, min_side=1.0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(n, 2, generator=generator) * 200
    return torch.cat([corners, corners + min_side + torch.rand(n, 2, generator=generator) * 100], dim=1)


@pytest.mark.parametrize("weights", [UNIT_WEIGHTS, SCALED_WEIGHTS])
def test_offsets_equal_torchvisions(weights):
    from torchvision.models.detection._utils import BoxCoder

    boxes, references = random_boxes(50, 0), random_boxes(50, 1)
    theirs = BoxCoder(weights)
    expected = theirs.encode_single(boxes, references)
    torch.testing.assert_close(
        box_regression.encode(boxes, references, weights), expected, atol=1e-5, rtol=1e-5
    )
    offsets = torch.randn(50, 4) * 5  # some above the maximum ratio
    expected = theirs.decode_single(offsets, references)
    torch.testing.assert_close(
        box_regression.decode(offsets, references, weights), expected, atol=1e-5, rtol=1e-5
    )


def test_decoding_undoes_encoding():
    boxes, references = random_boxes(50, 0), random_boxes(50, 1)
    offsets = box_regression.encode(boxes, references, SCALED_WEIGHTS)
    decoded = box_regression.decode(offsets, references, SCALED_WEIGHTS)
    torch.testing.assert_close(decoded, boxes, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("allow_low_quality", [False, True])
def test_matches_equal_torchvisions(allow_low_quality):
    from torchvision.models.detection._utils import Matcher
    from torchvision.ops import box_iou

    references, objects = random_boxes(300, 2), random_boxes(8, 3)
    expected = Matcher(0.6, 0.3, allow_low_quality)(box_iou(objects, references))
    matches = matching.match(references, objects, 0.6, 0.3, allow_low_quality=allow_low_quality)
    assert torch.equal(matches, expected)
    assert {-1, -2} <= set(matches.tolist()) and (matches >= 0).any()


def test_each_object_is_matched_to_its_best_box_as_in_torchvisions_ssd():
    from torchvision.models.detection._utils import SSDMatcher
    from torchvision.ops import box_iou

    differ = 0
    for seed in range(20):
        references, objects = random_boxes(300, seed), random_boxes(12, 100 + seed)
        expected = SSDMatcher(0.5)(box_iou(objects, references))
        matches = matching.match_every_object(references, objects, 0.5, 0.5)
        assert torch.equal(matches, expected)
        differ += not torch.equal(
            matches, matching.match(references, objects, 0.5, 0.5, allow_low_quality=True)
        )
    assert differ  # because objects overlap


def test_of_objects_with_the_same_best_box_the_last_is_matched():
    """Thousands of objects, to detect a device that writes them in another order."""
    references = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    objects = torch.tensor([[0.0, 0, 9, 9]]).repeat(5000, 1)
    assert matching.match_every_object(references, objects, 0.5, 0.5).tolist() == [4999, matching.BACKGROUND]


def test_an_object_that_overlaps_no_box_is_not_matched():
    far = torch.tensor([[900.0, 900.0, 950.0, 950.0]])
    assert (
        matching.match(random_boxes(20, 0), far, 0.5, 0.5, allow_low_quality=True) == matching.BACKGROUND
    ).all()


def test_without_objects_everything_is_background():
    matches = matching.match(random_boxes(20, 0), torch.zeros(0, 4), 0.5, 0.3, allow_low_quality=True)
    assert matches.tolist() == [matching.BACKGROUND] * 20


def test_a_sample_has_at_most_its_fraction_of_positives_and_is_filled_with_background():
    matched = torch.tensor([0, 1, matching.IGNORED, *[matching.BACKGROUND] * 20, 2, 0, 1, 2])
    torch.manual_seed(0)
    drawn = [matching.sample(matched, 8, 0.5) for _ in range(50)]
    for places in drawn:
        assert len(set(places.tolist())) == 8
        assert (matched[places] >= 0).sum() == 4
        assert (matched[places] != matching.IGNORED).all()
    assert len(set(torch.cat(drawn).tolist())) == len(matched) - 1  # each is drawn at some time
    few = matching.sample(matched[:10], 8, 0.5)
    assert (matched[:10][few] >= 0).sum() == 2 and len(few) == 8
    assert len(matching.sample(matched[:2], 8, 0.5)) == 2
