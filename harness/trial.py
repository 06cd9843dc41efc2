"""A trial, one adapter variant on one data set split: the unit of planning, caching and reporting."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from harness.adapter import ADAPTERS, Resources, Runtime
from harness.checkpoint import Checkpoint, load, sha256
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import InfrastructureError, UsageError
from harness.identity import code_version
from harness.recipe import CheckpointRef
from harness.rundir.trial_files import TrialSpec
from harness.task import TaskName


@dataclass(frozen=True)
class DatasetUse:
    """A trial's use of a data set: everything that a worker needs to open it."""

    name: str
    """Registered name."""
    options: dict[str, object]
    split: str
    task: TaskName

    def open(self) -> Dataset:
        """Open the split.

        Raises:
            UsageError: A file of the data set is malformed.
            UnavailableError: This machine lacks the source of the data set.
        """
        cls = DATASETS.get(self.name)
        return cls(cls.Options(**self.options), self.split, self.task)


@dataclass(frozen=True)
class Trial:
    """One adapter variant on one data set split."""

    benchmark: str
    """Name of the benchmark in the suite."""
    variant: str
    """Name of the variant, such as `yolo[precision=bf16]`."""
    spec: TrialSpec
    dataset: DatasetUse
    checkpoint: CheckpointRef | None
    metrics: tuple[str, ...]
    """Registered names of the metrics."""
    scenarios: tuple[str, ...]
    """Names of the speed scenarios."""
    resources: Resources = field(default_factory=Resources)

    @cached_property
    def id(self) -> str:
        """Return the id of the specification, which is final only once the checkpoint has been trained."""
        return self.spec.id

    @property
    def name(self) -> str:
        """`benchmark/variant`."""
        return f"{self.benchmark}/{self.variant}"

    @property
    def needs_training(self) -> bool:
        """Return whether the checkpoint must be trained first."""
        return self.checkpoint is not None and self.checkpoint.missing

    def load_checkpoint(self) -> Checkpoint | None:
        """Read the weights; None if the adapter has none.

        Raises:
            UsageError: The file cannot be read, or has changed since the run was planned.
        """
        if self.checkpoint is None:
            return None
        checkpoint = load(self.checkpoint.weights)
        # Hash after reading, so that a file replaced during the read is also rejected.
        if sha256(self.checkpoint.weights) != self.spec.checkpoint:
            raise UsageError(
                f"checkpoint {self.checkpoint.weights}: has changed since the run was planned; run again"
            )
        return checkpoint

    def open_planned_dataset(self) -> Dataset:
        """Open the data set, and check that this worker has the planned code and data.

        Raises:
            InfrastructureError: The adapter's code or the data set differs from the planned one.
        """
        code = adapter_code(self.spec.adapter)
        if code != self.spec.code:
            raise InfrastructureError(
                f"{self.name}: the code of adapter '{self.spec.adapter}' is version {code} here, "
                f"but version {self.spec.code} was planned"
            )
        dataset = self.dataset.open()
        if dataset.fingerprint != self.spec.dataset:
            raise InfrastructureError(
                f"{self.name}: data set '{self.dataset.name}' has fingerprint "
                f"{dataset.fingerprint[:16]}… here, but {self.spec.dataset[:16]}… was planned"
            )
        return dataset

    def runtime(self, device: str) -> Runtime:
        """Return the runtime of the trial's model on a torch device."""
        return Runtime(device=device, precision=self.spec.precision)


def adapter_code(name: str) -> str:
    """Return the version of a registered adapter's code: a hash of the modules that it consists of."""
    return code_version(ADAPTERS.entries()[name].target.partition(":")[0])
