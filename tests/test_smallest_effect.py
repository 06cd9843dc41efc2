"""The smallest effect that `harness plan` prints is the one that the planned samples show in 80% of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats
from small_suite import document, planned, run_suite, write
from typer.testing import CliRunner

from harness.cli.app import app
from harness.driver.estimate import estimate
from harness.rundir.results import to_json
from harness.rundir.store import RunDirectory
from harness.statistics.jackknife import JackknifedFigure, figure
from harness.statistics.paired import difference, smallest_effect
from harness.suite.schema import SpeedEntry


def mean_of(values: np.ndarray) -> JackknifedFigure:
    n = len(values)
    replicates = (values.sum() - values) / (n - 1)
    return JackknifedFigure(figure(np.r_[values.mean(), replicates], n, "points", "s"), replicates)


@pytest.mark.parametrize("n", [30, 200])
def test_the_planned_effect_is_right_within_ten_percent(n: int) -> None:
    """Differences of samples are normal with standard deviation 3; the earlier run has 60 samples."""
    generator = np.random.default_rng(0)
    planned = []
    for _ in range(50):
        base = generator.normal(50, 10, 60)
        earlier = difference([mean_of(base)], [mean_of(base + generator.normal(0, 3, 60))]).difference
        assert earlier.interval is not None
        planned.append(smallest_effect(*earlier.interval, 60 / n))
    effect = float(np.mean(planned))

    def missing_power(size: float) -> float:
        critical = stats.t.ppf(0.975, n - 1)
        return float(stats.nct.sf(critical, n - 1, size / (3 / np.sqrt(n))) - 0.8)

    assert effect == pytest.approx(optimize.brentq(missing_power, 0.01, 10), rel=0.1)

    shown = 0
    for _ in range(400):
        base = generator.normal(50, 10, n)
        head = base + generator.normal(effect, 3, n)
        low = difference([mean_of(base)], [mean_of(head)]).difference.low
        shown += low is not None and low > 0
    assert 0.74 < shown / 400 < 0.86


def test_plan_prints_the_effect_once_two_models_have_run(tmp_path: Path) -> None:
    suite = document(30, ok={}, other={"options": {"drop": 6}})
    path = write(tmp_path, suite)

    def effects(*arguments: str) -> list[dict[str, object]]:
        command = ["plan", str(path), "--out", str(tmp_path / "run"), "--json", *arguments]
        return list(json.loads(CliRunner().invoke(app, command).stdout)["effects"])

    assert [(e["metric"], e["effect"]) for e in effects()] == [("bleu", None), ("chrf", None)]
    (bleu, _) = (pair.difference for pair in run_suite(tmp_path, suite).pairs)
    assert bleu.low is not None and bleu.high is not None
    assert effects()[0]["effect"] == pytest.approx((bleu.high - bleu.low) / 2 * 1.43)
    assert effects("--limit", "10")[0]["effect"] == pytest.approx((bleu.high - bleu.low) / 2 * 1.43 * 3**0.5)
    shown = CliRunner().invoke(app, ["plan", str(path), "--out", str(tmp_path / "run")])
    assert "smallest effect in words, bleu: " in shown.output


def test_an_interval_without_width_says_nothing_about_more_samples(tmp_path: Path) -> None:
    suite = document(30, ok={}, other={"options": {"drop": 6}})
    results = run_suite(tmp_path, suite)
    content = json.loads(to_json(results))
    for pair in content["pairs"]:
        pair["difference"] |= {"low": 0.0, "high": 0.0}
    RunDirectory(tmp_path / "run").digests.write(
        tmp_path / "run" / "results.json", json.dumps(content).encode()
    )
    plan = planned(tmp_path, suite)
    estimated = estimate(plan, RunDirectory(tmp_path / "run"), SpeedEntry())
    assert [effect.effect for effect in estimated.effects] == [None, None]
