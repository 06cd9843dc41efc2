"""Scores of prediction files agree with reference tools; malformed files give one message."""

import contextlib
import io
import json
import os
import threading

import numpy as np
import pytest
import sacrebleu
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from harness.datasets.coco import annotations as coco
from harness.datasets.voc import annotations as voc
from harness.errors import UsageError
from harness.evaluation.detection import AnnotatedBoxes
from harness.evaluation.systems import read_system
from harness.evaluation.translation import ReferenceTexts


def score_translation(hypotheses, references):
    return read_system(ReferenceTexts(references), hypotheses)


def score_detection(annotations, predictions, protocol="coco", iou=0.5):
    return read_system(AnnotatedBoxes(annotations, protocol, iou), predictions)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# Translation


def test_translation_scores_equal_those_of_sacrebleu(tmp_path):
    hypotheses = ["the cat sat on the mat .  ", "ein Übungssatz", "", "line\u2028separator is not a line end"]
    references = [
        ["the cat sat on a mat .", "der Übungssatz", "nothing", "line separator"],
        ["a", "b", "c", "d"],
    ]
    files = [
        write(tmp_path / f"{i}.txt", "\n".join(lines) + "\n")
        for i, lines in enumerate([hypotheses, *references])
    ]
    scores = score_translation(files[0], files[1:])
    stripped = [line.rstrip() for line in hypotheses]
    for name, oracle in (("bleu", sacrebleu.metrics.BLEU()), ("chrf", sacrebleu.metrics.CHRF())):
        assert scores.metrics[name].value == oracle.corpus_score(stripped, references).score
        assert scores.metrics[name].n == 4
        assert "nrefs:2" in scores.metrics[name].signature


def test_translation_files_of_unequal_length_are_refused(tmp_path):
    two, three = write(tmp_path / "hyp", "a\nb\n"), write(tmp_path / "ref", "a\nb\nc")
    with pytest.raises(UsageError, match=r"hyp: has 2 lines, .*ref has 3"):
        score_translation(two, [three])


def test_translation_files_may_be_pipes_that_can_be_read_once(tmp_path):
    for name in ("references", "hypotheses"):
        os.mkfifo(tmp_path / name)
        write_later = threading.Thread(target=(tmp_path / name).write_text, args=("the cat sat down\n",))
        write_later.start()
    system = score_translation(tmp_path / "hypotheses", [tmp_path / "references"])
    assert system.metrics["bleu"].value == pytest.approx(100)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    latin = tmp_path / "latin"
    latin.write_bytes("gut\nÜbung\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"latin:2: not UTF-8 \(byte 0xdc\)"):
        score_translation(latin, [latin])


def test_missing_and_empty_translation_files_are_refused(tmp_path):
    full, empty = write(tmp_path / "full", "a\n"), write(tmp_path / "empty", "")
    with pytest.raises(UsageError, match="empty: expected one sentence per line"):
        score_translation(empty, [full])
    with pytest.raises(UsageError, match="nowhere: cannot be read: No such file"):
        score_translation(full, [tmp_path / "nowhere"])
    with pytest.raises(UsageError, match="at least one file of references"):
        score_translation(full, [])


# COCO files


def coco_document():
    generator = np.random.default_rng(0)
    images = [9, 100, 20]  # neither in ascending nor in lexical order
    boxes = generator.uniform(1, 90, (12, 4)).round(2)
    annotations = [
        {
            "id": row + 1,
            "image_id": images[row % 3],
            "category_id": [7, 3][row % 2],
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(row == 5),
        }
        for row, box in enumerate(boxes)
    ]
    return {
        "images": [{"id": image, "file_name": f"train/{image}.jpg"} for image in images],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": annotations,
    }


def coco_results(document):
    generator = np.random.default_rng(1)
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": (np.array(entry["bbox"]) * generator.normal(1, 0.08, 4)).round(3).tolist(),
            "score": round(float(generator.random()), 1),
        }
        for entry in document["annotations"] * 4
    ]


