"""Single-stream: one sample at a time, each timed individually; percentiles of the latencies."""

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from harness.scenarios.figures import PERCENTILES, latency
from harness.scenarios.loop import Query, Workload, time_windows
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile
from harness.task import Figure


class SingleStreamProcess(ProcessTiming):
    """Latencies of one process, in whole passes over the samples."""

    raw_names = ("latencies_ns", "indices")
    latencies_ns: list[int]
    indices: list[int] = Field(description="index of the sample of each latency")

    def seconds_per_sample(self, quantile: float) -> float:
        """Return the quantile over passes of each sample's latency, and of these the median over samples."""
        latencies: dict[int, list[int]] = {}
        for index, nanoseconds in zip(self.indices, self.latencies_ns, strict=True):
            latencies.setdefault(index, []).append(nanoseconds)
        return float(np.median([np.quantile(values, quantile) for values in latencies.values()])) / 1e9


class SingleStream(Scenario):
    """Latencies of all processes."""

    headline_name = "latency p50"
    samples_per_query = 1
    processes: tuple[SingleStreamProcess, ...]

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> SingleStreamProcess:
        """Time whole passes; the device is synchronised before and after each sample."""
        clock, predict, synchronise = work.clock, work.predict, work.synchronise

        def time_window(queries: Sequence[Query]) -> list[int]:
            latencies = []
            for query in queries:
                synchronise()
                start = clock()
                predict(query)
                synchronise()
                latencies.append(clock() - start)
            return latencies

        timed, disturbed = time_windows(work, profile, time_window)
        indices = [sample for window, _ in timed for [sample] in work.windows[window]]
        latencies = [ns for _, durations in timed for ns in durations]
        return SingleStreamProcess(
            **dict(conditions()), latencies_ns=latencies, indices=indices, disturbed=disturbed
        )

    def summarise(self) -> ScenarioFigures:
        latencies = self.latencies()
        return ScenarioFigures(
            queries=sum(map(len, latencies)),
            seconds=sum(map(sum, latencies)),
            latency={f"p{p:g}": latency(p, latencies) for p in PERCENTILES},
        )

    @staticmethod
    def headline(figures: ScenarioFigures) -> Figure | None:
        return figures.latency.get("p50")

    def latencies(self) -> list[list[float]]:
        return [[ns / 1e9 for ns in process.latencies_ns] for process in self.processes]
