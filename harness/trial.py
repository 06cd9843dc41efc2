"""A trial, one adapter variant on one data set split: the unit of planning, caching and reporting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from harness.adapter import ADAPTERS, Resources, Runtime, TrainableAdapter
from harness.checkpoint import Checkpoint, load, sha256
from harness.datasets.dataset import DATASETS, Dataset
from harness.errors import InfrastructureError, UsageError
from harness.identity import code_version, digest
from harness.recipe import CheckpointRef
from harness.rundir.records import TrialSpec
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
        """Open the split."""
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
    options: dict[str, object]
    """Options of the adapter, with the paths of files; the specification has their contents."""
    dataset: DatasetUse
    checkpoint: CheckpointRef | None
    metrics: tuple[str, ...]
    """Registered names of the metrics."""
    scenarios: tuple[str, ...]
    """Names of the speed scenarios."""
    resources: Resources = field(default_factory=Resources)
    slices: Path | None = None
    """Table of the user by whose columns the samples are sliced."""
    notes: tuple[str, ...] = ()
    """Notes on what the data set left out of its files, and on likely mistakes in them."""

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
        """Read the weights; None if the adapter has none."""
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
        """Open the data set.

        Raises:
            InfrastructureError: The adapter's code, a file that an option names, or the data set differs from
                the planned one on this worker.
        """
        spec = self.spec
        self._check(f"the code of adapter '{spec.adapter}'", adapter_code(spec.adapter), spec.code)
        for name, content in identified_options(spec.adapter, self.options).items():
            self._check(f"the content of {name} ({self.options[name]})", content, spec.options[name])
        dataset = self.dataset.open()
        name = f"the fingerprint of data set '{self.dataset.name}'"
        self._check(name, dataset.fingerprint, spec.dataset)
        return dataset

    def _check(self, what: str, found: object, planned: object) -> None:
        if found != planned:
            raise InfrastructureError(f"{self.name}: {what} is {found} here, but {planned} was planned")

    def runtime(self, device: str) -> Runtime:
        """Return the runtime of the trial's model on a torch device."""
        return Runtime(device=device, precision=self.spec.precision)


def adapter_code(name: str) -> str:
    """Return the version of a registered adapter's code: a hash of the modules that it consists of."""
    return code_version(ADAPTERS.entry(name).module)


def path_options(adapter: str) -> frozenset[str]:
    """Return the options of an adapter that name files or folders which inference reads.

    They are annotated as `Path`, `FilePath` or `DirectoryPath`, possibly within a union or a list. Options
    that only training reads are not among them, because their effect is in the checkpoint.
    """
    cls = ADAPTERS.get(adapter)
    return path_fields(cls.Options) - (cls.training_options if issubclass(cls, TrainableAdapter) else set())


def path_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the fields of a model whose values are paths or contain paths."""
    return frozenset(name for name, field in model.model_fields.items() if _holds_path(field.annotation))


def _holds_path(annotation: object) -> bool:
    return annotation is Path or any(_holds_path(part) for part in get_args(annotation))


def identified_options(adapter: str, options: Mapping[str, object]) -> dict[str, object]:
    """Return the options with the hash of its content in place of every path (see `path_options`)."""
    paths = path_options(adapter)
    return {name: _content(value) if name in paths else value for name, value in options.items()}


def _content(value: object) -> object:
    """Return `sha256:` and the hash of a file, or of the names and contents of all files of a folder."""
    if isinstance(value, list):
        return [_content(part) for part in value]
    if value is None:
        return None
    path = Path(str(value))
    if not path.exists():
        return "missing"
    if not path.is_dir():
        return f"sha256:{sha256(path)}"
    files = sorted(file for file in path.rglob("*") if file.is_file())
    parts = (part for file in files for part in (file.relative_to(path).as_posix(), sha256(file)))
    return f"sha256:{digest(parts)}"
