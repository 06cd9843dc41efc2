"""What this project's translation models share: vocabulary, batches, loss, search."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.torch_adapter import TorchAdapter
from adapters.translation.length_batches import length_batches
from adapters.translation.options import TranslatorOptions, curriculum_fraction
from adapters.translation.search import Hypotheses, beam_search, greedy_search
from adapters.translation.vocabulary import (
    BEGIN,
    END,
    PAD,
    UNKNOWN,
    Vocabulary,
    learn_vocabulary,
    read_vocabulary,
)
from harness.adapter import Runtime, TranslationAdapter
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.task import Prediction, Sample, Translation

log = logging.getLogger(__name__)

_ASSET = "vocabulary"
_VOCABULARY_SAMPLES = 40_000  # pairs the vocabulary is learnt from; all of `gettext`, and quick to generate


@dataclass(frozen=True)
class Sources:
    """Source sentences, each closed by END."""

    tokens: Tensor  # [B, S], PAD behind each sentence; on the device
    lengths: Tensor  # [B], END included; on the host
    limits: Tensor  # [B], tokens that a translation may have; 0 for an empty source


@dataclass(frozen=True)
class Batch:
    """Sources in parts of similar length."""

    parts: tuple[Sources, ...]
    places: tuple[int, ...]  # of each source, part after part, among the samples


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs of similar length."""

    sources: Sources
    targets: Tensor  # [B, 1 + T], BEGIN y_1 … END, PAD behind each sentence


