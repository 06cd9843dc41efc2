"""`harness new adapter` writes a package that works unchanged, outside the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_suite import run_suite
from yaml import safe_load

from harness.adapter import ADAPTERS
from harness.cli.scaffold import new_adapter
from harness.errors import UsageError
from harness.task import TASKS, TaskName


def install(folder: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what `pip install -e` does: put the folder on the path, and write its entry points."""
    metadata = folder / f"{module}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    project = (folder / "pyproject.toml").read_text()
    (target,) = [line for line in project.splitlines() if line.startswith(f'{name} = "')]
    (metadata / "entry_points.txt").write_text(f"[harness.adapters]\n{target.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("task", TASKS)
def test_a_new_adapter_is_found_tested_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: TaskName
) -> None:
    name, module = f"my-{task}", f"my_{task}"
    written = new_adapter(name, task, tmp_path)
    folder = tmp_path / name
    assert sorted(path.name for path in written) == sorted(
        ["pyproject.toml", "suite.yaml", f"{module}.py", f"test_{module}.py"]
    )
    assert len((folder / f"{module}.py").read_text().splitlines()) < 60
    install(folder, name, module, monkeypatch)
    assert ADAPTERS.entries()[name].origin == name
    code = compile((folder / f"test_{module}.py").read_text(), f"test_{module}.py", "exec")
    scope: dict[str, object] = {}
    exec(code, scope)
    scope["test_predictions_can_be_stored_and_scored"]()  # type: ignore[operator]
    suite = safe_load((folder / "suite.yaml").read_text())
    suite["benchmarks"]["first-look"] |= {"limit": 8, "speed": []}
    results = run_suite(tmp_path, suite)
    assert [trial.status for trial in results.trials] == ["complete"] * 2
    sys.modules.pop(module)


@pytest.mark.parametrize(
    ("task", "metric"), [("segmentation", "miou"), pytest.param("detection", "ap", marks=pytest.mark.slow)]
)
def test_a_new_vision_adapter_runs_in_onnx_runtime_with_the_same_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: TaskName, metric: str
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    name, module = f"exported-{task}", f"exported_{task}"
    new_adapter(name, task, tmp_path)
    install(tmp_path / name, name, module, monkeypatch)
    suite = safe_load((tmp_path / name / "suite.yaml").read_text())
    suite["adapters"] = {name: {"adapter": name, "backend": ["eager", "onnxruntime"]}}
    suite["benchmarks"]["first-look"] |= {"limit": 8, "speed": []}
    eager, exported = run_suite(tmp_path, suite).trials
    assert [artefact.name for artefact in exported.artefacts] == ["network"]
    assert eager.metrics[metric] == exported.metrics[metric]
    assert eager.metrics[metric].n == 8
    sys.modules.pop(module)


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("My-Model", "detection", "expected lower-case words"),
        ("../x", "detection", "expected lower-case words"),
        ("a--b", "detection", "expected lower-case words"),
        ("yolo", "detection", "'yolo' is taken by harness"),
        ("class", "detection", "'class' is a Python keyword or an existing module"),
        ("json", "detection", "'json' is a Python keyword or an existing module"),
        ("torch", "detection", "'torch' is a Python keyword or an existing module"),
        ("new", "detektion", "unknown task 'detektion'; did you mean 'detection'"),
        ("existing", "detection", "existing: cannot be created: File exists"),
    ],
)
def test_bad_names_and_existing_folders_are_refused(tmp_path: Path, name: str, task: str, says: str) -> None:
    (tmp_path / "existing").mkdir()
    with pytest.raises(UsageError, match=says):
        new_adapter(name, task, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["existing"]
