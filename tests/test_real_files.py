"""COCO's files as other tools write them: what is read, what is left out with a note, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.datasets.coco.annotations import read_annotations
from harness.datasets.coco.results import read_results
from harness.datasets.files import read_lines
from harness.datasets.image_set import restrict
from harness.errors import UsageError
from harness.metrics.metric import METRICS

Document = dict[str, Any]
Entries = list[dict[str, Any]]
APPROXIMATELY_1: Any = pytest.approx(1)
CAT, DOG = [10, 20, 100, 80], [300, 200, 60, 60]


def dataset() -> Document:
    """Return three images of 640×480 px, each with a cat of 8,000 px² and a dog of 3,600 px²."""
    return {
        "images": [
            {"id": image, "file_name": f"{image}.jpg", "width": 640, "height": 480} for image in (1, 2, 3)
        ],
        "annotations": [
            {
                "id": 2 * image + kind,
                "image_id": image,
                "category_id": kind,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [],
            }
            for image in (1, 2, 3)
            for kind, box in ((1, CAT), (2, DOG))
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def predictions() -> Entries:
    """Return the annotated boxes with descending scores from .9."""
    return [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9 - index / 100}
        for index, entry in enumerate(dataset()["annotations"])
    ]


def polygon(box: list[int]) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def corners(entry: Document) -> list[int]:
    """Return the box of an entry as x1, y1, x2, y2."""
    return polygon(entry["bbox"])[:2] + polygon(entry["bbox"])[4:6]


def average_precision(
    folder: Path, truth: Document, found: object, image_set: str | None = None
) -> tuple[Any, list[str]]:
    """Return AP and the notes."""
    notes: list[str] = []
    (folder / "a.json").write_text(json.dumps(truth))
    (folder / "p.json").write_text(json.dumps(found))
    annotated = read_annotations(folder / "a.json", notes.append)
    if image_set is not None:
        (folder / "set.txt").write_text(image_set)
        annotated = restrict(annotated, folder / "set.txt", notes.append)
    detections = read_results(folder / "p.json", annotated, notes.append)
    metric = METRICS.get("coco")(annotated.classes)
    rows = [metric.statistics(target, detections[image]) for image, target in annotated.targets.items()]
    return metric.summarise(rows).metrics["ap"].value, [note.replace(f"{folder}/", "") for note in notes]


def peer(folder: Path) -> float:
    """Return pycocotools' AP of the files that `average_precision` wrote."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "a.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "p.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def change(section: str, **values: Any) -> Callable[[Document, Entries], object]:
    """Return an edit that sets keys of all entries of a section; a function computes a value from each."""

    def edit(truth: Document, found: Entries) -> None:
        for entry in found if section == "results" else truth[section]:
            entry.update({key: value(entry) if callable(value) else value for key, value in values.items()})

    return edit


def append(section: str, **entry: Any) -> Callable[[Document, Entries], object]:
    return lambda truth, found: (found if section == "results" else truth[section]).append(entry)


def without(section: str, *keys: str) -> Callable[[Document, Entries], object]:
    return lambda truth, _: [entry.pop(key) for entry in truth[section] for key in keys]


