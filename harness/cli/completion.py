"""Names that the shell completes: suites, adapters, data sets and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from harness.registry import Registry


def suite_names(incomplete: str) -> list[str]:
    """Return the shipped suites, and the YAML files and folders that continue `incomplete`."""
    from harness.suite.loading import shipped_suites

    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [f"{path}/" if path.is_dir() else str(path) for path in paths if _may_be_a_suite(path)]
    return _continuing(incomplete, [*shipped_suites(), *files])


def dataset_names(incomplete: str) -> list[str]:
    """Return the registered data sets that continue `incomplete`."""
    from harness.datasets.dataset import DATASETS

    return _continuing(incomplete, list(DATASETS.entries()))


def registries() -> dict[str, Registry[Any]]:
    """Return the registries by the name of their group in `harness list`."""
    from harness.adapter import ADAPTERS
    from harness.datasets.dataset import DATASETS
    from harness.metrics.metric import METRICS

    return {"adapters": ADAPTERS, "datasets": DATASETS, "metrics": METRICS}


def listed_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the group typed after `harness list` that continue `incomplete`."""
    from harness.suite.loading import shipped_suites

    group = str(ctx.params.get("group"))
    names = registries()[group].entries() if group in registries() else shipped_suites()
    return _continuing(incomplete, list(names))


def _may_be_a_suite(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix in (".yaml", ".yml"))


def _continuing(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
