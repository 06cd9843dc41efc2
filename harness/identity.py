"""Hashes of specifications and code: equal contents have equal identities."""

import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

SHIPPED_PACKAGES = ("adapters", "harness", "reports", "suites")


def content_id(document: object) -> str:
    """Return 16 hex digits of the SHA-256 of a JSON document, independent of key order and spacing."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def without_seed(variant: str) -> str:
    """Return the model of a training: `lstm` for `lstm[seed=0]`, `lstm[beam=5]` for `lstm[seed=0,beam=5]`."""
    return re.sub(r"(?<=\[)seed=\d+(?:,|(?=\]))|,seed=\d+(?=[,\]])", "", variant).removesuffix("[]")


def same_weights(first: Sequence[str | None], second: Sequence[str | None]) -> bool:
    """Return whether two models have the same checkpoints, given by hash in the order of their seeds."""
    return None not in first and list(first) == list(second)


def digest(parts: Iterable[str | bytes]) -> str:
    """Return the SHA-256 (hex) of a list of parts.

    Each part is preceded by its length, so that different lists cannot have the same concatenation.
    """
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "big"))
        sha.update(raw)
    return sha.hexdigest()


@lru_cache
def code_version(module: str) -> str:
    """Return a hash of the code of a module and of all modules that it depends on (see `modules_of`).

    The hash is computed from the syntax trees without docstrings, so comments and layout do not affect it.
    """
    return content_id({name: _without_docstrings(tree) for name, tree in _trees(module).items()})


def modules_of(module: str) -> frozenset[str]:
    """Return the modules that the identity of a module covers.

    These are the module itself and all modules of the same distribution that it imports, directly or not.
    """
    return frozenset(_trees(module))


def _trees(module: str) -> dict[str, ast.Module]:
    """Parse a module and all modules of its distribution that it imports, directly or not."""
    package = module.partition(".")[0]
    pending: list[str] = [module]
    trees: dict[str, ast.Module] = {}
    while pending:
        name = pending.pop()
        path = source_file(name)
        if name in trees or path is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parent = name if path.name == "__init__.py" else name.rpartition(".")[0]
        pending += [imported for imported in _imports(tree, parent) if _belongs(imported, package)]
        trees[name] = tree
    return trees


def _belongs(module: str, package: str) -> bool:
    """Return whether a module belongs to the distribution of a top-level package.

    A module that no distribution provides also does: some editable installs do not list their modules. This
    project is the exception, where only the modules of the same package count.
    """
    other = module.partition(".")[0]
    if other == package or package in SHIPPED_PACKAGES:
        return other == package
    if other in SHIPPED_PACKAGES or other in sys.stdlib_module_names:
        return False
    providers = _distributions(tuple(sys.path))
    return other not in providers or not providers[other].isdisjoint(providers.get(package, ()))


@lru_cache
def _distributions(path: tuple[str, ...]) -> dict[str, frozenset[str]]:  # noqa: ARG001
    """Return the distributions of every top-level package; cached by sys.path, because it takes 0.3 s."""
    return {package: frozenset(names) for package, names in packages_distributions().items()}


def source_file(name: str) -> Path | None:
    """Return a module's source file, or None if it has none or the name (`a.b` for b in a) is no module.

    Only the top-level package is looked up by the import system, because to find `a.b.c`, `find_spec` would
    import a.b and everything that a.b imports.
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
    """Remove the docstrings from a syntax tree and return its code as normalised text."""
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:]
    return ast.unparse(tree)  # not ast.dump, whose output differs between versions of Python


def _imports(tree: ast.Module, package: str) -> list[str]:
    """Return imported names that may be modules: `from a import b` may mean the module a.b or a name in a.

    Relative imports start at `package`.
    """
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return names
