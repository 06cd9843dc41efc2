"""The trials that a claim is about."""

from collections.abc import Collection, Mapping, Sequence

from harness.adapter import ADAPTERS
from harness.decisions.claims import Quantity, Statement, parse_claim
from harness.identity import without_seed
from harness.metrics.metric import METRICS
from harness.registry import unknown
from harness.scenarios.scenario import SCENARIOS
from harness.suite.loading import LoadedSuite
from harness.trial import Trial

COSTS = ("parameters", "flops")  # the exact counts, which need no test


def trials_of(trials: Sequence[Trial], benchmark: str, quantity: Quantity) -> list[Trial]:
    """Return the trial of a variant, or the trials of all its seeds; none if there is no such variant."""
    inside = [trial for trial in trials if trial.benchmark == benchmark]
    exact = [trial for trial in inside if trial.variant == quantity.adapter]
    return exact or [trial for trial in inside if without_seed(trial.variant) == quantity.adapter]


def probes_of(trial: Trial) -> Mapping[str, str]:
    """Return the probes of a trial's adapter: name → unit."""
    return ADAPTERS.get(trial.spec.adapter).probes


def _problem(statement: Statement, where: str | None, probes: Collection[str]) -> str:
    """Return why a claim could never be decided, or an empty string."""
    names = [quantity.name for quantity in statement.quantities]
    timed = SCENARIOS.entries()
    exact_or_timed = [name for name in names if name in COSTS or name in probes or name in timed]
    if not exact_or_timed:
        return ""
    if len(set(names)) > 1:
        return f"compare {names[0]} with {names[0]} of another adapter, not with {names[1]}"
    if where:
        return f"`where` does not apply to {names[0]}, but only to figures of metrics"
    if names[0] in timed and (len(names) < 2 or statement.margin):
        return f"compare {names[0]} with a multiple of another adapter's {names[0]}"
    return ""


def check_claims(loaded: LoadedSuite, trials: Sequence[Trial]) -> None:
    """Check that the claims of a suite name its benchmarks, their variants and what is measured of them."""
    for name, entry in loaded.suite.claims.items():
        if entry.benchmark not in loaded.suite.benchmarks:
            message = unknown("benchmark", entry.benchmark, loaded.suite.benchmarks)
            raise loaded.error(["claims", name, "benchmark"], message)
        statement = parse_claim(entry.claim)
        inside = [trial for trial in trials if trial.benchmark == entry.benchmark]
        probes = {probe for trial in inside for probe in probes_of(trial)}
        if problem := _problem(statement, entry.where, probes):
            raise loaded.error(["claims", name, "claim"], problem)
        for quantity in statement.quantities:
            chosen = trials_of(trials, entry.benchmark, quantity)
            if not chosen:
                variants = [trial.variant for trial in inside]
                raise loaded.error(["claims", name, "claim"], unknown("variant", quantity.adapter, variants))
            for trial in chosen:
                figures = [figure for metric in trial.metrics for figure in METRICS.get(metric).names]
                known = [*figures, *trial.scenarios, *COSTS, *probes_of(trial)]
                if quantity.name not in known:
                    raise loaded.error(["claims", name, "claim"], unknown("quantity", quantity.name, known))
