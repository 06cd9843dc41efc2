"""Single-stream: one sample at a time, each timed individually; percentiles of the latencies."""

from collections.abc import Callable

import numpy as np
from pydantic import Field

from harness.scenarios.figures import PERCENTILES, latency, median_by_length
from harness.scenarios.loop import Workload
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile
from harness.task import Figure


class SingleStreamProcess(ProcessTiming):
    """Latencies of one process, in whole passes over the samples."""

    latencies_ns: list[int]
    indices: list[int] = Field(description="index of the sample of each latency")


class SingleStream(Scenario):
    """Latencies of all processes."""

    headline_name = "latency p50"
    processes: tuple[SingleStreamProcess, ...]
    rejected: tuple[SingleStreamProcess, ...]

    @staticmethod
    def query_size(batch_size: int) -> int:  # noqa: ARG004
        return 1

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> SingleStreamProcess:
        """Time whole passes; the device is synchronised before and after each sample."""
        clock, predict, synchronise = work.clock, work.predict, work.synchronise
        latencies: list[int] = []
        indices: list[int] = []
        total = 0
        while len(latencies) < profile.queries or total < profile.seconds * 1e9:
            for index in next(work.orders):
                synchronise()
                start = clock()
                predict([index])
                synchronise()
                latencies.append(clock() - start)
                indices.append(index)
                total += latencies[-1]
        return SingleStreamProcess(**dict(conditions()), latencies_ns=latencies, indices=indices)

    def summarise(self) -> ScenarioFigures:
        latencies = self.latencies()
        lengths = self.units.get("source_tokens", [])
        indices = [process.indices for process in self.processes]
        return ScenarioFigures(
            queries=sum(map(len, latencies)),
            seconds=sum(map(sum, latencies)),
            latency={f"p{p:g}": latency(p, latencies) for p in PERCENTILES},
            latency_by_length=median_by_length(latencies, indices, lengths) if lengths else [],
        )

    @staticmethod
    def headline(figures: ScenarioFigures) -> Figure | None:
        return figures.latency.get("p50")

    def seconds_by_process(self) -> list[float]:
        """Return the median latency of each process in seconds."""
        return [float(np.median(process.latencies_ns)) / 1e9 for process in self.processes]

    def seconds_by_window(self) -> list[float]:
        """Return the median latency of each pass over the samples in seconds."""
        passes = [np.reshape(process.latencies_ns, (-1, len(self.samples))) for process in self.processes]
        return [seconds for rows in passes for seconds in (np.median(rows, axis=1) / 1e9).tolist()]

    def curve(self) -> tuple[str, list[float]]:
        """Return the latency of each query in ms."""
        return "latency_ms", [ns / 1e6 for process in self.processes for ns in process.latencies_ns]

    def latencies(self) -> list[list[float]]:
        return [[ns / 1e9 for ns in process.latencies_ns] for process in self.processes]
