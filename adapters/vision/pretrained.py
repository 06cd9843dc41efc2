"""Networks with a part that starts from a published ImageNet classifier."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from harness.adapter import AdapterOptions
from harness.checkpoint import Checkpoint, load_into
from harness.errors import UsageError


class BackboneOptions(AdapterOptions):
    """Options of a model with a small backbone, or that of its paper."""

    backbone: str = "small"
    width: int = Field(16, ge=4, le=64)
    """Channels of the small backbone's first stage."""


class PretrainedOptions(BackboneOptions):
    """Options of a model whose paper's backbone is a published classifier."""

    pretrained: Path | None = None
    """Weights from which training of the larger backbone starts."""

    @model_validator(mode="after")
    def _published(self) -> Self:
        if self.backbone == "small" and self.pretrained is not None:
            raise ValueError("pretrained: the small backbone has no published weights")
        return self

    def check_small_only(self, *names: str) -> None:
        """Raise a ValueError if options of the small backbone have a value."""
        for name in names:
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: it is an option of the small backbone")


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
