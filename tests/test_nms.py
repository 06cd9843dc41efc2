from unittest import mock

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.detection import nms, torchvision_ops
from adapters.detection.boxes import iou


@st.composite
def candidates(draw):
    """Boxes on a coarse lattice with few distinct scores: ties, duplicates and IoUs equal to thresholds."""
    n = draw(st.integers(0, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    corners = torch.randint(0, 8, (n, 2), generator=generator)
    sides = torch.randint(0, 6, (n, 2), generator=generator)  # some boxes are empty
    scores = torch.randint(0, 5, (n,), generator=generator) / 4
    labels = torch.randint(0, 3, (n,), generator=generator)
    return torch.cat([corners, corners + sides], dim=1).float(), scores, labels


def greedy(boxes, scores, threshold):
    """Suppress box by box, as defined."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@settings(max_examples=60, deadline=None)
@given(candidates(), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_suppression_in_torch_equals_the_greedy_loop_and_torchvision(boxes_scores_labels, threshold):
    boxes, scores, _ = boxes_scores_labels
    ours = nms.suppress_in_torch(boxes, scores, threshold).tolist()
    assert ours == greedy(boxes, scores, threshold)
    assert ours == torchvision.ops.nms(boxes, scores, threshold).tolist()


@pytest.mark.parametrize("together", [0, 1000])
@settings(max_examples=40, deadline=None)
@given(candidates(), st.sampled_from([0.25, 0.5]), st.sampled_from([0.0, -1e3, 1e4]))
def test_per_class_suppression_treats_each_class_separately(together, boxes_scores_labels, threshold, shift):
    """In one call for all classes, or in one call per class."""
    boxes, scores, labels = boxes_scores_labels
    boxes = boxes + shift
    expected = set()
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        kept = greedy(boxes[places], scores[places], threshold)
        expected |= set(places[kept].tolist())
    with mock.patch.dict(nms.SINGLE_CALL_LIMIT, {"cpu": together}):
        suppressed = nms.suppress_per_class(boxes, scores, labels, threshold).tolist()
    assert set(suppressed) == expected
    assert suppressed == sorted(suppressed, key=lambda i: (-scores[i].item(), i))


def test_the_compiled_operator_is_found_and_used():
    assert torchvision_ops.operator("nms") is not None


def test_without_torchvision_suppression_runs_in_torch(monkeypatch):
    boxes, scores = (
        torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [9, 9, 10, 10]]),
        torch.tensor([0.1, 0.2, 0.3]),
    )
    with_it = nms.suppress(boxes, scores, 0.5)
    torchvision_ops.operator.cache_clear()
    monkeypatch.setattr(torchvision_ops, "find_spec", lambda name: None)
    try:
        assert torchvision_ops.operator("nms") is None
        assert nms.suppress(boxes, scores, 0.5).tolist() == with_it.tolist() == [2, 1]
    finally:
        torchvision_ops.operator.cache_clear()


def test_iou_by_hand():
    a = torch.tensor([0.0, 0, 4, 2])
    b = torch.tensor([[2.0, 0, 6, 2], [4, 0, 5, 1], [0, 0, 4, 2], [1, 1, 1, 1]])
    assert iou(a, b).tolist() == pytest.approx([4 / 12, 0, 1, 0])
    assert iou(torch.zeros(4), torch.zeros(4)).item() == 0
