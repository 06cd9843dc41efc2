"""analysis.json of a trial: where its figures come from, for reports to draw.

Pictures lie beside it; their paths are relative to the trial's directory. These models are its schema;
`harness/schema/analysis.schema.json` is printed from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError
from harness.task import Figure

Role = Literal["worst", "median", "best"]
ErrorType = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShownSample(_Record):
    """A sample picked for its score among all samples of the trial."""

    index: int = Field(description="place in the data set's split, from 0")
    id: str
    role: Role
    score: float = Field(description="of this sample alone; `ranked_by` of the analysis says which")


class ShownPicture(ShownSample):
    """A sample that is a picture."""

    width: int = Field(description="px of the original, in which boxes are given")
    height: int
    image: str = Field(description="path of the picture, its longest side at most 256 px")


# Translation


class LengthBucket(_Record):
    """The sentences whose source has `shortest` to `longest` words."""

    shortest: int
    longest: int | None = Field(description="null: no limit")
    n: int
    bleu: Figure
    chrf: Figure


class ShownTranslation(ShownSample):
    source: str
    references: list[str]
    hypothesis: str


class ShownAlignment(_Record):
    """What each target token looked at."""

    index: int = Field(description="that of the sample in `samples`")
    source: list[str] = Field(description="tokens")
    target: list[str] = Field(description="tokens")
    weights: list[list[float]] = Field(description="[target][source], each row sums to 1 up to rounding")


class TranslationAnalysis(_Record):
    """Of hypotheses against references."""

    task: Literal["translation"] = "translation"
    n: int
    ranked_by: str
    by_length: list[LengthBucket] = Field(description="by words of the source; empty buckets left out")
    rates: dict[str, Figure] = Field(
        description="exact_match, length_ratio, repetition, copied, unknown, empty: docs/analysis.md"
    )
    samples: list[ShownTranslation]
    alignments: list[ShownAlignment] = Field(description="of some samples, where the adapter offers them")


# Detection


class PrecisionRecall(_Record):
    """Interpolated precision at the 101 recall levels 0, .01, … 1 (COCO); its mean is the AP."""

    label: str | None = Field(None, description="a class; null: the mean over the classes with annotations")
    iou: float
    ap: Figure
    positives: int = Field(description="annotations that count")
    precision: list[float] | None = Field(description="[101]; null without annotations")
    scores: list[float | None] | None = Field(
        None, description="[101], the score that reaches the level, null where none does; null for the mean"
    )


class ErrorEffect(_Record):
    """One type of error in TIDE's sense (Bolya et al. 2020)."""

    count: int = Field(description="among all detections, whatever their score; of missed, annotations")
    shown: int = Field(description="among the detections at the operating point")
    dap: Figure = Field(description="how much AP at IoU .5 rises when only these errors are mended")


class OperatingPoint(_Record):
    """Detections with at least the score that gives the highest F1 over the data set, at IoU .5."""

    score: float | None = Field(description="null: no detection at all is correct")
    precision: Figure
    recall: Figure
    f1: Figure


class ShownBox(_Record):
    """An annotation or a detection."""

    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2 in px of the original")
    label: str
    score: float | None = Field(None, description="of a detection")
    state: Literal["correct", "ignored"] | ErrorType = Field(
        description="annotations: correct, missed or ignored (crowd, difficult); detections: correct, "
        "ignored (on an ignored annotation), or the type of error, among the detections that are shown"
    )


class ShownDetections(ShownPicture):
    """An image with its annotations and the detections at the operating point."""

    annotations: list[ShownBox]
    detections: list[ShownBox]


class DetectionAnalysis(_Record):
    """Of detections against annotations."""

    task: Literal["detection"] = "detection"
    n: int
    ranked_by: str
    classes: list[str]
    curves: list[PrecisionRecall] = Field(description="the mean first, then each class; at IoU .5, then .75")
    operating_point: OperatingPoint
    confusion: list[list[int]] = Field(
        description="[annotated][detected] at the operating point; the last row and column: background"
    )
    errors: dict[ErrorType, ErrorEffect]
    false_positives: Figure = Field(description="how much AP at IoU .5 rises without any false positive")
    false_negatives: Figure = Field(description="how much it rises without any annotation that is not found")
    samples: list[ShownDetections]


# Segmentation


class ClassIou(_Record):
    label: str
    iou: Figure
    accuracy: Figure
    boundary_iou: Figure
    annotated: int = Field(description="pixels")
    predicted: int = Field(description="pixels")


class ShownMasks(ShownPicture):
    """Masks are palette PNGs of the picture's size; `colours` of the analysis is the palette."""

    annotation: str
    prediction: str
    errors: str = Field(description="red where wrong, grey where ignored, transparent where right")


class SegmentationAnalysis(_Record):
    """Of predicted masks against annotated ones."""

    task: Literal["segmentation"] = "segmentation"
    n: int
    ranked_by: str
    classes: list[str]
    colours: list[Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]] = Field(
        description="#rrggbb of each class, in the masks that are shown"
    )
    per_class: list[ClassIou]
    confusion: list[list[int]] = Field(description="pixels [annotated][predicted], ignored ones left out")
    samples: list[ShownMasks]


Analysis: TypeAlias = TranslationAnalysis | DetectionAnalysis | SegmentationAnalysis


class AnalysisFile(_Record):
    """The document."""

    schema_: Literal["harness-analysis/1"] = Field("harness-analysis/1", alias="schema")
    key: str = Field(description="of the predictions and the code that it was made from")
    analysis: Annotated[Analysis, Field(discriminator="task")]


def read_analysis(trial: Path) -> Analysis | None:
    """A trial directory's analysis; None where it has none.

    Raises:
        UsageError: analysis.json is not of this schema.
    """
    path = trial / "analysis.json"
    if not path.exists():
        return None
    try:
        return AnalysisFile.model_validate_json(path.read_bytes()).analysis
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: not an analysis: {key}: {first['msg']}; remove it and run again"
        ) from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of analysis.json."""
    return AnalysisFile.model_json_schema(by_alias=True)
