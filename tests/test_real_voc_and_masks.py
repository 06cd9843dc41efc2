"""VOC's files and PNG masks as other tools write them: what is read, left out with a note, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.datasets.masks.classes import binary_classes, parse_classes
from harness.datasets.masks.files import find_predictions, list_masks, read_colours, read_mask
from harness.datasets.masks.masks import Masks, MasksOptions
from harness.datasets.voc.annotations import read_annotations
from harness.datasets.voc.detection import Voc, VocOptions
from harness.datasets.voc.submission import read_submission
from harness.errors import UsageError
from harness.evaluation.detection import AnnotatedBoxes
from harness.evaluation.segmentation import AnnotatedMasks
from harness.metrics.metric import METRICS

BOX = "<bndbox><xmin>48</xmin><ymin>24</ymin><xmax>95</xmax><ymax>71</ymax></bndbox>"
DOG = f"<object><name>dog</name><pose>Unspecified</pose><difficult>0</difficult>{BOX}</object>"
SIZE = "<size><width>353</width><height>500</height><depth>3</depth></size>"
XML = f"<annotation><folder>VOC</folder><filename>a.jpg</filename>{SIZE}{DOG}</annotation>"
LINE = "a 0.9 48 24 95 71\n"


def save(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def mean_average_precision(folder: Path) -> tuple[float | None, list[str]]:
    """Return mAP of the submission in `R` on the annotations in `A`, and the notes."""
    notes: list[str] = []
    annotated = read_annotations(folder / "A", notes.append)
    detections = read_submission(folder / "R", annotated, notes.append)
    metric = METRICS.get("voc10")(annotated.classes)
    rows = [metric.statistics(target, detections[image]) for image, target in annotated.targets.items()]
    return metric.summarise(rows).metrics["map"].value, [note.replace(f"{folder}/", "") for note in notes]


@pytest.mark.parametrize(
    "xml",
    [
        XML,
        XML.replace("a.jpg", "/home/user/a.jpg"),
        XML.replace("a.jpg", "..\\..\\a.JPG"),
        XML.replace("<filename>a.jpg</filename>", ""),
        XML.replace(SIZE, "<size><width>0</width><height/></size><segmented>0</segmented>"),
        XML.replace("<difficult>0</difficult>", ""),
        XML.replace("<difficult>0</difficult>", "<difficult/>"),
        XML.replace("<difficult>0</difficult>", "<difficult>False</difficult>"),
        XML.replace("<xmin>48</xmin>", "<xmin> 48.0 </xmin>"),
        XML.replace(BOX, f"{BOX}<part><name>head</name>{BOX}</part>"),
        XML.replace(DOG, f"<objects>{DOG}</objects>"),
        f"\n  {XML}",
        f'<?xml version="1.0"?>\n<!-- dog -->\n{XML}',
        f'<?xml version="1.0" encoding="gb2312"?>{XML.replace("VOC", "图")}'.encode("gb2312"),
        f'<?xml version="1.0" encoding="GBK"?>{XML.replace("VOC", "图")}'.encode("gbk"),
        f'<?xml version="1.0" encoding="big5"?>{XML.replace("VOC", "圖")}'.encode("big5"),
        f"<?xml version='1.0' encoding='Shift_JIS'?>{XML.replace('VOC', '犬')}".encode("shift_jis"),
        f'<?xml version="1.0" encoding="EUC-KR"?>{XML.replace("VOC", "개")}'.encode("euc-kr"),
        f'<?xml version="1.0" encoding="ISO-8859-1"?>{XML.replace("VOC", "Tür")}'.encode("latin-1"),
        f'<?xml version="1.0" encoding="utf-8"?>{XML.replace("VOC", "Tür")}'.encode("utf-8-sig"),
        f'<?xml version="1.0" encoding="utf-16"?>{XML.replace("VOC", "Tür")}'.encode("utf-16"),
        f'<?xml version="1.0" encoding="utf-16"?>{XML.replace("VOC", "Tür")}',
    ],
)
def test_variants_of_an_annotation_file_are_read(tmp_path: Path, xml: str | bytes) -> None:
    save(tmp_path / "A/a.xml", xml)
    save(tmp_path / "R/dog.txt", LINE)
    assert mean_average_precision(tmp_path) == (1, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (XML.replace("VOC", "图").encode("gbk"), r"a.xml:1: not UTF-8 \(byte 0xcd\); declare the file's enc"),
        (f'<?xml version="1.0" encoding="klingon"?>{XML}'.encode(), "a.xml: unknown encoding 'klingon'"),
        (b'\n<?xml version="1.0" encoding="gbk"?><annotation>', "a.xml:1: malformed XML"),
        (f'<?xml version="1.0" encoding="punycode"?>{XML}'.encode(), "a.xml: not PUNYCODE; convert the file"),
    ],
)
def test_files_in_no_declared_encoding_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    content = content.replace("图".encode("gbk"), b"\xcd\xff")
    save(tmp_path / "A/a.xml", content)
    with pytest.raises(UsageError, match=message):
        read_annotations(tmp_path / "A", print)


def test_files_that_operating_systems_add_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "A/a.XML", XML)
    save(tmp_path / "R/dog.TXT", LINE)
    for name in ("A/._a.xml", "A/.DS_Store", "A/Thumbs.db", "R/._dog.txt", "R/desktop.ini"):
        save(tmp_path / name, b"\0\5\x16\7")
    assert mean_average_precision(tmp_path) == (1, [])


@pytest.mark.parametrize("line", [LINE, f"\ufeff{LINE}", LINE.replace("a ", "a.jpg "), f"{LINE}\r\n\r\n"])
def test_variants_of_a_submission_are_read(tmp_path: Path, line: str) -> None:
    save(tmp_path / "A/a.xml", XML)
    save(tmp_path / "R/dog.txt", line)
    assert mean_average_precision(tmp_path) == (1, [])
    save(tmp_path / "R/dog.txt", line.lstrip("\ufeff").encode("utf-16"))
    assert mean_average_precision(tmp_path) == (1, [])


def test_ids_of_images_may_be_numbers(tmp_path: Path) -> None:
    save(tmp_path / "A/000007.xml", XML)
    save(tmp_path / "R/comp4_det_test_dog.txt", LINE.replace("a ", "7 "))
    assert mean_average_precision(tmp_path) == (1, [])


def test_a_class_whose_name_ends_with_another_is_not_taken_for_it(tmp_path: Path) -> None:
    save(tmp_path / "A/a.xml", XML)
    save(tmp_path / "R/hot_dog.txt", LINE)
    with pytest.raises(UsageError, match="unknown class 'hot_dog'; did you mean 'dog'"):
        mean_average_precision(tmp_path)
    save(tmp_path / "R/comp3_ab12_det_test_dog.txt", LINE)
    note = "R: 1 of 2 files are of no annotated class (hot_dog.txt) and are left out"
    assert mean_average_precision(tmp_path) == (1, [note])


def test_other_images_and_classes_are_left_out_with_a_note(tmp_path: Path) -> None:
    """With VOC's classes annotated, `zebra` is none of them. The box beyond the edge is only noted."""
    for stem in "ab":
        save(tmp_path / f"A/{stem}.xml", XML)
    save(tmp_path / "R/dog.txt", f"{LINE}c 0.8 1 1 9 9\na 0.1 300 24 400 71\na 0.2 30 24 20 71\n")
    save(tmp_path / "R/zebra.txt", LINE)
    ap, notes = mean_average_precision(tmp_path)
    assert ap == 0.5
    assert notes == [
        "R: 1 of 2 files are of no annotated class (zebra.txt) and are left out",
        "R: 1 of 4 detections are left out, because the annotations list no such image id: c",
        "R: 1 of 3 detections have a negative width or height and match nothing; `coco` counts those with "
        "one negative side (1) as neither right nor wrong, and those with two as wrong",
        "R: 1 of 3 detections reach beyond their image, the first [1] beyond 353×500 px",
        "R: 1 of 2 images have no prediction (1 of them have annotations)",
    ]


