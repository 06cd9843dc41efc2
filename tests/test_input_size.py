"""The size of a vision model's input is an option: boxes, grids, training and checkpoints follow it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from adapters.detection import yolo_grid
from adapters.detection.default_boxes import MapLayout, default_boxes
from adapters.detection.faster_rcnn import FasterRcnnOptions
from adapters.detection.rcnn import Rcnn
from adapters.detection.selective_search_detector import SelectiveSearchOptions
from adapters.detection.ssd import Ssd, SsdOptions
from adapters.detection.training_batch import framed_training_batch
from adapters.detection.yolo import Yolo, YoloOptions
from adapters.segmentation.augmentation import frequency_weights
from adapters.segmentation.fcn import Fcn8s, FcnOptions
from adapters.torch_adapter import TorchAdapter
from harness.adapter import Runtime
from harness.task import Annotations, Detections, Sample

SIZE = (64, 96)  # height, width


def sample(height: int = 60, width: int = 120) -> Sample:
    """Return a black image with a white object, whose box is known."""
    image = np.zeros((height, width, 3), np.uint8)
    image[10:30, 20:70] = 255
    return Sample("0", image, Annotations.of_boxes([[20, 10, 70, 30]], [0]))


def test_default_boxes_stand_on_the_cells_of_an_oblong_image() -> None:
    even = MapLayout(None, ((1.0, 1.0),))
    strided = MapLayout(16 / 96, ((16 / 96, 32 / 96),))
    boxes = default_boxes([strided, even], [(4, 6), (1, 2)], SIZE)
    assert len(boxes) == 4 * 6 + 2
    torch.testing.assert_close(boxes[7], torch.tensor([16.0, 8.0, 32.0, 40.0]))  # centre (24, 24), 16 × 32 px
    torch.testing.assert_close(boxes[24:], torch.tensor([[-24.0, -16, 72, 80], [24.0, -16, 120, 80]]))


@pytest.mark.parametrize("variant", [yolo_grid.LOGISTIC, yolo_grid.PAPER])
def test_yolo_decodes_on_an_oblong_grid_what_it_assigns(variant: yolo_grid.Variant) -> None:
    """An output that equals the targets has the object's box, and no error of position."""
    box = torch.tensor([[0.30, 0.10, 0.50, 0.74]])
    targets = yolo_grid.assign(box, torch.tensor([0]), torch.tensor([0]), (2, 5), 1)
    assert targets.cells.tolist() == [2]  # centre (.4, .42): row 0, column 2 of 5
    raw = torch.zeros(1, 2, 5, 1 + 5)
    x, y = 0.4 * 5 - 2 + 1e-6, 0.42 * 2
    logit = [float(np.log(value / (1 - value))) for value in (x, y)]
    centre = [x, y] if variant.linear else logit
    raw[0, 0, 2, 2:] = torch.tensor([*centre, 0.2**0.5, 0.64**0.5])
    boxes, _ = yolo_grid.decode_all(raw, 1, variant)
    torch.testing.assert_close(boxes[0, 2], box[0], atol=1e-5, rtol=0)
    terms = yolo_grid.loss(raw, targets, 1, variant)
    assert terms["centre"] + terms["sides"] < 1e-5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("augmentation", ["none", "flip", "yolo", "ssd", None])
