"""The interface between the harness and a model; a third party's adapter implements this, no more.

    load(checkpoint)                            once, on the worker
    preprocess(samples) → batch                 host work: resize, tokenise, pad, copy to the device
    forward(batch) → raw                        the model
    postprocess(raw, batch) → predictions       suppression, search results to text, back to the host

The three phases are apart so that they can be timed apart and end to end. On a GPU the next batch is
preprocessed in another thread during this one's forward pass: keep what belongs to a batch in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from harness.registry import Registry
from harness.task import Alignment, Prediction, Sample, TaskName

if TYPE_CHECKING:
    import numpy as np
    import torch

    from harness.checkpoint import Checkpoint
    from harness.datasets.dataset import Dataset

Precision = Literal["fp32", "bf16", "fp16"]


class AdapterOptions(BaseModel):
    """What a suite may set under an adapter's `options`; subclasses add fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs; data beside the adapter, not a side effect of making it."""

    device: str = "cpu"  # a torch device
    precision: Precision = "fp32"


@dataclass(frozen=True)
class Resources:
    """What a worker that predicts takes from a cluster; fractions share a CPU or a GPU."""

    cpu: float = 1.0
    gpu: float = 1.0  # where it runs on one


class Adapter(ABC):
    """A model behind its task's interface.

    Making one costs nothing: weights are built or read in `load`.
    """

    task: ClassVar[TaskName]
    Options: ClassVar[type[AdapterOptions]] = AdapterOptions
    classes: Sequence[str] = ()
    """Names of the labels that a loaded detector or segmentation gives, by index; empty: the data set's."""

    def __init__(self, options: AdapterOptions, runtime: Runtime) -> None:
        self.options: Any = options
        self.runtime = runtime

    @abstractmethod
    def load(self, checkpoint: Checkpoint | None) -> None:
        """Make the model ready on `self.runtime`; None where the suite names no checkpoint.

        Raises:
            UsageError: the checkpoint is missing where one is needed, or belongs to another model.
        """

    @abstractmethod
    def preprocess(self, samples: Sequence[Sample]) -> Any:
        """Samples (their targets are None) → whatever `forward` takes."""

    @abstractmethod
    def forward(self, batch: Any) -> Any:
        """Run the model; no host work."""

    @abstractmethod
    def postprocess(self, raw: Any, batch: Any) -> list[Prediction]:
        """One prediction a sample, in the samples' order."""

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """The three phases in turn."""
        batch = self.preprocess(samples)
        return self.postprocess(self.forward(batch), batch)

    def parameters(self) -> int | None:
        """How many parameters the loaded model has; None if not known."""
        return None

    def flops(self, samples: Sequence[Sample]) -> float | None:  # noqa: ARG002
        """Floating-point operations of the forward phase (2 × multiply-accumulates); None if not known."""
        return None

    def alignments(
        self,
        samples: Sequence[Sample],  # noqa: ARG002
        predictions: Sequence[Prediction],  # noqa: ARG002
    ) -> list[Alignment] | None:
        """One a sample, of the prediction as given, not of a new search; None for a model without any."""
        return None

    def unread(self, samples: Sequence[Sample]) -> dict[str, list[bool]]:  # noqa: ARG002
        """Name → of each sample, whether something of it does not reach the model: `unknown_source` (a token
        that the vocabulary lacks), `cut_source` (what is beyond the longest input)."""
        return {}

    def units(
        self,
        samples: Sequence[Sample],  # noqa: ARG002
        predictions: Sequence[Prediction],  # noqa: ARG002
    ) -> dict[str, list[int]]:
        """What a sample's work is counted in beside samples: name (`source_tokens`) → a number a sample.

        Throughput is given in each of them too, latency by `source_tokens`.
        """
        return {}


class TrainableAdapter(Adapter):
    """An adapter whose model the training stage can fit.

    The stage owns the loop, optimiser and schedule; the adapter owns the module, what a training batch
    is (augmentation too) and the loss.
    """

    training_options: ClassVar[frozenset[str]] = frozenset()
    """Options that training alone reads: a suite may not set them for weights that were made without."""
    module: torch.nn.Module
    loss_unit: ClassVar[str | None] = None
    """What the loss is a mean over, by its name in `training_units`; None: samples, or as good as samples.
    Several workers that train together weight their parts of a batch by it."""

    @property
    def pooled_batches(self) -> int:
        """Training batches are cut from the samples of so many of them, sorted by size: what a batch holds is
        then of one size, so that little is padded, and no large sample hides the small ones."""
        return 1

    def competence(self, step: int) -> float:  # noqa: ARG002
        """Share of pooled batches, smallest first, that a training step draws from: a curriculum."""
        return 1.0

    def training_size(self, sample: Sample) -> int:  # noqa: ARG002
        """What samples are sorted by where batches are pooled."""
        return 0

    def check(self, train: Dataset) -> None:
        """See, before anything is made or written, whether the options fit the training data.

        Raises:
            UsageError: they do not.
        """

    @abstractmethod
    def build(self, train: Dataset) -> None:
        """Make a freshly initialised module on `self.runtime.device`, from torch's seeded generator.

        Whatever else the model needs from the training data (class names, a vocabulary) is learnt here.
        """

    @abstractmethod
    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> Any:
        """Samples with targets → a batch for `loss`; augmentation draws from the generator only."""

    @abstractmethod
    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        """Scalar terms by name; their sum is minimised."""

    def training_units(self, batch: Any) -> dict[str, int]:  # noqa: ARG002
        """What a training batch counts beside samples: name → number; the history has them a second."""
        return {}

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """The current weights and everything else `load` needs, and nothing more."""

    def parameters(self) -> int | None:
        return sum(parameter.numel() for parameter in self.module.parameters())

    def flops(self, samples: Sequence[Sample]) -> float | None:
        """Counted by torch; None for recurrent layers, whose fused kernels torch counts as nothing."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        if any(isinstance(part, torch.nn.RNNBase) for part in self.module.modules()):
            return None
        batch = self.preprocess(samples)
        with FlopCounterMode(display=False) as counter:
            self.forward(batch)
        return float(counter.get_total_flops())


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", "harness.adapters")
