"""`harness score`: metrics of prediction files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.options import AsJson

if TYPE_CHECKING:
    from harness.evaluation.annotation_files import AnnotationFiles

score_app = typer.Typer(no_args_is_help=True, help="Score prediction files without a model.")


TextMetric = StrEnum("TextMetric", ["bleu", "chrf", "ter"])  # Typer has no list of Literal

# Options that `harness score` and `harness compare` share.
References = Annotated[
    list[Path],
    typer.Option(help="UTF-8 text with one reference per line; repeat the option for several references."),
]
Tokenize = Annotated[str, typer.Option(metavar="NAME", help="Tokenizer of BLEU, by sacrebleu's name.")]
Lowercase = Annotated[bool, typer.Option("--lowercase", help="Compute BLEU without regard to case.")]
Metrics = Annotated[
    list[TextMetric],
    typer.Option("--metric", help="Repeatable. Default: bleu, chrf and ter."),
]
ProtocolName = Annotated[
    Literal["coco", "voc07", "voc10"] | None,
    typer.Option(help="Default: coco for JSON, voc10 for a folder of XML."),
]
IouThreshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="IoU at which voc07 and voc10 count a match.")
]
IouTypeName = Annotated[
    Literal["bbox", "segm"],
    typer.Option(help="Compare boxes or instance masks, as pycocotools' iouType says."),
]
ImageSet = Annotated[
    Path | None, typer.Option(help="Text with one image id per line; only these images count.")
]
Classes = Annotated[
    str,
    typer.Option(metavar="N|NAMES", help="Number of classes; or names: a,b,c or a=7,b=8+9 or a=#800000,…"),
]
FirstLabel = Annotated[int, typer.Option(min=0, max=255, help="Label of the first class.")]
Ignore = Annotated[
    list[str],
    typer.Option(
        "--ignore",
        "--ignore-index",
        metavar="LABEL",
        help="Label to skip: a value, a colour, or 'rest' for all that no class has; repeatable. "
        "Default: 255, unless it is a class.",
    ),
]


@score_app.command("translation")
def score_translation_command(
    hypotheses: Annotated[
        list[Path],
        typer.Option(help="UTF-8 text with one hypothesis per line; repeat the option to compare systems."),
    ],
    references: References,
    tokenize: Tokenize = "13a",
    lowercase: Lowercase = False,
    metrics: Metrics = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Compute BLEU, chrF and TER with intervals."""
    from harness.evaluation.translation import ReferenceTexts

    _score(ReferenceTexts(references, tokenize, lowercase, metrics), hypotheses, as_json)


@score_app.command("detection")
def score_detection_command(
    annotations: Annotated[Path, typer.Option(help="COCO instances JSON, or a folder of VOC XML files.")],
    predictions: Annotated[
        list[Path],
        typer.Option(
            help="COCO results JSON, or VOC submission files; repeat the option to compare systems."
        ),
    ],
    protocol: ProtocolName = None,
    iou: IouThreshold = 0.5,
    iou_type: IouTypeName = "bbox",
    image_set: ImageSet = None,
    as_json: AsJson = False,
) -> None:
    """Compute average precision under the COCO or the VOC protocol."""
    from harness.evaluation.detection import AnnotatedBoxes

    _score(AnnotatedBoxes(annotations, protocol, iou, image_set, iou_type), predictions, as_json)


@score_app.command("segmentation")
def score_segmentation_command(
    annotations: Annotated[Path, typer.Option(help="A PNG of labels, or a folder of them.")],
    predictions: Annotated[
        list[Path],
        typer.Option(help="A PNG of labels, or a folder of them; repeat the option to compare systems."),
    ],
    classes: Classes,
    first_label: FirstLabel = 0,
    ignore: Ignore = [],  # noqa: B006
    image_set: ImageSet = None,
    as_json: AsJson = False,
) -> None:
    """Compute mIoU, pixel accuracy and boundary IoU over the whole set."""
    from harness.evaluation.segmentation import AnnotatedMasks

    _score(AnnotatedMasks(annotations, classes, first_label, ignore, image_set), predictions, as_json)


def _score(annotations: AnnotationFiles, predictions: list[Path], as_json: bool) -> None:
    """Print the figures of each system and, if there are several, their differences from the first."""
    from harness.cli.score_tables import show_systems
    from harness.cli.terminal import show, show_notes
    from harness.evaluation.systems import read_systems, to_document

    systems = read_systems(annotations, predictions)
    show_notes(annotations.notes)
    show(to_document(systems, annotations.notes)) if as_json else show_systems(systems)
