"""Scores of mask files: pairs, labels, bit depths and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from harness.errors import UsageError
from harness.evaluation.segmentation import AnnotatedMasks
from harness.evaluation.systems import read_system


def score_segmentation(annotations, predictions, classes):
    return read_system(AnnotatedMasks(annotations, str(classes)), predictions)


def save_mask(path, values, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette:
        image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    image.save(path)
    return path


def save_grey_of_depth(path, row, depth):
    """Write a PNG of one row with fewer than 8 bits per pixel, which Pillow cannot do."""
    bits = "".join(f"{value:0{depth}b}" for value in row)
    line = b"\0" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    header = struct.pack(">IIBBBBB", len(row), 1, depth, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(line)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_masks_are_paired_by_stem_in_palette_or_grey(tmp_path):
    """Over both images, class 0 has 3 of 3 pixels right, class 1 has 2 of 3 (one is 0): IoU 3/4 and 2/3."""
    save_mask(tmp_path / "truth/a.png", [[0, 1], [1, 255]], palette=True)
    save_mask(tmp_path / "truth/b.png", [[0, 0, 1]])
    save_mask(tmp_path / "found/a.png", [[0, 1], [0, 1]])
    save_mask(tmp_path / "found/b.png", [[0, 0, 1]], palette=True)
    scores = score_segmentation(tmp_path / "truth", tmp_path / "found", classes=2)
    assert scores.metrics["miou"].value == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert scores.metrics["pixel_accuracy"].value == pytest.approx(5 / 6)
    assert scores.metrics["miou"].n == 2
    assert scores.per_class["1"]["iou"].value == pytest.approx(2 / 3)


def test_two_files_form_a_pair_whatever_their_names(tmp_path):
    truth, found = save_mask(tmp_path / "a.png", [[0, 1]]), save_mask(tmp_path / "b.png", [[0, 1]])
    scores = score_segmentation(truth, found, classes=2)
    assert scores.metrics["miou"].value == 1
    assert scores.metrics["miou"].low is None


def test_masks_give_every_figure_but_foreground_iou(tmp_path):
    """The files do not say whether class 0 is the background."""
    mask = save_mask(tmp_path / "a.png", [[0, 1]])
    assert list(score_segmentation(mask, mask, classes=2).metrics) == [
        *("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "boundary_iou")
    ]


def test_255_is_ignored_unless_it_is_the_last_of_256_classes(tmp_path):
    truth, found = save_mask(tmp_path / "a.png", [[0, 255]]), save_mask(tmp_path / "b.png", [[0, 0]])
    ignored = score_segmentation(truth, found, classes=255)
    assert (ignored.metrics["pixel_accuracy"].value, "|ignore:255|" in ignored.metrics["miou"].signature) == (
        1,
        True,
    )
    every = score_segmentation(truth, found, classes=256)
    assert (every.metrics["pixel_accuracy"].value, "|ignore:none|" in every.metrics["miou"].signature) == (
        0.5,
        True,
    )


@pytest.mark.parametrize(("depth", "row"), [(1, [0, 1, 1]), (2, [0, 1, 3]), (4, [0, 5, 15])])
def test_grey_levels_of_few_bits_are_not_rescaled(tmp_path, depth, row):
    found = save_grey_of_depth(tmp_path / "few.png", row, depth)
    assert score_segmentation(found, save_mask(tmp_path / "a.png", [row]), 16).metrics["miou"].value == 1


def bad_masks(folder):
    good = save_mask(folder / "good.png", [[0, 1]])
    (folder / "text.png").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 2, (90, 100))
    (folder / "cut.png").write_bytes(save_mask(folder / "x.png", noise).read_bytes()[:-500])
    Image.new("RGB", (2, 1), (0, 1, 0)).save(folder / "colour.png")
    Image.fromarray(np.array([[0, 256]], dtype=np.uint16)).save(folder / "deep.png")
    save_mask(folder / "wide.png", [[0, 1, 1]])
    save_mask(folder / "many.png", [[0, 7]])
    return good


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text", "text.png: not a PNG file"),
        ("cut", "cut.png: cannot be read"),
        (
            "colour",
            "colour.png: expected a palette or grey PNG whose values 0–255 .* mode RGB of 8 bits",
        ),
        ("deep", "deep.png: expected a palette or grey PNG whose values 0–255 .* of 16 bits"),
        ("wide", "sample good: the annotation is 2×1, the prediction 3×1 pixels"),
        (
            "many",
            "many.png: the pixel at x 1, y 0 has the label 7, which is neither of a class nor ignored",
        ),
        ("nowhere", "nowhere.png: file or folder not found"),
    ],
)
def test_malformed_masks_are_refused(tmp_path, name, message):
    good = bad_masks(tmp_path)
    with pytest.raises(UsageError, match=message):
        score_segmentation(good, tmp_path / f"{name}.png", classes=2)


def test_two_masks_of_one_stem_are_refused_and_hidden_files_are_ignored(tmp_path):
    for name in ("truth/a.png", "found/a.png", "found/._a.png", "truth/.b.png"):
        save_mask(tmp_path / name, [[0, 1]])
    assert score_segmentation(tmp_path / "truth", tmp_path / "found", 2).metrics["miou"].n == 1
    save_mask(tmp_path / "x.png", [[1, 0]]).rename(tmp_path / "found/a.PNG")
    with pytest.raises(
        UsageError, match=r"found/a\.png: .*found/a\.PNG has the same stem; expected one file per stem"
    ):
        score_segmentation(tmp_path / "truth", tmp_path / "found", 2)


def test_masks_without_a_counterpart_and_empty_folders_are_refused(tmp_path):
    for stem in "abc":
        save_mask(tmp_path / f"truth/{stem}.png", [[0]])
    save_mask(tmp_path / "found/a.png", [[0]])
    (tmp_path / "empty").mkdir()
    for truth, found, message in [
        ("truth", "found", r"truth/b.png: b.png not found in .*found \(and 1 more\)"),
        ("truth", "empty", "empty: found no .png file"),
        ("truth", "found/a.png", "expected two folders or two PNG files"),
    ]:
        with pytest.raises(UsageError, match=message):
            score_segmentation(tmp_path / truth, tmp_path / found, classes=2)
