"""The records of a trial's analysis.json, which reports draw: the causes of its figures.

Image files are stored beside it; their paths are relative to the trial's directory. The schema
`harness/schema/analysis.schema.json` is generated from these models.
"""

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from harness.files import StrictModel, read_record
from harness.task import Figure

Role = Literal["worst", "median", "best", "disagreement"]
ErrorType = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]


class ShownSample(StrictModel):
    """A sample picked for its score among all samples of the trial."""

    index: int = Field(description="position in the data set's split, from 0")
    id: str
    role: Role
    score: float = Field(description="score of this sample alone, as `ranked_by` of the analysis defines it")


class ShownImage(ShownSample):
    """A sample that is an image."""

    width: int = Field(description="px of the original image, to which boxes refer")
    height: int = Field(description="px of the original image")
    image: str = Field(description="path of the image file, whose longest side is at most 256 px")


class ShownTranslation(ShownSample):
    """A source sentence with its references and the hypothesis."""

    source: str
    references: list[str]
    hypothesis: str


class ShownAlignment(StrictModel):
    """The attention of each target token over the source tokens."""

    index: int = Field(description="`index` of the sample in `samples`")
    source: list[str] = Field(description="tokens")
    target: list[str] = Field(description="tokens")
    weights: list[list[float]] = Field(description="[target][source], each row sums to 1 up to rounding")


class TranslationAnalysis(StrictModel):
    """Analysis of hypotheses against references."""

    task: Literal["translation"] = "translation"
    n: int
    ranked_by: str
    rates: dict[str, Figure] = Field(
        description="exact_match, length_ratio, repetition, copied, unknown, empty; see docs/analysis.md"
    )
    samples: list[ShownTranslation]
    alignments: list[ShownAlignment] = Field(description="of some samples, if the adapter provides them")


class PrecisionRecall(StrictModel):
    """Interpolated precision at the 101 recall levels 0, .01, … 1 (COCO); its mean is the AP."""

    label: str | None = Field(None, description="class, or null for the mean over classes with annotations")
    iou: float
    ap: Figure
    positives: int = Field(description="annotations that count")
    precision: list[float] | None = Field(description="[101]; null without annotations")
    scores: list[float | None] | None = Field(
        None, description="[101], the score that reaches the level, null if none does; null for the mean"
    )


class ErrorEffect(StrictModel):
    """Count and cost of one type of error, as TIDE defines it (Bolya et al. 2020)."""

    count: int = Field(description="detections of any score with this error; for missed, annotations")
    shown: int = Field(description="those among the detections at the operating point")
    dap: Figure = Field(description="rise of AP at IoU .5 if only these errors are fixed")


class OperatingPoint(StrictModel):
    """Detections with at least the score that gives the highest F1 over the data set, at IoU .5."""

    score: float | None = Field(description="null if no detection is correct")
    precision: Figure
    recall: Figure
    f1: Figure


class ShownBox(StrictModel):
    """An annotation or a detection."""

    box: tuple[float, float, float, float] = Field(description="x1 y1 x2 y2 in px of the original image")
    label: str
    score: float | None = Field(None, description="null for an annotation")
    state: Literal["correct", "ignored"] | ErrorType = Field(
        description="of an annotation: correct, missed or ignored (crowd, difficult); of a detection: "
        "correct, ignored (on an ignored annotation) or the type of error"
    )


class ShownDetections(ShownImage):
    """An image with its annotations and the detections at the operating point."""

    annotations: list[ShownBox]
    detections: list[ShownBox]


class DetectionAnalysis(StrictModel):
    """Analysis of detections against annotations."""

    task: Literal["detection"] = "detection"
    n: int
    ranked_by: str
    classes: list[str]
    curves: list[PrecisionRecall] = Field(
        description="at IoU .5, then at .75: first the mean, then each class"
    )
    operating_point: OperatingPoint
    confusion: list[list[int]] = Field(
        description="[annotated][detected] at the operating point; the last row and column are background"
    )
    errors: dict[ErrorType, ErrorEffect]
    false_positives: Figure = Field(description="rise of AP at IoU .5 if all false positives are removed")
    false_negatives: Figure = Field(
        description="rise of AP at IoU .5 if all annotations that are not found are removed"
    )
    samples: list[ShownDetections]


class ClassIou(StrictModel):
    """Figures and pixel counts of one class."""

    label: str
    iou: Figure
    accuracy: Figure
    boundary_iou: Figure
    annotated: int = Field(description="pixels")
    predicted: int = Field(description="pixels")


class ShownMasks(ShownImage):
    """An image with its annotated and predicted masks, as palette PNGs of the image file's size.

    The palette is `colours` of the analysis.
    """

    annotation: str = Field(description="path of the annotated mask")
    prediction: str = Field(description="path of the predicted mask")
    errors: str = Field(description="path of a mask that is red if wrong, grey if ignored, else transparent")


class SegmentationAnalysis(StrictModel):
    """Analysis of predicted masks against annotated ones."""

    task: Literal["segmentation"] = "segmentation"
    n: int
    ranked_by: str
    classes: list[str]
    colours: list[Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]] = Field(
        description="#rrggbb of each class in the shown masks"
    )
    per_class: list[ClassIou]
    confusion: list[list[int]] = Field(description="pixels [annotated][predicted], without ignored ones")
    samples: list[ShownMasks]


AnyShown: TypeAlias = ShownTranslation | ShownDetections | ShownMasks


class Disagreement(StrictModel):
    """A sample on which models disagree, as each of them predicted it."""

    index: int = Field(description="position in the data set's split, from 0")
    spread: float = Field(description="highest − lowest score of the sample")
    shown: dict[str, AnyShown] = Field(description="by variant")


class SideBySideFile(StrictModel):
    """Content of side-by-side/BENCHMARK/samples.json."""

    key: str = Field(description="hash of the predictions and of the code that it follows from")
    variants: dict[str, str] = Field(description="variant → folder of its images")
    samples: list[Disagreement] = Field(description="greatest spread first")


Analysis: TypeAlias = TranslationAnalysis | DetectionAnalysis | SegmentationAnalysis


class AnalysisFile(StrictModel):
    """Content of analysis.json."""

    schema_: Literal["harness-analysis/1"] = Field("harness-analysis/1", alias="schema")
    key: str = Field(description="hash of the predictions and of the code that the analysis follows from")
    analysis: Annotated[Analysis, Field(discriminator="task")]


def read_analysis(trial_dir: Path) -> Analysis | None:
    """Read the analysis of a trial directory; None if it has none."""
    record = read_record(trial_dir / "analysis.json", AnalysisFile)
    return record.analysis if record else None


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of analysis.json."""
    return AnalysisFile.model_json_schema(by_alias=True)
