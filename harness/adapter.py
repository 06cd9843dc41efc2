"""The interface between the harness and a model: everything that a third-party adapter implements.

    load(checkpoint)                            once, on the worker
    preprocess(samples) → batch                 host work: resize, tokenise, pad, copy to the device
    forward(batch) → raw                        the model
    postprocess(raw, batch) → predictions       suppress boxes, decode tokens, copy to the host

The phases are separate so that each can be timed on its own as well as end to end. On a GPU, the next batch
is preprocessed in another thread during the forward pass of the current one, so keep the state of a batch in
the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar  # with defaults, which typing supports only since Python 3.13

from harness.registry import Registry
from harness.task import Alignment, Prediction, Sample, TaskName

if TYPE_CHECKING:
    import numpy as np
    import torch

    from harness.checkpoint import Checkpoint
    from harness.datasets.dataset import Dataset

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8"]
"""Numbers of the model; `tf32` is fp32 whose products are rounded to TF32, on NVIDIA GPUs since Ampere."""

Batch = TypeVar("Batch", default=Any)
"""The input of `forward`, which `preprocess` returns."""
Raw = TypeVar("Raw", default=Any)
"""The raw outputs for a batch, which `forward` returns."""
TrainingBatch = TypeVar("TrainingBatch", default=Any)
"""The input of `loss`, which `training_batch` returns."""


class AdapterOptions(BaseModel):
    """Options that a suite may set for an adapter. Subclasses add fields, described by their docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a model."""

    device: str = "cpu"  # a torch device
    precision: Precision = "fp32"


@dataclass(frozen=True, eq=False)
class Exportable:
    """A method of a torch module that maps tensors to tensors, which a backend may run in the model's place.

    Arguments and results may be nested tuples, lists and dictionaries of tensors.
    """

    module: torch.nn.Module
    method: str
    example: tuple[object, ...]
    """Arguments of the method; their dynamic axes have sizes of at least 2."""
    axes: tuple[tuple[int, ...], ...]
    """Dynamic axes of each tensor in `example`: those whose size differs from call to call."""


@dataclass(frozen=True)
class Resources:
    """Resources that a prediction worker reserves on a cluster. Fractions share a CPU or a GPU."""

    cpu: float = 1.0
    gpu: float = 1.0  # only if the model runs on one


class Adapter(ABC, Generic[Batch, Raw]):
    """A model behind the interface of its task.

    Construction is cheap: weights are created or read in `load`.
    """

    task: ClassVar[TaskName]
    timed: ClassVar[bool] = True
    """Set to False to skip the suite's speed scenarios, because stored predictions have no speed."""
    probes: ClassVar[Mapping[str, str]] = {}
    """Name what `probe` measures, for claims, each with its unit."""
    Options: ClassVar[type[AdapterOptions]] = AdapterOptions
    options: AdapterOptions
    """An instance of `Options`; subclasses annotate it with their own class."""
    notes: Sequence[str] = ()
    """Notes of `bind` on what it left out, one line per kind; a run prints them once."""
    classes: Sequence[str] = ()
    """Label names of a loaded model, by index; if empty, labels are indices into the data set's classes."""

    def __init__(self, options: AdapterOptions, runtime: Runtime) -> None:
        self.options = options
        self.runtime = runtime

    @classmethod
    def tasks(cls) -> tuple[TaskName, ...]:
        """Return the tasks that the adapter is for; a model has one, `task`."""
        return (cls.task,)

    def bind(self, dataset: Dataset) -> None:
        """Learn the sample ids and classes of the data set before `load`. Models need neither.

        Raises:
            UsageError: The options do not fit the data set.
        """

    @abstractmethod
    def load(self, checkpoint: Checkpoint | None) -> None:
        """Load the model onto `self.runtime.device`; the checkpoint is None if the suite names none.

        Raises:
            UsageError: The model needs a checkpoint and has none, or the checkpoint belongs to another model.
        """

    @abstractmethod
    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        """Convert samples, whose targets are None, to the input of `forward`."""

    @abstractmethod
    def forward(self, batch: Batch) -> Raw:
        """Run the model, without host work."""

    @abstractmethod
    def postprocess(self, raw: Raw, batch: Batch) -> list[Prediction]:
        """Return one prediction per sample, in the order of the samples."""

    def predict(self, samples: Sequence[Sample]) -> list[Prediction]:
        """Run the three phases."""
        batch = self.preprocess(samples)
        return self.postprocess(self.forward(batch), batch)

    def probe(self, samples: Sequence[Sample]) -> Mapping[str, float | Sequence[float]]:  # noqa: ARG002
        """Measure the loaded model: name → a value per sample, or a number that needs no samples."""
        return {}

    def exportable(self) -> Mapping[str, Exportable]:
        """Return the parts of the loaded model that other backends can run, by name; none by default.

        Together they should be the whole network. Preprocessing, suppression and search are no part of them.
        """
        return {}

    def parameters(self) -> int | None:
        """Return the number of parameters of the loaded model, or None if unknown."""
        return None

    def flops(self, samples: Sequence[Sample]) -> float | None:  # noqa: ARG002
        """Return the floating-point operations of `forward` (2 per multiply–add), or None if unknown."""
        return None


