"""Every detector and segmentation network of torchvision: the adapter computes what torchvision computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.adapter import ADAPTERS, Runtime
from harness.checkpoint import Checkpoint
from harness.errors import UsageError
from harness.task import Annotations, Sample

NOT_OFFERED = {"keypointrcnn_resnet50_fpn"}  # keypoints are not a task of the harness
DETECTORS = [
    pytest.param("fasterrcnn_mobilenet_v3_large_320_fpn", 91),
    pytest.param("ssdlite320_mobilenet_v3_large", 91),
    *(
        pytest.param(name, 91, marks=pytest.mark.slow)
        for name in (
            "fasterrcnn_mobilenet_v3_large_fpn",
            "fasterrcnn_resnet50_fpn_v2",
            "fcos_resnet50_fpn",
            "maskrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn_v2",
            "retinanet_resnet50_fpn",
            "retinanet_resnet50_fpn_v2",
        )
    ),
]
SEGMENTERS = [
    "lraspp_mobilenet_v3_large",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "deeplabv3_mobilenet_v3_large",
            "deeplabv3_resnet50",
            "deeplabv3_resnet101",
            "fcn_resnet101",
        )
    ),
]
SIDES = {"min_size": 128, "max_size": 192}


def photograph(height: int, width: int) -> Sample:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Sample(str(height), pixels)


def with_varied_norms(model: torch.nn.Module) -> torch.nn.Module:
    """Give the batch normalisation statistics that would show a wrong epsilon or a lost tensor."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def test_every_model_of_torchvision_has_an_adapter() -> None:
    from torchvision.models import detection, list_models, segmentation

    names = {*list_models(module=detection), *list_models(module=segmentation)} - NOT_OFFERED
    assert {f"torchvision/{name}" for name in names} <= ADAPTERS.entries().keys()


@pytest.mark.parametrize(("name", "classes"), DETECTORS)
def test_a_detector_computes_what_torchvisions_does(name: str, classes: int) -> None:
    from torchvision.models import detection

    sides = {} if name.startswith("ssdlite") else SIDES
    torch.manual_seed(0)
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes, **sides)
    with_varied_norms(theirs)
    cls = ADAPTERS.get(f"torchvision/{name}")
    if "rcnn" in name:
        with torch.no_grad():  # scores of usual spread, so that rounding does not decide their order
            theirs.get_parameter(cls.logits.replace("bias", "weight")).mul_(20)
    options = {"shorter_side": 128, "longer_side": 192} if sides else {}
    peer = cls(cls.Options(score_threshold=0.0, detections_per_image=20, **options), Runtime())
    peer.load(Checkpoint(theirs.state_dict(), "", {}))
    assert len(peer.classes) == 90 and peer.classes[0] == "person"
    prefix = "box_" if "rcnn" in name else ""
    limits = {f"{prefix}score_thresh": 0.0, f"{prefix}detections_per_img": 20}
    reference = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=classes, **sides, **limits
    )
    reference.load_state_dict(theirs.state_dict())
    samples = [photograph(90, 130), photograph(120, 100)]
    with torch.no_grad():
        expected = [
            reference.eval()([torch.from_numpy(sample.input).permute(2, 0, 1).float() / 255])[0]
            for sample in samples
        ]
    for detections, image in zip(peer.predict(samples), expected, strict=True):
        assert len(detections.scores) == len(image["scores"]) == 20
        np.testing.assert_allclose(detections.scores, image["scores"].numpy(), atol=1e-4)
        assert sorted(detections.labels) == sorted(image["labels"].numpy() - 1)


def test_nan_proposals_are_an_error_and_no_empty_image() -> None:
    """Without the check, proposals that are NaN would be dropped before they are scored."""
    cls = ADAPTERS.get("torchvision/fasterrcnn_mobilenet_v3_large_320_fpn")
    peer = cls(cls.Options(shorter_side=64, longer_side=96), Runtime())
    peer.classes = ("person",)
    peer.module = peer.make_module().eval()
    assert peer.predict([photograph(64, 64)])
    with torch.no_grad():
        peer.module.rpn.head.bbox_pred.weight[0] = float("nan")
    with pytest.raises(UsageError, match="the model's outputs are NaN or infinite"):
        peer.predict([photograph(64, 64)])


def test_mask_rcnn_learns_boxes_without_masks() -> None:
    cls = ADAPTERS.get("torchvision/maskrcnn_resnet50_fpn")
    peer = cls(cls.Options(shorter_side=64, longer_side=96), Runtime())
    peer.classes = ("person",)
    peer.module = peer.make_module().train()
    sample = photograph(64, 64)
    target = Annotations.of_boxes([[8.0, 8.0, 40.0, 50.0]], [0])
    batch = peer.training_batch([Sample("0", sample.input, target)], np.random.default_rng(0))
    terms = peer.loss(batch)
    assert set(terms) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    sum(terms.values()).backward()
    assert not any("mask" in name for name, _ in peer.module.named_parameters())
    assert peer.module.roi_heads.box_predictor.cls_score.weight.grad.abs().sum() > 0


def test_the_background_that_retinanet_scores_is_no_detection() -> None:
    cls = ADAPTERS.get("torchvision/retinanet_resnet50_fpn")
    peer = cls(cls.Options(shorter_side=64, longer_side=96, score_threshold=0.0), Runtime())
    peer.classes = ("person",)
    peer.module = peer.make_module().eval()
    with torch.no_grad():
        peer.module.head.classification_head.cls_logits.bias[0::2] = 3.0  # of the background
    (detections,) = peer.predict([photograph(64, 64)])
    assert set(detections.labels) <= {0}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmentation_network_computes_what_torchvisions_does(name: str) -> None:
    from torchvision.models import segmentation

    torch.manual_seed(0)
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    theirs = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=21, **auxiliary)
    with_varied_norms(theirs)
    cls = ADAPTERS.get(f"torchvision/{name}")
    sample = photograph(96, 128)
    pixels = torch.from_numpy(sample.input).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = ((pixels - mean[:, None, None]) / std[:, None, None])[None]
    with torch.no_grad():
        bias = theirs.get_parameter(cls.score_bias)
        bias -= theirs(batch)["out"].mean(dim=(0, 2, 3))  # so that several classes win somewhere
        scores = theirs(batch)["out"]
    peer = cls(cls.Options(resize=None), Runtime())
    peer.load(Checkpoint(theirs.state_dict(), "", {}))
    (mask,) = peer.predict([sample])
    assert (mask == scores.argmax(1)[0].numpy()).mean() > 0.999
    assert len(np.unique(mask)) > 1


def test_weights_that_were_trained_with_frozen_normalisation_get_torchvisions_epsilon() -> None:
    """torchvision loads its weights COCO_V1 of RetinaNet with epsilon 0 and takes 1e-5 otherwise."""
    cls = ADAPTERS.get("torchvision/retinanet_resnet50_fpn")
    from torchvision.models.detection import retinanet_resnet50_fpn

    state = retinanet_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    frozen = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    for tensors, epsilon in ((state, 1e-5), (frozen, 0.0)):
        peer = cls(cls.Options(), Runtime())
        peer.load(Checkpoint(tensors, "", {}))
        assert peer.module.backbone.body.bn1.eps == epsilon


def test_weights_of_another_model_are_refused_by_the_first_tensor_that_differs() -> None:
    cls = ADAPTERS.get("torchvision/ssdlite320_mobilenet_v3_large")
    with pytest.raises(UsageError, match=r"has no tensor 'head\.classification_head"):
        cls(cls.Options(), Runtime()).load(Checkpoint({"x": torch.zeros(1)}, "", {}))
