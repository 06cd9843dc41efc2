"""JSON files of a run directory and its trials, by the names in docs/architecture.md, except results.json."""

from typing import Literal

from pydantic import Field, RootModel

from harness.adapter import Precision
from harness.files import StrictModel
from harness.identity import content_id
from harness.rundir.results import (
    CheckpointRecord,
    ClaimRecord,
    DatasetRecord,
    Failure,
    PairRecord,
    RunRecord,
    Skipped,
    SliceRecord,
)
from harness.task import Figure, TaskName


class PlannedCheckpoint(CheckpointRecord):
    """The weights of a planned trial, with their size on disk."""

    bytes: int


class PlannedTrial(StrictModel):
    """A planned trial: everything that is not in its specification, trial.json."""

    id: str
    benchmark: str
    variant: str
    task: TaskName
    adapter: str
    dataset: DatasetRecord
    checkpoint: PlannedCheckpoint | None
    metrics: tuple[str, ...]
    scenarios: tuple[str, ...]
    slices: str | None = Field(None, description="path of the user's table of slices")


class RunFile(StrictModel):
    """Content of run.json."""

    schema_: Literal["harness-run/1"] = Field(alias="schema", description="form of the run directory")
    suite: str
    description: str
    run: RunRecord
    trials: tuple[PlannedTrial, ...] = Field(description="in the order of the plan")
    skipped: tuple[Skipped, ...]


class BenchmarkSlices(StrictModel):
    """The slices of one benchmark."""

    key: str = Field(description="hash of everything that the slices follow from")
    slices: tuple[SliceRecord, ...]


class SlicesFile(RootModel[dict[str, BenchmarkSlices]], frozen=True):
    """Content of slices.json: benchmark → its slices."""


class ClaimsFile(RootModel[tuple[ClaimRecord, ...]], frozen=True):
    """Content of claims.json: the claims in the order of the suite."""


class ProbesFile(StrictModel):
    """Content of probes.json of a trial."""

    key: str = Field(description="hash of the code that chose the samples")
    values: dict[str, float | list[float]] = Field(description="by name; a list has a value per sample")


class BenchmarkPairs(StrictModel):
    """The pairs of one benchmark."""

    key: str = Field(description="hash of the figures and the code that the pairs follow from")
    pairs: tuple[PairRecord, ...]


class PairsFile(RootModel[dict[str, BenchmarkPairs]], frozen=True):
    """Content of pairs.json: benchmark → pairs of its models."""


class Calibration(StrictModel):
    """The samples of the train split from which int8 gets the ranges of activations."""

    samples: int
    dataset: str  # fingerprint of the train split


class TrialSpec(StrictModel):
    """Content of trial.json: everything that can change a trial's outcome, and nothing else."""

    task: TaskName
    adapter: str  # registered name
    code: str  # version of the adapter's code (see `harness.identity.code_version`)
    options: dict[str, object]  # adapter options as JSON values, defaults included
    precision: Precision
    batch_size: int
    device: str  # `auto`, `cpu` or `cuda`
    checkpoint: str | None  # SHA-256 of the weights; None if the adapter has none or they are not trained yet
    dataset: str  # fingerprint of the data set
    split: str
    size: int  # number of samples, from the first of the split
    threads: int | None = None  # of its timings, if the suite lists several numbers of threads
    backend: str = "eager"
    calibration: Calibration | None = None  # of int8

    @property
    def id(self) -> str:
        """Return 16 hex digits of the SHA-256 of the specification."""
        return content_id(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def prediction_id(self) -> str:
        """Return the id without `threads`, which trials with the same predictions share."""
        return self.model_copy(update={"threads": None}).id


class MetricRecord(StrictModel):
    """Figures of one metric."""

    key: str = Field(description="hash of the predictions and the code from which the figures were computed")
    metrics: dict[str, Figure]
    per_class: dict[str, dict[str, Figure]] = Field(description="class → name → figure")


class MetricsFile(RootModel[dict[str, MetricRecord]], frozen=True):
    """Content of metrics.json: metric → its figures."""


class FailuresFile(RootModel[tuple[Failure, ...]], frozen=True):
    """Content of error.json: batches without predictions, in sample order."""
