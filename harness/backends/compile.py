"""The backend `compile`: torch.compile generates code for each part, once per kind of shape."""

from collections.abc import Callable
from pathlib import Path

from harness.adapter import Exportable
from harness.backends.backend import Backend


class Compile(Backend):
    """Torch's compiler (Inductor), which needs a C++ compiler on a CPU."""

    precisions = ("fp32", "tf32", "bf16", "fp16")

    def load(self, part: Exportable, artefact: Path | None) -> Callable[..., object]:  # noqa: ARG002
        import torch

        compiled: Callable[..., object] = torch.compile(getattr(part.module, part.method))
        return compiled
