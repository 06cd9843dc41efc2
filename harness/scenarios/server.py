"""Server: queries arrive at random and are batched; the largest rate at which latencies meet a target.

As in MLPerf's server scenario (Reddi et al. 2020, "MLPerf Inference Benchmark", section IV), arrivals are
Poisson, latency counts from the scheduled arrival, and early stopping bounds its percentile. MLPerf's users
state the rate; here it is searched for.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from math import ceil, inf, sqrt

import numpy as np
from pydantic import Field

from harness.errors import describe
from harness.files import StrictModel
from harness.scenarios.figures import PERCENTILES, latency, least_queries, over_processes, rank_of_bound
from harness.scenarios.loop import Workload
from harness.scenarios.scenario import Conditions, ProcessTiming, Scenario, ScenarioFigures
from harness.scenarios.settings import Profile

RESOLUTION = 1.02  # ratio of the smallest rate that failed to the largest that met the target
BUDGET = 10  # time for all probes of a process, as a multiple of the least duration of one
LEAST_BUDGET = 10.0  # s
TARGETS = 20  # least duration of a probe in latency targets; an unseen queue then grows by 5% of the rate


class Probe(StrictModel):
    """Queries that arrived at one rate. A probe ends with the query that makes it fail."""

    rate: float = Field(description="scheduled arrivals per second")
    met: bool = Field(description="whether the upper bound of the percentile met the latency target")
    bound_ns: int | None = Field(description="this bound; null if the probe ended early")
    queries: int = Field(description="number answered")
    arrivals_ns: list[int] = Field(description="scheduled arrivals of the queries; empty if the probe failed")
    latencies_ns: list[int] = Field(description="from the scheduled arrivals; empty if the probe failed")


class ServerProcess(ProcessTiming):
    """Probes of one process, in the order in which they were made."""

    probes: list[Probe]

    def seconds_per_sample(self, quantile: float) -> float:  # noqa: ARG002
        """Return the mean time between arrivals at the largest rate that met the target, or infinity."""
        return min((1 / probe.rate for probe in self.probes if probe.met), default=inf)


class Server(Scenario):
    """Probes of all processes."""

    headline_name = "rate"
    samples_per_query = 1
    own_settings = ("server",)
    processes: tuple[ServerProcess, ...]

    @staticmethod
    def run(work: Workload, profile: Profile, conditions: Callable[[], Conditions]) -> ServerProcess:
        """Search for the largest rate. A probe starts only if the budget of the process lasts until its end.

        A probe that failed while something else disturbed the machine is repeated once.
        """
        target, probes, outputs = work.server, list[Probe](), dict[int, object]()
        seconds = max(profile.seconds, TARGETS * target.latency_ms / 1e3)
        budget = max(LEAST_BUDGET, BUDGET * profile.seconds)
        ends = work.clock() + 1e9 * budget

        def count(rate: float) -> int:
            return max(least_queries(target.percentile), profile.samples, ceil(rate * seconds))

        def run(rate: float) -> Probe:
            for _ in range(2):
                probe = probe_rate(work, rate, count(rate), outputs)
                if not work.check() or probe.met:
                    break
            return probe

        failure, rate = "", 0.0
        try:
            rate = _capacity(work)
            for probe in search(run, rate, lambda rate: work.clock() + 1e9 * count(rate) / rate <= ends):
                probes.append(probe)
        except Exception as error:
            failure = f"the model failed after {len(probes)} rates: {describe(error)}"
        low, high = resolved(probes)
        if not low and not failure:
            rate = min(rate, high / 2)
            failure = (
                f"no rate met p{target.percentile:g} ≤ {target.latency_ms:g} ms; {rate:.3g} samples/s were "
                f"not tried, because {count(rate)} queries exceed what is left of {budget:g} s"
            )
        measured = conditions()
        reasons = [*measured.reasons, *filter(None, [failure])]
        return ServerProcess(**dict(measured) | {"reasons": reasons}, probes=probes, outputs=outputs)

    def summarise(self) -> ScenarioFigures:
        probes = [probe for process in self.processes for probe in process.probes]
        latencies, n = self.latencies(), len(self.processes)
        figure, notes = None, []
        if len(latencies) == n:
            rates = [1 / seconds for seconds in self.seconds_by_process()]
            signature = f"server|{self.settings.server}"
            figure = over_processes(rates, sum(map(len, latencies)), "samples/s", signature)
            ratio = max(high / low for low, high in (resolved(process.probes) for process in self.processes))
            if ratio > RESOLUTION:
                notes.append(
                    "the time was too short to find the largest rate within 2%: the smallest that failed is "
                    + ("unknown" if ratio == inf else f"{ratio - 1:.0%} higher")
                )
        checks = [process.answers.describe() for process in self.processes if process.answers]
        return ScenarioFigures(
            queries=sum(probe.queries for probe in probes),
            seconds=sum(probe.queries / probe.rate for probe in probes),
            throughput=figure,
            latency={f"p{p:g}": latency(p, latencies) for p in PERCENTILES} if figure else {},
            notes=[*notes, *dict.fromkeys(checks)],
        )

    def latencies(self) -> list[list[float]]:
        # Each probe that met the target was at a higher rate than those before.
        met = [[probe for probe in process.probes if probe.met] for process in self.processes]
        return [[ns / 1e9 for ns in probes[-1].latencies_ns] for probes in met if probes]


def search(
    run: Callable[[float], Probe], first: float, affordable: Callable[[float], bool]
) -> Iterator[Probe]:
    """Probe rates until the largest that meets the target is known within 2%, and yield the probes.

    Rates are doubled or halved until one meets the target and another fails. Then the interval between them
    is bisected on a logarithmic scale.

    Args:
        first: Any rate above 0. The search takes less time the nearer it is to the result.
        affordable: Returns whether there is time for a probe at a rate. The search ends when there is not.
    """
    probes: list[Probe] = []
    while True:
        low, high = resolved(probes)
        rate = min(first, high / 2)
        if low > 0:
            rate = low * 2 if high == inf else sqrt(low * high)
        if high <= RESOLUTION * low or not affordable(rate):
            return
        probes.append(run(rate))
        yield probes[-1]


def resolved(probes: Sequence[Probe]) -> tuple[float, float]:
    """Return the largest rate that met the target (0 if none), and the smallest that failed (or infinity)."""
    met = [probe.rate for probe in probes if probe.met]
    return max(met, default=0.0), min((probe.rate for probe in probes if not probe.met), default=inf)


def serve(
    work: Workload, arrivals_ns: Sequence[int], order: Sequence[int], tolerated: int
) -> tuple[list[int], dict[int, object]]:
    """Answer queries one batch after another, until more than `tolerated` exceed the target.

    When the model is free, it takes the queries that have arrived, up to the largest batch. It waits for more
    until the batch is full or the oldest query has waited for `max_wait_ms`.

    Args:
        arrivals_ns: Scheduled arrivals since the start, in ascending order.
        order: Index of the sample of each query.

    Returns:
        Latencies of the answered queries from their scheduled arrival, and the last answer to each sample.
    """
    clock, limit, count = work.clock, work.server.max_batch, len(arrivals_ns)
    wait_ns, target_ns = round(work.server.max_wait_ms * 1e6), round(work.server.latency_ms * 1e6)
    latencies: list[int] = []
    answers: dict[int, object] = {}
    slow = 0
    start = clock()
    while (first := len(latencies)) < count and slow <= tolerated:
        last = min(first + limit, count)
        full = arrivals_ns[last - 1] if last == first + limit else inf
        ready = start + int(min(full, arrivals_ns[first] + wait_ns))
        if clock() < ready:
            work.wait(ready)
        stop = bisect_right(arrivals_ns, clock() - start, first, last)
        outputs = work.predict(list(order[first:stop]))
        work.synchronise()
        now = clock() - start
        answers.update(zip(order[first:stop], outputs or (), strict=True))
        for arrival in arrivals_ns[first:stop]:
            latencies.append(now - arrival)
            slow += now - arrival > target_ns
    return latencies, answers


def probe_rate(work: Workload, rate: float, queries: int, answers: dict[int, object]) -> Probe:
    """Serve queries with Poisson arrivals, and replace `answers` if their latencies meet the target."""
    samples = [index for query in work.queries for index in query]
    passes = [work.generator.permutation(samples) for _ in range(-(-queries // len(samples)))]
    gaps = work.generator.exponential(1e9 / rate, queries)
    arrivals = np.rint(np.cumsum(gaps)).astype(np.int64).tolist()
    # The bound is the t-th largest latency, so it meets the target if at most t − 1 latencies exceed that.
    rank = rank_of_bound(work.server.percentile, queries)
    work.reset()
    latencies, outputs = serve(work, arrivals, np.concatenate(passes).tolist(), rank - 1)
    bound = sorted(latencies)[-rank] if len(latencies) == queries else None
    met = bound is not None and bound <= work.server.latency_ms * 1e6
    if met:
        answers.clear()
        answers.update(outputs)
    return Probe(
        rate=rate,
        met=met,
        bound_ns=bound,
        queries=len(latencies),
        arrivals_ns=arrivals if met else [],
        latencies_ns=latencies if met else [],
    )


def _capacity(work: Workload) -> float:
    """Return the samples/s of full batches, after a batch of every size, which may all be slow once."""
    samples = cycle([index for query in work.queries for index in query])
    for size in (*range(1, work.server.max_batch + 1), work.server.max_batch):
        start = work.clock()
        work.predict(list(islice(samples, size)))
        work.synchronise()
    return 1e9 * work.server.max_batch / max(1, work.clock() - start)
