"""Files from elsewhere are read, or refused with one message: nothing else happens, whatever they contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_results import document

from harness.errors import HarnessError, UsageError
from harness.rundir.results import read_results
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from reports.ci.junit import to_junit
from reports.markdown import to_markdown
from reports.table import to_csv
from reports.verdict import to_summary

SUITE: dict[str, Any] = {
    "name": "good",
    "description": "",
    "datasets": {"few": {"dataset": "phrases", "options": {"size": 20}}},
    "adapters": {
        "ok": {
            "adapter": "fake-translation",
            "batch_size": 4,
            "options": {"delay": 0.0},
            "seed": None,
            "checkpoint": None,
            "precision": "fp32",
            "device": "auto",
            "resources": {"cpu": 1.0, "gpu": 1.0},
        }
    },
    "benchmarks": {
        "words": {"dataset": "few", "adapters": ["ok"], "metrics": ["bleu"], "speed": ["offline"], "limit": 3}
    },
    "speed": {"profile": "smoke", "threads": 1, "samples": 4},
}
VALUES: list[Any] = [
    None, True, 0, -1, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "\x1b[2J", "../..",
    "${HOME}", "${", "${UNSET}", "x" * 300, "/", "NaN", [], [[]], {}, {"": None}, [1, 1], ["a", 2],
    {"x": {"y": []}},
]  # fmt: skip
RAW = [
    "yes",
    "1:30",
    "010",
    "2024-01-01",
    "!!binary aGk=",
    "!!set {a, b}",
    "*x",
    "&x [*x]",
    "? [a]",
    "[",
    "!!int x",
]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([path] if path else []), *(leaf for key, item in inner for leaf in leaves(item, (*path, key)))]


def changed(value: Any, path: tuple[str | int, ...], replacement: Any) -> Any:
    """Return a copy of a document with the value at a path replaced."""
    copy = json.loads(json.dumps(value))
    parent = copy
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = replacement
    return copy


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(leaves(SUITE)), value=st.sampled_from([*VALUES, *RAW]))
def test_a_suite_is_planned_or_refused(tmp_path: Path, path: tuple[str | int, ...], value: Any) -> None:
    file = tmp_path / "suite.yaml"
    text = yaml.safe_dump(changed(SUITE, path, "REPLACED"), sort_keys=False)
    inserted = value if value in RAW else json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf")
    file.write_text(text.replace("REPLACED", inserted))
    try:
        plan(load_suite(file))
    except HarnessError as error:
        assert error.exit_code == 2
        assert str(file) in str(error)
        assert "\n" not in str(error)


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.sampled_from(leaves(document())), value=st.sampled_from(VALUES))
def test_results_are_reported_or_refused(tmp_path: Path, path: tuple[str | int, ...], value: Any) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps(changed(document(), path, value)))
    try:
        results = read_results(file)
    except UsageError as error:
        assert str(file) in str(error)
        return
    assert to_markdown(results).encode()
    assert to_csv(results).encode()
    assert json.dumps(to_summary(results), allow_nan=False)
    assert to_junit(results).encode()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_a_figure_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: str) -> None:
    file = tmp_path / "results.json"
    text = json.dumps(changed(document(), ("trials", 0, "metrics", "bleu", "value"), "REPLACED"))
    file.write_text(text.replace('"REPLACED"', value))
    with pytest.raises(
        UsageError, match=r"results\.json: .*trials\.0\.metrics\.bleu\.value: .*finite number"
    ):
        read_results(file)
