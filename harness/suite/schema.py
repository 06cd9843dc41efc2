"""The schema of suite files, which declare what to evaluate; strictly typed, never executed."""

import re
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticKnownError

from harness.adapter import Precision
from harness.decisions.claims import ClaimEntry
from harness.decisions.policy import GatePolicy
from harness.files import StrictModel
from harness.recipe import Training
from harness.scenarios.scenario import SCENARIOS
from harness.scenarios.settings import Exclusive, ProfileName, ServerSettings, SpeedSettings
from harness.task import TaskName

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # names become folder names and MLflow keys


def _check_scenario(name: str) -> str:
    """Return the name of a registered scenario; report any other name as a `Literal` would."""
    known = SCENARIOS.entries()
    if name not in known:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(f"'{entry}'" for entry in known)})
    return name


def _add_scenarios(schema: JsonDict) -> None:
    """List the registered scenarios in the JSON Schema."""
    schema["items"] = {"enum": [*SCENARIOS.entries()], "type": "string"}


def as_list(value: T | list[T]) -> list[T]:
    """Return the values that an entry lists, or its single value."""
    return value if isinstance(value, list) else [value]


class SuiteModel(StrictModel, strict=True):
    """Base of the sections of a suite.

    Values are typed strictly: a batch size of '16' or `true` is an error.
    """


class DatasetEntry(SuiteModel):
    """A registered data set with options, under a name of the suite."""

    dataset: str = Field(description="Registered name (see `harness list datasets`).")
    options: dict[str, object] = Field(default_factory=dict, description="Options of the data set.")


class ResourcesEntry(SuiteModel):
    """Cluster resources reserved per prediction worker; not part of a trial's identity."""

    cpu: float = Field(1.0, gt=0, description="CPUs per worker; a fraction shares one CPU.")
    gpu: float = Field(
        1.0, gt=0, description="GPUs per worker, if it runs on one; with 0.25, four workers share a GPU."
    )

    @field_validator("gpu")
    @classmethod
    def _check_gpu(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("more than one GPU must be a whole number")
        return value


class AdapterEntry(SuiteModel):
    """An adapter with its settings, under a name of the suite.

    A list in place of a single value creates one variant per value (a matrix).
    """

    adapter: str = Field(description="Registered name (see `harness list adapters`).")
    checkpoint: str | None = Field(
        None, description="Name of a shipped recipe, or path to weights or a recipe; may contain ${NAME}."
    )
    train: Training | None = Field(None, description="Training of the weights, in place of a checkpoint.")
    seed: int | list[int] | None = Field(None, description="Seed that replaces the recipe's own seed.")
    options: dict[str, object] = Field(default_factory=dict, description="Options of the adapter.")
    precision: Precision | list[Precision] = Field("fp32", description="Numeric precision of inference.")
    backend: str | list[str] = Field(
        "eager", description="How the network is executed; see docs/backends.md."
    )
    calibration_samples: int = Field(
        64, gt=0, description="Samples of the train split from which int8 gets the ranges of activations."
    )
    batch_size: int | list[int] | Literal["sweep"] = Field(
        16, description="Samples per batch. `sweep` predicts in batches of 16, and times 1, 2, 4, … samples."
    )
    device: Device | list[Device] = Field("auto", description="`auto` selects a GPU if there is one.")
    resources: ResourcesEntry = ResourcesEntry()

    @property
    def seeds(self) -> list[int | None]:
        """Return the seeds; None stands for the recipe's own seed."""
        return [*self.seed] if isinstance(self.seed, list) else [self.seed]

    @field_validator("batch_size")
    @classmethod
    def _check_batch_size(cls, value: int | list[int] | str) -> int | list[int] | str:
        if not isinstance(value, str) and min(as_list(value), default=1) < 1:
            raise ValueError("a batch size is at least 1")
        return value


class BenchmarkEntry(SuiteModel):
    """Adapters evaluated on one split of a data set."""

    dataset: str = Field(description="Name of an entry under `datasets`, or of a registered data set.")
    task: TaskName | None = Field(
        None, description="Task to evaluate; required if the data set supports several."
    )
    split: str = Field("test", description="Split of the data set.")
    limit: int | None = Field(None, gt=0, description="Evaluate only the first N samples, ordered by id.")
    adapters: list[str] = Field(min_length=1, description="Names of entries under `adapters`.")
    metrics: list[str] = Field(min_length=1, description="Metrics (see `harness list metrics`).")
    speed: list[Annotated[str, AfterValidator(_check_scenario)]] = Field(
        default_factory=list, description="Speed scenarios to measure.", json_schema_extra=_add_scenarios
    )
    slices: str | None = Field(
        None, description="Table (.csv or .tsv) with a column `id`; figures are given by its other columns."
    )
    when_unavailable: Literal["fail", "skip"] = Field(
        "fail", description="Reaction if this machine lacks the source files of the data set, or a backend."
    )


class SpeedEntry(SuiteModel):
    """Settings of the speed measurements, the same for all trials of a run."""

    profile: ProfileName = Field("smoke", description="Duration and repetitions of the measurements.")
    threads: int | list[int] | None = Field(
        None, description="CPU threads while timing; default: all cores. A list times every trial with each."
    )
    samples: int = Field(64, gt=0, description="Distinct samples cycled through while timing.")
    exclusive: Exclusive = Field(
        "node", description="What a timed trial reserves: a whole node, or one GPU and its share of the CPUs."
    )
    server: ServerSettings = ServerSettings()

    @field_validator("threads")
    @classmethod
    def _check_threads(cls, value: int | list[int] | None) -> int | list[int] | None:
        counts = [] if value is None else as_list(value)
        if value == [] or min(counts, default=1) < 1 or len({*counts}) < len(counts):
            raise ValueError("expected a number of at least 1, or a list of distinct ones")
        return value

    def settings(self, threads: int | None) -> SpeedSettings:
        """Return the settings of one trial; `threads` is its number, if this entry lists several."""
        first = self.threads[0] if isinstance(self.threads, list) else self.threads
        return SpeedSettings(**dict(self) | {"threads": threads or first})


class Suite(SuiteModel):
    """A suite file, merged with the suites that it includes."""

    name: str = Field(pattern=NAME, description="Name of the suite, used for folders and in MLflow.")
    description: str = Field("", description="Purpose of the suite, shown in reports.")
    include: list[str] = Field(default_factory=list, description="Suite files whose entries are merged in.")
    data_root: str | None = Field(
        None, description="Folder at which relative data paths start, and which they may not leave."
    )
    datasets: dict[str, DatasetEntry] = Field(default_factory=dict, description="Data sets by name.")
    adapters: dict[str, AdapterEntry] = Field(default_factory=dict, description="Adapters by name.")
    benchmarks: dict[str, BenchmarkEntry] = Field(default_factory=dict, description="Benchmarks by name.")
    speed: SpeedEntry = SpeedEntry()
    claims: dict[str, ClaimEntry] = Field(default_factory=dict, description="Claims by name.")
    gate: GatePolicy = Field(GatePolicy(), description="Limits of losses; see docs/compare.md.")

    @field_validator("datasets", "adapters", "benchmarks", "claims")
    @classmethod
    def _check_names(cls, entries: dict[str, T]) -> dict[str, T]:
        for name in entries:
            if not re.fullmatch(NAME, name):
                raise ValueError(
                    f"invalid name '{name}': use letters, digits, '.', '_' and '-', at most 64 characters, "
                    "and start with a letter or a digit"
                )
        return entries


def json_schema() -> dict[str, object]:
    """Return the JSON Schema of the suite file, for editors."""
    return Suite.model_json_schema()
