"""Images of the data set `coco` as other tools store them: turned by EXIF, backslashes in names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.datasets.coco.detection import Coco, CocoOptions
from harness.errors import UsageError


def coco_folder(folder: Path, name: str, width: int, height: int) -> Coco:
    truth = {
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 10]}],
    }
    (folder / "a.json").write_text(json.dumps(truth))
    return Coco(CocoOptions(root=folder, annotations="a.json", images="."), "validation", "detection")


def save_turned(path: Path, width: int, height: int, orientation: int) -> None:
    """Save a black image whose annotated box is white once it is turned as its EXIF orientation says."""
    upright = np.zeros((height, width, 3), np.uint8)
    upright[6:16, 5:25] = 255
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 2: Image.Transpose.FLIP_LEFT_RIGHT}
    image = Image.fromarray(upright)
    if orientation in turn:
        image = image.transpose(turn[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [1, 2, 3, 6])
@pytest.mark.parametrize(("width", "height"), [(48, 48), (64, 48)])
def test_images_are_turned_as_their_boxes_were_drawn(
    tmp_path: Path, width: int, height: int, orientation: int
) -> None:
    save_turned(tmp_path / "a.png", width, height, orientation)
    sample = coco_folder(tmp_path, "a.png", width, height)[0]
    assert isinstance(sample.input, np.ndarray)
    assert sample.input.shape == (height, width, 3)
    assert sample.input[6:16, 5:25].min() == 255
    assert sample.input.sum() == 255 * 3 * 10 * 20


def test_boxes_drawn_on_the_stored_pixels_keep_them(tmp_path: Path) -> None:
    """The annotated size is that of the stored pixels, and not of the turned ones."""
    save_turned(tmp_path / "a.png", 48, 64, 6)
    sample = coco_folder(tmp_path, "a.png", 64, 48)[0]
    assert isinstance(sample.input, np.ndarray)
    assert sample.input.shape == (48, 64, 3)


def test_a_backslash_is_a_separator_where_no_file_has_it_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.new("RGB", (48, 48), "red").save(tmp_path / "x/a.png")
    data = coco_folder(tmp_path, "x\\a.png", 48, 48)
    assert np.asarray(data[0].input)[0, 0].tolist() == [255, 0, 0]
    assert len(data.fingerprint) == 64
    Image.new("RGB", (48, 48), "blue").save(tmp_path / "x\\a.png")
    assert np.asarray(coco_folder(tmp_path, "x\\a.png", 48, 48)[0].input)[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(UsageError, match="leaves the annotation root"):
        coco_folder(tmp_path, "x\\..\\..\\a.png", 48, 48)


def test_a_data_set_tells_its_notes(tmp_path: Path) -> None:
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    assert coco_folder(tmp_path, "a.png", 48, 48).notes == (
        f"{tmp_path}/a.json: annotations: 1 of 1 have no area, and take that of their box",
    )