def test_a_training_box_stays_on_its_object(augmentation: str | None, seed: int) -> None:
    generator = np.random.default_rng(seed)
    batch = framed_training_batch([sample()], SIZE, generator, "cpu", augmentation)  # type: ignore[arg-type]
    assert batch.pixels.shape == (1, 3, *SIZE)
    x1, y1, x2, y2 = batch.boxes[0][0].tolist()
    assert 0 <= x1 < x2 <= SIZE[1] and 0 <= y1 < y2 <= SIZE[0]
    inside = batch.pixels[0, :, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
    column = batch.pixels[0, :, round(y1) + 1 : round(y2) - 1, max(0, round(x1) - 3) : max(0, round(x1) - 2)]
    assert inside.std() < 0.1, "the box holds more than the object"
    if column.numel():
        assert (column.mean() - inside.mean()).abs() > 0.3, "the object is larger than the box"


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_regions_follow_the_image(seed: int) -> None:
    """A region searched on the image is moved by the same transform as the object's box."""
    batch = framed_training_batch([sample()], SIZE, np.random.default_rng(seed), "cpu", "flip")
    moved = batch.transforms[0].apply(np.array([[20, 10, 70, 30]]))
    np.testing.assert_allclose(moved, batch.boxes[0], atol=1e-4)


MODELS: list[tuple[TorchAdapter, object]] = [
    (Ssd(SsdOptions(input_size=(96, 64), width=4, aspect_ratios=(1.0, 2.0)), Runtime()), (96, 64)),
    (Ssd(SsdOptions(width=4), Runtime()), None),
    (Yolo(YoloOptions(input_size=(96, 64), width=4), Runtime()), (96, 64)),
    (Rcnn(SelectiveSearchOptions(input_size=96, width=4), Runtime()), 96),
    (Fcn8s(FcnOptions(input_size=(48, 32), width=4), Runtime()), (48, 32)),
]


@pytest.mark.parametrize(("adapter", "size"), MODELS, ids=lambda value: str(getattr(value, "name", value)))
def test_a_checkpoint_keeps_the_input_size_it_was_trained_at(adapter: TorchAdapter, size: object) -> None:
    adapter.classes = ("thing", "other")
    adapter.module = adapter.make_module()
    checkpoint = adapter.checkpoint()
    assert checkpoint.options.get("input_size") == size
    again = type(adapter)(adapter.Options(), Runtime())
    again.load(checkpoint)
    assert getattr(again.options, "input_size") == size  # noqa: B009
    if adapter.task == "detection":
        (prediction,) = again.predict([Sample("0", sample().input)])
        assert isinstance(prediction, Detections)
        assert (prediction.boxes >= 0).all() and (prediction.boxes <= [120, 60, 120, 60]).all()


def test_a_segmenter_predicts_in_the_size_of_the_image() -> None:
    adapter = Fcn8s(FcnOptions(input_size=48, width=4), Runtime())
    adapter.classes = ("a", "b")
    adapter.module = adapter.make_module().eval()
    (mask,) = adapter.predict([Sample("0", sample().input)])
    assert isinstance(mask, np.ndarray) and mask.shape == (60, 120)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: YoloOptions(input_size=100), "multiples of 16 px"),
        (lambda: YoloOptions(backbone="yolov1", input_size=480), "multiples of 64 px"),
        (lambda: FasterRcnnOptions(backbone="resnet50-fpn", input_size=512), "set `shorter_side`"),
        (lambda: SsdOptions(backbone="vgg16", input_size=256), "at least 300 px"),
        (lambda: SsdOptions(backbone="vgg16", augmentation="digits"), "expected 'ssd' or 'yolo'"),
    ],
)
def test_a_size_that_a_model_cannot_have_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()  # type: ignore[operator]


def test_rare_classes_weigh_more_by_median_frequency() -> None:
    """Eigen & Fergus 2015 §6.3.2, by hand: class 2 is in one image only, 255 is not counted, 3 is nowhere."""
    first = np.array([[0, 0, 0, 1], [0, 0, 255, 255]], np.uint8)  # 6 labelled: 5, 1
    second = np.array([[0, 0, 1, 2], [0, 0, 1, 1]], np.uint8)  # 8 labelled: 4, 3, 1
    frequencies = [9 / 14, 4 / 14, 1 / 8]
    expected = [4 / 14 / frequency for frequency in frequencies]
    assert frequency_weights([first, second], 4) == pytest.approx([*expected, 1.0])
