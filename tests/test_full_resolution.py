"""The network without strides matches `fcn-8s` in FLOPs or parameters, and has a large receptive field."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.segmentation.fcn import Fcn8s, FcnOptions
from adapters.segmentation.full_resolution import FullResolution, FullResolutionOptions
from harness.adapter import Runtime

SIDE = 128  # px, of `scenes`


class Digits:
    classes = ("background", *map(str, range(10)))


def module(adapter: Any) -> nn.Module:
    adapter.build(Digits())
    built: nn.Module = adapter.module.eval()
    return built


@pytest.fixture(scope="module")
def strided() -> nn.Module:
    return module(Fcn8s(FcnOptions(), Runtime()))


def without_strides(**options: Any) -> nn.Module:
    return module(FullResolution(FullResolutionOptions(**options), Runtime()))


def flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, SIDE, SIDE))
    return counter.get_total_flops()


def parameters(network: nn.Module) -> int:
    return sum(tensor.numel() for tensor in network.parameters())


def test_the_default_width_has_the_flops_of_fcn_8s(strided: nn.Module) -> None:
    assert flops(without_strides()) == pytest.approx(flops(strided), rel=0.1)


def test_141_channels_have_the_parameters_of_fcn_8s(strided: nn.Module) -> None:
    assert parameters(without_strides(width=141)) == pytest.approx(parameters(strided), rel=0.01)


def test_the_receptive_field_is_67_px_without_gaps() -> None:
    network = without_strides()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.fill_(1)  # nothing cancels and every ReLU is open
    pixels = torch.ones(1, 3, 99, 99, dtype=torch.float64, requires_grad=True)
    network.double()(pixels)[0, 0, 49, 49].backward()
    assert pixels.grad is not None
    field = pixels.grad[0, 0] != 0
    assert field.sum() == 67**2 and field[49 - 33 : 49 + 34, 49 - 33 : 49 + 34].all()
