"""torchvision's compiled operators, without its Python package."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch


@lru_cache
def operator(name: str) -> Callable[..., Any] | None:
    """An operator, or None where torchvision is not installed or was built for another torch.

    Loading the library takes 3 ms of CPU, importing the package 4 s (measured).
    """
    found = find_spec("torchvision")
    for folder in (found.submodule_search_locations or []) if found else []:
        for library in sorted(Path(folder).glob("_C*")):
            try:
                torch.ops.load_library(library)
                compiled: Callable[..., Any] = getattr(torch.ops.torchvision, name)
            except (OSError, AttributeError):  # not the library of operators, or one for another torch
                continue
            return compiled
    return None