def test_coco_scores_equal_those_of_pycocotools(tmp_path):
    truth = write(tmp_path / "truth.json", coco_document())
    results = write(tmp_path / "results.json", coco_results(coco_document()))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(truth)
        evaluation = COCOeval(loaded, loaded.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = score_detection(truth, results)
    values = [-1 if figure.value is None else figure.value for figure in scores.metrics.values()]
    assert values == pytest.approx(evaluation.stats, abs=1e-12)
    assert {figure.n for figure in scores.metrics.values()} == {3}
    assert list(scores.per_class) == ["cat", "dog"]


def test_detection_scores_may_be_negative_logits(tmp_path):
    """Only their order matters: subtracting 3 changes no figure."""
    truth = write(tmp_path / "truth.json", coco_document())
    entries = coco_results(coco_document())
    shifted = [entry | {"score": entry["score"] - 3} for entry in entries]
    first, second = (
        score_detection(truth, write(tmp_path / "results.json", rows)) for rows in (entries, shifted)
    )
    assert first.metrics == second.metrics


def test_an_annotation_of_id_0_can_be_matched_and_an_ignored_one_is_not_missed(tmp_path):
    """pycocotools has two bugs here: id 0 counts as unmatched, and `iscrowd` overwrites `ignore`."""
    document = coco_document()
    first, second = document["annotations"][:2]
    first["id"] = 0
    document["annotations"] = [first, {**second, "ignore": 1}]
    result = {key: first[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
    truth, results = write(tmp_path / "t.json", document), write(tmp_path / "r.json", [result])
    scores = score_detection(truth, results)
    assert scores.metrics["ap"].value == pytest.approx(1)
    assert {name: figure.value for name, figure in scores.per_class["cat"].items()} == {
        "ap": None,
        "ap50": None,
    }


def test_an_empty_list_of_results_scores_zero(tmp_path):
    truth, results = write(tmp_path / "t.json", coco_document()), write(tmp_path / "r.json", [])
    assert score_detection(truth, results).metrics["ap"].value == 0


DROP = object()


def changed(document, path, value):
    """Return a copy of the document with one entry replaced or dropped."""
    copy = json.loads(json.dumps(document))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if value is DROP:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["annotations"],
            DROP,
            r"missing key 'annotations', found an object with the keys images, categories",
        ),
        (["images"], {}, "images: expected a list, found an empty object"),
        (["images"], [], "at least one category and one image"),
        (["images", 1], 5, r"images\[1\]: expected an object, found a number"),
        (["images", 1, "id"], 9, "images: duplicate id 9"),
        (
            ["images", 1, "id"],
            "9",
            r"images\[1\]: id: expected only integers or only text, found .9. after 9",
        ),
        (["categories", 0, "id"], 3, "categories: duplicate id 3"),
        (["categories", 0, "name"], "cat", "3 and 7 have the same name 'cat', and both have annotations"),
        (["annotations", 2, "id"], 1, "annotations: duplicate id 1"),
        (["annotations", 2, "bbox"], DROP, r"annotations\[2\]: missing key 'bbox'"),
        (["annotations", 2, "area"], -1, r"annotations\[2\]: area: expected at least 0, found -1"),
        (["annotations", 2, "image_id"], 1.5, r"annotations\[2\]: image_id: expected a number or text"),
        (
            ["annotations", 2, "category_id"],
            True,
            r"annotations\[2\]: category_id: expected a number or text",
        ),
        (["annotations", 2, "bbox"], [1, 2, 3], r"annotations\[2\]: bbox: expected \[x, y, width, height\]"),
        (["annotations", 2, "bbox"], [1, 2, -3, 4], "bbox: expected a width and height of at least 0"),
        (
            ["annotations", 2, "bbox"],
            [1, 2, "3", 4],
            r"annotations\[2\]: bbox: expected a finite number, found '3'",
        ),
        (["annotations", 2, "bbox"], [1, 2, 10**400, 4], r"annotations\[2\]: bbox: expected a finite number"),
        (["annotations", 2, "iscrowd"], 2, r"annotations\[2\]: iscrowd: expected 0 or 1, found 2"),
    ],
)
def test_malformed_coco_annotations_are_refused(tmp_path, path, value, message):
    truth = write(tmp_path / "truth.json", changed(coco_document(), path, value))
    with pytest.raises(UsageError, match=f"truth.json.*{message}"):
        coco.read_annotations(truth, [].append)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([3, "score"], DROP, r"\[3\]: missing key 'score'"),
        ([3, "score"], float("nan"), r"\[3\]: score: expected a finite number, found 'nan'"),
        ([3, "score"], "high", r"\[3\]: score: expected a finite number, found 'high'"),
        (
            [3, "score"],
            2**53 + 1,
            r"\[3\]: score: expected a finite number of at most 2\^53, found '9007199254740993'",
        ),
        (
            [3, "bbox"],
            [1, 2, 1e200, 4],
            r"\[3\]: bbox: expected a finite number of at most 2\^53, found '1e\+200'",
        ),
        ([3, "score"], True, r"\[3\]: score: expected a finite number, found 'True'"),
        ([3, "image_id"], [9], r"\[3\]: image_id: expected a number or text, found \[9\]"),
        ([3], None, r"\[3\]: expected an object, found null"),
    ],
)
def test_malformed_coco_results_are_refused(tmp_path, path, value, message):
    truth = write(tmp_path / "truth.json", coco_document())
    results = write(tmp_path / "results.json", changed(coco_results(coco_document()), path, value))
    with pytest.raises(UsageError, match=f"results.json{message}"):
        score_detection(truth, results)


