"""Identity is content: hashes of specifications and of the code that can change an outcome."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def content_id(document: Any) -> str:
    """16 hex digits of the SHA-256 of canonical JSON: key order and spacing do not count."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@lru_cache
def code_version(module: str) -> str:
    """Hash of a module and of all modules of its own distribution that it imports, directly or not.

    Taken from the syntax tree without docstrings, so that comments and layout do not count.
    """
    package = module.partition(".")[0]
    pending: list[str] = [module]
    code: dict[str, str] = {}
    while pending:
        name = pending.pop()
        path = _source_file(name)
        if name in code or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
        pending += [found for found in _imports(tree, parent) if found.partition(".")[0] == package]
        code[name] = _without_docstrings(tree)
    return content_id(code)


def _source_file(name: str) -> Path | None:
    """Where a module's source is; None for what is no module (`a.b` may be a name in a) or has none.

    Only the top-level name is looked up: to find `a.b.c`, `find_spec` would import a.b and all it imports.
    """
    package, _, rest = name.partition(".")
    spec = find_spec(package)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        stem = Path(folder, *rest.split("."))
        for candidate in (stem.with_suffix(".py"), stem / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _without_docstrings(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.unparse(tree)  # rather than ast.dump, whose form differs between versions of Python


def _imports(tree: ast.Module, package: str) -> list[str]:
    """Names that may be modules; `from a import b` may mean the module a.b or a name in a.

    Relative imports start from `package`.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of parts, each preceded by its length so that no two lists collide."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "big"))
        sha.update(raw)
    return sha.hexdigest()
