"""What this project's own models share: a torch module made from options, weights, precision, device."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import ValidationError

from harness.adapter import AdapterOptions, Precision, TrainableAdapter
from harness.checkpoint import Checkpoint, load_into
from harness.datasets.dataset import Dataset
from harness.errors import UsageError

AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchOptions(AdapterOptions):
    """For models whose module is one graph of tensor operations."""

    compiled: bool = False
    """Predict through torch.compile, which takes a while at the first batch and gives other last digits."""


class TorchAdapter(TrainableAdapter):
    """Subclasses say what the module is (`make_module`) and how it predicts (`infer`)."""

    name: ClassVar[str]
    """The registered name; a checkpoint of another one is refused."""
    shaping: ClassVar[tuple[str, ...]] = ()
    """The options that shape the weights. They travel with the checkpoint, which decides them."""

    classes: tuple[str, ...] = ()

    @abstractmethod
    def make_module(self) -> torch.nn.Module:
        """A freshly initialised module from `self.options`, `self.classes` and what was learnt."""

    @abstractmethod
    def infer(self, batch: Any) -> Any:
        """`forward`, called without gradients and in the precision of the runtime."""

    def learn(self, train: Dataset) -> None:
        """Take what the module's making needs from the training data: the class names, by default."""
        self.classes = train.classes

    def assets(self) -> dict[str, bytes]:
        """What was learnt besides weights and classes (a vocabulary), for the checkpoint."""
        return {}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take back what `assets` gave."""

    def adopt(self, tensors: Mapping[str, torch.Tensor]) -> Checkpoint:  # noqa: ARG002
        """Weights published elsewhere as a checkpoint of this adapter: names mapped, options and classes read
        off the shapes.

        Raises:
            UsageError: they are not this model's; always, for a model that nobody else publishes.
        """
        raise UsageError(f"adapter '{self.name}' loads weights that this harness has made, and no others")

    def build(self, train: Dataset) -> None:
        self.learn(train)
        self._place(self.make_module())

    def load(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            raise UsageError(f"adapter '{self.name}' needs a checkpoint: none is set")
        if not checkpoint.adapter:
            checkpoint = self.adopt(checkpoint.tensors)
        self.options = self._reconciled(checkpoint)
        self.classes = checkpoint.classes
        self.restore(checkpoint)
        module = self.make_module()
        load_into(module, checkpoint, self.name)
        self._place(module.eval())
        if isinstance(self.options, TorchOptions) and self.options.compiled:
            self.module.compile()

    def forward(self, batch: Any) -> Any:
        with torch.inference_mode(), self.autocast():
            return self.infer(batch)

    def autocast(self) -> torch.autocast:
        """The context in which the module computes in the runtime's precision."""
        device = torch.device(self.runtime.device).type
        dtype = AUTOCAST.get(self.runtime.precision)
        return torch.autocast(device, dtype=dtype, enabled=dtype is not None)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            tensors=self.module.state_dict(),
            adapter=self.name,
            options={option: getattr(self.options, option) for option in self.shaping},
            classes=self.classes,
            assets=self.assets(),
        )

    def _place(self, module: torch.nn.Module) -> None:
        # channels_last touches convolution weights only; measured: 23% less training time on a CPU
        self.module = module.to(device=self.runtime.device).to(memory_format=torch.channels_last)

    def _reconciled(self, checkpoint: Checkpoint) -> AdapterOptions:
        """Our options with the checkpoint's shaping ones.

        Raises:
            UsageError: the checkpoint is another adapter's, or the suite sets a shaping option otherwise.
        """
        if checkpoint.adapter != self.name:
            raise UsageError(
                f"checkpoint of adapter '{checkpoint.adapter}' cannot be loaded by '{self.name}'"
            )
        for option in sorted(set(self.shaping) ^ set(checkpoint.options)):
            where = "missing from" if option in self.shaping else "left over in"
            raise UsageError(
                f"checkpoint does not fit adapter '{self.name}': option '{option}' is {where} it"
            )
        stated = self.options.model_dump()
        try:
            merged: AdapterOptions = self.Options.model_validate({**stated, **checkpoint.options})
        except ValidationError as error:
            raise UsageError(f"checkpoint of adapter '{self.name}': bad options: {error}") from error
        for option in sorted(self.options.model_fields_set & set(self.shaping)):
            theirs = getattr(merged, option)
            if stated[option] != theirs:
                raise UsageError(
                    f"adapter '{self.name}': option '{option}' is {stated[option]!r}, but the checkpoint "
                    f"was trained with {theirs!r}; set it so or train another"
                )
        return merged
