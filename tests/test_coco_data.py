"""The `coco` data set: COCO's layout and others, figures equal to pycocotools, and malformed files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small_suite import run_suite

from adapters.detection.yolo import Yolo, YoloOptions
from harness import checkpoint as checkpoints
from harness.adapter import Runtime
from harness.datasets.coco.detection import Coco, CocoOptions
from harness.errors import UnavailableError, UsageError
from harness.stages.score import score
from harness.task import Detections

FILE = "annotations/instances_val2017.json"
SIZES = {139: (40, 30), 9: (32, 48), 20: (25, 25)}  # width, height; neither ascending nor in lexical order


def document() -> dict[str, Any]:
    """Return three images, the last without objects, and one crowd as run lengths."""
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[5:25, 10:30] = 1
    runs = {"size": [30, 40], "counts": [10 * 30 + 5, *[20, 10] * 19, 20, 5 + 10 * 30]}
    assert rle.decode(rle.frPyObjects(runs, 30, 40)).tolist() == mask.tolist()
    objects = [
        (1, 139, 1, [2.0, 3.0, 10.0, 8.0], 0, [[2, 3, 12, 3, 12, 11, 2, 11]]),
        (2, 139, 90, [10.0, 5.0, 20.0, 20.0], 1, runs),
        (3, 9, 1, [0.0, 0.0, 32.5, 40.0], 0, [[0, 0, 32, 0, 32, 40]]),
    ]
    return {
        "images": [
            {"id": image, "file_name": f"{image:012d}.png", "width": width, "height": height}
            for image, (width, height) in SIZES.items()
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3] / 2,
                "iscrowd": crowd,
                "segmentation": shape,
            }
            for number, image, category, box, crowd, shape in objects
        ],
    }


def write(root: Path, content: dict[str, Any]) -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / FILE).write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, document())
    (tmp_path / "val2017").mkdir()
    for image, (width, height) in SIZES.items():
        pixels = np.random.default_rng(image).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"val2017/{image:012d}.png")
    return tmp_path


def opened(root: Path, split: str = "validation", **options: Any) -> Coco:
    return Coco(CocoOptions.model_validate({"root": root, **options}), split, "detection")


class TestContent:
    def test_every_listed_image_is_a_sample_in_order_of_id(self, root: Path) -> None:
        dataset = opened(root)
        assert [dataset[i].id for i in range(3)] == ["000000000009", "000000000020", "000000000139"]
        assert len(dataset) == 3
        for index in range(3):
            pixels: Any = dataset[index].input
            stored = Image.open(root / f"val2017/{dataset[index].id}.png")
            np.testing.assert_array_equal(pixels, stored)
        empty: Any = dataset[1].target
        assert empty.boxes.shape == (0, 4)
        with pytest.raises(IndexError):
            dataset[3]

    def test_boxes_are_corners_and_labels_follow_category_ids(self, root: Path) -> None:
        dataset = opened(root)
        target: Any = dataset[2].target
        assert dataset.classes == ("person", "toothbrush")
        assert target.boxes.tolist() == [[2, 3, 12, 11], [10, 5, 30, 25]]
        assert target.labels.tolist() == [0, 1]
        assert target.areas.tolist() == [40, 200]
        assert (target.crowd.tolist(), target.difficult.tolist()) == ([False, True], [False, False])

    def test_other_layouts(self, root: Path) -> None:
        content = document()
        for image in content["images"]:
            image["file_name"] = f"sub/{image['file_name']}"
        (root / "valid/sub").mkdir(parents=True)
        for file in (root / "val2017").iterdir():
            file.rename(root / "valid/sub" / file.name)
        (root / "valid/_annotations.coco.json").write_text(json.dumps(content))
        names = {"annotations": "{split}/_annotations.coco.json", "split_names": ["train", "valid", "test"]}
        assert len(opened(root, **names)) == 3
        assert (
            opened(root, images="valid", annotations="valid/_annotations.coco.json")[0].id == "000000000009"
        )

    def test_the_fingerprint_depends_on_content_only(self, root: Path) -> None:
        before = opened(root).fingerprint
        changed = document()
        changed["info"] = {"year": 2017}
        changed["images"].reverse()
        write(root, changed)
        assert opened(root).fingerprint == before
        changed["annotations"][0]["iscrowd"] = 1
        write(root, changed)
        other = opened(root).fingerprint
        assert other != before
        write(root, document())
        Image.new("RGB", (25, 25), "red").save(root / "val2017/000000000020.png")
        assert opened(root).fingerprint not in (before, other)


class TestSegmentation:
    def test_missing_boxes_and_areas_are_computed_from_segmentations(self, root: Path) -> None:
        content = document()
        for entry in content["annotations"]:
            del entry["bbox"], entry["area"]
        crowd = content["annotations"][1]
        compressed = rle.frPyObjects(crowd["segmentation"], 30, 40)
        for counts in (crowd["segmentation"]["counts"], compressed["counts"].decode()):
            crowd["segmentation"] = {"size": [30, 40], "counts": counts}
            write(root, content)
            target: Any = opened(root)[2].target
            assert target.boxes.tolist() == [[2, 3, 12, 11], [10, 5, 30, 25]]
            assert target.areas.tolist() == [80, 400]

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            (None, r"missing key 'bbox', and no segmentation to compute it from"),
            ("x", r"segmentation: expected polygons or run lengths, found 'x'"),
            ([[1, 2, 3, 4]], r"missing key 'bbox', and no segmentation to compute it from"),
            ([[0, 0, 9, 0, 9, 9], [1, 2, 3]], r"segmentation\[1\]: expected x, y, x, y, … of at least 3"),
            ([[1, 2, 3, 4, 5, "6"]], r"segmentation\[0\]: expected x, y"),
            ([[1, 2, 3, 4, 5, float("nan")]], r"segmentation\[0\]: expected corners .* found nan"),
            ([[0, 0, 3, 4, 5, 6], [1, 2, float("-inf"), 4, 5, 6]], r"segmentation\[1\]: .* found -inf"),
            ([[1, 2, 3, 4, 5, 1e9]], r"segmentation\[0\]: expected corners within ±400 px, found 10{9}"),
            (
                {"size": [40, 30], "counts": [1200]},
                r"segmentation: size: expected \[30, 40\] as in its image, found \[40, 30\]",
            ),
            (
                {"size": [30, 40], "counts": [1199]},
                r"segmentation: counts: expected a sum of 1200 .* found 1199",
            ),
            (
                {"size": [30, 40], "counts": [1201, -1]},
                r"segmentation: counts: expected run lengths as a list of integers",
            ),
            ({"size": [30, 40], "counts": "é"}, r"segmentation: counts: not compressed run lengths"),
        ],
    )
    def test_a_malformed_segmentation_is_named(self, root: Path, shape: object, message: str) -> None:
        content = document()
        entry = content["annotations"][1]
        del entry["bbox"]
        entry["segmentation"] = shape
        write(root, content)
        with pytest.raises(UsageError, match=r"instances_val2017.json: annotations\[1\]: " + message):
            opened(root)


def test_figures_with_crowds_equal_pycocotools(root: Path) -> None:
    """A crowd absorbs several detections. They are scored through the data set, as in a run."""
    generator = np.random.default_rng(0)
    data = opened(root)
    predictions, results = [], []
    for index in range(3):
        low = generator.uniform(0, 20, (30, 2))
        boxes = np.concatenate([low, low + generator.uniform(3, 25, (30, 2))], axis=1).astype(np.float32)
        target: Any = data[index].target
        boxes[: len(target.boxes)] = target.boxes + 1
        scores, labels = generator.random(30).astype(np.float32), generator.integers(0, 2, 30)
        predictions.append((data[index].id, Detections(boxes, scores, labels)))
        for box, confidence, label in zip(boxes.astype(float), scores, labels, strict=True):
            sides = [*box[:2], *(box[2:] - box[:2])]
            category = (1, 90)[label]
            entry = {
                "image_id": int(data[index].id),
                "category_id": category,
                "bbox": sides,
                "score": float(confidence),
            }
            results.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(root / FILE)
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scored = score(data, 3, predictions, ["coco"])["coco"].scores
    values = [-1 if figure.value is None else figure.value for figure in scored.metrics.values()]
    assert values == pytest.approx(evaluation.stats, abs=1e-9)
    assert scored.metrics["ap"].value not in (None, 0.0)


class TestBadInput:
    @pytest.mark.parametrize(
        ("section", "index", "change", "message"),
        [
            ("annotations", 0, {"category_id": None}, r"annotations\[0\]: missing key 'category_id'"),
            ("annotations", 0, {"image_id": [8]}, r"annotations\[0\]: image_id: expected a number or text"),
            ("annotations", 1, {"id": 1}, r"annotations: duplicate id 1"),
            (
                "annotations",
                0,
                {"bbox": [5, 5, -1, 4]},
                r"annotations\[0\]: bbox: expected a width and height",
            ),
            (
                "annotations",
                0,
                {"bbox": [41, 5, 3, 4]},
                r"annotations\[0\]: bbox: \[41, 5, 3, 4\] is outside .* 40×30",
            ),
            ("annotations", 0, {"bbox": [-9, 5, 3, 4]}, r"annotations\[0\]: bbox: .* is outside its image"),
            ("annotations", 0, {"bbox": [40, 5, 3, 4]}, r"annotations\[0\]: bbox: .* is outside its image"),
            ("annotations", 0, {"bbox": [5, -4, 3, 4]}, r"annotations\[0\]: bbox: .* is outside its image"),
            (
                "annotations",
                0,
                {"bbox": [1, 2, 3]},
                r"annotations\[0\]: bbox: expected \[x, y, width, height\]",
            ),
            ("annotations", 0, {"iscrowd": 2}, r"annotations\[0\]: iscrowd: expected 0 or 1, found 2"),
            ("images", 1, {"id": 139}, r"images: duplicate id 139"),
            ("images", 0, {"width": "4x"}, r"images\[0\]: width: expected a number of px, found '4x'"),
            ("images", 0, {"height": 0}, r"images\[0\]: height: expected a number of px, found 0"),
            ("images", 0, {"file_name": "../../x.png"}, r"images\[0\]: file_name: '../../x.png' leaves the"),
            ("images", 0, {"file_name": "/etc/x.png"}, r"images\[0\]: file_name: '/etc/x.png' leaves the"),
            ("images", 0, {"file_name": 5}, r"images\[0\]: file_name: expected a relative path, found 5"),
            ("images", 0, {"file_name": "x.png"}, r"image 139: file not found: .*val2017/x.png$"),
            (
                "images",
                2,
                {"file_name": f"{139:012d}.png"},
                r"images\[2\]: file_name: '000000000139.png' is also that of images\[0\]$",
            ),
            ("categories", 0, {"id": 1}, r"categories: duplicate id 1"),
            ("categories", 0, {"name": "person"}, r"categories: 1 and 90 have the same name 'person'"),
        ],
    )
    def test_a_bad_annotation_is_rejected_when_the_data_set_is_opened(
        self, root: Path, section: str, index: int, change: dict[str, Any], message: str
    ) -> None:
        content = document()
        content[section][index].update(change)
        write(root, content)
        with pytest.raises(UsageError, match=r"instances_val2017.json: " + message):
            opened(root)

    def test_missing_keys_and_malformed_files(self, root: Path) -> None:
        content = document()
        del content["images"][2]["width"]
        write(root, content)
        with pytest.raises(UsageError, match=r"images\[2\]: missing key 'width'"):
            opened(root)
        (root / FILE).write_text('{"images": [\n}')
        with pytest.raises(UsageError, match=r"instances_val2017.json: line 2, column 1: malformed JSON"):
            opened(root)
        with pytest.raises(UsageError, match=r"instances_train2017.json: cannot be read: No such file"):
            opened(root, "train")
        with pytest.raises(UnavailableError, match=r"nowhere: folder not found \(root of the data set\)"):
            opened(root / "nowhere")

    def test_missing_image_files_are_counted(self, root: Path) -> None:
        for file in (root / "val2017").iterdir():
            file.unlink()
        with pytest.raises(UsageError, match=r"image 9: file not found: .*009.png \(and 2 more\)"):
            opened(root)

    @pytest.mark.parametrize("option", [{"images": "../x"}, {"annotations": "/x.json"}, {"images": "{id}"}])
    def test_a_path_may_not_leave_the_root(self, root: Path, option: dict[str, str]) -> None:
        with pytest.raises(ValueError, match=r"leaves the data set's root|may contain"):
            opened(root, **option)

    def test_an_empty_box_is_kept_and_never_detected_as_in_pycocotools(self, root: Path) -> None:
        content = document()
        content["annotations"][0] |= {"bbox": [3, 3, 0, 5], "area": 0}
        write(root, content)
        data = opened(root)
        target: Any = data[2].target
        assert target.boxes.tolist()[0] == [3, 3, 3, 8]
        detections = [
            Detections(np.array([[3, 3, 4, 8]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
        ]
        nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        ids = [data[i].id for i in range(3)]
        scored = score(data, 3, zip(ids, [nothing, nothing, *detections], strict=True), ["coco"])[
            "coco"
        ].scores
        assert scored.metrics["ar100"].value == 0.0


class TestImages:
    @pytest.mark.parametrize(
        ("mode", "expected"),
        [("L", (7, 7, 7)), ("1", (255, 255, 255)), ("RGBA", (9, 8, 7)), ("P", (7, 7, 7)), ("LA", (7, 7, 7))],
    )
    def test_any_image_of_8_bits_is_read_as_three_channels(
        self, root: Path, mode: str, expected: tuple[int, ...]
    ) -> None:
        """Transparency is dropped; grey fills all channels."""
        colour: Any = {"RGBA": (9, 8, 7, 0), "LA": (7, 0), "1": 1}.get(mode, 7)
        image = Image.new("L", (25, 25), 7).convert("P") if mode == "P" else Image.new(mode, (25, 25), colour)
        image.save(root / "val2017/000000000020.png")
        pixels: Any = opened(root)[1].input
        assert pixels.shape == (25, 25, 3)
        assert (pixels == expected).all()

    def test_an_image_of_16_bits_is_rejected(self, root: Path) -> None:
        Image.fromarray(np.zeros((25, 25), dtype=np.uint16)).save(root / "val2017/000000000020.png")
        with pytest.raises(
            UsageError, match=r"020.png: expected an image with 8 bits per channel, found mode I;16"
        ):
            opened(root)[1]

    def test_an_exif_rotation_is_not_applied(self, root: Path) -> None:
        stored = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated by 90°
        Image.fromarray(stored).save(root / "val2017/000000000009.png", exif=exif)
        np.testing.assert_array_equal(opened(root)[0].input, stored)

    def test_an_image_of_another_size_is_rejected(self, root: Path) -> None:
        Image.new("RGB", (48, 32)).save(root / "val2017/000000000009.png")
        message = r"009.png: 48×32 pixels, but image 9 of .*2017.json has 32×48 \(width × height\)"
        with pytest.raises(UsageError, match=message):
            opened(root)[0]

    @pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
    def test_a_corrupt_file_fails_only_when_it_is_read(self, root: Path, content: bytes | str) -> None:
        path = root / "val2017/000000000009.png"
        path.write_bytes(path.read_bytes()[:-400] if content == "cut" else content)
        dataset = opened(root)
        assert dataset[1].id == "000000000020"
        with pytest.raises(UsageError, match=r"000000000009.png: (not an image|cannot be read)"):
            dataset[0]


def test_a_run_keeps_other_shards_and_names_the_bad_file(root: Path, tmp_path: Path) -> None:
    """An image of one pixel is scored. The shard of a file that is not an image fails; nothing is scored.

    An annotation of an unlisted image is left out, which the results say.
    """
    content = document()
    content["annotations"].append(content["annotations"][0] | {"id": 4, "image_id": 7})
    content["images"][2] |= {"width": 1, "height": 1}
    write(root, content)
    Image.new("RGB", (1, 1)).save(root / "val2017/000000000020.png")
    untrained = Yolo(YoloOptions(grid=2, width=4), Runtime())
    untrained.build(opened(root))
    checkpoints.save(untrained.checkpoint(), tmp_path / "yolo.safetensors")
    suite = {
        "name": "c",
        "datasets": {"mine": {"dataset": "coco", "options": {"root": str(root)}}},
        "adapters": {"yolo": {"adapter": "yolo", "checkpoint": "yolo.safetensors", "batch_size": 1}},
        "benchmarks": {
            "b": {"dataset": "mine", "split": "validation", "adapters": ["yolo"], "metrics": ["coco"]}
        },
    }
    (trial,) = run_suite(tmp_path, suite, out="good").trials
    assert trial.status == "complete"
    assert trial.metrics["ap"].n == 3
    (note,) = trial.dataset.notes
    assert note.endswith("1 of 4 annotations are left out, because the annotations list no such image_id: 7")
    (root / "val2017/000000000009.png").write_bytes(b"x")
    (trial,) = run_suite(tmp_path, suite, out="bad", shard_size=1).trials
    assert (trial.status, trial.metrics) == ("partial", {})
    (failure,) = trial.failures
    assert "000000000009.png: not an image file" in failure.error


@pytest.mark.parametrize(("written", "stored"), [("u\u0308ber", "\u00fcber"), ("\u00fcber", "u\u0308ber")])
def test_a_name_is_found_however_its_letters_are_composed(root: Path, written: str, stored: str) -> None:
    content, before = document(), opened(root)
    fingerprint, pictures = before.fingerprint, [sample.input for sample in before]
    image = content["images"][0]
    (root / "val2017" / image["file_name"]).rename(root / f"val2017/{stored}.png")
    image["file_name"] = f"{written}.png"
    write(root, content)
    after = opened(root)
    assert after.fingerprint == fingerprint
    assert all(np.array_equal(a.input, b) for a, b in zip(after, pictures, strict=True))
    assert after.notes[-1] == f"{root}/val2017: 1 file names have other Unicode forms"
