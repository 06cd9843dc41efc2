"""A third party's metric of which lower is better, from the run to the report."""

from __future__ import annotations

import json
from pathlib import Path

from sample_results import document, figure, speed, trial
from typer.testing import CliRunner

from harness.cli.app import app
from harness.compare.frontier import frontier_charts
from harness.rundir.results import Results, read_results
from reports.ci.benchmark_json import to_bencher, to_github_action_benchmark
from reports.page.charts import chart

SUITE = """
name: errors
datasets:
  recall: {{dataset: delayed-recall, options: {{size: 40, lag: 0}}}}
adapters:
  fake: {{adapter: fake-translation, batch_size: 8, options: {{drop: {drop}}}}}
benchmarks:
  letters: {{dataset: recall, adapters: [fake], metrics: [fake-wer]}}
"""
RUNNER = CliRunner()


def run(folder: Path, drop: int) -> Path:
    """Run a model that leaves out `drop` words per sentence."""
    suite, out = folder / f"{drop}.yaml", folder / str(drop)
    suite.write_text(SUITE.format(drop=drop))
    finished = RUNNER.invoke(app, ["run", str(suite), "--executor", "inline", "--no-sync", "--out", str(out)])
    assert finished.exit_code == 0, finished.output
    return out


def test_fewer_errors_are_an_improvement_and_more_a_regression(tmp_path: Path) -> None:
    few, many = run(tmp_path, 1), run(tmp_path, 3)
    rates = [read_results(out).trials[0].metrics["wer"] for out in (few, many)]
    assert rates[0].value is not None and rates[1].value is not None
    assert 0 < rates[0].value < rates[1].value
    assert {rate.better for rate in rates} == {"lower"}
    for head, base, expected, code in ((few, many, "improvement", 0), (many, few, "regression", 1)):
        compared = RUNNER.invoke(app, ["compare", str(head), "--baseline", str(base), "--json"])
        (change,) = [
            change
            for change in json.loads(compared.stdout)["trials"][0]["changes"]
            if change["figure_kind"] == "accuracy"
        ]
        assert (change["verdict"], compared.exit_code) == (expected, code)
        page = (head / "report" / "compare.html").read_text(encoding="utf-8")
        assert f'<strong class="{expected}">' in page


def results() -> Results:
    """Return a run of a fast model with few errors, and a slow one with many."""
    low = {"better": "lower"}
    trials = [
        trial("translation", "good", metrics={"wer": figure(0.1) | low}, speed=speed(200)),
        trial("translation", "bad", metrics={"wer": figure(0.3) | low}, speed=speed(100)),
    ]
    return Results.model_validate(document() | {"trials": trials, "pairs": []})


def test_the_frontier_consists_of_the_variants_with_fewer_errors() -> None:
    (group,) = frontier_charts(results())
    assert {point.trial.variant: point.rank for point in group.points} == {
        "good": "frontier",
        "bad": "dominated",
    }
    specification = json.dumps(chart(group))
    assert '"reverse": true' in specification  # up is better


def test_error_rates_go_only_to_the_service_that_does_not_take_bigger_for_better() -> None:
    assert "wer" in to_bencher(results())
    assert "wer" not in to_github_action_benchmark(results())
