"""Batch sweep: batches of 1, 2, 4, … samples, until memory is exhausted or throughput hardly grows."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, cycle, islice, pairwise

from pydantic import Field

from harness.errors import is_out_of_memory
from harness.scenarios.figures import throughput
from harness.scenarios.loop import Workload, window_length
from harness.scenarios.offline import Offline, OfflineProcess
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile
from harness.task import Figure

GAIN = 1.03  # least ratio of the throughput of a batch size to that of half of it
SIZES = tuple(1 << power for power in range(11))


class BatchSweepProcess(ProcessTiming):
    """The offline timings of one process, by ascending batch size."""

    raw_names = ("steps",)
    steps: list[OfflineProcess]
    ended: str = Field(description="why it timed no larger batches")

    def seconds_per_sample(self, quantile: float) -> float:
        """Return the typical time per sample at this process's fastest batch size."""
        return min(step.seconds_per_sample(quantile) for step in self.steps)


class BatchSweep(Scenario):
    """Throughput by batch size; the headline is that of the chosen size."""

    headline_name = "throughput"
    samples_per_query = 1
    processes: tuple[BatchSweepProcess, ...]

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> BatchSweepProcess:
        """Double the batch size until two in a row gain too little, or until memory is exhausted."""
        steps: list[OfflineProcess] = []
        ended = f"larger batches than {SIZES[-1]} are not tried"
        for size in SIZES:
            try:
                step = Offline.run(_in_batches(work, size), profile, conditions)
            except Exception as error:
                if not steps or not is_out_of_memory(error):
                    raise
                ended = f"memory does not suffice for batches of {size}"
                break
            steps.append(step.model_copy(update={"batch_size": size}))
            before, *last = [step.seconds_per_sample(0.5) for step in steps[-3:]]
            if len(last) == 2 and min(last) * GAIN > before:
                ended = f"batches of {size // 2} and {size} gain less than {GAIN - 1:.0%}"
                break
        disturbed = [*chain.from_iterable(step.disturbed for step in steps)]
        return BatchSweepProcess(**dict(conditions()), steps=steps, disturbed=disturbed, ended=ended)

    def summarise(self) -> ScenarioFigures:
        """Compute the throughput of the sizes that all processes timed, and choose the last that gains."""
        figures, queries, total = dict[int, Figure](), 0, 0.0
        for steps in zip(*(process.steps for process in self.processes), strict=False):
            windows, size = [window for step in steps for window in step.windows], steps[0].batch_size
            samples = sum(window.samples for window in windows)
            figures[size] = throughput([step.seconds_per_sample(0.5) for step in steps], samples)
            queries, total = queries + samples // size, total + sum(window.seconds for window in windows)
        values = {size: figure.value or 0.0 for size, figure in figures.items()}
        enough = (small for small, large in pairwise(values) if values[large] < values[small] * GAIN)
        chosen = next(enough, max(values))
        reasons = "; ".join(dict.fromkeys(process.ended for process in self.processes))
        return ScenarioFigures(
            queries=queries,
            seconds=total,
            throughput=figures[chosen],
            rates={f"batch size {size}": figure for size, figure in figures.items()},
            notes=[f"batch size {chosen} is chosen: {reasons}"],
        )

    def curve(self) -> tuple[str, list[float]]:
        """Return the throughput in samples/s by ascending batch size."""
        return "batch_sweep_ips", [figure.value or 0.0 for figure in self.summarise().rates.values()]


def _in_batches(work: Workload, size: int) -> Workload:
    """Return the workload in whole batches, after a pass that may be slow and one that sets the windows."""
    order = [index for query in work.queries for index in query]
    whole = islice(cycle(order), -(-len(order) // size) * size)
    queries = [list(batch) for batch in zip(*[whole] * size, strict=True)]
    for _ in range(2):
        start = work.clock()
        for query in queries:
            work.predict(query)
        work.synchronise()
    seconds = (work.clock() - start) / 1e9
    return replace(work, queries=queries, window_queries=window_length(seconds, len(queries)))
