"""A code version changes with the code that a module reaches, but not with comments or other code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.identity import code_version, content_id

MODEL = '''
"""What it is."""
from . import layers
from .deep.search import beam  # a module of the same distribution
from .layers import WIDTH
import json

def answer(x):
    """Why."""
    return x + WIDTH
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is never imported; its name is new in every test."""
    folder = tmp_path / f"pkg_{tmp_path.name}"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .model import answer\n")
    (folder / "model.py").write_text(MODEL)
    (folder / "layers.py").write_text("import no_such_distribution.part\nWIDTH = 3\n")
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "search.py").write_text("def beam():\n    from ..tables import T\n    return T\n")
    (folder / "tables.py").write_text("T = 1\n")
    (folder / "unused.py").write_text("U = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    assert folder.name not in sys.modules, "hashing must not import the code"


def version(module: str) -> str:
    code_version.cache_clear()
    return code_version(module)


@pytest.mark.parametrize("entry", ["", ".model"])
@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model.py", MODEL.replace("x + WIDTH", "x - WIDTH")),
        ("layers.py", "WIDTH = 4\n"),
        ("tables.py", "T = 2\n"),
    ],
)
def test_imported_code_changes_the_version(package: Path, entry: str, file: str, changed: str) -> None:
    before = version(package.name + entry)
    (package / file).write_text(changed)
    assert version(package.name + entry) != before


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model.py", MODEL.replace("Why.", "Because.").replace("# a module", "# some module") + "\n# end\n"),
        ("model.py", MODEL.replace("x + WIDTH", "(x  +  WIDTH)")),
        ("unused.py", "U = 2\n"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not_change_the_version(
    package: Path, file: str, changed: str
) -> None:
    before = version(package.name)
    (package / file).write_text(changed)
    assert version(package.name) == before


def test_a_content_id_depends_on_content_only() -> None:
    assert content_id({"a": 1, "b": [1.5, None]}) == content_id({"b": [1.5, None], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": "1"})
    # printf '{"a":1}' | sha256sum
    assert content_id({"a": 1}) == "015abd7f5cc57a2d"
