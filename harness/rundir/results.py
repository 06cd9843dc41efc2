"""results.json: the one document that all reports, tracking and comparisons are made from.

These models are its schema; `harness/schema/results.schema.json` is printed from them.
"""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UsageError
from harness.task import Figure, TaskName

Status = Literal["complete", "partial", "failed", "pending"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetRecord(_Record):
    """Which samples a trial saw."""

    name: str
    options: dict[str, Any]
    split: str
    size: int
    fingerprint: str


class CheckpointRecord(_Record):
    """Which weights a trial used."""

    name: str
    sha256: str
    recipe: str | None = Field(None, description="hash of the recipe that made them")


class Failure(_Record):
    """A batch, or a shard, that gave no predictions, and why; never scored."""

    first: int
    last: int
    indices: list[int] = Field(
        default_factory=list, description="samples that fail alone too; empty where none was singled out"
    )
    samples: list[str] = Field(description="their ids, else first and last; #INDEX where unreadable")
    error: str
    attempts: int
    invalid_input: bool = Field(False, description="the user has to mend it: another attempt fails as well")


class LatencyByLength(_Record):
    """Latency of the samples whose source has so many tokens."""

    shortest: int
    longest: int | None = Field(description="null: no limit")
    median: Figure = Field(description="s")


class TimedOn(_Record):
    """Where and when one process was timed, and what else ran there meanwhile."""

    node: str
    reserved: dict[str, float] = Field(description="what no other task of the cluster could have meanwhile")
    started: str = Field(description="ISO 8601, UTC, with the warm-up")
    finished: str
    foreign_cores: float = Field(description="cores that other processes kept busy")
    others: dict[str, float] = Field(description="the busiest of them: name → cores")


class Scenario(_Record):
    """One speed scenario of a trial, from raw latencies kept in the trial's speed/SCENARIO.json."""

    environment: str = Field(description="key into `environments`: the machine that was timed")
    profile: str
    batch_size: int
    threads: int = Field(description="0: all cores were asked for, but timing failed")
    processes: int = Field(description="fresh processes timed one after the other")
    queries: int = Field(description="0 where timing failed; `reasons` says why")
    seconds: float
    valid: bool
    reasons: list[str] = Field(description="why it is not valid; empty if it is")
    timed_on: list[TimedOn] = Field(default_factory=list, description="one a process")
    throughput: Figure | None = Field(None, description="samples/s (offline)")
    latency: dict[str, Figure | None] = Field(
        default_factory=dict, description="percentile → s; null below the least n that supports it"
    )
    rates: dict[str, Figure] = Field(
        default_factory=dict, description="throughput in other units: source_tokens, target_tokens a second"
    )
    latency_by_length: list[LatencyByLength] = Field(
        default_factory=list, description="by tokens of the source; too small buckets left out"
    )


class Cost(_Record):
    """What a model needs, measured apart from speed."""

    parameters: int | None = None
    flops: float | None = Field(None, description="a sample, 2 × multiply-accumulates")
    peak_memory_bytes: int | None = None
    checkpoint_bytes: int | None = None


class TrialRecord(_Record):
    """Everything known of one adapter variant on one data set split."""

    id: str
    benchmark: str
    task: TaskName
    adapter: str = Field(description="registered name")
    variant: str = Field(description="name in the suite with its matrix values, unique in the benchmark")
    settings: dict[str, Any] = Field(description="precision, batch size, device and the adapter's options")
    dataset: DatasetRecord
    checkpoint: CheckpointRecord | None
    status: Status
    reason: str | None = None
    failures: list[Failure] = Field(default_factory=list)
    environments: list[str] = Field(default_factory=list, description="machines that made the predictions")
    halved: int = Field(
        0, description="samples predicted in smaller batches, since memory was short; moves rounding only"
    )
    metrics: dict[str, Figure] = Field(default_factory=dict, description="headline first")
    per_class: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    speed: dict[str, Scenario] = Field(default_factory=dict)
    phases: dict[str, Figure] = Field(
        default_factory=dict, description="preprocess, model, postprocess: s a sample at the batch size"
    )
    cost: Cost = Cost()


class PairRecord(_Record):
    """Two variants of a benchmark on the same samples, by the headline figure of one of its metrics."""

    benchmark: str
    metric: str = Field(description="name of the figure")
    first: str = Field(description="variant")
    second: str = Field(description="variant")
    difference: Figure = Field(description="second − first, with its interval from the paired bootstrap")
    p: float = Field(description="two-sided, of no difference")
    p_adjusted: float = Field(description="for the number of pairs of the benchmark and figure (Holm 1979)")


class Skipped(_Record):
    """A benchmark that this machine could not run and the suite allows to be left out."""

    benchmark: str
    reason: str


class RunRecord(_Record):
    """One execution of a suite."""

    id: str
    started: str = Field(description="ISO 8601, UTC")
    finished: str | None
    command: str
    harness_version: str
    git_revision: str | None
    git_dirty: bool | None
    git_branch: str | None = Field(None, description="by which a later run finds this one as its baseline")
    executor: str
    workers: int
    profile: str
    environment: str = Field(description="key into `environments`: the driver's machine")


class Results(_Record):
    """The document."""

    schema_: Literal["harness-results/1"] = Field("harness-results/1", alias="schema")
    suite: str
    description: str = ""
    run: RunRecord
    environments: dict[str, dict[str, Any]]
    trials: list[TrialRecord]
    skipped: list[Skipped] = Field(default_factory=list)
    pairs: list[PairRecord] = Field(
        default_factory=list,
        description="complete trials that predict otherwise, where the figure is defined",
    )
    claims: list[dict[str, Any]] = Field(default_factory=list)


def is_defined(figure: Figure | None) -> bool:
    """Whether there is a finite value."""
    return figure is not None and figure.value is not None and isfinite(figure.value)


def read_results(path: Path) -> Results:
    """Read a run directory's results.json, or the file itself.

    Raises:
        UsageError: not there, not JSON, or not of this schema.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        return Results.model_validate_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror} (is it a run directory?)") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not a results document: not UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{key}: " if key else ""
        raise UsageError(f"{file}: not a results document: {where}{first['msg']}") from error


def to_json(results: Results) -> str:
    """Serialise with stable order; NaN is refused."""
    document = results.model_dump(mode="json", by_alias=True)
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of results.json."""
    return Results.model_json_schema(by_alias=True)
