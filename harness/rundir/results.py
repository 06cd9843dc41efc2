"""results.json: the document from which all reports, MLflow entries and comparisons are derived.

These models define its schema; `harness/schema/results.schema.json` is generated from them.
"""

from math import isfinite
from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.decisions.claims import ClaimEntry, ClaimVerdict
from harness.environment import Environment
from harness.errors import UsageError
from harness.files import StrictModel, json_text, read_record
from harness.scenarios.scenario import OFFLINE, SINGLE_STREAM, ScenarioFigures, TimedOn
from harness.task import Figure, TaskName

Status = Literal["complete", "partial", "failed", "pending"]


class DatasetRecord(StrictModel):
    """The samples of a trial."""

    name: str
    options: dict[str, object]
    split: str
    size: int
    fingerprint: str
    notes: list[str] = Field(default_factory=list, description="what was left out, or looks like a mistake")


class CheckpointRecord(StrictModel):
    """The weights of a trial."""

    name: str
    sha256: str
    recipe: str | None = Field(None, description="hash of the recipe that they were trained with")


class ArtefactRecord(StrictModel):
    """A file that a backend executes in place of a part of the model."""

    name: str = Field(description="the part")
    sha256: str
    bytes: int


class Failure(StrictModel):
    """Consecutive samples without predictions, which are never scored, and the error that caused it."""

    first: int
    last: int
    indices: list[int] = Field(
        default_factory=list, description="samples that also fail on their own; empty if none was identified"
    )
    samples: list[str] = Field(
        description="ids of these samples, or of the first and last of the range; #INDEX if unreadable"
    )
    error: str
    attempts: int
    invalid_input: bool = Field(
        False, description="the user has to fix the input; another attempt would fail as well"
    )


class ScenarioRecord(ScenarioFigures):
    """One speed scenario of a trial, computed from the raw timings in speed/SCENARIO.json."""

    environment: str = Field(description="key into `environments` of the environment in which it was timed")
    profile: str
    batch_size: int
    threads: int = Field(description="0 if all cores were requested but timing failed")
    processes: int = Field(description="number of fresh processes, timed one after another")
    valid: bool
    reasons: list[str] = Field(description="why the measurement is not valid; empty if it is valid")
    timed_on: list[TimedOn] = Field(default_factory=list, description="one entry per process")
    energy: Figure | None = Field(None, description="J per sample; null if no counter can be read")

    @property
    def figures(self) -> dict[str, Figure]:
        """Return the measured figures: `throughput`, then the latencies by percentile."""
        figures = {"throughput": self.throughput, **self.latency}
        return {name: figure for name, figure in figures.items() if figure is not None}


class TurnsRecord(StrictModel):
    """Comparison of a scenario with a baseline that was timed in turns with it; also turns/SCENARIO.json.

    The raw times are in turns/SCENARIO-baseline.json and -present.json, one process per pair.
    """

    baseline: str = Field(description="git revision")
    verdict: Literal["regression", "pass", "inconclusive", "incomparable"]
    reason: str
    slowdown: Figure | None = Field(None, description="additional time, as a fraction of the baseline's")
    detectable: float | None = Field(
        None, description="smallest slowdown that is found with a probability of about 90%"
    )
    base: Figure | None = Field(None, description="s per sample of the baseline")
    head: Figure | None = Field(None, description="s per sample of the present version")
    pairs: int = Field(0, description="pairs of fresh processes")
    seconds: float = 0.0
    comparisons: int = Field(1, description="number of comparisons that were judged together")
    resolution: float = Field(0.0, description="half width by `harness calibrate`; 0 if unknown")
    decides: bool = Field(True, description="false if the suite's rule is advisory")
    failed: bool = Field(False, description="a version could not be timed")


class Cost(StrictModel):
    """Size, work and memory of a model."""

    parameters: int | None = Field(None, ge=0)
    flops: float | None = Field(None, ge=0, description="per sample, 2 × multiply-accumulates")
    peak_memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    artefact_bytes: int | None = Field(None, description="of the files that the backend executes")