def test_malformed_json_is_refused_with_its_line(tmp_path):
    truth = write(tmp_path / "truth.json", '{"images": [],\n "categories" []}')
    with pytest.raises(UsageError, match=r"truth.json: line 2, column 15: malformed JSON"):
        coco.read_annotations(truth, [].append)
    truth.write_text(f'{{"images": [{{"id": {"9" * 5000}}}]}}')
    with pytest.raises(UsageError, match=r"truth.json: not JSON: Exceeds the limit \(4300 digits\)"):
        coco.read_annotations(truth, [].append)


def test_unknown_protocols_options_and_files_are_refused(tmp_path):
    truth = write(tmp_path / "truth.json", coco_document())
    with pytest.raises(UsageError, match="unknown protocol 'voc7'; did you mean 'voc07'"):
        score_detection(truth, truth, "voc7")
    with pytest.raises(UsageError, match=r"iou 0.6 applies to voc07 and voc10"):
        score_detection(truth, truth, "coco", iou=0.6)
    with pytest.raises(UsageError, match="nowhere: no such file"):
        score_detection(truth, tmp_path / "nowhere")


# VOC files


def voc_xml(objects, filename="000001.jpg"):
    items = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(voc.SIDES, box, strict=True))
        + "</bndbox></object>"
        for name, box, difficult in objects
    )
    return f"<annotation><filename>{filename}</filename>{items}</annotation>"


@pytest.fixture
def voc_folder(tmp_path):
    write(
        tmp_path / "xml/000001.xml",
        voc_xml([("dog", (1, 1, 10, 10), False), ("dog", (50, 50, 60, 60), True)]),
    )
    write(
        tmp_path / "xml/000002.xml",
        voc_xml([("cat", (5, 5, 14, 24), False), ("dog", (30, 30, 39, 39), False)]),
    )
    return tmp_path / "xml"


def test_inclusive_voc_pixels_become_continuous_boxes(voc_folder):
    annotated = voc.read_annotations(voc_folder, [].append)
    assert annotated.targets["000001"].boxes.tolist() == [[0, 0, 10, 10], [49, 49, 60, 60]]
    assert annotated.targets["000001"].areas.tolist() == [100, 121]
    assert annotated.targets["000001"].difficult.tolist() == [False, True]
    assert annotated.classes == voc.CLASSES
    assert len(voc.CLASSES) == 20


def test_a_voc_submission_is_scored_by_the_rules_of_the_devkit(voc_folder, tmp_path):
    """dog: TP, ignored (difficult), FP, TP of 2 positives: 1·½ + ⅔·½; cat: IoU of 10×20 and 10×10 is ½."""
    dogs = "000001 .9 1 1 10 10\n000001 .8 50 50 60 60\n000002 .7 70 70 80 80\n000002 .6 30 30 39 39\n"
    write(tmp_path / "sub/comp4_det_test_dog.txt", dogs)
    write(tmp_path / "sub/cat.txt", "000002 0.5 5 5 14 14\n\n")
    scores = score_detection(voc_folder, tmp_path / "sub", "voc10")
    assert scores.per_class["dog"]["ap"].value == pytest.approx(0.5 + 2 / 3 * 0.5)
    assert scores.per_class["cat"]["ap"].value == 1
    assert scores.metrics["map"].value == pytest.approx((5 / 6 + 1) / 2)
    assert scores.metrics["map"].n == 2
    strict = score_detection(voc_folder, tmp_path / "sub", "voc10", iou=0.51)
    assert strict.per_class["cat"]["ap"].value == 0
    one_class = score_detection(voc_folder, tmp_path / "sub/cat.txt", "voc07")
    assert one_class.per_class["cat"]["ap"].value == 1
    assert one_class.per_class["dog"]["ap"].value == 0


