"""Write docs/textbook.md from a run of the suite `textbook`.

    harness run textbook
    python benchmarks/textbook.py runs/textbook > docs/textbook.md

Every figure comes from results.json of the run. A topic without claims in the run is an error, so the page
cannot lose one without a word.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.rundir.results import ClaimRecord, Results, SliceRecord, TrialRecord, read_results
from reports.figures import count, invalidity, printed
from reports.text import markdown

TOPICS = {
    "sequences": "Recurrent networks, gates and attention",
    "recall": "Memory over a distance",
    "detectors": "Detectors: regions, proposals, one stage or two",
    "skips": "Segmentation: skip connections",
    "work": "Segmentation: strides",
}
"""Benchmark of the suite → heading."""
MARKS = {"supported": "✔ supported", "refuted": "✘ refuted", "inconclusive": "? inconclusive"}


def page(results: Results) -> str:
    """Return the page as Markdown.

    Raises:
        SystemExit: A topic has no claims in the run, or a benchmark of a claim is no topic.
    """
    benchmarks = {claim.benchmark for claim in results.claims}
    if benchmarks != set(TOPICS):
        raise SystemExit(f"topics are {sorted(TOPICS)}, but the claims are about {sorted(benchmarks)}")
    return "\n".join([*introduction(results), *(line for name in TOPICS for line in topic(results, name))])


def introduction(results: Results) -> Iterator[str]:
    """Yield what was run, where, and how many claims have which verdict."""
    hardware = results.environments[results.run.environment]
    verdicts = [claim.verdict for claim in results.claims]
    totals = ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts))
    yield "# The textbook, measured"
    yield ""
    yield (
        "Sentences that courses on these models teach, as [claims](claims.md) with verdicts. A refuted "
        "sentence is a result, too: it holds for these small networks on this data, not for the papers' "
        "networks. The data are generated. The column *trainings* counts the models on each side."
    )
    yield ""
    yield f"**{len(verdicts)} claims: {totals}.**"
    yield ""
    revision = (results.run.git_revision or "")[:7]
    yield (
        f"`harness run textbook` on {markdown(hardware.cpu)}, {hardware.cores} cores, at {revision}; then "
        "`python benchmarks/textbook.py runs/textbook > docs/textbook.md`. All claims that need a test are "
        "decided together (Holm, 2.5% per direction). Brackets are 95% intervals of single figures."
    )
    yield ""


def topic(results: Results, benchmark: str) -> Iterator[str]:
    """Yield the claims about a benchmark, then the figures behind them."""
    yield f"## {TOPICS[benchmark]}"
    yield ""
    claims = [claim for claim in results.claims if claim.benchmark == benchmark]
    yield from table(
        ["claim", "verdict", "effect", "n", "trainings", "source", "refuted if"],
        [claim_row(claim) for claim in claims],
    )
    trials = [trial for trial in results.trials if trial.benchmark == benchmark]
    yield from table(
        ["model", "figure", "samples/s", "preprocess · model · postprocess", "parameters", "FLOPs/sample"],
        [trial_row(trial) for trial in trials],
    )
    for column in dict.fromkeys(part.column for part in results.slices if part.benchmark == benchmark):
        parts = [part for part in results.slices if (part.benchmark, part.column) == (benchmark, column)]
        yield from by_slice(parts)


def claim_row(claim: ClaimRecord) -> list[str]:
    """Return verdict and effect of a claim."""
    where = f", where {claim.where}" if claim.where else ""
    verdict = MARKS.get(claim.verdict, claim.verdict) + (f" ({claim.reason})" if claim.reason else "")
    effect = claim.effect
    shown = printed(effect) if effect else None
    return [
        f"`{claim.claim}`{where}",
        markdown(verdict, 200),
        f"{shown.value} {shown.interval} {shown.unit}" if shown else "–",
        str(effect.n) if effect else "–",
        " · ".join(map(str, claim.seeds)) or "–",
        markdown(claim.source, 200),
        markdown(claim.refuted_if, 200),
    ]


def trial_row(trial: TrialRecord) -> list[str]:
    """Return accuracy, speed, phases and costs of a trial."""
    name, figure = next(iter(trial.metrics.items()), ("", None))
    throughput = trial.offline.throughput if trial.offline else None
    doubt = " (not valid)" if invalidity(trial.offline) else ""
    phases = [phase.value for phase in trial.phases.values()]
    seconds = [value for value in phases if value is not None]
    shares = " · ".join(f"{value / sum(seconds):.0%}" for value in seconds) if len(seconds) == 3 else "–"
    cost = trial.cost
    return [
        markdown(trial.variant),
        f"{name} {printed(figure)}" if figure else "–",
        f"{printed(throughput).value} {printed(throughput).interval}{doubt}" if throughput else "–",
        shares,
        count(cost.parameters, "") if cost.parameters else "–",
        count(cost.flops, "") if cost.flops else "–",
    ]


def by_slice(parts: Sequence[SliceRecord]) -> Iterator[str]:
    """Yield the headline figure of each model on each part of the samples."""
    variants = list(parts[0].figures)
    yield f"{parts[0].metric} by {parts[0].column}:"
    yield ""
    rows = []
    for part in parts:
        shown = [printed(part.figures[variant]) for variant in variants]
        rows.append([markdown(part.slice), str(part.n), *(f"{one.value} {one.interval}" for one in shown)])
    yield from table([parts[0].column, "n", *map(markdown, variants)], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table without the columns that no row fills."""
    rows = list(rows)
    used = [index for index in range(len(head)) if any(row[index] != "–" for row in rows)]
    for row in [head, ["---"] * len(head), *rows]:
        yield "| " + " | ".join(row[index] for index in used) + " |"
    yield ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory of the suite `textbook`")
    print(page(read_results(parser.parse_args().run)))