@pytest.mark.parametrize(
    "edit",
    [
        change("images", file_name=lambda image: f"/home/user/data/{image['id']}.jpg"),
        change("images", file_name=lambda image: f"..\\..\\label-studio\\upload\\{image['id']}.png"),
        change("images", file_name="C:\\data\\one.jpg"),
        change("images", file_name=None),
        change("images", file_name=["one.jpg"]),
        without("images", "file_name", "width", "height"),
        change("images", width=None, height="480.0"),
        change("annotations", iscrowd=None, ignore=None, segmentation=None, id=None),
        change("annotations", iscrowd=False, ignore="0", segmentation={}),
        change("categories", supercategory=["animal"]),
        change("annotations", bbox=[], segmentation=lambda entry: [polygon(entry["bbox"])]),
        change("annotations", bbox=None, segmentation=lambda entry: polygon(entry["bbox"])),
        change("annotations", area=None, segmentation=lambda entry: polygon(entry["bbox"])),
        change(
            "annotations",
            area=None,
            segmentation=lambda entry: [*zip(*[iter(polygon(entry["bbox"]))] * 2, strict=True)],
        ),
        change("annotations", image_id=lambda entry: str(entry["image_id"])),
        change("annotations", image_id=lambda entry: float(entry["image_id"])),
        change("annotations", category_id=lambda entry: str(entry["category_id"])),
        change("images", id=lambda image: str(image["id"])),
        change("images", id=lambda image: float(image["id"])),
        change("categories", id=lambda category: str(category["id"])),
        change("results", image_id=lambda entry: str(entry["image_id"])),
        change("results", image_id=lambda entry: f"{entry['image_id']:012d}"),
        change("results", image_id=lambda entry: f"{entry['image_id']}.jpg"),
        change("results", image_id=lambda entry: f"C:\\images\\{entry['image_id']}.png"),
        change("results", image_id=lambda entry: float(entry["image_id"])),
        change("results", category_id=lambda entry: str(entry["category_id"])),
        change("results", bbox=None, segmentation=lambda entry: [polygon(entry["bbox"])]),
    ],
)
def test_what_cannot_change_a_figure_is_accepted_without_a_word(
    tmp_path: Path, edit: Callable[[Document, Entries], object]
) -> None:
    truth, found = dataset(), predictions()
    edit(truth, found)
    assert average_precision(tmp_path, truth, found) == (APPROXIMATELY_1, [])


@pytest.mark.parametrize(
    ("edit", "value", "note"),
    [
        (
            change("annotations", area=None),
            1,
            "a.json: annotations: 6 of 6 have no area, and take that of their box",
        ),
        (
            change(
                "annotations", area=None, segmentation=lambda entry: [[1, 2, 3, 4], polygon(entry["bbox"])]
            ),
            1,
            "a.json: annotations: polygons of fewer than 3 corners are left out, 6 in number",
        ),
        (
            lambda truth, found: (truth["images"].pop(), found.__delitem__(slice(4, None))),
            1,
            "a.json: annotations: 2 of 6 annotations are left out, because the annotations list no such "
            "image_id: 3",
        ),
        (
            lambda truth, found: truth["annotations"].append(
                truth["annotations"][0] | {"id": 99, "category_id": 7}
            ),
            1,
            "a.json: annotations: 1 of 7 annotations are left out, because the annotations list no such "
            "category_id: 7",
        ),
        (
            append("results", image_id=1, category_id=91, bbox=CAT, score=0.99),
            1,
            "p.json: 1 of 7 detections are left out, because the annotations list no such category_id: 91",
        ),
        (
            append("results", image_id="4.jpg", category_id=1, bbox=CAT, score=0.99),
            1,
            "p.json: 1 of 7 detections are left out, because the annotations list no such image_id: 4.jpg",
        ),
        (
            change("results", category_id=lambda entry: ["cat", "dog"][entry["category_id"] - 1]),
            1,
            "p.json: category_id: 6 of 6 are names of classes",
        ),
        (
            append("results", **predictions()[0]),
            ((34 + 67 * 3 / 4) / 101 + 1) / 2,  # of three cats and a copy of the first
            "p.json: 1 of 7 detections are exact copies of others; each counts again",
        ),
        (
            lambda truth, _: truth["categories"].insert(0, {"id": 0, "name": "cat", "supercategory": "none"}),
            1,
            "a.json: category 0 'cat' has no annotation, shares its name with another, and is left out",
        ),
        (
            lambda truth, _: (
                truth["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"}),
                truth["categories"][1].update(supercategory="pets"),
            ),
            1,
            "a.json: category 0 'pets' has no annotation, is the supercategory of others, and is left out",
        ),
        (
            lambda _, found: found.__delitem__(slice(4, None)),
            2 * 67 / 101 / 2,
            "p.json: 1 of 3 images have no prediction (1 of them have annotations)",
        ),
        (
            change("results", score=1),
            1,
            "p.json: all 6 scores are equal, so that the order of the file alone ranks the detections, and "
            "another order gives other figures",
        ),
    ],
)
def test_what_is_left_out_is_counted_in_one_note(
    tmp_path: Path, edit: Callable[[Document, Entries], object], value: float, note: str
) -> None:
    truth, found = dataset(), predictions()
    edit(truth, found)
    ap, notes = average_precision(tmp_path, truth, found)
    assert (ap, notes) == (pytest.approx(value), [note])


