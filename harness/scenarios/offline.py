"""Offline: whole batches as fast as possible; throughput from the times of windows of batches."""

from collections.abc import Callable, Sequence

import numpy as np

from harness.scenarios.figures import in_units, throughput
from harness.scenarios.loop import DisturbedWindow, Query, Window, Workload, time_windows
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile


class OfflineProcess(ProcessTiming):
    """Timed windows of one process, in whole passes over the samples."""

    raw_names = ("windows",)
    windows: list[Window]

    def seconds_per_sample(self, quantile: float) -> float:
        return seconds_per_sample(self.windows, quantile)


class Offline(Scenario):
    """Windows of all processes."""

    headline_name = "throughput"
    processes: tuple[OfflineProcess, ...]

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> OfflineProcess:
        windows, disturbed = time_batches(work, profile)
        return OfflineProcess(**dict(conditions()), windows=windows, disturbed=disturbed)

    def summarise(self) -> ScenarioFigures:
        windows = [window for process in self.processes for window in process.windows]
        samples = sum(window.samples for window in windows)
        figure = throughput([process.seconds_per_sample(0.5) for process in self.processes], samples)
        return ScenarioFigures(
            queries=round(samples / self.batch_size),
            seconds=sum(window.seconds for window in windows),
            throughput=figure,
            rates={unit: in_units(figure, counts, unit) for unit, counts in self.units.items()},
        )


def time_batches(work: Workload, profile: Profile) -> tuple[list[Window], list[DisturbedWindow]]:
    """Time whole windows, and return those that count and all disturbed ones.

    The device is synchronised only at the ends of a window.
    """
    clock, predict, synchronise = work.clock, work.predict, work.synchronise

    def time_window(queries: Sequence[Query]) -> list[int]:
        synchronise()
        start = clock()
        for query in queries:
            predict(query)
        synchronise()
        return [clock() - start]

    timed, disturbed = time_windows(work, profile, time_window)
    samples = [sum(map(len, queries)) for queries in work.windows]
    return [Window(position, samples[position], ns / 1e9) for position, [ns] in timed], disturbed


def seconds_per_sample(windows: Sequence[Window], quantile: float) -> float:
    """Return the time per sample: the quantile over passes of each window's time, summed over the windows."""
    durations: dict[int, list[float]] = {}
    samples: dict[int, int] = {}
    for position, count, seconds in windows:
        durations.setdefault(position, []).append(seconds)
        samples[position] = count
    return sum(float(np.quantile(values, quantile)) for values in durations.values()) / sum(samples.values())