class TranslationAdapter(Adapter[Batch, Raw]):
    """A translation model that can also explain its translations and count their tokens."""

    task = "translation"

    def alignments(
        self,
        samples: Sequence[Sample],  # noqa: ARG002
        predictions: Sequence[Prediction],  # noqa: ARG002
    ) -> list[Alignment] | None:
        """Align each given prediction with its source, without a new search.

        Returns:
            One alignment per sample, or None for a model without attention.
        """
        return None

    def lossy_inputs(self, samples: Sequence[Sample]) -> dict[str, list[bool]]:  # noqa: ARG002
        """Return, by kind of loss, whether the model cannot read a part of each sample.

        The kinds are `unknown_source`, a token outside the vocabulary, and `cut_source`, text beyond the
        maximum length.
        """
        return {}

    def work_units(
        self,
        samples: Sequence[Sample],  # noqa: ARG002
        predictions: Sequence[Prediction],  # noqa: ARG002
    ) -> dict[str, list[int]]:
        """Return the number of units of work in each sample, by unit (`source_tokens`, `target_tokens`).

        Throughput is reported per unit as well as per sample, and latency by `source_tokens`.
        """
        return {}


class TrainableAdapter(Adapter[Batch, Raw], Generic[Batch, Raw, TrainingBatch]):
    """An adapter whose model the training stage can fit.

    The stage owns the loop, the optimiser and the schedule. The adapter owns the module, the training
    batches (including augmentation) and the loss.
    """

    training_options: ClassVar[frozenset[str]] = frozenset()
    """Options that affect only training. A suite must not set them for weights trained without them."""
    module: torch.nn.Module

    @property
    def pooled_batches(self) -> int:
        """Number of training batches per bucketing pool.

        The samples of a pool are sorted by `bucketing_key` before they are cut into batches. The samples of
        a batch then have similar sizes, which saves padding.
        """
        return 1

    def bucketing_key(self, sample: Sample) -> int:  # noqa: ARG002
        """Return the size by which the samples of a bucketing pool are sorted."""
        return 0

    def curriculum_fraction(self, step: int) -> float:  # noqa: ARG002
        """Return the fraction of a pool, smallest samples first, that a training step draws from."""
        return 1.0

    def check(self, train: Dataset) -> None:
        """Check that the options fit the training data, before anything is created or written.

        Raises:
            UsageError: They do not fit.
        """

    @abstractmethod
    def build(self, train: Dataset) -> None:
        """Create a freshly initialised module on `self.runtime.device`, using torch's seeded generator.

        Also learn everything else that the model needs from the training data (class names, a vocabulary).
        """

    @abstractmethod
    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> TrainingBatch:
        """Convert samples with targets to a batch for `loss`; only `generator` may drive augmentation."""

    @abstractmethod
    def loss(self, batch: TrainingBatch) -> dict[str, torch.Tensor]:
        """Return scalar loss terms by name; training minimises their sum."""

    def training_units(self, batch: TrainingBatch) -> dict[str, int]:  # noqa: ARG002
        """Return the units of work in a training batch, by name; the history records them per second."""
        return {}

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """Return the current weights and everything else that `load` needs, but nothing more."""

    def parameters(self) -> int | None:
        return sum(parameter.numel() for parameter in self.module.parameters())

    def flops(self, samples: Sequence[Sample]) -> float | None:
        """Return torch's count, or None for recurrent layers: torch counts their fused kernels as zero."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        if any(isinstance(part, torch.nn.RNNBase) for part in self.module.modules()):
            return None
        batch = self.preprocess(samples)
        with FlopCounterMode(display=False) as counter:
            self.forward(batch)
        return float(counter.get_total_flops())


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", "harness.adapters")
