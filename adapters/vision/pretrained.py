"""Networks with a part that starts from a published ImageNet classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import model_validator
from torch import Tensor, nn

from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint, load_into
from harness.errors import UsageError


class PretrainedOptions(AdapterOptions):
    """Options of a model with a small backbone or, at the paper's scale, a published classifier."""

    backbone: str = "small"
    pretrained: Path | None = None
    """Weights from which training of the larger backbone starts."""

    @model_validator(mode="after")
    def _published(self) -> PretrainedOptions:
        if self.backbone == "small" and self.pretrained is not None:
            raise ValueError("pretrained: the small backbone has no published weights")
        return self


def start_from(part: nn.Module, published: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors that a part of a network shares by name with a published file; ignore all others.

    Raises:
        UsageError: a tensor of the part is missing from the file or has another shape.
    """
    names = part.state_dict().keys() & published.keys()
    shared = Checkpoint({name: published[name] for name in names}, adapter="", options={})
    try:
        load_into(part, shared, type(part).__name__)
    except UsageError as error:
        raise UsageError(f"pretrained {path}: {error}") from error
