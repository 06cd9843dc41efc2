"""torchvision's compiled operators, without its Python package."""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor


@lru_cache
def operator(name: str) -> Callable[..., Tensor] | None:
    """Return an operator, or None if torchvision is not installed or was built for another version of torch.

    Loading the library takes 3 ms of CPU time; importing the package takes 4 s (measured).
    """
    spec = find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder).glob("_C*")):
            try:
                torch.ops.load_library(library)
                compiled: Callable[..., Tensor] = getattr(torch.ops.torchvision, name)
            except (OSError, AttributeError):  # not the library of operators, or one for another torch
                continue
            return compiled
    return None
