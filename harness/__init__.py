"""Evaluation harness for models: accuracy and speed on given hardware, and whether differences are real.

The names below are imported when they are first used, so `import harness` is cheap. See docs/python.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.evaluation import Evaluation, evaluate
    from harness.api.runs import Run, run
    from harness.errors import HarnessError, InfrastructureError, UnavailableError, UsageError
    from harness.evaluation.detection import AnnotatedBoxes
    from harness.evaluation.segmentation import AnnotatedMasks
    from harness.evaluation.translation import ReferenceTexts
    from harness.task import Detections, Translation

    __version__: str

_HOMES = {
    "harness.api.evaluation": ("Evaluation", "evaluate"),
    "harness.api.runs": ("Run", "run"),
    "harness.evaluation.detection": ("AnnotatedBoxes",),
    "harness.evaluation.segmentation": ("AnnotatedMasks",),
    "harness.evaluation.translation": ("ReferenceTexts",),
    "harness.errors": ("HarnessError", "InfrastructureError", "UnavailableError", "UsageError"),
    "harness.task": ("Detections", "Translation"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnnotatedBoxes",
    "AnnotatedMasks",
    "Detections",
    "Evaluation",
    "HarnessError",
    "InfrastructureError",
    "ReferenceTexts",
    "Run",
    "Translation",
    "UnavailableError",
    "UsageError",
    "evaluate",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a name of the surface; `__version__` is that of the installed distribution."""
    if name == "__version__":
        from importlib.metadata import version

        return version("harness")
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
