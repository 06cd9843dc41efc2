"""The contract of a backend: how the exportable parts of a model are executed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness.adapter import Exportable, Precision
from harness.registry import Registry

if TYPE_CHECKING:
    import torch

Inputs = Sequence["torch.Tensor"]
"""The tensors among the arguments of one call, in the order in which torch flattens nested arguments."""


class Backend(ABC):
    """A way to execute the parts of a model that its adapter exports.

    A backend with a `suffix` makes a file of each part, its artefact, and executes the file. The others
    execute the module itself.
    """

    precisions: ClassVar[tuple[Precision, ...]]
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that must be installed."""
    install: ClassVar[str] = ""
    """Command that installs them."""
    suffix: ClassVar[str] = ""
    exporters: ClassVar[tuple[str, ...]] = ()
    """Packages whose version, besides torch's, determines the artefacts."""

    def export(self, part: Exportable, precision: Precision, calibration: Sequence[Inputs]) -> bytes:
        """Return the artefact of a part whose module is on the CPU.

        Args:
            calibration: Inputs of the part's calls on training samples; empty unless the precision is int8.
        """
        raise NotImplementedError

    @abstractmethod
    def load(self, part: Exportable, artefact: Path | None) -> Callable[..., object]:
        """Return a function to call in place of the part's method; without a suffix, the artefact is None."""


BACKENDS: Registry[type[Backend]] = Registry(
    "backend",
    "harness.backends",
    {
        "eager": "harness.backends.eager:Eager",
        "compile": "harness.backends.compile:Compile",
        "onnxruntime": "harness.backends.onnxruntime:OnnxRuntime",
        "openvino": "harness.backends.openvino:OpenVino",
    },
)


def missing_packages(name: str) -> str | None:
    """Return which packages of a backend are missing, with the command that installs them, or None."""
    backend = BACKENDS.get(name)
    missing = [package for package in backend.packages if find_spec(package) is None]
    return f"backend '{name}' needs {', '.join(missing)}: {backend.install}" if missing else None


def substitute(part: Exportable, function: Callable[..., object]) -> None:
    """Call a function in place of the part's method from now on."""
    setattr(part.module, part.method, function)