def test_annotations_that_are_all_difficult_are_noted(tmp_path: Path) -> None:
    save(tmp_path / "A/a.xml", XML.replace("<difficult>0", "<difficult>1"))
    save(tmp_path / "R/dog.txt", LINE)
    assert mean_average_precision(tmp_path) == (
        None,
        ["A: all 1 annotations are difficult, so that none counts"],
    )


@pytest.mark.parametrize("line", ["dog 0.9 48 24 95 71\n", "0 0.5 0.5 0.1 0.1 0.9\n"])
def test_one_text_file_per_image_is_refused_with_the_form_expected(tmp_path: Path, line: str) -> None:
    save(tmp_path / "A/a.xml", XML)
    save(tmp_path / "R/a.txt", line)
    message = r"R/a.txt: is named after an image; expected one file per class, CLASS.txt with lines 'ID SCORE"
    with pytest.raises(UsageError, match=message):
        mean_average_precision(tmp_path)


# Images of the data set `voc`


@pytest.mark.parametrize("suffix", ["png", "JPG", "jpeg", "Bmp"])
def test_voc_images_may_have_any_suffix(tmp_path: Path, suffix: str) -> None:
    save(tmp_path / "Annotations/a.xml", XML)
    save(tmp_path / "ImageSets/Main/val.txt", "a  1\n")
    for junk in ("._a.jpg", "Thumbs.db", "a.txt", "a.xml"):
        save(tmp_path / "JPEGImages" / junk, "junk")
    Image.new("RGB", (353, 500), "red").save(tmp_path / f"JPEGImages/a.{suffix}")
    (sample,) = Voc(VocOptions(root=tmp_path), "validation", "detection")
    assert (sample.id, np.asarray(sample.input).shape) == ("a", (500, 353, 3))


