"""A trend joins comparable figures of many runs in order of time."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_results import document

from harness.compare.trend import (
    TrendLine,
    change_points,
    from_text,
    observations,
    past_run,
    read_trend,
    to_text,
)
from harness.rundir.results import Results


def write(folder: Path, hour: int, **changes: Any) -> Path:
    """Write a run of two trials that started at `hour`; `changes` go to the first trial."""
    content = document(f"run-{hour}")
    content["run"]["started"] = f"2025-03-01T{hour:02}:00:00+00:00"
    content["trials"] = content["trials"][:2]
    content["trials"][0] |= changes
    path = folder / f"{hour}"
    path.mkdir()
    (path / "results.json").write_text(json.dumps(content))
    return path


def shown(lines: list[TrendLine]) -> list[tuple[str, str, list[str]]]:
    """Return variant, figure and runs of each line."""
    return [
        (line.subject.variant, line.subject.name, [point.run.id for point in line.points]) for line in lines
    ]


def test_lines_are_in_order_of_time_for_any_order_of_the_directories(tmp_path: Path) -> None:
    runs = [write(tmp_path, hour) for hour in (3, 1, 2)]
    order = ["run-1", "run-2", "run-3"]
    assert shown(read_trend(runs)) == [
        ("attention", "bleu", order),
        ("attention", "offline throughput", order),
        ("attention", "single-stream latency p50", order),
        ("lstm", "bleu", order),
    ]


def test_figures_of_other_samples_or_signatures_are_on_separate_lines(
    tmp_path: Path,
) -> None:
    first = document()["trials"][0]
    other_data = first["dataset"] | {"fingerprint": "beef"}
    other_signature = {"bleu": first["metrics"]["bleu"] | {"signature": "BLEU|nrefs:4"}}
    runs = [
        write(tmp_path, 1),
        write(tmp_path, 2, dataset=other_data),
        write(tmp_path, 3, metrics=other_signature),
        write(tmp_path, 4),
    ]
    runs_of_lines = [
        runs for variant, name, runs in shown(read_trend(runs)) if (variant, name) == ("attention", "bleu")
    ]
    assert runs_of_lines == [["run-1", "run-4"], ["run-2"], ["run-3"]]


def test_speeds_on_other_hardware_or_settings_are_on_separate_lines(tmp_path: Path) -> None:
    offline = document()["trials"][0]["speed"]["offline"]
    changes = ({}, {"batch_size": 1}, {"environment": "elsewhere"}, {"threads": 2}, {"profile": "release"})
    runs = [write(tmp_path, n, speed={"offline": offline | change}) for n, change in enumerate(changes)]
    runs_of_lines = [runs for _, name, runs in shown(read_trend(runs)) if name == "offline throughput"]
    assert runs_of_lines == [[f"run-{n}"] for n in range(5)]


def test_undefined_and_invalid_figures_and_failed_trials_are_not_on_a_line(tmp_path: Path) -> None:
    offline = document()["trials"][0]["speed"]["offline"]
    undefined = {
        "bleu": document()["trials"][0]["metrics"]["bleu"] | {"value": None, "low": None, "high": None}
    }
    invalid = write(tmp_path, 1, speed={"offline": offline | {"valid": False}}, metrics=undefined)
    failed = write(tmp_path, 2, status="failed", reason="worker died")
    assert {variant for variant, *_ in shown(read_trend([invalid, failed]))} == {"lstm"}


def test_observations_are_decoded_as_they_were_encoded() -> None:
    observed = list(observations(Results.model_validate(document())))
    assert len(observed) > 10
    assert from_text(to_text(observed)) == observed


def test_a_past_run_has_its_branch_revision_and_source() -> None:
    content = document()
    content["run"]["git_branch"] = "main"
    run = past_run(Results.model_validate(content), "runs/a")
    assert (run.suite, run.branch, run.source, run.revision[:4]) == ("quickstart", "main", "runs/a", "0123")


@pytest.mark.parametrize("scale", [1.0, 1e-3, -400.0])
@pytest.mark.parametrize("size", [-0.03, 0.03])
def test_a_step_is_found_in_any_unit(scale: float, size: float) -> None:
    generator = np.random.default_rng(3)
    found = 0
    for _ in range(40):
        series = 1 + 0.01 * generator.standard_normal(30)
        series[15:] += size
        found += any(abs(point - 15) <= 1 for point in change_points(scale * series))
    assert found >= 36


def test_flat_series_of_normal_noise_have_no_step() -> None:
    generator = np.random.default_rng(4)
    assert sum(bool(change_points(1 + 0.01 * generator.standard_normal(100))) for _ in range(100)) <= 1


@pytest.mark.parametrize(
    "series", [[1.0] * 30, [0.0] * 30, [1.0, 1.5, 1.0, 1.0, 1.0, 1.0], [1.0] * 9 + [1.5], [1.0, 2.0, 2.0], []]
)
def test_constant_and_short_series_and_single_outliers_have_no_step(series: list[float]) -> None:
    assert change_points(series) == []


def test_an_accuracy_that_never_varied_has_a_step_where_it_changes() -> None:
    assert change_points([0.4] * 10 + [0.39] * 3) == [10]
    assert change_points([0.4] * 10 + [0.39]) == []


def test_change_points_minimise_the_penalised_distances() -> None:
    """Compare with a search through all pairs of points; the noise of this series is known by hand."""
    values = np.array([0, 1, 0, 1, 0, 5, 6, 5, 6, 5, 5, 0, 1, 0, 1, 1, 0], float) + 100
    scaled = (
        values
        / np.median(values)
        / (1.4826 * np.median(np.abs(np.diff(values))) / 2**0.5 / np.median(values))
    )

    def cost(points: tuple[int, ...]) -> float:
        segments = np.split(scaled, points)
        return sum(float(((part - part.mean()) ** 2).sum()) for part in segments) + 18 * len(points)

    allowed = [
        points
        for count in range(4)
        for points in combinations(range(3, len(values) - 2), count)
        if all(later - earlier >= 3 for earlier, later in pairwise(points))
    ]
    assert change_points(values.tolist()) == list(min(allowed, key=cost)) == [5, 11]