class TrialRecord(StrictModel):
    """All results of one adapter variant on one data set split."""

    id: str
    benchmark: str
    task: TaskName
    adapter: str = Field(description="registered name")
    variant: str = Field(description="name in the suite with its matrix values; unique in the benchmark")
    settings: dict[str, object] = Field(
        description="precision, backend, batch size, device, adapter options, code version"
    )
    dataset: DatasetRecord
    checkpoint: CheckpointRecord | None
    artefacts: list[ArtefactRecord] = Field(
        default_factory=list, description="files that the backend executed for the predictions"
    )
    status: Status
    reason: str | None = None
    failures: list[Failure] = Field(default_factory=list)
    environments: list[str] = Field(
        default_factory=list, description="keys into `environments` of the predictions"
    )
    mixed: list[str] = Field(
        default_factory=list,
        description="software and settings in which the environments of the predictions differ",
    )
    halved: int = Field(
        0,
        description="samples in smaller batches because memory was exhausted; affects rounding only",
    )
    metrics: dict[str, Figure] = Field(default_factory=dict, description="headline first")
    per_class: dict[str, dict[str, Figure]] = Field(default_factory=dict, description="class → name → figure")
    speed: dict[str, ScenarioRecord] = Field(default_factory=dict)
    turns: dict[str, TurnsRecord] = Field(
        default_factory=dict, description="by scenario, if a baseline was timed in turns"
    )
    phases: dict[str, Figure] = Field(
        default_factory=dict, description="preprocess, model, postprocess: s per sample at the batch size"
    )
    cost: Cost = Cost()

    @property
    def offline(self) -> ScenarioRecord | None:
        """Return the offline scenario, or None if it was not measured."""
        return self.speed.get(OFFLINE)

    @property
    def single_stream(self) -> ScenarioRecord | None:
        """Return the single-stream scenario, or None if it was not measured."""
        return self.speed.get(SINGLE_STREAM)


class PairRecord(StrictModel):
    """Difference between two models of a benchmark on the same samples, in one metric's headline figure."""

    benchmark: str
    metric: str = Field(description="name of the headline figure")
    first: str = Field(description="variant; without its seed if it has several trainings")
    second: str = Field(description="variant; without its seed if it has several trainings")
    trainings: tuple[int, int] = Field((1, 1), description="number of trainings of first and second")
    difference: Figure = Field(description="second − first over the same samples, of means over trainings")
    p: float = Field(description="two-sided p-value of no difference")
    p_adjusted: float = Field(
        description="adjusted for the number of pairs of this benchmark and figure (Holm 1979)"
    )


class SliceRecord(StrictModel):
    """The headline figures of all variants of a benchmark on a part of its samples, for one metric."""

    benchmark: str
    column: str = Field(description="property of the samples, or column of the suite's table")
    slice: str = Field(description="value or range of the column")
    n: int = Field(description="samples of the slice")
    metric: str = Field(description="name of the headline figure")
    figures: dict[str, Figure] = Field(description="by variant, in the order of the suite")
    differences: dict[str, Figure] = Field(
        description="variant − first variant on these samples; not corrected for the number of slices"
    )


class ClaimRecord(ClaimEntry):
    """A claim of the suite with its verdict."""

    name: str
    verdict: ClaimVerdict
    effect: Figure | None = Field(
        None,
        description="subject − factor · object, or the subject alone; of speeds and costs, subject / object",
    )
    seeds: tuple[int, ...] = Field((), description="number of trainings on each side")
    family: int = Field(0, description="number of claims that were tested together; 0 for exact numbers")
    reason: str | None = Field(None, description="why it is not decided, or inconclusive")


class Skipped(StrictModel):
    """A benchmark that was skipped. Its suite allows this if the machine lacks something."""

    benchmark: str
    reason: str


class Source(StrictModel):
    """A file or package of the user from which the run was made."""

    kind: Literal["suite", "package"]
    name: str = Field(description="path of the suite file, or name of the package of plug-ins")
    version: str | None = Field(None, description="of the package")
    git_revision: str | None = None
    git_dirty: bool | None = None


class RunRecord(StrictModel):
    """One execution of a suite."""

    id: str
    started: str = Field(description="ISO 8601, UTC")
    finished: str | None
    command: str
    harness_version: str
    git_revision: str | None
    git_dirty: bool | None
    git_branch: str | None = Field(None, description="a later run finds its baseline by this branch")
    executor: str
    workers: int
    profile: str
    environment: str = Field(description="key into `environments` of the driver's environment")
    sources: list[Source] = Field(default_factory=list, description="suite files and packages of the user")


class Results(StrictModel):
    """Content of results.json."""

    schema_: Literal["harness-results/3"] = Field("harness-results/3", alias="schema")
    suite: str
    description: str = ""
    run: RunRecord
    environments: dict[str, Environment]
    trials: list[TrialRecord]
    skipped: list[Skipped] = Field(default_factory=list)
    pairs: list[PairRecord] = Field(
        default_factory=list,
        description="pairs of complete trials whose predictions differ, if the figure is defined",
    )
    slices: list[SliceRecord] = Field(default_factory=list)
    claims: list[ClaimRecord] = Field(default_factory=list)


def is_defined(figure: Figure | None) -> bool:
    """Return whether the figure has a finite value."""
    return figure is not None and figure.value is not None and isfinite(figure.value)


def read_results(path: Path) -> Results:
    """Read results.json; `path` is a run directory or the file itself."""
    file = path / "results.json" if path.is_dir() else path
    try:
        results = read_record(file, Results)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    if results is None:
        raise UsageError(f"{file}: cannot be read: No such file or directory (is it a run directory?)")
    return results


def to_json(results: Results) -> str:
    """Return results.json as text, with a stable order of keys."""
    return json_text(results.model_dump(mode="json", by_alias=True))


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of results.json."""
    return Results.model_json_schema(by_alias=True)
