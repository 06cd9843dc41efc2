"""The layers of docs/architecture.md: imports only go down; modules and functions are short."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.analysis import record
from harness.rundir import results
from harness.suite import schema as suite_schema

ROOT = Path(__file__).parent.parent
LONGEST_MODULE = 300  # lines; what one can read without scrolling back and forth
LONGEST_FUNCTION = 60  # lines, docstring included
PACKAGES = ("harness", "adapters", "reports")
MODULES = {
    str(path.relative_to(ROOT)): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")
}
CONTRACTS = {
    contract["id"]: contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
}


def check_imports(root: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)


def test_imports_go_down_only() -> None:
    checked = check_imports(ROOT)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("harness/task.py", "from harness.rundir import results", "floors"),  # upward
        ("harness/compare/frontier.py", "import harness.driver.run", "floors"),  # upward
        ("harness/jobs/job.py", "import harness.tracking", "floors"),  # sibling
        ("harness/executors/inline.py", "import harness.compare", "floors"),  # sibling
        ("harness/errors.py", "import harness.registry", "circles"),
        ("harness/metrics/matching.py", "import harness.metrics.precision_recall", "circles"),
        ("harness/attic.py", "", "floors"),  # a room that nobody put on a floor
        ("harness/driver/scoring.py", "import ray", "services"),
        ("harness/executors/inline.py", "import ray", "services"),
        ("harness/jobs/package.py", "import ray", "services"),
        ("harness/compare/frontier.py", "import mlflow", "services"),
        ("adapters/images.py", "import mlflow", "services"),
        ("reports/text.py", "import ray", "services"),
        ("harness/suite/plan.py", "import adapters.detection.ssd", "plug-ins"),
        ("reports/verdict.py", "import adapters.images", "plug-ins"),
        ("adapters/torch_adapter.py", "import harness.driver.run", "adapters-below"),
        ("harness/compare/outcome.py", "import reports.text", "reports-above"),
        ("reports/write.py", "import harness.executors.inline", "reports-below"),
        ("adapters/detection/matching.py", "import adapters.segmentation.fcn", "adapters-rooms"),
        ("reports/text.py", "import reports.markdown", "reports-rooms"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    checked = check_imports(tmp_path)
    assert checked.returncode != 0
    # The report breaks long names over lines.
    assert f"{CONTRACTS[contract]['name']} BROKEN" in " ".join(checked.stdout.split())


def floors_in_the_document(heading: str) -> list[set[str]]:
    """Return the modules of each layer in the picture below a heading: first column, joined by ` · `."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = text.split(f"### `{heading}`\n", 1)[1].split("```\n", 2)[1].split("```")[0]
    return [set(re.split(r" {2,}", line)[0].split(" · ")) for line in picture.splitlines()]


@pytest.mark.parametrize(
    ("heading", "contract"),
    [("harness", "floors"), ("adapters", "adapters-rooms"), ("reports", "reports-rooms")],
)
def test_the_document_draws_the_floors_that_are_checked(heading: str, contract: str) -> None:
    checked = [set(layer.split(" | ")) for layer in CONTRACTS[contract]["layers"]]
    assert floors_in_the_document(heading) == checked


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_is_a_chapter_and_a_function_fits_a_screen(name: str) -> None:
    text = MODULES[name].read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE, f"{name}: split it by idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{name}: {node.name} is too long"


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("analysis", record.json_schema()),
        ("results", results.json_schema()),
        ("suite", suite_schema.json_schema()),
    ],
)
def test_published_schemas_are_those_of_the_code(name: str, schema: object) -> None:
    published = json.loads((ROOT / "harness" / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert published == schema, f"print json_schema() of its module into harness/schema/{name}.schema.json"