@pytest.mark.parametrize(("orientation", "row"), [(1, 0), (3, -1), (8, 0)])
def test_voc_images_are_turned_unless_their_size_is_that_of_the_stored_pixels(
    tmp_path: Path, orientation: int, row: int
) -> None:
    """The stored image has a white first row; its XML has the size of the stored pixels."""
    save(tmp_path / "Annotations/a.xml", XML.replace("353", "100").replace("500", "80"))
    save(tmp_path / "ImageSets/Main/val.txt", "a\n")
    (tmp_path / "JPEGImages").mkdir()
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "JPEGImages/a.png", exif=exif)
    image: Any = Voc(VocOptions(root=tmp_path), "validation", "detection")[0].input
    assert image.shape == (80, 100, 3)
    assert image[row].min() == 255
    assert image.sum() == 255 * 3 * 100


# Masks


def save_mask(path: Path, values: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    (image if mode is None else image.convert(mode)).save(path)
    return path


LABELS = [[0, 1, 2], [2, 1, 255]]


@pytest.mark.parametrize("mode", [None, "L", "RGB", "RGBA", "LA", "I;16"])
def test_label_ids_in_other_modes_are_read(tmp_path: Path, mode: str | None) -> None:
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.array(LABELS, dtype=np.uint16)).save(path)
    else:
        save_mask(path, LABELS, mode)
    assert read_mask(path).tolist() == LABELS
    assert read_mask(path).dtype == np.uint8


def test_palettes_and_single_bits_are_read(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7])
    image.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png").tolist() == [[0, 1, 2]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "1.png")
    assert read_mask(tmp_path / "1.png").tolist() == [[0, 1]]


def test_colours_may_have_an_opaque_alpha_channel(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (128, 0, 0, 255))
    image.save(tmp_path / "a.png")
    assert read_colours(tmp_path / "a.png").tolist() == [[0x800000, 0x800000]]
    image.putpixel((1, 0), (0, 0, 0, 7))
    image.save(tmp_path / "a.png")
    for read in (read_mask, read_colours):
        with pytest.raises(UsageError, match=r"a.png: 1 pixels are transparent, the first at x 1, y 0"):
            read(tmp_path / "a.png")


def test_a_transparent_palette_entry_is_a_label_but_no_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_mask(tmp_path / "a.png").tolist() == [[0, 1]]
    with pytest.raises(UsageError, match=r"a.png: 1 pixels are transparent, the first at x 0, y 0"):
        read_colours(tmp_path / "a.png")