@pytest.mark.parametrize(
    ("sides", "score", "value"),
    [((-100, 80), 0.01, 1), ((-100, 80), 0.99, 1), ((-100, -80), 0.99, 0.875), ((0, 80), 0.99, 0.875)],
)
def test_detections_with_negative_sides_count_as_in_pycocotools(
    tmp_path: Path, sides: tuple[int, int], score: float, value: float
) -> None:
    found = [*predictions(), {"image_id": 1, "category_id": 1, "bbox": [110, 20, *sides], "score": score}]
    ap, notes = average_precision(tmp_path, dataset(), found)
    assert ap == pytest.approx(value)
    assert ap == pytest.approx(peer(tmp_path), abs=1e-9)
    expected = ["p.json: 1 of 7 detections have a negative width or height"] if min(sides) < 0 else []
    assert [note.partition(" and match")[0] for note in notes] == expected


def test_boxes_as_corners_are_asked_about(tmp_path: Path) -> None:
    """pycocotools computes the same figure, and says nothing."""
    truth, found = dataset(), predictions()
    change("results", bbox=corners)(truth, found)
    ap, notes = average_precision(tmp_path, dataset(), found)
    assert ap == pytest.approx(0.25)
    assert ap == pytest.approx(peer(tmp_path), abs=1e-9)
    question = "are they corners in place of width and height?"
    assert notes == [
        f"p.json: 3 of 6 detections reach beyond their image, the first [1] beyond 640×480 px; {question}"
    ]
    change("annotations", bbox=corners)(truth, found)
    _, notes = average_precision(tmp_path, truth, predictions())
    assert notes == [
        f"a.json: annotations: 3 of 6 boxes reach beyond their image, the first [1] beyond 640×480 px; "
        f"{question}"
    ]


def test_boxes_over_the_edge_and_fractions_are_noted(tmp_path: Path) -> None:
    found = predictions()
    found[0]["bbox"] = [600, 400, 60, 60]
    _, notes = average_precision(tmp_path, dataset(), found)
    assert notes == ["p.json: 1 of 6 detections reach beyond their image, the first [0] beyond 640×480 px"]
    change("results", bbox=[0.1, 0.2, 0.3, 0.2])(dataset(), found)
    assert average_precision(tmp_path, dataset(), found) == (
        0,
        ["p.json: no box is larger than 1 px; are they fractions of the image in place of px?"],
    )


