"""The `masks` data set: layouts and labels that a suite can declare, and malformed files."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_suite import planned

from harness.datasets.masks.masks import Masks, MasksOptions
from harness.errors import UnavailableError, UsageError
from harness.metrics.iou import Iou
from harness.stages.score import make_metrics

LABELS = [[0, 1, 2], [1, 1, 255]]
PALETTE = [value for index in range(256) for value in (index, 255 - index, 7)]


def save_image(path: Path, size: tuple[int, int] = (3, 2), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


def save_labels(path: Path, values: Any = LABELS, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype=np.uint8))
    if palette:
        image.putpalette(PALETTE)
    image.save(path)
    return path


def save_colours(path: Path, names: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = [[[int(name[at : at + 2], 16) for at in (1, 3, 5)] for name in row] for row in names]
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path)
    return path


def opened(root: Path, split: str = "test", **options: Any) -> Masks:
    layout = {"images": "images", "labels": "labels", "classes": ["sky", "tree", "road"], "ignore": [255]}
    declared = {"root": root, **layout, **options}
    return Masks(MasksOptions.model_validate(declared), split, "segmentation")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Create two images with different suffixes, a palette mask and a grey mask."""
    save_image(tmp_path / "images/b.png")
    save_image(tmp_path / "images/a.jpg")
    save_labels(tmp_path / "labels/a.png", palette=True)
    save_labels(tmp_path / "labels/b.png")
    return tmp_path