def test_255_is_the_foreground_of_masks_of_0_and_255(tmp_path: Path) -> None:
    """A quarter of the pixels is foreground; nothing and half of it found give .375 and .678571."""
    truth = np.zeros((20, 20))
    truth[:10, :10] = 255
    half = np.zeros((20, 20))
    half[:10, :5] = 255
    notes: list[str] = []
    classes = binary_classes(
        [save_mask(tmp_path / "gt.png", truth)], parse_classes({"0": 0, "1": 1}, [255]), notes.append
    )
    assert notes == [
        "all annotated pixels are 0 or 255, so that 255 is read as class 1; set an ignore index of 255 to "
        "leave these pixels out"
    ]
    metric = METRICS.get("iou")(["0", "1"])
    both = (300 / 350 + 0.5) / 2
    for found, expected in ((np.zeros((20, 20)), 0.375), (half, both), (half // 255, both)):
        prediction = classes.read(save_mask(tmp_path / "p.png", found))
        rows = [metric.statistics(classes.read(tmp_path / "gt.png"), prediction)]
        assert metric.summarise(rows).metrics["miou"].value == pytest.approx(expected)


@pytest.mark.parametrize("values", [[[0, 1, 255]], [[0, 0]], [[1, 255]]])
def test_255_stays_ignored_where_class_1_is_annotated_or_255_is_not(tmp_path: Path, values: object) -> None:
    declared = parse_classes({"0": 0, "1": 1}, [255])
    assert binary_classes([save_mask(tmp_path / "gt.png", values)], declared, print) is declared


def test_masks_of_0_and_255_are_noted_if_there_are_more_classes(tmp_path: Path) -> None:
    save_mask(tmp_path / "a.png", [[0, 255]])
    note = "all annotated pixels are 0 or 255, and 255 is ignored; are there only 2 classes?"
    assert AnnotatedMasks(tmp_path, "3").notes == (note,)
    assert AnnotatedMasks(tmp_path, "256").notes == (), "255 is a class"


def test_predicted_masks_of_other_images_are_left_out_with_a_note(tmp_path: Path) -> None:
    for name in ("truth/a", "truth/b", "found/a", "found/b", "found/c", "found/d"):
        save_mask(tmp_path / f"{name}.png", LABELS)
    for junk in ("found/._a.png", "truth/.DS_Store", "truth/Thumbs.db"):
        save(tmp_path / junk, "junk")
    notes: list[str] = []
    truth, found = tmp_path / "truth", tmp_path / "found"
    annotated = list_masks(truth, notes.append)
    assert [*find_predictions(truth, annotated, found, notes.append)] == ["a", "b"]
    save(tmp_path / "set.txt", "b.png\n")
    annotated = list_masks(truth, notes.append, tmp_path / "set.txt")
    assert annotated == {"b": truth / "b.png"}
    assert find_predictions(truth, annotated, found, notes.append) == {"b": found / "b.png"}
    assert [note.replace(f"{tmp_path}/", "") for note in notes] == [
        "found: 2 of 4 masks are of other images and are left out",
        "set.txt: 1 of 2 annotated images are outside the image set",
        "found: 3 of 4 masks are of other images and are left out",
    ]


def test_a_folder_of_images_may_contain_other_files(tmp_path: Path) -> None:
    save_mask(tmp_path / "labels/a.png", LABELS)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "images/a.JPG")
    for junk in ("images/Thumbs.db", "images/a.txt", "images/.a.jpg", "labels/._a.png"):
        save(tmp_path / junk, "junk")
    options = MasksOptions(
        root=tmp_path, images="images", labels="labels", classes=["a", "b", "c"], ignore=[255]
    )
    (sample,) = Masks(options, "test", "segmentation")
    assert np.asarray(sample.target).tolist() == LABELS


def test_an_image_is_turned_if_only_so_its_mask_fits(tmp_path: Path) -> None:
    save_mask(tmp_path / "labels/a.png", LABELS)
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2, 3)).save(tmp_path / "images/a.png", exif=exif)
    options = MasksOptions(
        root=tmp_path, images="images", labels="labels", classes=["a", "b", "c"], ignore=[255]
    )
    assert np.asarray(Masks(options, "test", "segmentation")[0].input).shape == (2, 3, 3)


COMPOSED, DECOMPOSED = "M\u00fcnchen", "Mu\u0308nchen"  # NFC, and NFD as in an archive made on macOS


def test_masks_are_matched_however_the_letters_of_their_names_are_composed(tmp_path: Path) -> None:
    save_mask(tmp_path / f"truth/{DECOMPOSED}.png", LABELS)
    save_mask(tmp_path / f"found/{COMPOSED}.png", LABELS)
    save(tmp_path / "set.txt", f"{DECOMPOSED}.jpg\n")
    notes: list[str] = []
    annotated = list_masks(tmp_path / "truth", notes.append, tmp_path / "set.txt")
    found = find_predictions(tmp_path / "truth", annotated, tmp_path / "found", notes.append)
    assert found == {COMPOSED: tmp_path / f"found/{COMPOSED}.png"}
    (note,) = notes
    assert note.endswith("truth: 1 file names are decomposed Unicode, and read as composed")
    Image.new("RGB", (3, 2)).save(tmp_path / f"found/{COMPOSED}.jpg")
    names = {"images": "found/{id}.jpg", "labels": "truth", "classes": ["a", "b", "c"], "ignore": [255]}
    (sample,) = Masks(MasksOptions.model_validate({"root": tmp_path, **names}), "test", "segmentation")
    assert (sample.id, np.asarray(sample.target).tolist()) == (COMPOSED, LABELS)


def test_pictures_without_classes_get_a_hint(tmp_path: Path) -> None:
    mask = save_mask(tmp_path / "a.png", LABELS)
    with pytest.raises(UsageError, match=r"a\.png: is a picture; name the classes of masks with --classes"):
        AnnotatedBoxes(mask)
