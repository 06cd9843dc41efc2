"""The `voc` data set: the development kit's folder, difficult objects, and malformed files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.datasets.voc.annotations import CLASSES
from harness.datasets.voc.detection import Voc, VocOptions
from harness.errors import UnavailableError, UsageError
from harness.stages.score import score
from harness.task import Detections

BOX = "<xmin>3</xmin><ymin>2</ymin><xmax>12</xmax><ymax>11</ymax>"


def item(name: str = "dog", box: str = BOX, difficult: int = 0) -> str:
    return (
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox><part><name>head</name><bndbox>{BOX}</bndbox></part></object>"
    )


def annotate(root: Path, image_id: str, *objects: str) -> None:
    size = "<size><width>0</width><height>0</height></size>"  # as some tools write it; ignored
    text = f"<annotation><filename>{image_id}.jpg</filename>{size}{''.join(objects)}</annotation>"
    (root / f"Annotations/{image_id}.xml").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for image_id in ("000001", "000002", "000005"):
        Image.new("RGB", (20, 15)).save(tmp_path / f"JPEGImages/{image_id}.jpg")
    annotate(tmp_path, "000001", item(), item("person", difficult=1))
    annotate(tmp_path, "000002", item("person"))
    annotate(tmp_path, "000005")
    for name, ids in {"train": "000001", "val": "000002", "test": "000005\n000001"}.items():
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(f"{ids}\n")
    return tmp_path


def opened(root: Path, split: str = "test", **options: Any) -> Voc:
    return Voc(VocOptions.model_validate({"root": root, **options}), split, "detection")


def test_the_lists_define_the_splits(root: Path) -> None:
    assert [sample.id for sample in opened(root, "train")] == ["000001"]
    assert [sample.id for sample in opened(root, "validation")] == ["000002"]
    assert [sample.id for sample in opened(root)] == ["000001", "000005"]
    (root / "ImageSets/Main/trainval.txt").write_text("000002\n000001\n")
    assert [sample.id for sample in opened(root, "train", image_sets={"train": "trainval"})] == [
        "000001",
        "000002",
    ]


def test_inclusive_pixels_counted_from_1_become_corners(root: Path) -> None:
    dataset = opened(root)
    assert dataset.classes == CLASSES
    target: Any = dataset[0].target
    assert target.boxes.tolist() == [[2, 1, 12, 11]] * 2
    assert target.labels.tolist() == [CLASSES.index("dog"), CLASSES.index("person")]
    assert (target.difficult.tolist(), target.crowd.tolist()) == ([False, True], [False, False])
    empty: Any = dataset[1].target
    assert empty.boxes.shape == (0, 4)


@pytest.mark.parametrize("metric", ["voc07", "voc10"])
def test_difficult_objects_are_neither_found_nor_missed(root: Path, metric: str) -> None:
    """One of two persons is difficult. Detecting both or only the other gives AP 1; a wrong box costs."""
    (root / "ImageSets/Main/test.txt").write_text("000001\n000002\n")
    data, person = opened(root), CLASSES.index("person")

    def ap(*boxes: list[float]) -> float | None:
        on_first = np.array(boxes, np.float32).reshape(-1, 4)
        boxes_and_scores = [
            (on_first, np.linspace(0.9, 0.8, len(on_first))),
            (np.array([[2, 1, 12, 11]], np.float32), np.array([0.5])),
        ]
        detections = [
            Detections(b, s.astype(np.float32), np.full(len(b), person)) for b, s in boxes_and_scores
        ]
        scored = score(data, 2, zip(("000001", "000002"), detections, strict=True), [metric])[metric].scores
        return scored.per_class["person"]["ap"].value

    assert ap() == ap([2, 1, 12, 11]) == ap([2, 1, 12, 11], [2, 1, 12, 11]) == pytest.approx(1)
    assert ap([9, 9, 19, 14]) == pytest.approx(0.5)


def test_other_classes_in_the_same_layout(root: Path) -> None:
    annotate(root, "000005", item("crack"))
    dataset = opened(root, classes=["person", "crack", "dog"])
    target: Any = dataset[1].target
    assert target.labels.tolist() == [1]
    assert dataset.fingerprint != opened(root, classes=["dog", "crack", "person"]).fingerprint
    with pytest.raises(ValueError, match="duplicate class 'dog'"):
        opened(root, classes=["dog", "dog"])


def test_the_fingerprint_depends_on_content(root: Path) -> None:
    before = opened(root).fingerprint
    assert opened(root).fingerprint == before
    annotate(root, "000001", item(), item("person", difficult=0))
    assert opened(root).fingerprint != before


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([item(), item("dgo")], r"object\[1\]: unknown class 'dgo'; did you mean 'dog'\?"),
        ([item("")], r"object\[0\]: missing <name>"),
        (
            [item(box=BOX.replace("12", "2"))],
            r"object\[0\]: expected xmin ≤ xmax and ymin ≤ ymax, found 3 2 2 11",
        ),
        ([item(box=BOX.replace("12", "x"))], r"object\[0\]: xmax: expected a finite number, found 'x'"),
        ([item(box="<xmin>1</xmin>")], r"object\[0\]: bndbox: missing <ymin>"),
        ([item(difficult=2)], r"object\[0\]: difficult: expected 0 or 1, found '2'"),
        (["<object>"], r"malformed XML: mismatched tag"),
    ],
)
def test_a_bad_annotation_is_rejected_when_the_data_set_is_opened(
    root: Path, objects: list[str], message: str
) -> None:
    annotate(root, "000005", *objects)
    with pytest.raises(UsageError, match=r"Annotations/000005.xml:(1:)? " + message):
        opened(root)


def test_a_box_of_one_pixel_has_an_area_and_a_box_over_the_edge_is_kept(root: Path) -> None:
    one_pixel, over_edge = BOX.replace("12", "3").replace("11", "2"), BOX.replace("12", "25")
    annotate(root, "000005", item(box=one_pixel), item(box=over_edge))
    target: Any = opened(root)[1].target
    assert target.boxes.tolist() == [[2, 1, 3, 2], [2, 1, 25, 11]]
    assert target.areas.tolist() == [1, 230]


@pytest.mark.parametrize("first", [21, 30])  # pixel counted from 1, of 20
def test_a_box_outside_its_image_is_named(root: Path, first: int) -> None:
    annotate(root, "000005", item(), item(box=BOX.replace("<xmin>3", f"<xmin>{first}").replace("12", "40")))
    message = r"000005.xml: object\[1\]: the box is outside its image .*000005.jpg of 20×15 px"
    with pytest.raises(UsageError, match=message):
        opened(root)[1]


def test_missing_lists_files_and_folders_are_named(root: Path) -> None:
    with pytest.raises(UsageError, match=r"Main/trainval.txt: cannot be read: No such file"):
        opened(root, image_sets={"test": "trainval"})
    (root / "ImageSets/Main/test.txt").write_text("000001\n000009\n")
    with pytest.raises(
        UsageError, match=r"test.txt:2: '000009': image file not found: .*JPEGImages/000009\.\*"
    ):
        opened(root)
    (root / "ImageSets/Main/test.txt").write_text("000001\n000001\n")
    with pytest.raises(UsageError, match=r"test.txt:2: duplicate id '000001', first in line 1"):
        opened(root)
    (root / "ImageSets/Main/test.txt").write_text("../../etc/passwd\n")
    with pytest.raises(UsageError, match=r"test.txt:1: '../../etc/passwd': image file not found"):
        opened(root)
    with pytest.raises(UnavailableError, match=r"VOC2012: folder not found \(root of the data set\)"):
        opened(root / "VOC2012")


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_a_corrupt_image_fails_only_when_it_is_read(root: Path, content: bytes) -> None:
    (root / "JPEGImages/000005.jpg").write_bytes(content)
    dataset = opened(root)
    assert dataset[0].id == "000001"
    with pytest.raises(UsageError, match=r"000005.jpg: not an image file"):
        dataset[1]