def test_equal_scores_are_ranked_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Two of three objects are found. A false one before them leaves a precision of ⅔ up to a recall of ⅔."""
    truth = dataset()
    truth["images"] = truth["images"][:1]
    boxes = [[0, 0, 10, 10], [20, 20, 10, 10], [40, 40, 10, 10]]
    truth["annotations"] = [
        truth["annotations"][0] | {"id": number, "bbox": box} for number, box in enumerate(boxes, start=1)
    ]
    found = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 1} for box in (*boxes[:2], [70, 70, 10, 10])
    ]
    assert average_precision(tmp_path, truth, found)[0] == pytest.approx(67 / 101)
    assert average_precision(tmp_path, truth, [found[2], *found[:2]])[0] == pytest.approx(67 / 101 * 2 / 3)
    found[0]["score"] = 0.5
    pair = [*found[1:], *({**entry, "image_id": 1, "category_id": 2} for entry in found[1:])]
    _, notes = average_precision(tmp_path, truth, [*pair, *pair])
    assert "all 8 scores are equal" in notes[0]
    _, notes = average_precision(tmp_path, truth, [found[0], *pair, *pair])
    assert notes[0].startswith(
        "p.json: 8 of 9 detections share their score with another of the same image and"
    )


def test_annotations_that_cannot_be_found_are_noted(tmp_path: Path) -> None:
    truth = dataset()
    change("annotations", iscrowd=1)(truth, [])
    assert average_precision(tmp_path, truth, predictions()) == (
        None,
        ["a.json: annotations: all 6 annotations are iscrowd, so that none counts"],
    )
    truth["annotations"] = []
    value, notes = average_precision(tmp_path, truth, predictions())
    assert (value, notes) == (
        None,
        ["a.json: annotations: there is no annotation, so that average precision is undefined"],
    )


def test_a_data_set_with_scores_is_a_file_of_predictions(tmp_path: Path) -> None:
    """Ids of another export are matched by the names of files and classes."""
    found = dataset()
    change("annotations", score=lambda entry: 1 / entry["id"])(found, [])
    assert average_precision(tmp_path, dataset(), found) == (APPROXIMATELY_1, [])
    for section, key in (("images", "image_id"), ("categories", "category_id")):
        change(section, id=lambda entry: entry["id"] + 10)(found, [])
        change("annotations", **{key: lambda entry, key=key: entry[key] + 10})(found, [])
    assert average_precision(tmp_path, dataset(), found) == (APPROXIMATELY_1, [])
    for document, message in (
        (dataset(), "annotations without 'score' are no predictions"),
        ({"predictions": predictions()}, "found an object with the keys predictions"),
        (1, "expected a list of detections, .* found a number"),
    ):
        with pytest.raises(UsageError, match=message):
            average_precision(tmp_path, dataset(), document)


def test_the_names_of_such_a_data_set_may_differ_in_folder_and_case(tmp_path: Path) -> None:
    """Its ids are in another order, so detections matched by id would be of other images and classes."""
    other = dataset()
    other["images"] = [{"id": 4 - image, "file_name": f"images/{image}.jpg"} for image in (1, 2, 3)]
    other["categories"] = [{"id": 2, "name": "Cat"}, {"id": 1, "name": "Dog"}]
    other["annotations"] = [
        {**entry, "image_id": 4 - entry["image_id"], "category_id": 3 - entry["category_id"], "score": 0.5}
        for entry in predictions()
    ]
    assert average_precision(tmp_path, dataset(), other)[0] == APPROXIMATELY_1
    other["categories"] = [{"id": 2, "name": "chat"}, {"id": 1, "name": "chien"}]
    value, notes = average_precision(tmp_path, dataset(), other)
    assert value == pytest.approx(0)
    assert "no name of its categories is in the annotations, so their ids are compared" in " ".join(notes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("results", image_id=10), "the annotations list no image_id of the detections: .* '10'"),
        (change("results", category_id=0), "the annotations list no category_id of the detections: .*'0'"),
        (change("annotations", image_id=7), "the annotations list no image_id of the annotations: .*'7'"),
        (
            change("results", score=float("nan")),
            r"p.json\[0\]: score: expected a finite number, found 'nan' \(and 5 more of 6\)",
        ),
        (change("results", score=float("inf")), r"found 'inf' \(and 5 more of 6\)"),
        (change("results", score=None), r"p.json\[0\]: missing key 'score'"),
        (
            lambda truth, found: (
                [
                    image.update(id=name)
                    for image, name in zip(truth["images"], ("1", "01", "2"), strict=True)
                ],
                change("annotations", image_id="2")(truth, []),
            ),
            r"p.json\[0\]: image_id: 1 may be any of 2; write the id as in the annotations",
        ),
        (
            lambda truth, found: (
                change("categories", name=lambda category: str(3 - category["id"]))(truth, []),
                change("results", category_id=lambda entry: str(entry["category_id"]))([], found),
            ),
            r"p.json\[0\]: category_id: '1' may be any of 2; write the id as in the annotations",
        ),
        (
            lambda truth, _: truth["images"][1].update(id="2"),
            r"a.json: images\[1\]: id: expected only integers or only text, found '2' after 1",
        ),
        (
            change("categories", name="cat"),
            "1 and 2 have the same name 'cat', and both have annotations; rename or merge them",
        ),
        (
            change("annotations", bbox=None, segmentation=[[1, 2, 3, 4]]),
            r"annotations\[0\]: missing key 'bbox', and no segmentation to compute it from",
        ),
    ],
)
def test_what_is_ambiguous_is_an_error_that_says_how_to_resolve_it(
    tmp_path: Path, edit: Callable[[Document, Entries], object], message: str
) -> None:
    truth, found = dataset(), predictions()
    edit(truth, found)
    with pytest.raises(UsageError, match=message):
        average_precision(tmp_path, truth, found)


@pytest.mark.parametrize("image_set", ["1\n2\n", "1.jpg\n\nimages/2.jpg\n", "000001 1\n2 -1\n"])
def test_an_image_set_restricts_annotations_and_predictions(tmp_path: Path, image_set: str) -> None:
    """The third image lacks its predictions, which does not matter then."""
    found = predictions()[:5]
    ap, notes = average_precision(tmp_path, dataset(), found, image_set)
    assert ap == pytest.approx(1)
    assert notes == [
        "set.txt: 1 of 3 annotated images are outside the image set",
        "p.json: 1 of 5 detections are outside the image set and are left out",
    ]


def test_lines_may_end_as_on_old_macs_but_have_no_nul(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\rb\r")
    assert read_lines(path) == ["a", "b"]
    path.write_bytes(b"a\rb\n")
    assert read_lines(path) == ["a\rb"]
    path.write_bytes("a\nb\n".encode("utf-16-le"))
    with pytest.raises(UsageError, match=r"a.txt:1: has a NUL character; is it UTF-16"):
        read_lines(path)


@pytest.mark.parametrize(
    ("image_set", "message"),
    [
        ("1\n4\n", "set.txt:2: '4' is not an annotated image"),
        ("1\n1\n", "set.txt:2: duplicate id '1', first in line 1"),
        ("\n", "set.txt: expected one id per line, found none"),
    ],
)
def test_bad_image_sets_are_refused(tmp_path: Path, image_set: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        average_precision(tmp_path, dataset(), predictions(), image_set)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_and_text_may_start_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(dataset()), encoding=encoding)
    assert len(read_annotations(tmp_path / "a.json", print).targets) == 3
    if encoding != "utf-32":
        (tmp_path / "lines.txt").write_text("Übung\nzwei\n", encoding=encoding)
        assert read_lines(tmp_path / "lines.txt") == ["Übung", "zwei"]


def test_json_may_be_compressed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(gzip.compress(json.dumps(dataset()).encode()))
    assert len(read_annotations(tmp_path / "a.json", print).targets) == 3
    (tmp_path / "a.json").write_bytes(gzip.compress(b" " * (1 << 26) + b"[]"))
    with pytest.raises(UsageError, match=r"a.json: unpacks to more than 67,108,864 bytes"):
        read_annotations(tmp_path / "a.json", print)


def test_json_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"images":\n ["中"]}'.encode("gbk"))
    with pytest.raises(
        UsageError, match=r"a.json: line 2: not UTF-8 \(byte 0xd6\); convert the file to UTF-8"
    ):
        read_annotations(tmp_path / "a.json", print)
