"""One adapter variant on one data set split: the unit of planning, caching and reporting."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.adapter import ADAPTERS, Precision, Resources, Runtime
from harness.checkpoint import Checkpoint, load, sha256
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import InfrastructureError, UsageError
from harness.identity import code_version, content_id
from harness.recipe import CheckpointRef
from harness.task import TaskName


class TrialSpec(BaseModel):
    """What can change a trial's outcome, and nothing else; its hash is the trial's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskName
    adapter: str
    code: str
    options: dict[str, Any]
    precision: Precision
    batch_size: int
    device: str
    checkpoint: str | None
    dataset: str
    split: str
    size: int

    @property
    def id(self) -> str:
        return content_id(self.model_dump(mode="json"))


@dataclass(frozen=True)
class DatasetUse:
    """How a worker opens the samples."""

    name: str
    options: dict[str, Any]
    split: str
    task: TaskName

    def open(self) -> Dataset:
        cls = DATASETS.get(self.name)
        return cls(cls.Options(**self.options), self.split, self.task)


@dataclass(frozen=True)
class Trial:
    """One adapter variant on one data set split: the unit of planning, caching and reporting."""

    benchmark: str
    variant: str
    spec: TrialSpec
    dataset: DatasetUse
    checkpoint: CheckpointRef | None
    metrics: tuple[str, ...]
    scenarios: tuple[str, ...]
    resources: Resources = field(default_factory=Resources)

    @cached_property
    def id(self) -> str:
        return self.spec.id

    @property
    def name(self) -> str:
        return f"{self.benchmark}/{self.variant}"

    @property
    def missing(self) -> bool:
        """Its checkpoint is still to be trained; the id is final only after that."""
        return self.checkpoint is not None and self.checkpoint.missing

    def load_checkpoint(self) -> Checkpoint | None:
        """Its weights, from the file; None for an adapter that has none.

        Raises:
            UsageError: the file cannot be read, or is no longer the one that was planned.
        """
        if self.checkpoint is None:
            return None
        loaded = load(self.checkpoint.weights)
        # Hashed after it was read: a file that is replaced while it is read is refused as well.
        if sha256(self.checkpoint.weights) != self.spec.checkpoint:
            raise UsageError(
                f"checkpoint {self.checkpoint.weights}: has changed since the run was planned; run again"
            )
        return loaded

    def check_here(self) -> Dataset:
        """Its data set, opened, where a worker has the code and the data that were planned.

        Raises:
            InfrastructureError: the adapter's code or the data set here is another one.
        """
        code = adapter_code(self.spec.adapter)
        if code != self.spec.code:
            raise InfrastructureError(
                f"{self.name}: the code of adapter '{self.spec.adapter}' here is version {code}, "
                f"not {self.spec.code} as planned"
            )
        dataset = self.dataset.open()
        if dataset.fingerprint != self.spec.dataset:
            raise InfrastructureError(
                f"{self.name}: data set '{self.dataset.name}' here has fingerprint "
                f"{dataset.fingerprint[:16]}…, not {self.spec.dataset[:16]}… as planned"
            )
        return dataset

    def runtime(self, device: str) -> Runtime:
        return Runtime(device=device, precision=self.spec.precision)


def adapter_code(name: str) -> str:
    """Version of the code behind a registered adapter."""
    return code_version(ADAPTERS.entries()[name].target.partition(":")[0])
