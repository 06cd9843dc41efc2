import subprocess
import sys

import pytest
import torch

from adapters.detection import roi

H, W, SCALE = 19, 26, 0.0625
CHANNELS = 3


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(2, CHANNELS, H, W)


def regions():
    """Return windows inside, across and outside the map, empty, reversed, and with corners at half cells."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(60, 2, generator=generator) * 420 - 60
    sides = torch.rand(60, 2, generator=generator) * 300
    random = torch.cat([corners, corners + sides], dim=1)
    halves = torch.tensor([[8.0, 24.0, 40.0, 72.0], [-8.0, -24.0, 56.0, 104.0], [24.0, 8.0, 88.0, 8.0]])
    odd = torch.tensor(
        [
            [16.0, 16.0, 16.0, 16.0],  # one point
            [100.0, 100.0, 40.0, 50.0],  # reversed
            [-900.0, -900.0, -800.0, -800.0],  # outside, on either side
            [900.0, 900.0, 990.0, 990.0],
            [0.0, 0.0, W / SCALE, H / SCALE],  # everything
            [-500.0, -500.0, 1000.0, 1000.0],
            [410.0, 300.0, 420.0, 310.0],  # the last cells
        ]
    )
    boxes = torch.cat([random, halves, odd])
    return boxes, torch.arange(len(boxes)) % 2


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("function", [roi.pool_in_torch, roi.align_in_torch])
def test_pooling_in_torch_equals_torchvisions_operators(function, size, features):
    from torchvision.ops import roi_align, roi_pool

    boxes, images = regions()
    rows = torch.cat([images[:, None].float(), boxes], dim=1)
    expected = (
        roi_pool(features, rows, size, SCALE)
        if function is roi.pool_in_torch
        else roi_align(features, rows, size, SCALE, sampling_ratio=2)
    )
    torch.testing.assert_close(function(features, boxes, images, size, SCALE), expected, atol=1e-5, rtol=1e-5)


def test_pooling_by_hand(features):
    """A window of 3×2 cells into 2×2 bins: rows {0, 1} and {1, 2} overlap, columns do not."""
    box = torch.tensor([[4 / SCALE, 5 / SCALE, 5 / SCALE, 7 / SCALE]])
    (pooled,) = roi.pool_in_torch(features, box, torch.tensor([1]), 2, SCALE)
    for i, rows in enumerate([(5, 6), (6, 7)]):
        for j, column in enumerate([4, 5]):
            torch.testing.assert_close(pooled[:, i, j], features[1, :, rows, column].amax(dim=1))


def test_halves_are_rounded_away_from_zero():
    features = torch.arange(10.0).reshape(1, 1, 1, 10)
    box = torch.tensor([[2.5, 0.0, 2.5, 0.0]])  # Python's round would take cell 2
    assert roi.pool_in_torch(features, box, torch.tensor([0]), 1, 1.0).item() == 3.0
    assert roi.pool(features, box, torch.tensor([0]), 1, 1.0).item() == 3.0


@pytest.mark.parametrize("function", [roi.pool, roi.pool_in_torch, roi.align, roi.align_in_torch])
def test_an_empty_list_of_regions_gives_an_empty_result(function, features):
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert function(features, *none, 7, SCALE).shape == (0, CHANNELS, 7, 7)


@pytest.mark.parametrize("function", [roi.pool, roi.pool_in_torch, roi.align, roi.align_in_torch])
def test_gradients_are_those_of_finite_differences(function):
    torch.manual_seed(0)
    features = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 1, 5, 4], [2, 0, 6, 5], [-3, -2, 3, 9]], dtype=torch.float64)
    images = torch.tensor([0, 1, 1])
    assert torch.autograd.gradcheck(lambda x: function(x, boxes, images, 3, 1.0), features)


@pytest.mark.parametrize("function", [roi.pool, roi.align])
def test_features_in_half_precision_are_pooled_in_full_precision(function, features):
    """As under autocast: the output of a convolution is rounded, the corners of regions are not."""
    boxes, owners = regions()
    half = features.bfloat16().requires_grad_()
    pooled = function(half, boxes, owners, 7, SCALE)
    assert torch.equal(pooled, function(half.float(), boxes, owners, 7, SCALE))
    pooled.sum().backward()
    assert half.grad is not None and half.grad.abs().sum() > 0


def test_gradients_do_not_depend_on_torchvisions_package_being_imported():
    """In a fresh process, because importing torchvision registers the gradients of its operators."""
    script = """
import sys, torch
from adapters.detection import roi
boxes, images = torch.tensor([[0.0, 1, 5, 4]]), torch.tensor([0])
for function in (roi.pool, roi.align):
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: function(x, boxes.double(), images, 3, 1.0), x)
assert "torchvision" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("count", [0, 5, roi.CHUNK, roi.CHUNK + 3])
def test_the_fallback_computes_any_number_of_regions(count, monkeypatch, features):
    boxes, images = (torch.cat([values] * 3)[:count] for values in regions())
    for function in (roi.pool, roi.align):
        expected = function(features, boxes, images, 2, SCALE)
        with monkeypatch.context() as without:
            without.setattr(roi, "operator", lambda name: None)
            torch.testing.assert_close(function(features, boxes, images, 2, SCALE), expected)


def test_the_fallbacks_memory_does_not_grow_with_regions_times_the_map():
    """An expanded map of 3 GiB that takes no memory; a copy for each of 100 regions would not fit."""
    features = torch.ones(1, 1, 1, 1).expand(1, 256, 1500, 2000)
    boxes = torch.tensor([[100.0, 200, 900, 1400]]).repeat(100, 1)
    pooled = roi.align_in_torch(features, boxes, torch.zeros(100, dtype=torch.int64), 7, 1.0)
    assert pooled.shape == (100, 256, 7, 7)
    torch.testing.assert_close(pooled, torch.ones_like(pooled))


def test_without_torchvision_the_fallback_is_used(monkeypatch, features):
    boxes, images = regions()
    expected = [roi.pool(features, boxes, images, 4, SCALE), roi.align(features, boxes, images, 4, SCALE)]
    monkeypatch.setattr(roi, "operator", lambda name: None)
    fallback = [roi.pool(features, boxes, images, 4, SCALE), roi.align(features, boxes, images, 4, SCALE)]
    for pooled, reference in zip(fallback, expected, strict=True):
        torch.testing.assert_close(pooled, reference, atol=1e-5, rtol=1e-5)
