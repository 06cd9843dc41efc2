"""The backend `eager`: torch executes the module, operation by operation."""

from collections.abc import Callable
from pathlib import Path

from harness.adapter import Exportable
from harness.backends.backend import Backend


class Eager(Backend):
    """Torch, without a compiler."""

    precisions = ("fp32", "tf32", "bf16", "fp16")

    def load(self, part: Exportable, artefact: Path | None) -> Callable[..., object]:  # noqa: ARG002
        method: Callable[..., object] = getattr(part.module, part.method)
        return method
