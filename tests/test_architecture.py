"""The house as drawn in docs/architecture.md: imports go down only, and every file is one chapter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import results, suite
from harness.analysis import record

ROOT = Path(__file__).parent.parent
LONGEST = 320  # lines; what one can read without scrolling back and forth
MODULES = {
    str(path.relative_to(ROOT)): path
    for package in ("harness", "adapters", "reports")
    for path in (ROOT / package).rglob("*.py")
}


def test_imports_go_down_only() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_is_no_longer_than_a_chapter(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST, f"{name} has {lines} lines: split it by idea"


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("analysis", record.json_schema()),
        ("results", results.json_schema()),
        ("suite", suite.json_schema()),
    ],
)
def test_published_schemas_are_those_of_the_code(name: str, schema: object) -> None:
    published = json.loads((ROOT / "harness" / "schema" / f"{name}.schema.json").read_text(encoding="utf-8"))
    assert published == schema, f"print json_schema() of its module into harness/schema/{name}.schema.json"
