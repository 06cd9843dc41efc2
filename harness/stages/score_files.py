"""Scoring of prediction files against annotation files, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.datasets.coco import annotations as coco
from harness.datasets.files import read_lines
from harness.datasets.masks.files import pair_masks, read_mask
from harness.datasets.voc import annotations as voc
from harness.errors import UsageError
from harness.metrics.metric import METRICS
from harness.registry import unknown
from harness.task import IGNORED, Scores, Translation

PROTOCOLS = ("coco", "voc07", "voc10")
IOU = 0.5  # VOCopts.minoverlap of the VOC devkit


def score_translation(hypotheses: Path, references: Sequence[Path]) -> Scores:
    """Compute BLEU and chrF of detokenised text against one or more references.

    Args:
        hypotheses: UTF-8 text with one sentence per line.
        references: Files of the same form, each with a correct translation of every sentence.

    Raises:
        UsageError: A file is missing, empty or not UTF-8, or the numbers of lines differ.
    """
    if not references:
        raise UsageError("expected at least one file of references")
    lines = _sentences(hypotheses)
    columns = [_sentences(reference) for reference in references]
    for reference, column in zip(references, columns, strict=True):
        if len(column) != len(lines):
            raise UsageError(
                f"{reference}: has {len(column)} lines, {hypotheses} has {len(lines)}; "
                f"expected one line per sentence in both"
            )
    scores: dict[str, Scores] = {}
    for name in ("bleu", "chrf"):
        metric = METRICS.get(name)()
        rows = zip(lines, zip(*columns, strict=True), strict=True)
        scores[name] = metric.summarise(
            [metric.statistics(targets, Translation(line)) for line, targets in rows]
        )
    return Scores(scores["bleu"].metrics | scores["chrf"].metrics)


def score_detection(annotations: Path, predictions: Path, protocol: str = "coco", iou: float = IOU) -> Scores:
    """Compute the average precision of boxes.

    Args:
        annotations: COCO instances JSON, or a folder of VOC XML files.
        predictions: COCO results JSON; with VOC annotations, a VOC submission is also accepted.
        protocol: One of PROTOCOLS.
        iou: Matching threshold of voc07 and voc10. COCO prescribes its own, so it accepts only the default.

    Raises:
        UsageError: A file is malformed, or an option does not fit the protocol.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(unknown("protocol", protocol, PROTOCOLS))
    if protocol == "coco" and iou != IOU:
        raise UsageError(f"iou {iou:g} applies to voc07 and voc10; coco averages over 0.50:0.05:0.95")
    for path in (annotations, predictions):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
    is_voc = annotations.is_dir()
    annotated = voc.read_annotations(annotations) if is_voc else coco.read_annotations(annotations)
    if is_voc and (predictions.is_dir() or predictions.suffix.lower() == ".txt"):
        detections = voc.read_submission(predictions, annotated)
    else:
        detections = coco.read_results(predictions, annotated)
    metric = METRICS.get(protocol)(annotated.classes, iou=iou)
    return metric.summarise(
        [metric.statistics(target, detections[image]) for image, target in annotated.targets.items()]
    )


def score_segmentation(
    annotations: Path, predictions: Path, classes: int, ignore_index: int | None = None
) -> Scores:
    """Compute IoU and accuracies of two PNG files, or of the PNG files of two folders.

    One pair is in memory at a time. `foreground_iou` is not computed, because the files do not say whether
    class 0 is the background.

    Args:
        classes: Number N of classes. Pixels have the values 0 … N − 1, which are also the class names in the
            scores.
        ignore_index: Annotated value of the pixels to ignore. None means 255, or no value if 255 is the last
            of 256 classes.

    Raises:
        UsageError: A file is malformed or has no counterpart, sizes differ, or a pixel is not a class.
    """
    if ignore_index is None and classes <= IGNORED:
        ignore_index = IGNORED
    metric = METRICS.get("iou")([str(label) for label in range(classes)], ignore_index=ignore_index)
    statistics = []
    for annotation, prediction in pair_masks(annotations, predictions):
        try:
            statistics.append(metric.statistics(read_mask(annotation), read_mask(prediction)))
        except UsageError as error:
            raise UsageError(f"{prediction} against {annotation}: {error}") from error
    scores = metric.summarise(statistics)
    del scores.metrics["foreground_iou"]
    return scores


def _sentences(path: Path) -> list[str]:
    """Read lines without trailing white space, as sacrebleu does."""
    lines = [line.rstrip() for line in read_lines(path)]
    if not lines:
        raise UsageError(f"{path}: expected one sentence per line, found an empty file")
    return lines
