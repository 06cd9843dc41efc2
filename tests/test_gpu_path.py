"""The path through a GPU, on any machine: fake tensors on `cuda` refuse to mix with those of the CPU.

Fake tensors have shapes and devices but no values, so each phase runs up to the first operation whose shape
or control flow depends on values. The table says in which phase that is. Backward passes are not reached,
because autograd opens a CUDA context. `benchmarks/gpu_check.py` covers the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree

from adapters.torch_adapter import TorchAdapter
from adapters.translation.cells import unfuse
from harness.adapter import ADAPTERS, Runtime
from harness.datasets.dataset import DATASETS
from harness.task import Sample

TRAINING = ("training batch", "loss", "done")
INFERENCE = ("preprocess", "forward", "postprocess", "done")

# model, options, first phases that depend on values: of training, of inference
MODELS: list[tuple[str, dict[str, Any], str, str]] = [
    ("yolo", {}, "training batch", "postprocess"),
    ("yolo", {"backbone": "yolov1"}, "training batch", "postprocess"),
    ("ssd", {}, "loss", "postprocess"),
    ("ssd", {"backbone": "vgg16"}, "loss", "postprocess"),
    ("rcnn", {}, "training batch", "preprocess"),
    ("fast-rcnn", {}, "training batch", "preprocess"),
    ("faster-rcnn", {}, "loss", "forward"),
    ("faster-rcnn", {"backbone": "resnet50-fpn"}, "loss", "forward"),
    ("fcn-8s", {}, "loss", "postprocess"),
    ("fcn-8s", {"backbone": "vgg16"}, "loss", "postprocess"),
    ("fcn-resnet50", {}, "loss", "postprocess"),
    ("full-resolution", {}, "loss", "postprocess"),
    ("rnn", {}, "loss", "forward"),
    ("lstm", {}, "loss", "forward"),
    ("attention", {}, "loss", "forward"),
]


def place(adapter: TorchAdapter[Any, Any, Any], module: nn.Module) -> None:
    """Move parameters and buffers to the device one by one; `Module.to` cannot swap fake tensors."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            moved = parameter.detach().to(adapter.runtime.device)
            setattr(part, name, nn.Parameter(moved, parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(adapter.runtime.device))
    adapter.module = module


def first_stop(phases: tuple[str, ...], *functions: Callable[[Any], Any]) -> str:
    """Run functions on the results of those before; return the first phase that depends on values."""
    result = None
    for phase, function in zip(phases, functions, strict=False):
        try:
            result = function(result)
        except (DataDependentOutputException, DynamicOutputShapeException):
            return phase
        except RuntimeError as error:
            if "numpy() is not supported" not in str(error):  # for fake tensors
                raise
            return phase
    return phases[-1]


@pytest.mark.parametrize(("name", "options", "training", "inference"), MODELS)
def test_no_tensor_is_left_on_the_cpu(
    name: str, options: dict[str, Any], training: str, inference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchAdapter, "_move_to_device", place)
    cls = ADAPTERS.get(name)
    data = DATASETS.get("phrases" if cls.task == "translation" else "scenes")
    train = data(data.Options(**{"size": 40}), "train", cls.task)
    samples = [train[index] for index in range(2)]
    inputs = [Sample(sample.id, sample.input) for sample in samples]
    generator = np.random.default_rng(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        adapter = cls(cls.Options(**options), Runtime("cuda"))
        assert isinstance(adapter, TorchAdapter)
        adapter.build(train)
        unfuse(adapter.module)  # the fused kernels of recurrent layers ask the driver
        assert (
            first_stop(TRAINING, lambda _: adapter.training_batch(samples, generator), adapter.loss)
            == training
        )
        for part in adapter.exportable().values():
            outputs = pytree.tree_leaves(getattr(part.module, part.method)(*part.example))
            assert {output.device.type for output in outputs} == {"cuda"}
        for parameter in adapter.module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        torch.optim.AdamW(adapter.module.parameters()).step()
        adapter.module.eval()
        batches: list[Any] = []

        def preprocess(_: object) -> object:
            batches.append(adapter.preprocess(inputs))
            return batches[0]

        stop = first_stop(
            INFERENCE, preprocess, adapter.forward, lambda raw: adapter.postprocess(raw, batches[0])
        )
    assert stop == inference


def test_mixing_devices_is_found() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match="cuda:0 and cpu"):
        torch.ones(2, device="cuda") + torch.ones(2)
