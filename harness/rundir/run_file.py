"""run.json: the run and its planned trials; pairs.json: differences between their models; slices.json."""

from __future__ import annotations

from pydantic import ConfigDict, Field, RootModel

from harness.files import StrictModel
from harness.rundir.results import CheckpointRecord, DatasetRecord, RunRecord, Skipped, SliceRecord
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


class RunFile(StrictModel):
    """Content of run.json."""

    suite: str
    description: str
    run: RunRecord
    trials: tuple[PlannedTrial, ...] = Field(description="in the order of the plan")
    skipped: tuple[Skipped, ...]


class BenchmarkSlices(StrictModel):
    """The slices of one benchmark."""

    keys: dict[str, str] = Field(description="variant → hash of everything that its slices follow from")
    slices: tuple[SliceRecord, ...]


class SlicesFile(RootModel[dict[str, BenchmarkSlices]]):
    """Content of slices.json: benchmark → its slices."""

    model_config = ConfigDict(frozen=True)


class FigureDifference(StrictModel):
    """Difference of one figure between two trials: second − first."""

    difference: Figure
    p: float | None = Field(description="two-sided p-value of no difference; null if the figure is undefined")


class TrialPair(StrictModel):
    """Two trials of a benchmark on the same samples."""

    key: str = Field(description="hash of the figures and the code from which the differences were computed")
    first: str = Field(description="trial id")
    second: str = Field(description="trial id")
    metrics: dict[str, dict[str, FigureDifference]] = Field(description="metric → figure → difference")


class PairsFile(RootModel[dict[str, tuple[TrialPair, ...]]]):
    """Content of pairs.json: benchmark → pairs of its complete trials."""

    model_config = ConfigDict(frozen=True)
