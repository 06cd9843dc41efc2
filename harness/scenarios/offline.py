"""Offline: whole batches as fast as possible; throughput over windows of one pass each."""

from collections.abc import Callable

from harness.scenarios.figures import in_units, throughput
from harness.scenarios.loop import Workload, batches
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile
from harness.task import Figure

LEAST_WINDOWS = 5  # for a usable t interval


class OfflineProcess(ProcessTiming):
    """Windows of one process: (samples, seconds), one per pass over the samples."""

    windows: list[tuple[int, float]]


class Offline(Scenario):
    """Windows of all processes."""

    headline_name = "throughput"
    processes: tuple[OfflineProcess, ...]
    rejected: tuple[OfflineProcess, ...]

    @staticmethod
    def query_size(batch_size: int) -> int:
        return batch_size

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> OfflineProcess:
        """Time whole passes; the device is synchronised only at their ends."""
        clock, predict, synchronise = work.clock, work.predict, work.synchronise
        windows: list[tuple[int, float]] = []
        queries = 0
        total = 0.0
        while queries < profile.queries or total < profile.seconds or len(windows) < LEAST_WINDOWS:
            groups = list(batches(next(work.orders), work.batch_size))
            synchronise()
            start = clock()
            for group in groups:
                predict(group)
            synchronise()
            seconds = (clock() - start) / 1e9
            windows.append((work.samples, seconds))
            queries += len(groups)
            total += seconds
        return OfflineProcess(**dict(conditions()), windows=windows)

    def summarise(self) -> ScenarioFigures:
        windows = [process.windows for process in self.processes]
        figure = throughput(windows)
        return ScenarioFigures(
            queries=round(figure.n / self.batch_size),
            seconds=sum(seconds for process in windows for _, seconds in process),
            throughput=figure,
            rates={unit: in_units(figure, counts, unit) for unit, counts in self.units.items()},
        )

    @staticmethod
    def headline(figures: ScenarioFigures) -> Figure | None:
        return figures.throughput

    def seconds_by_process(self) -> list[float]:
        """Return the mean time per sample of each process in seconds."""
        return [
            sum(seconds for _, seconds in process.windows) / sum(samples for samples, _ in process.windows)
            for process in self.processes
        ]

    def seconds_by_window(self) -> list[float]:
        """Return the mean time per sample of each window in seconds."""
        return [seconds / samples for process in self.processes for samples, seconds in process.windows]

    def curve(self) -> tuple[str, list[float]]:
        """Return the throughput of each window in samples/s."""
        windows = [window for process in self.processes for window in process.windows]
        return "ips", [samples / seconds for samples, seconds in windows]
