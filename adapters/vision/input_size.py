"""The option `input_size` of the vision models."""

from typing import Annotated, TypeAlias

from pydantic import Field

from harness.adapter import AdapterOptions

Side: TypeAlias = Annotated[int, Field(ge=32, le=4096)]


class InputSizeOptions(AdapterOptions):
    """Options of a model whose images are resized to a size of the user's choice."""

    input_size: Side | tuple[Side, Side] | None = None
    """Size of the model's input in px: the side of a square, or [width, height]."""

    def input_shape(self, default: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the input in px."""
        if self.input_size is None:
            return default
        if isinstance(self.input_size, int):
            return self.input_size, self.input_size
        width, height = self.input_size
        return height, width

    def check_multiple(self, multiple: int, of: str) -> None:
        """Raise a ValueError unless the sides of the input are multiples of a stride."""
        if any(side % multiple for side in self.input_shape((0, 0))):
            raise ValueError(f"input_size: expected multiples of {multiple} px, the stride of {of}")
