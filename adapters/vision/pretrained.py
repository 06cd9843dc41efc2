"""Parts of a network that start from a published ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from harness.checkpoint import Checkpoint, load_into
from harness.errors import UsageError


def start_from(part: nn.Module, published: Mapping[str, Tensor], path: Path) -> None:
    """Copy into a part of a network the tensors that it shares names with; the others are not looked at.

    Raises:
        UsageError: a tensor of the part is missing from the file or has another shape.
    """
    names = part.state_dict().keys() & published.keys()
    shared = Checkpoint({name: published[name] for name in names}, adapter="", options={})
    try:
        load_into(part, shared, type(part).__name__)
    except UsageError as error:
        raise UsageError(f"pretrained {path}: {error}") from error
