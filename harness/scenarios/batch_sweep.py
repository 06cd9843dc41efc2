"""Batch sweep: batches of 1, 2, 4, … samples, until memory is exhausted or throughput hardly grows."""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice

from pydantic import Field

from harness.errors import is_out_of_memory
from harness.files import StrictModel
from harness.scenarios.figures import throughput
from harness.scenarios.loop import DisturbedWindow, Window, Workload, window_length
from harness.scenarios.offline import seconds_per_sample, time_batches
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile
from harness.task import Figure

GAIN = 1.03  # ratio of throughputs up to which a larger batch is not worth it
SIZES = tuple(1 << power for power in range(11))


class Step(StrictModel):
    """The timed windows of one batch size, in whole passes over the samples."""

    batch_size: int
    windows: list[Window]


class BatchSweepProcess(ProcessTiming):
    """The timings of one process, by ascending batch size."""

    steps: list[Step]
    ended: str = Field(description="why it timed no larger batches")

    def seconds_per_sample(self, quantile: float) -> float:
        """Return the typical time per sample at this process's fastest batch size."""
        return min(seconds_per_sample(step.windows, quantile) for step in self.steps)


class BatchSweep(Scenario):
    """Throughput by batch size; the headline is that of the chosen size."""

    headline_name = "throughput"
    samples_per_query = 1
    processes: tuple[BatchSweepProcess, ...]

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> BatchSweepProcess:
        """Double the batch size until two doublings in a row gain too little, or memory is exhausted."""
        steps: list[Step] = []
        disturbed: list[DisturbedWindow] = []
        ended = f"{SIZES[-1]} is the largest size"
        for size in SIZES:
            try:
                windows, rejected = time_batches(_in_batches(work, size), profile)
            except Exception as error:
                if not steps or not is_out_of_memory(error):
                    raise
                ended = f"memory does not suffice for batches of {size}"
                break
            steps.append(Step(batch_size=size, windows=windows))
            disturbed += rejected
            before, *last = [seconds_per_sample(step.windows, 0.5) for step in steps[-3:]]
            if len(last) == 2 and min(last) * GAIN > before:
                ended = f"batches of {size // 2} and {size} gain less than {GAIN - 1:.0%}"
                break
        measured = conditions()
        # The energy is that of all sizes together, so that per sample is the model's at none of them.
        timed_on = measured.timed_on.model_copy(update={"joules_per_sample": None})
        fields = dict(measured) | {"timed_on": timed_on}
        return BatchSweepProcess(**fields, steps=steps, disturbed=disturbed, ended=ended)

    def summarise(self) -> ScenarioFigures:
        """Compute the throughput of the sizes that all processes timed, and choose one of them."""
        figures, queries, total = dict[int, Figure](), 0, 0.0
        for steps in zip(*(process.steps for process in self.processes), strict=False):
            windows, size = [window for step in steps for window in step.windows], steps[0].batch_size
            samples = sum(window.samples for window in windows)
            figures[size] = throughput([seconds_per_sample(step.windows, 0.5) for step in steps], samples)
            queries, total = queries + samples // size, total + sum(window.seconds for window in windows)
        values = {size: figure.value or 0.0 for size, figure in figures.items()}
        most = max(values.values())
        chosen = next(size for size, value in values.items() if value * GAIN >= most)
        reasons = "; ".join(dict.fromkeys(process.ended for process in self.processes))
        return ScenarioFigures(
            queries=queries,
            seconds=total,
            throughput=figures[chosen],
            rates={f"batch size {size}": figure for size, figure in figures.items()},
            notes=[
                f"batch size {chosen} is chosen, the smallest within {GAIN - 1:.0%} of the best throughput; "
                f"the sweep ended at {max(values)}: {reasons}"
            ],
        )


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