def test_scores_of_a_voc_submission_may_be_negative_margins(voc_folder, tmp_path):
    """The correct box scores −0.5 and the wrong one −1.5: precision 1 at a recall of ½."""
    write(tmp_path / "dog.txt", "000002 -1.5 70 70 80 80\n000001 -0.5 1 1 10 10\n")
    scores = score_detection(voc_folder, tmp_path / "dog.txt", "voc10")
    assert scores.per_class["dog"]["ap"].value == pytest.approx(0.5)


def test_coco_results_of_voc_annotations_may_use_numbers_or_names(voc_folder, tmp_path):
    """Dog is VOC's twelfth class; [0, 0, 10, 10] is the inclusive box 1 1 10 10."""
    entries = [
        {"image_id": 1, "category_id": 12, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": "000002", "category_id": "dog", "bbox": [29, 29, 10, 10], "score": 0.8},
    ]
    scores = score_detection(voc_folder, write(tmp_path / "r.json", entries), "voc07")
    assert scores.per_class["dog"]["ap"].value == pytest.approx(1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", r"000003.xml:1: malformed XML"),
        ("<html></html>", "expected a VOC <annotation>, found <html>"),
        (voc_xml([("dog", (9, 1, 8, 2), False)]), r"object\[0\]: expected xmin ≤ xmax"),
        (
            voc_xml([("dog", (1, 1, "x", 2), False)]),
            r"object\[0\]: xmax: expected a finite number, found 'x'",
        ),
        (voc_xml([("", (1, 1, 2, 2), False)]), r"object\[0\]: missing <name>"),
        ("<annotation><object><name>dog</name></object></annotation>", "bndbox: missing <xmin>"),
        (voc_xml([("dog", (1, 1, 2, 2), 3)]), "difficult: expected 0 or 1, found '3'"),
    ],
)
def test_malformed_voc_annotations_are_refused(voc_folder, content, message):
    write(voc_folder / "000003.xml", content)
    with pytest.raises(UsageError, match=message):
        voc.read_annotations(voc_folder, [].append)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dgo", "", "unknown class 'dgo'; did you mean 'dog'"),
        ("dog", "000001 .9 1 1 10\n", "dog.txt:1: expected image id, score, .* found 5 fields"),
        ("dog", "\n000009 .9 1 1 9 9\n", "unknown image id '000009'; did you mean"),
        ("dog", "000001 nan 1 1 9 9\n", "dog.txt:1: score: expected a finite number, found 'nan'"),
        ("dog", "000001 .9 1 1 1e308 9\n", r"dog.txt:1: xmax: expected a finite number below 2\^53"),
        ("dog", "000001 9007199254740993 1 1 9 9\n", r"score: expected a finite number below 2\^53"),
        ("dog", "000001 .9 1 1 x 9\n", "dog.txt:1: xmax: expected a finite number, found 'x'"),
    ],
)
def test_malformed_voc_submissions_are_refused(voc_folder, tmp_path, name, content, message):
    write(tmp_path / f"sub/{name}.txt", content)
    with pytest.raises(UsageError, match=message):
        score_detection(voc_folder, tmp_path / "sub", "voc07")


def test_two_files_of_a_class_and_empty_folders_are_refused(voc_folder, tmp_path):
    write(tmp_path / "sub/dog.txt", "")
    write(tmp_path / "sub/comp4_det_test_dog.txt", "")
    with pytest.raises(UsageError, match="class 'dog' already has the file"):
        score_detection(voc_folder, tmp_path / "sub", "voc07")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"expected one .txt file per class, found none"):
        score_detection(voc_folder, tmp_path / "empty", "voc07")
    with pytest.raises(UsageError, match=r"found no .xml file"):
        score_detection(tmp_path / "empty", tmp_path / "sub", "voc07")