class Translator(TorchAdapter, TranslationAdapter):
    """A model, its vocabulary and a search; subclasses make the module and ask it for its logits.

    An empty source, or one of white space, has an empty translation. Signs that the vocabulary lacks are
    read as UNKNOWN, which is never written.
    """

    loss_unit = "target_tokens"
    options: TranslatorOptions
    architecture_options: ClassVar[tuple[str, ...]] = (
        "vocabulary",
        "vocabulary_size",
        "embedding_size",
        "tied_embeddings",
    )

    vocabulary: Vocabulary

    @abstractmethod
    def start(self, sources: Sources) -> Any:
        """Read the sources: the state that the search starts from."""

    @abstractmethod
    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The module's step for the search: see `search.Step`."""

    @abstractmethod
    def logits(self, sources: Sources, given: Tensor, wanted: Tensor) -> Tensor:
        """Of the tokens that follow `given` [B, T], where `wanted` [B, T] is true: [wanted.sum(), n]."""

    def learn(self, train: Dataset) -> None:
        samples = [train[index] for index in range(min(len(train), _VOCABULARY_SAMPLES))]
        texts = [text for sample in samples for text in (source_of(sample), _references(sample)[0])]
        self.vocabulary = learn_vocabulary(self.options.vocabulary, self.options.vocabulary_size, texts)
        limit = self.options.maximum_tokens
        cut = sum(len(self.vocabulary.encode(text)) >= limit for text in texts)
        if cut:
            log.warning("%s: of %d training texts %d are cut to %d tokens", self.name, len(texts), cut, limit)

    def assets(self) -> dict[str, bytes]:
        return {_ASSET: self.vocabulary.to_bytes()}

    def restore(self, checkpoint: Checkpoint) -> None:
        if _ASSET not in checkpoint.assets:
            raise UsageError(f"checkpoint of adapter '{self.name}': it holds no vocabulary")
        self.vocabulary = read_vocabulary(self.options.vocabulary, checkpoint.assets[_ASSET])
        embedding = checkpoint.tensors.get("embedding.weight")
        if embedding is not None and len(embedding) != len(self.vocabulary):
            raise UsageError(
                f"checkpoint of adapter '{self.name}': a vocabulary of {len(self.vocabulary)} tokens "
                f"does not fit weights of {len(embedding)}"
            )

    def preprocess(self, samples: Sequence[Sample]) -> Batch:
        sentences = [self.vocabulary.encode(source_of(sample)) for sample in samples]
        limit = self.options.maximum_tokens
        cut = [sample.id for sample, tokens in zip(samples, sentences, strict=True) if len(tokens) >= limit]
        if cut:
            log.warning("%s: %d sources cut to %d tokens, the first: %s", self.name, len(cut), limit, cut[0])
        unknown = sum(tokens.count(UNKNOWN) for tokens in sentences)
        if unknown:
            log.info("%s: %d source tokens are not in the vocabulary", self.name, unknown)
        lengths = [min(len(tokens) + 1, limit) for tokens in sentences]
        parts = length_batches(lengths, self.options.maximum_batch_tokens)
        return Batch(
            tuple(self._sources([sentences[index] for index in part]) for part in parts),
            tuple(index for part in parts for index in part),
        )

    def infer(self, batch: Batch) -> list[Hypotheses]:
        """One for each part."""
        return [self.search(sources) for sources in batch.parts]

    def search(self, sources: Sources) -> Hypotheses:
        """The translations of one part."""
        state = self.start(sources)
        if self.options.beam == 1:
            return greedy_search(self.step, state, sources.limits)
        return beam_search(self.step, state, sources.limits, self.options.beam, self.options.length_penalty)

    def postprocess(self, raw: list[Hypotheses], batch: Batch) -> list[Prediction]:
        rows = [row for part in raw for row in part.tokens.tolist()]
        texts = {place: _before_end(row) for place, row in zip(batch.places, rows, strict=True)}
        return [Translation(self.vocabulary.decode(texts[place])) for place in range(len(rows))]

    def lossy_inputs(self, samples: Sequence[Sample]) -> dict[str, list[bool]]:
        """Sources with a token that the vocabulary lacks; sources longer than `maximum_tokens`."""
        sentences = [self.vocabulary.encode(source_of(sample)) for sample in samples]
        return {
            "unknown_source": [UNKNOWN in tokens for tokens in sentences],
            "cut_source": [len(tokens) >= self.options.maximum_tokens for tokens in sentences],
        }

    def work_units(
        self, samples: Sequence[Sample], predictions: Sequence[Prediction]
    ) -> dict[str, list[int]]:
        """Tokens, END included."""
        encode = self.vocabulary.encode
        return {
            "source_tokens": [len(encode(source_of(sample))) + 1 for sample in samples],
            "target_tokens": [len(encode(text_of(prediction))) + 1 for prediction in predictions],
        }

    def flops(self, samples: Sequence[Sample]) -> float:
        """Counted on the CPU by a twin whose layers torch takes apart; fused kernels count as nothing."""
        twin = type(self)(self.options.model_copy(update={"cell": "reference"}), Runtime())
        twin.vocabulary = self.vocabulary
        twin.module = twin.make_module().eval()
        twin.module.load_state_dict(self.module.state_dict())
        batch = twin.preprocess(samples)
        with FlopCounterMode(display=False) as counter:
            twin.forward(batch)
        return float(counter.get_total_flops())

    @property
    def pooled_batches(self) -> int:
        pooled: int = self.options.pooled_batches
        return pooled

    def curriculum_fraction(self, step: int) -> float:
        return curriculum_fraction(step, self.options.curriculum)

    def bucketing_key(self, sample: Sample) -> int:
        """Words of the source."""
        return len(source_of(sample).split())

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> list[Pairs]:
        """Sorted by length into parts, so that little is padded; of several references one is drawn."""
        pairs = []
        for sample in samples:
            references = _references(sample)
            target = references[int(generator.integers(len(references)))]
            pairs.append((self.vocabulary.encode(source_of(sample)), self.vocabulary.encode(target)))
        pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        return [self.pairs(pairs[i : i + _PART]) for i in range(0, len(pairs), _PART)]

    def loss(self, batch: list[Pairs]) -> dict[str, Tensor]:
        """Cross-entropy a target token, END included, in nats."""
        total: Tensor | float = 0.0
        count = 0
        for pairs in batch:
            given, following = pairs.targets[:, :-1], pairs.targets[:, 1:]
            wanted = following != PAD
            gold = following[wanted]
            total = total + nn.functional.cross_entropy(
                self.logits(pairs.sources, given, wanted),
                gold,
                label_smoothing=self.options.label_smoothing,
                reduction="sum",
            )
            count += len(gold)
        return {"cross_entropy": torch.as_tensor(total) / count}

    def training_units(self, batch: list[Pairs]) -> dict[str, int]:
        """Tokens, END included."""
        return {
            "source_tokens": sum(int(pairs.sources.lengths.sum()) for pairs in batch),
            "target_tokens": sum(int((pairs.targets[:, 1:] != PAD).sum()) for pairs in batch),
        }

    def pairs(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Pairs:
        """Of token ids without BEGIN and END."""
        targets = [[BEGIN, *target, END][: self.options.maximum_tokens + 1] for _, target in pairs]
        return Pairs(self._sources([source for source, _ in pairs]), self._padded(targets))

    def reading_order(self, tokens: list[int]) -> list[int]:
        """The order in which the encoder meets a source's tokens; END always comes last."""
        return tokens

    def _sources(self, sentences: Sequence[list[int]]) -> Sources:
        limit = self.options.maximum_tokens - 1
        closed = [[*self.reading_order(tokens[:limit]), END] for tokens in sentences]
        lengths = torch.tensor([len(tokens) for tokens in closed], dtype=torch.long)
        limits = torch.where(lengths > 1, _LONGER * lengths + _LONGER_BY, 0)
        return Sources(self._padded(closed), lengths, limits.to(self.runtime.device))

    def _padded(self, sentences: Sequence[list[int]]) -> Tensor:
        longest = max((len(tokens) for tokens in sentences), default=0)
        rows = [tokens + [PAD] * (longest - len(tokens)) for tokens in sentences]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), longest).to(self.runtime.device)


# Pairs computed at once. Measured on `gettext`, one CPU thread, batches of 128: 282 pairs/s in parts of 16,
# 310 in parts of 32, 264 in parts of 64: smaller parts are padded less, larger products are faster.
_PART = 32
# A translation has at most 2 tokens per source token, and 10. Measured: 2 of 22,470 pairs of `gettext`
# (EN→DE, 4,000 subwords) are longer, and none of `phrases`.
_LONGER, _LONGER_BY = 2, 10


def source_of(sample: Sample) -> str:
    """A sample's text."""
    assert isinstance(sample.input, str)
    return sample.input


def text_of(prediction: Prediction) -> str:
    """A prediction's text."""
    assert isinstance(prediction, Translation)
    return prediction.text


def _references(sample: Sample) -> tuple[str, ...]:
    assert isinstance(sample.target, tuple)
    return sample.target


def _before_end(row: list[int]) -> list[int]:
    return row[: row.index(END)] if END in row else row
