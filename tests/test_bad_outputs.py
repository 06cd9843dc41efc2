"""NaN or infinite network outputs raise an error, even where softmax, sigmoid or a limit would hide them."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from adapters.detection.fast_rcnn import FastRcnn
from adapters.detection.faster_rcnn import FasterRcnn
from adapters.detection.finite import check_finite
from adapters.detection.rcnn import Rcnn
from adapters.detection.ssd import Ssd
from adapters.detection.yolo import Yolo
from harness.adapter import Runtime
from harness.datasets.scenes.scenes import Scenes, ScenesOptions
from harness.errors import UsageError
from harness.task import Sample

SCENES = Scenes(ScenesOptions(), "train", "detection")
SAMPLES = [Sample("0", SCENES[0].input)]
OUTPUTS = [
    (Yolo, "output", 0),  # class
    (Yolo, "output", 10),  # confidence
    (Yolo, "output", 12),  # centre in the cell
    (Yolo, "output", 15),  # square root of a side
    (Ssd, "heads.classes.1", 3),
    (Ssd, "heads.offsets.1", 2),
    (FasterRcnn, "rpn.head.cls_logits", 1),
    (FasterRcnn, "rpn.head.bbox_pred", 2),
    *(
        (cls, f"roi_heads.box_predictor.{layer}", 4)
        for cls in (FasterRcnn, FastRcnn, Rcnn)
        for layer in ("cls_score", "bbox_pred")
    ),
]


@pytest.fixture(scope="module")
def build():
    """Return a function that builds a small detector of a class once."""

    @cache
    def detector(cls):
        torch.manual_seed(0)
        adapter = cls(cls.Options(width=8), Runtime())
        adapter.build(SCENES)
        adapter.module.eval()
        return adapter

    return detector


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cls", "layer", "index"), OUTPUTS)
def test_a_nan_or_infinite_output_is_an_error(cls, layer, index, bad, build):
    bias = build(cls).module.get_submodule(layer).bias
    before = bias[index].item()
    with torch.no_grad():
        bias[index] = bad
    with pytest.raises(UsageError, match="the model's outputs are NaN or infinite: its weights are bad"):
        build(cls).predict(SAMPLES)
    with torch.no_grad():
        bias[index] = before
    assert build(cls).predict(SAMPLES)


@pytest.mark.parametrize(("cls", "layer", "index"), [output for output in OUTPUTS if "rpn" not in output[1]])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_output_that_overflows_with_finite_weights_is_an_error(cls, layer, index, sign, build):
    """Each weight has the sign of its input. The RPN is excluded because its initial inputs are too small."""
    layer = build(cls).module.get_submodule(layer)
    before = layer.weight[index].clone()
    inputs = []
    hook = layer.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    build(cls).predict(SAMPLES)
    hook.remove()
    features = inputs[0].movedim(1, -1).reshape(-1, before.shape[0])[0]
    with torch.no_grad():
        layer.weight[index] = (sign * 3e38 * features.sign()).reshape(-1, *[1] * (before.ndim - 1))
    assert layer.weight.isfinite().all()
    with pytest.raises(UsageError, match=r"the model's outputs are NaN or infinite: .* too large for the"):
        build(cls).predict(SAMPLES)
    with torch.no_grad():
        layer.weight[index] = before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_largest_finite_numbers_and_empty_outputs_pass(dtype):
    largest = torch.finfo(dtype).max
    check_finite(torch.tensor([largest, -largest], dtype=dtype), torch.zeros(0, 4, dtype=dtype))
    with pytest.raises(UsageError):
        check_finite(torch.zeros(3), torch.tensor([0, -largest], dtype=dtype) * 2)


def test_an_image_without_region_proposals_has_valid_detections(build):
    (detections,) = build(Rcnn).predict([Sample("0", np.full((128, 128, 3), 90, np.uint8))])
    assert detections.boxes.shape[1] == 4
