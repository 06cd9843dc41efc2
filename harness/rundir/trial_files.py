"""JSON files of a trial directory: its specification, its figures and its failures."""

from __future__ import annotations

from pydantic import ConfigDict, Field, RootModel

from harness.adapter import Precision
from harness.files import StrictModel
from harness.identity import content_id
from harness.rundir.results import Failure
from harness.task import Figure, TaskName


class TrialSpec(StrictModel):
    """Content of trial.json: everything that can change a trial's outcome, and nothing else."""

    task: TaskName
    adapter: str
    """Registered name."""
    code: str
    """Version of the adapter's code (see `harness.identity.code_version`)."""
    options: dict[str, object]
    """Adapter options as JSON values, defaults included."""
    precision: Precision
    batch_size: int
    device: str
    """`auto`, `cpu` or `cuda`."""
    checkpoint: str | None
    """SHA-256 of the weights; None if the adapter has none or they are not trained yet."""
    dataset: str
    """Fingerprint of the data set."""
    split: str
    size: int
    """Number of samples, from the first of the split."""

    @property
    def id(self) -> str:
        """Return 16 hex digits of the SHA-256 of the specification."""
        return content_id(self.model_dump(mode="json"))


class MetricRecord(StrictModel):
    """Figures of one metric."""

    key: str = Field(description="hash of the predictions and the code from which the figures were computed")
    metrics: dict[str, Figure]
    per_class: dict[str, dict[str, float | None]] = Field(description="class → figure → value")


class MetricsFile(RootModel[dict[str, MetricRecord]]):
    """Content of metrics.json: metric → its figures."""

    model_config = ConfigDict(frozen=True)


class FailuresFile(RootModel[tuple[Failure, ...]]):
    """Content of error.json: batches without predictions, in sample order."""

    model_config = ConfigDict(frozen=True)
