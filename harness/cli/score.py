"""`harness score`: metrics of prediction files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.options import AsJson

score_app = typer.Typer(no_args_is_help=True, help="Score prediction files without a model.")


class Protocol(StrEnum):
    coco = "coco"
    voc07 = "voc07"
    voc10 = "voc10"


@score_app.command("translation")
def score_translation_command(
    hypotheses: Annotated[Path, typer.Option(help="UTF-8 text with one hypothesis per line.")],
    references: Annotated[
        list[Path],
        typer.Option(
            help="UTF-8 text with one reference per line; repeat the option for several references."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Compute BLEU and chrF with bootstrap intervals."""
    from harness.stages.score_files import score_translation

    _show_scores(score_translation(hypotheses, references), as_json)


@score_app.command("detection")
def score_detection_command(
    annotations: Annotated[Path, typer.Option(help="COCO instances JSON, or a folder of VOC XML files.")],
    predictions: Annotated[Path, typer.Option(help="COCO results JSON, or VOC submission files.")],
    protocol: Annotated[Protocol | None, typer.Option(help="Default: coco for JSON, voc10 for XML.")] = None,
    iou: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="IoU at which voc07 and voc10 count a match.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Compute average precision under the COCO or the VOC protocol."""
    from harness.stages.score_files import score_detection

    chosen = protocol or (Protocol.voc10 if annotations.is_dir() else Protocol.coco)
    _show_scores(score_detection(annotations, predictions, chosen.value, iou), as_json)


@score_app.command("segmentation")
def score_segmentation_command(
    annotations: Annotated[Path, typer.Option(help="A PNG of class ids, or a folder of them.")],
    predictions: Annotated[Path, typer.Option(help="A PNG of class ids, or a folder of them.")],
    classes: Annotated[int, typer.Option(min=1, max=256, help="Number of classes.")],
    ignore_index: Annotated[
        int | None,
        typer.Option(min=0, max=255, help="Label to skip. Default: 255, or none with 256 classes."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute mIoU, pixel accuracy and boundary IoU over the whole set."""
    from harness.stages.score_files import score_segmentation

    _show_scores(score_segmentation(annotations, predictions, classes, ignore_index), as_json)


def _show_scores(scores: Any, as_json: bool) -> None:
    from dataclasses import asdict

    from harness.cli.terminal import show, show_figures

    show(asdict(scores)) if as_json else show_figures(scores.metrics)
