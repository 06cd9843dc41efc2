"""Outputs that are NaN or infinite end in an error, whatever softmax, sigmoid and limits make of them."""

import math

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
PICTURE = [Sample("0", SCENES[0].input)]
OUTPUTS = [
    (Yolo, "output", 0),  # a class
    (Yolo, "output", 10),  # a confidence
    (Yolo, "output", 12),  # the place in the cell
    (Yolo, "output", 15),  # the root of a side
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
def made():
    def of(cls):
        if cls not in found:
            torch.manual_seed(0)
            found[cls] = cls(cls.Options(width=8), Runtime())
            found[cls].build(SCENES)
            found[cls].module.eval()
        return found[cls]

    found = {}
    return of


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cls", "layer", "place"), OUTPUTS)
def test_one_output_of_a_network_is_bad(cls, layer, place, bad, made):
    bias = made(cls).module.get_submodule(layer).bias
    before = bias[place].item()
    with torch.no_grad():
        bias[place] = bad
    with pytest.raises(UsageError, match="the model's outputs are NaN or infinite: its weights are bad"):
        made(cls).predict(PICTURE)
    with torch.no_grad():
        bias[place] = before
    assert made(cls).predict(PICTURE)


@pytest.mark.parametrize(("cls", "layer", "place"), [one for one in OUTPUTS if "rpn" not in one[1]])
@pytest.mark.parametrize("sign", [1, -1])
def test_finite_weights_let_one_output_grow_beyond_the_precision(cls, layer, place, sign, made):
    """Each of them with the sign of what it is multiplied by. Features that a proposal is made from are too
    small for that as networks start."""
    layer = made(cls).module.get_submodule(layer)
    before = layer.weight[place].clone()
    seen = []
    hook = layer.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    made(cls).predict(PICTURE)
    hook.remove()
    features = seen[0].movedim(1, -1).reshape(-1, before.shape[0])[0]
    with torch.no_grad():
        layer.weight[place] = (sign * 3e38 * features.sign()).reshape(-1, *[1] * (before.ndim - 1))
    assert layer.weight.isfinite().all()
    with pytest.raises(UsageError, match=r"the model's outputs are NaN or infinite: .* too large for the"):
        made(cls).predict(PICTURE)
    with torch.no_grad():
        layer.weight[place] = before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_largest_numbers_and_none_at_all_are_good(dtype):
    largest = torch.finfo(dtype).max
    check_finite(torch.tensor([largest, -largest], dtype=dtype), torch.zeros(0, 4, dtype=dtype))
    with pytest.raises(UsageError):
        check_finite(torch.zeros(3), torch.tensor([0, -largest], dtype=dtype) * 2)


def test_a_picture_of_one_colour_has_no_regions_and_no_outputs(made):
    (found,) = made(Rcnn).predict([Sample("0", np.full((128, 128, 3), 90, np.uint8))])
    assert found.boxes.shape[1] == 4
