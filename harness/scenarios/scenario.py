"""Speed scenarios: ways to measure the speed of a model.

A scenario is one module of this package plus its line in `SCENARIOS`. Its class models the raw timings that
speed/SCENARIO.json stores. Static methods measure them; methods compute figures and the times to compare.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Self

from pydantic import Field

from harness.files import StrictModel
from harness.registry import Registry
from harness.scenarios.loop import DisturbedWindow, Workload
from harness.scenarios.settings import EffectiveSettings, Profile, SpeedSettings
from harness.scenarios.warm_up import WarmUp
from harness.task import Figure

OFFLINE, SINGLE_STREAM = "offline", "single-stream"  # the scenarios with columns of their own in reports
BATCH_SWEEP = "batch-sweep"
LOW = 0.1  # quantile of repeated times: other work on a machine lengthens some of them, and shortens none


class Spread(NamedTuple):
    """The readings of a sensor during a timing."""

    smallest: float
    median: float
    largest: float


class TimedOn(StrictModel):
    """The place and time of one process's timing, and what the sensors of the machine said then."""

    node: str
    reserved: dict[str, float] = Field(
        description="cluster resources that no other task could use at that time"
    )
    started: str = Field(description="ISO 8601, UTC; includes the warm-up")
    finished: str
    foreign_cores: float = Field(description="average number of cores that other processes kept busy")
    governor: str | None = Field(None, description="of the first core's frequency; null if unknown")
    readings: dict[str, Spread] = Field(default_factory=dict, description="by sensor (see docs/speed.md)")
    windows: int = Field(0, description="timings of windows, including disturbed ones")
    disturbed: dict[str, int] = Field(default_factory=dict, description="reason → number of these timings")
    joules_per_sample: float | None = Field(
        None, description="of the GPU, or of all processor packages on a CPU; null if unknown"
    )


class Conditions(StrictModel):
    """Conditions under which one process was timed."""

    batch_size: int = Field(description="samples per query")
    warm_up: WarmUp
    timed_on: TimedOn
    reasons: list[str] = Field(description="why the timing is not valid; empty if it is valid")


class AnswerCheck(StrictModel):
    """Answers under load, compared with the stored predictions of the same samples."""

    samples: int
    changed: int = Field(description="samples whose answer differs, even if only by rounding")
    figures: dict[str, tuple[float | None, float | None]] = Field(
        description="rounded headline figure of each metric: of the stored predictions, of the answers"
    )

    def describe(self) -> str:
        """Return the comparison as a sentence."""
        figures = ", ".join(f"{name} {old} → {new}" for name, (old, new) in self.figures.items())
        return f"{self.samples} answers under load, {self.changed} unlike the predictions: {figures}"


class ProcessTiming(Conditions):
    """Timing of one process; scenarios add their raw times."""

    raw_names: ClassVar[tuple[str, ...]] = ()
    """Fields that list the raw times in the order of timing, of scenarios that can be timed in turns."""

    disturbed: list[DisturbedWindow] = Field(
        default_factory=list, description="disturbed windows; those that were not replaced count"
    )
    answers: AnswerCheck | None = Field(None, description="of scenarios in which batches depend on arrivals")
    outputs: dict[int, object] = Field(
        default_factory=dict, exclude=True, description="these answers by index of the sample; not stored"
    )

    @abstractmethod
    def seconds_per_sample(self, quantile: float) -> float:
        """Return the typical time per sample in seconds, from a quantile of the times of the same work.

        Comparisons use the quantile `LOW`; figures that are shown use the median.
        """

    def joined(self, later: Self) -> Self:
        """Return a later timing of the same process with the raw times of this one in front."""
        names = (*self.raw_names, "disturbed")
        return later.model_copy(
            update={name: [*getattr(self, name), *getattr(later, name)] for name in names}
        )


class ScenarioFigures(StrictModel):
    """Figures of one scenario, computed from the raw timings of all processes."""

    queries: int = Field(description="0 if timing failed; see `reasons`")
    seconds: float
    throughput: Figure | None = Field(
        None, description="samples/s; in server, the largest rate of arrivals that meets the latency target"
    )
    latency: dict[str, Figure | None] = Field(
        default_factory=dict, description="percentile → s; null if there are too few queries for it"
    )
    rates: dict[str, Figure] = Field(
        default_factory=dict,
        description="throughput in other units (source_tokens or target_tokens per second) or batch sizes",
    )
    notes: list[str] = Field(default_factory=list, description="other findings, as sentences")


class Scenario(StrictModel):
    """Raw timings of a trial in one scenario."""

    headline_name: ClassVar[str]
    """Name of the figure that tables and comparisons show first."""
    samples_per_query: ClassVar[int | None] = None
    """None for the batch size of the trial."""
    own_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that affect only this scenario. Those of runs that are compared must agree."""

    scenario: str
    batch_size: int
    processes: tuple[ProcessTiming, ...]
    environment: str = Field(description="key of the machine")
    settings: EffectiveSettings
    samples: list[str] = Field(description="ids of the timed samples, in the order of their indices")
    units: dict[str, list[int]] = Field(
        default_factory=dict, description="other units of work, such as source_tokens → number per sample"
    )
    error: str | None = Field(None, description="why processes are missing")
    timed_for: str | None = Field(
        None, description="trial for which these timings were made, if its work was the same"
    )

    def satisfies(self, requested: SpeedSettings) -> bool:
        """Return whether the timings were made with the requested settings, as far as they matter."""
        names = ("profile", "threads", "samples", "exclusive", *self.own_settings)
        return all(getattr(self.settings, name) == getattr(requested, name) for name in names)

    @classmethod
    def query_size(cls, batch_size: int) -> int:
        """Return the samples per query, given the batch size of the trial."""
        return cls.samples_per_query or batch_size

    @staticmethod
    @abstractmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> ProcessTiming:
        """Time queries for at least the duration, number and passes that the profile requires.

        Called again with the same workload, it continues with further passes. `conditions` must be called
        once, right after the timed loop.
        """

    @abstractmethod
    def summarise(self) -> ScenarioFigures:
        """Compute the figures of all processes; there is at least one."""

    @staticmethod
    def headline(figures: ScenarioFigures) -> Figure | None:
        """Return the headline figure, or None if it is undefined."""
        return figures.throughput

    def seconds_by_process(self) -> list[float]:
        """Return the time per sample of each process in seconds, as comparisons use it."""
        return [process.seconds_per_sample(LOW) for process in self.processes]

    def disturbed_medians(self) -> list[str]:
        """Return a note if most of the timings behind a shown median were disturbed, or nothing."""
        for process in self.processes:
            replaced = sum(window.replaced for window in process.disturbed)
            if 2 * (len(process.disturbed) - replaced) > process.timed_on.windows - replaced:
                return ["most windows that count were disturbed, so the medians include the disturbance"]
        return []

    def latencies(self) -> list[list[float]]:
        """Return the seconds of each query by process, or nothing if queries are not timed one by one."""
        return []


SCENARIOS: Registry[type[Scenario]] = Registry(
    "scenario",
    "harness.scenarios",
    {
        OFFLINE: "harness.scenarios.offline:Offline",
        SINGLE_STREAM: "harness.scenarios.single_stream:SingleStream",
        "server": "harness.scenarios.server:Server",
        BATCH_SWEEP: "harness.scenarios.batch_sweep:BatchSweep",
    },
)