def deep_png(width: int, height: int) -> bytes:
    """Encode RGB with 16 bits per channel, which Pillow cannot write (PNG specification §11.2.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(6 * width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def copy_tree(tree: Path, name: str) -> Path:
    return Path(shutil.copytree(tree, tree.parent / name))


class TestLayouts:
    def test_folders_pair_by_stem_in_order_of_id(self, flat: Path) -> None:
        dataset = opened(flat)
        assert [sample.id for sample in (dataset[0], dataset[1])] == ["a", "b"]
        assert len(dataset) == 2
        for index in range(2):
            sample = dataset[index]
            assert isinstance(sample.input, np.ndarray)
            assert (sample.input.shape, sample.input.dtype) == ((2, 3, 3), np.uint8)
            np.testing.assert_array_equal(sample.target, LABELS)
        with pytest.raises(IndexError):
            dataset[2]

    @pytest.mark.parametrize("images", ["./images", "images/", ".//images/{id}.*", "images/../images"])
    def test_a_path_may_be_written_in_several_ways(self, flat: Path, images: str) -> None:
        assert len(opened(flat, images=images, labels="./labels")) == 2

    def test_images_may_be_in_the_root_itself(self, flat: Path) -> None:
        for name in ("a.jpg", "b.png"):
            (flat / "images" / name).rename(flat / name)
        assert [opened(flat, images=".")[index].id for index in range(2)] == ["a", "b"]

    def test_cityscapes(self, tmp_path: Path) -> None:
        """Cities are folders, suffixes distinguish files, four labels have classes, the rest is ignored."""
        for city, number in (("ulm", 1), ("aachen", 2)):
            stem = f"{city}_00000{number}_000019"
            save_image(tmp_path / f"leftImg8bit/val/{city}/{stem}_leftImg8bit.png")
            save_labels(tmp_path / f"gtFine/val/{city}/{stem}_gtFine_labelIds.png", [[7, 26, 33], [0, 3, 27]])
            save_image(tmp_path / f"gtFine/val/{city}/{stem}_gtFine_color.png")
        dataset = opened(
            tmp_path,
            "validation",
            images="leftImg8bit/{split}/*/{id}_leftImg8bit.png",
            labels="gtFine/{split}/*/{id}_gtFine_labelIds.png",
            split_names=["train", "val", "test"],
            classes={"road": 7, "vehicle": [26, 27], "bicycle": 33},
            ignore="rest",
        )
        assert [dataset[0].id, dataset[1].id] == ["aachen_000002_000019", "ulm_000001_000019"]
        np.testing.assert_array_equal(dataset[0].target, [[0, 1, 2], [255, 255, 1]])
        assert dataset.classes == ("road", "vehicle", "bicycle")
        assert dataset.metric_options == {"ignore_index": 255}

    def test_ade(self, tmp_path: Path) -> None:
        """Label 0 is ignored and label 1 is the first class."""
        save_image(tmp_path / "images/validation/ADE_val_00000001.jpg")
        save_labels(tmp_path / "annotations/validation/ADE_val_00000001.png", [[0, 1, 2], [2, 2, 0]])
        dataset = opened(
            tmp_path,
            "validation",
            images="images/{split}",
            labels="annotations/{split}",
            classes=["wall", "building"],
            first_label=1,
            ignore=[0],
        )
        np.testing.assert_array_equal(dataset[0].target, [[255, 0, 1], [1, 1, 255]])

    def test_one_folder_per_sample(self, tmp_path: Path) -> None:
        save_image(tmp_path / "train/n1/image.png")
        save_labels(tmp_path / "train/n1/mask.png")
        assert (
            opened(tmp_path, "train", images="{split}/{id}/image.png", labels="{split}/{id}/mask.png")[0].id
            == "n1"
        )

    def test_lists_divide_one_folder_into_splits(self, flat: Path) -> None:
        (flat / "val.txt").write_text("b\r\n\n")
        dataset = opened(flat, "validation", ids="{split}.txt", split_names=["train", "val", "test"])
        assert [dataset[index].id for index in range(len(dataset))] == ["b"]

    def test_masks_of_several_splits_may_share_a_folder_of_images_and_vice_versa(self, flat: Path) -> None:
        save_labels(flat / "masks/train/a.png")
        assert [s.id for s in opened(flat, "train", labels="masks/{split}")] == ["a"]
        save_image(flat / "other/train/b.png")
        assert [s.id for s in opened(flat, "train", images="other/{split}")] == ["b"]

    def test_hidden_files_are_ignored(self, flat: Path) -> None:
        (flat / "images/.DS_Store").write_text("")
        save_labels(flat / "labels/._a.png")
        assert len(opened(flat)) == 2

    def test_colours_in_rgb_and_palette_files(self, tmp_path: Path) -> None:
        for name in ("rgb", "palette"):
            save_image(tmp_path / f"images/{name}.png")
        save_colours(
            tmp_path / "labels/rgb.png",
            [["#808080", "#0000ff", "#0000FE"], ["#000000", "#808080", "#808080"]],
        )
        save_labels(tmp_path / "labels/palette.png", [[1, 0, 0], [0, 0, 0]], palette=True)
        classes = {"sky": "#808080", "car": ["#0000FF", "#0000fe", "#00ff07"]}
        dataset = opened(tmp_path, classes=classes, ignore=["#000000", "#01fe07"])
        np.testing.assert_array_equal(dataset[0].target, [[255, 1, 1], [1, 1, 1]])
        np.testing.assert_array_equal(dataset[1].target, [[0, 1, 1], [255, 0, 0]])

    @given(st.data())
    @settings(max_examples=25, deadline=None)
    def test_labels_become_classes_as_declared(self, tmp_path_factory: Any, data: st.DataObject) -> None:
        """Compare with a dictionary of all labels, for random declarations."""
        labels = data.draw(st.lists(st.integers(0, 255), min_size=3, max_size=12, unique=True))
        cut = data.draw(st.integers(1, len(labels) - 1))
        classes = {f"class {label}": label for label in labels[:cut]}
        values_by_label = {label: value for value, label in enumerate(labels[:cut])} | dict.fromkeys(
            labels[cut:], 255
        )
        values = data.draw(st.lists(st.sampled_from(labels), min_size=6, max_size=6))
        root = tmp_path_factory.mktemp("drawn")
        save_image(root / "images/a.png")
        save_labels(root / "labels/a.png", np.reshape(values, (2, 3)))
        mask = opened(root, classes=classes, ignore=labels[cut:])[0].target
        assert mask is not None
        assert np.ravel(mask).tolist() == [values_by_label[value] for value in values]

    def test_ignored_pixels_do_not_count(self, flat: Path) -> None:
        """Five of six pixels count. All are predicted as class 1, and three are correct."""
        dataset = opened(flat)
        (metric,) = make_metrics(["iou"], dataset)
        assert isinstance(metric, Iou)
        scores = metric.summarise([metric.statistics(dataset[0].target, np.ones((2, 3), np.uint8))])
        assert scores.metrics["pixel_accuracy"].value == 3 / 5

    def test_256_classes_leave_no_label_to_ignore(self, flat: Path) -> None:
        names = [str(label) for label in range(256)]
        dataset = opened(flat, classes=names, ignore=[])
        assert (dataset[0].target.max(), dataset.metric_options) == (255, {})  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="expected 1 to 255 classes, found 256"):
            opened(flat, classes=names, ignore="rest")


class TestFingerprint:
    def test_it_does_not_depend_on_paths(self, flat: Path) -> None:
        moved = copy_tree(flat, "elsewhere")
        (moved / "labels").rename(moved / "annotations")
        assert opened(flat).fingerprint == opened(moved, labels="annotations").fingerprint

    def test_it_depends_on_ids_content_and_labels(self, flat: Path) -> None:
        before = opened(flat).fingerprint
        others = [
            opened(flat, classes=["sky", "road", "tree"]),
            opened(flat, classes={"sky": 0, "tree": 2, "road": 1}),
            opened(flat, classes={"sky": 0, "tree": 1, "road": 2}, ignore="rest"),
            opened(flat, ignore=[255, 254]),
        ]
        for number, change in enumerate(("images/a.jpg", "labels/b.png")):
            other = copy_tree(flat, f"other{number}")
            if number:
                save_labels(other / change, [[0, 1, 2], [1, 1, 0]])
            else:
                Image.new("RGB", (3, 2), (9, 9, 9)).save(other / change)
            others.append(opened(other))
        renamed = copy_tree(flat, "renamed")
        (renamed / "images/a.jpg").rename(renamed / "images/c.jpg")
        (renamed / "labels/a.png").rename(renamed / "labels/c.png")
        others.append(opened(renamed))
        assert len({before, *(other.fingerprint for other in others)}) == len(others) + 1

    def test_a_file_that_changes_is_read_again(self, flat: Path) -> None:
        before = opened(flat).fingerprint
        save_labels(flat / "labels/b.png", np.zeros((2, 3)))
        assert opened(flat).fingerprint != before


def assert_rejected(root: Path, message: str, **options: Any) -> None:
    """Assert that opening the data set or reading all of it fails with a message of one line."""
    with pytest.raises(UsageError, match=message) as caught:
        dataset = opened(root, **options)
        [dataset[index] for index in range(len(dataset))]
    assert "\n" not in str(caught.value)


class TestBadFiles:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                [[0, 1, 2]],
                r"labels/b.png: 3×1 pixels, but its image .*images/b.png has 3×2 \(width × height\)",
            ),
            ([[0, 1], [1, 1]], r"labels/b.png: 2×2 pixels, but its image .*images/b.png has 3×2"),
            (
                [[0, 1, 2], [1, 7, 2]],
                r"labels/b.png: the pixel at x 1, y 1 has the label 7, which is neither of a class nor "
                r"ignored \(declared: 0, 1, 2, 255\)",
            ),
        ],
    )
    def test_wrong_size_and_undeclared_label(self, flat: Path, values: Any, message: str) -> None:
        save_labels(flat / "labels/b.png", values)
        assert_rejected(flat, message)

    def test_an_undeclared_colour(self, tmp_path: Path) -> None:
        save_image(tmp_path / "images/a.png")
        save_colours(tmp_path / "labels/a.png", [["#808080"] * 3, ["#808080", "#808081", "#808080"]])
        assert_rejected(
            tmp_path,
            r"a.png: the pixel at x 1, y 1 has the label #808081",
            classes={"sky": "#808080"},
            ignore=[],
        )

    def test_colours_instead_of_indices_and_indices_instead_of_colours(self, flat: Path) -> None:
        Image.new("RGB", (3, 2), "red").save(flat / "labels/b.png")
        assert_rejected(flat, "labels/b.png: expected a palette or grey PNG .* found mode RGB")
        save_labels(flat / "labels/b.png")
        assert_rejected(
            flat, "labels/b.png: expected an RGB or palette PNG", classes={"a": "#00ff07"}, ignore="rest"
        )

    def test_16_bits_per_pixel(self, flat: Path) -> None:
        Image.fromarray(np.array(LABELS, dtype=np.uint16) + 256).save(flat / "labels/b.png")
        assert_rejected(flat, "labels/b.png: expected a palette or grey PNG .* found mode I;16 of 16 bits")
        save_labels(flat / "labels/b.png")
        Image.fromarray(np.array(LABELS, dtype=np.uint16)).save(flat / "images/b.png")
        assert_rejected(flat, "images/b.png: expected an image with 8 bits per channel, found mode I;16")

    def test_16_bits_per_colour(self, flat: Path) -> None:
        """Pillow silently reads them as 8 bits."""
        (flat / "images/b.png").write_bytes(deep_png(3, 2))
        with Image.open(flat / "images/b.png") as image:
            assert image.mode == "RGB"
        assert_rejected(
            flat, "images/b.png: expected an image with 8 bits per channel, found mode RGB with 16 bits"
        )
        save_image(flat / "images/b.png")
        (flat / "labels/b.png").write_bytes(deep_png(3, 2))
        colours = {"classes": {"a": "#00ff07"}, "ignore": "rest"}
        assert_rejected(
            flat, "labels/b.png: expected an RGB or palette PNG of 8 bits .* RGB of 16 bits", **colours
        )

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_too_many_pixels(self, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
        assert len(opened(flat)) == 2 and opened(flat)[1].target is not None, "up to twice the limit is read"
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
        assert_rejected(flat, "images/a.jpg: more than 4 pixels; cut it into smaller files")

    def test_file_names_that_are_not_utf_8(self, flat: Path) -> None:
        save_image(Path(os.fsdecode(os.fsencode(flat) + b"/images/\xff.png")))
        assert_rejected(flat, r"images/\\xff.png: expected a file name in UTF-8")

    @pytest.mark.parametrize("name", ["images/b.png", "labels/b.png"])
    def test_corrupt_and_truncated_files(self, flat: Path, name: str) -> None:
        whole = (flat / name).read_bytes()
        flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(41, len(whole) - 12)]
        for content in (b"", b"not an image", whole[:40], whole[:-20], *flipped):
            (flat / name).write_bytes(content)
            assert_rejected(flat, rf"{name}: (not an? .* file|cannot be read: .*)")

    def test_missing_partners(self, flat: Path) -> None:
        save_labels(flat / "labels/c.png")
        assert_rejected(flat, r"labels/c.png: image file not found: .*images/c\.\*$")
        save_image(flat / "images/d.png")
        save_image(flat / "images/e.png")
        assert_rejected(flat, r"images/d.png: label file not found: .*labels/d.png \(and 1 more\)")

    def test_two_files_with_the_same_stem(self, flat: Path) -> None:
        save_image(flat / "images/a.png")
        assert_rejected(flat, r"images/a.png: id 'a' already has the image file .*images/a.jpg")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("b\nc\n", r"test.txt:2: 'c': image file not found: .*images/c\.\*"),
            ("b\n\nb\n", r"test.txt:3: duplicate id 'b', first in line 1"),
            ("../x\n", r"test.txt:1: '../x': image file not found"),
            ("\n", r"test.txt: expected one id per line, found none"),
            ("b 2\n", r"test.txt:1: 'b 2': image file not found"),
        ],
    )
    def test_bad_lists(self, flat: Path, text: str, message: str) -> None:
        (flat / "test.txt").write_text(text)
        assert_rejected(flat, message, ids="{split}.txt")

    def test_missing_lists_folders_and_splits(self, flat: Path) -> None:
        assert_rejected(flat, "test.txt: cannot be read: No such file", ids="{split}.txt")
        assert_rejected(flat, r"no label file matches nowhere/{id}.png", labels="nowhere")
        with pytest.raises(UsageError, match="the only split is 'test', not 'train'"):
            opened(flat, "train")
        with pytest.raises(UnavailableError, match="nowhere: folder not found"):
            opened(flat / "nowhere")


SUITE: dict[str, Any] = {
    "name": "masks",
    "datasets": {"mine": {"dataset": "masks", "options": {}}},
    "adapters": {"fcn": {"adapter": "fcn-8s"}},
    "benchmarks": {"b": {"dataset": "mine", "adapters": ["fcn"], "metrics": ["iou"]}},
}


def suite(**options: Any) -> dict[str, Any]:
    defaults = {
        "root": "data",
        "images": "images",
        "labels": "labels",
        "classes": ["a", "b", "c"],
        "ignore": [255],
    }
    return SUITE | {"datasets": {"mine": {"dataset": "masks", "options": defaults | options}}}


class TestSuite:
    def test_a_root_is_relative_to_the_data_root(self, flat: Path) -> None:
        (trial,) = planned(flat, suite(root=".") | {"data_root": "."}).trials
        assert (trial.spec.size, trial.spec.dataset) == (2, opened(flat, classes=["a", "b", "c"]).fingerprint)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"root": "../other"}, r"options.root: path '../other' leaves the data root"),
            (
                {"images": "../{id}.jpg"},
                r"options.images: the path: '../{id}.jpg' leaves the data set's root",
            ),
            (
                {"images": "{stem}.jpg"},
                r"options.images: the path may contain {id} once, {split} and \*, and no other",
            ),
            ({"ids": "*.txt"}, r"options.ids: the path may contain {split}, and no other braces"),
            ({"images": ""}, r"options.images: expected a path, found an empty one"),
            ({"labels": "labels/{id}*.png"}, r"options.labels: \* next to {id} is ambiguous"),
            ({"labels": "*{id}.png"}, r"options.labels: \* next to {id} is ambiguous"),
            ({"classes": {"a": 1.5}}, r"options.classes: a label is a value .* found 1.5"),
            ({"classes": {"a": True}}, r"options.classes: a label is a value .* found True"),
            ({"classes": {"a": "1", "b": 2}}, r"options.classes: a label is a value .* found '1'"),
            ({"classes": []}, r"options.classes: expected 1 to 256 classes, found 0"),
            ({"classes": ["a", "a"]}, r"options.classes: duplicate class 'a'"),
            ({"classes": {"a": 1, "b": [2, 1]}}, r"options.classes: duplicate label 1"),
            ({"classes": {"a": 256}}, r"options.classes: a label is a value 0–255 or a colour .* found 256"),
            ({"classes": {"a": "#12345"}}, r"options.classes: a label is a value .* found '#12345'"),
            ({"classes": {"a": "#123456"}}, r"options.ignore: expected only values 0–255 or only colours"),
            ({"ignore": [2]}, r"options.ignore: duplicate label 2"),
            ({"ignore": "others"}, r"options.ignore: "),
            ({"classes": {"a": 1}, "first_label": 1}, r"options.first_label: first_label requires a list"),
            ({"split_names": ["a", "../b", "c"]}, r"options.split_names: String should match"),
            ({"split_names": ["train", "val"]}, r"options.split_names: "),
        ],
    )
    def test_invalid_options_are_named(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=rf"suite.yaml:\d+: datasets.mine.{message}"):
            planned(tmp_path, suite(**options) | {"data_root": "."})

    def test_the_message_is_short_with_many_classes(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="duplicate label 9") as caught:
            planned(tmp_path, suite(classes={f"class {label}": label % 140 for label in range(9, 150)}))
        assert len(str(caught.value)) < 300 + len(str(tmp_path))

    def test_a_missing_root_is_an_error_unless_the_benchmark_may_be_skipped(self, tmp_path: Path) -> None:
        with pytest.raises(UnavailableError, match="data: folder not found"):
            planned(tmp_path, suite() | {"data_root": "."})
        lenient = suite() | {"data_root": "."}
        lenient["benchmarks"] = {"b": SUITE["benchmarks"]["b"] | {"when_unavailable": "skip"}}
        (skipped,) = planned(tmp_path, lenient).skipped
        assert skipped.reason.endswith("data: folder not found (root of the data set)")
