"""Identity is content: hashes of specifications and of the code that can change an outcome."""

from __future__ import annotations

import ast
import hashlib
import json
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
    pending, trees = [module], {}
    while pending:
        name = pending.pop()
        if name in trees:
            continue
        spec = find_spec(name)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        trees[name] = _shape(tree)
        pending += [found for found in _imports(tree, name) if found.partition(".")[0] == package]
    return content_id(trees)


def _shape(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def _imports(tree: ast.Module, module: str) -> list[str]:
    """Names that may be modules; `from a import b` may mean the module a.b or a name in a."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names if _is_module(base, alias.name))]
    return found


def _is_module(package: str, name: str) -> bool:
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return any((Path(folder) / f"{name}.py").exists() for folder in folders or ())
