"""`class_weights` affect training: wrong ones, and ones without training, end the command at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_suite import write
from typer.testing import CliRunner

from harness.cli.app import app

RECIPE: dict[str, Any] = {
    "adapter": "fcn-8s",
    "task": "segmentation",
    "options": {"width": 4},
    "dataset": {"name": "scenes", "options": {"size": 8}},
    "steps": 1,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "metric": "iou",
    "validation_size": 2,
}


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a suite whose checkpoint is trained with a weight for a class that does not exist."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return suite_of(tmp_path, {"seevn": 2.0})


def suite_of(folder: Path, weights: dict[str, float] | None, **options: Any) -> Path:
    recipe = RECIPE if weights is None else RECIPE | {"options": {"width": 4, "class_weights": weights}}
    (folder / "own.yaml").write_text(yaml.safe_dump({"recipe": recipe}))
    adapter = {"adapter": "fcn-8s", "checkpoint": "own.yaml", "options": options}
    benchmark = {"dataset": "few", "task": "segmentation", "adapters": ["own"], "metrics": ["iou"]}
    return write(
        folder,
        {
            "name": "weights",
            "datasets": {"few": {"dataset": "scenes", "options": {"size": 4}}},
            "adapters": {"own": adapter},
            "benchmarks": {"b": benchmark},
        },
    )


def failed(*command: object) -> str:
    """Return the message of a command that fails because of wrong input."""
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code == 2, result.output
    return result.stderr


@pytest.mark.parametrize("command", ["train", "run"])
def test_an_unknown_class_is_refused_before_anything_is_written(
    suite: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(suite.parent)
    before = sorted(suite.parent.rglob("*"))
    message = failed(command, suite, "--executor", "inline")
    assert "class_weights: unknown class 'seevn'" in " ".join(message.split())
    assert "training" not in message
    assert sorted(suite.parent.rglob("*")) == before


@pytest.mark.parametrize("option", [{"class_weights": {"7": 2.0}}, {"class_weights": {"seevn": 2.0}}])
def test_class_weights_are_refused_with_a_checkpoint_trained_without_them(
    suite: Path, option: dict[str, Any]
) -> None:
    suite_of(suite.parent, None, **option)
    message = " ".join(failed("plan", suite).split())
    assert "adapters.own.options.class_weights: class_weights affects only training" in message
    suite_of(suite.parent, {"7": 2.0}, class_weights={"7": 2.0})
    assert CliRunner().invoke(app, ["plan", str(suite)]).exit_code == 0
