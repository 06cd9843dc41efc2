"""Scores of prediction files against annotation files; no model runs."""

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
    """BLEU and chrF of detokenised UTF-8 text, a sentence a line, against one or more references.

    Raises:
        UsageError: a file is missing, empty, not UTF-8, or has another number of lines.
    """
    if not references:
        raise UsageError("expected at least one file of references")
    lines = _sentences(hypotheses)
    columns = [_sentences(reference) for reference in references]
    for reference, column in zip(references, columns, strict=True):
        if len(column) != len(lines):
            raise UsageError(
                f"{reference}: has {len(column)} lines, {hypotheses} has {len(lines)}; "
                f"expected one line a sentence in both"
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
    """Average precision of boxes.

    Args:
        annotations: COCO instances JSON, or a folder of VOC XML files.
        predictions: COCO results JSON; for VOC annotations also the submission form.
        protocol: one of PROTOCOLS.
        iou: threshold of voc07 and voc10; COCO prescribes its own, so another than 0.5 is refused with it.

    Raises:
        UsageError: a file is bad, or an option does not fit.
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
    """IoU and accuracies of two PNG files, or of the PNG files of two folders; read a pair at a time.

    There is no `foreground_iou`: nothing in the files says that class 0 is the background.

    Args:
        classes: their number N; pixels hold 0 … N − 1, named so in the scores.
        ignore_index: the annotated value whose pixels do not count; None for 255, or for no value at all
            where 255 is the last of 256 classes.

    Raises:
        UsageError: a file is bad or has no partner, sizes differ, or a pixel is no class.
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
    """Lines without trailing white space, as sacrebleu reads them."""
    lines = [line.rstrip() for line in read_lines(path)]
    if not lines:
        raise UsageError(f"{path}: expected a sentence a line, found an empty file")
    return lines
