"""The base class of the translation models: vocabulary, batches, loss and search."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.torch_adapter import TorchAdapter
from adapters.translation.cells import unfuse
from adapters.translation.options import TranslatorOptions, curriculum_fraction, length_batches
from adapters.translation.search import Hypotheses, SearchState, beam_search, greedy_search
from adapters.translation.vocabulary import (
    BEGIN,
    END,
    PAD,
    UNKNOWN,
    Vocabulary,
    learn_vocabulary,
    read_vocabulary,
)
from harness.adapter import Exportable, Runtime, TranslationAdapter
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.task import Prediction, Sample, Translation

log = logging.getLogger(__name__)

_ASSET = "vocabulary"
_VOCABULARY_SAMPLES = 40_000  # training pairs for the vocabulary: all of `gettext`, and quick to generate

# Sentence pairs per part of a training batch. Measured on `gettext`, one CPU thread, batches of 128: 282
# pairs/s in parts of 16, 310 in parts of 32, 264 in parts of 64. Small parts have less padding, but large
# matrix products are faster.
_PAIRS_PER_PART = 32

# A translation has at most 2 tokens per source token, and 10 more. Measured: 2 of 22,470 pairs of `gettext`
# (EN→DE, 4,000 subwords) are longer, and none of `phrases`.
_TARGET_TOKENS_PER_SOURCE_TOKEN, _EXTRA_TARGET_TOKENS = 2, 10


@dataclass(frozen=True)
class Sources:
    """Source sentences, each with its END."""

    tokens: Tensor  # [B, S], each sentence followed by PAD; on the device
    lengths: Tensor  # [B], including END; on the host
    limits: Tensor  # [B], maximum number of tokens in the translation; 0 for an empty source


@dataclass(frozen=True)
class Batch:
    """Source sentences in parts of similar length."""

    parts: tuple[Sources, ...]
    indices: tuple[int, ...]  # index of each source, part after part, among the samples


@dataclass(frozen=True)
class SentencePairs:
    """Sentence pairs of similar length."""

    sources: Sources
    targets: Tensor  # [B, 1 + T], BEGIN y_1 … END, each sentence followed by PAD


State = TypeVar("State", bound=SearchState)


class Translator(
    TorchAdapter[Batch, list[Hypotheses], list[SentencePairs]],
    TranslationAdapter[Batch, list[Hypotheses]],
    Generic[State],
):
    """An adapter around an encoder–decoder; subclasses create the module and call it.

    The translation of a source without text is empty. Source tokens outside the vocabulary are read as
    UNKNOWN, which is never part of a translation.
    """

    options: TranslatorOptions
    architecture_options: ClassVar[tuple[str, ...]] = (
        *("vocabulary", "vocabulary_size", "embedding_size", "tied_embeddings"),
    )

    vocabulary: Vocabulary

    @abstractmethod
    def encode(self, sources: Sources) -> State:
        """Encode the sources and return the state that the search starts from."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode one target position; see `search.Step`."""

    @abstractmethod
    def step_part(self, tokens: Tensor, state: State) -> Exportable:
        """Return the decoding step as a part that can be exported, with the arguments of `step`."""

    @abstractmethod
    def logits(self, sources: Sources, target: Tensor, mask: Tensor) -> Tensor:
        """Return the logits [mask.sum(), n] of the tokens that follow `target` [B, T] at the mask."""

    def learn(self, train: Dataset) -> None:
        samples = [train[index] for index in range(min(len(train), _VOCABULARY_SAMPLES))]
        texts = [text for sample in samples for text in (source_of(sample), _references(sample)[0])]
        self.vocabulary = learn_vocabulary(self.options.vocabulary, self.options.vocabulary_size, texts)
        limit = self.options.maximum_tokens
        cut = sum(len(self.vocabulary.encode(text)) >= limit for text in texts)
        if cut:
            log.warning("%s: %d of %d training texts are cut to %d tokens", self.name, cut, len(texts), limit)

    def assets(self) -> dict[str, bytes]:
        return {_ASSET: self.vocabulary.to_bytes()}

    def restore(self, checkpoint: Checkpoint) -> None:
        if _ASSET not in checkpoint.assets:
            raise UsageError(f"checkpoint of adapter '{self.name}': it contains no vocabulary")
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
        """Return the translations of each part."""
        return [self.search(sources) for sources in batch.parts]

    def exportable(self) -> dict[str, Exportable]:
        device = self.runtime.device
        lengths = torch.tensor([5, 4, 2])
        sources = Sources(torch.full((3, 5), UNKNOWN, device=device), lengths, lengths.to(device))
        parents = torch.zeros(3, 2, dtype=torch.long, device=device)  # two hypotheses per sentence
        with torch.no_grad():
            state = self.encode(sources).select(torch.arange(3, device=device), parents)
        encoder = Exportable(self.module, "encoded", (sources.tokens, lengths), ((0, 1), (0,)))
        return {"encoder": encoder, "step": self.step_part(parents + BEGIN, state)}

    def search(self, sources: Sources) -> Hypotheses:
        """Return the translations of one part."""
        state = self.encode(sources)
        if self.options.beam == 1:
            return greedy_search(self.step, state, sources.limits)
        return beam_search(self.step, state, sources.limits, self.options.beam, self.options.length_penalty)

    def postprocess(self, raw: list[Hypotheses], batch: Batch) -> list[Prediction]:
        rows = [row for part in raw for row in part.tokens.tolist()]
        tokens = {
            index: row[: row.index(END)] if END in row else row
            for index, row in zip(batch.indices, rows, strict=True)
        }
        return [Translation(self.vocabulary.decode(tokens[index])) for index in range(len(rows))]

    def lossy_inputs(self, samples: Sequence[Sample]) -> dict[str, list[bool]]:
        """Flag sources with a token outside the vocabulary, and sources longer than `maximum_tokens`."""
        sentences = [self.vocabulary.encode(source_of(sample)) for sample in samples]
        return {
            "unknown_source": [UNKNOWN in tokens for tokens in sentences],
            "cut_source": [len(tokens) >= self.options.maximum_tokens for tokens in sentences],
        }

    def work_units(
        self, samples: Sequence[Sample], predictions: Sequence[Prediction]
    ) -> dict[str, list[int]]:
        """Count source and target tokens, including END."""
        encode = self.vocabulary.encode
        return {
            "source_tokens": [len(encode(source_of(sample))) + 1 for sample in samples],
            "target_tokens": [len(encode(text_of(prediction))) + 1 for prediction in predictions],
        }

    def flops(self, samples: Sequence[Sample]) -> float:
        """Count FLOPs on the CPU, with a copy of the model that computes from the equations; see `unfuse`."""
        copy = type(self)(self.options, Runtime())
        copy.vocabulary = self.vocabulary
        copy.module = copy.make_module().eval()
        copy.module.load_state_dict(self.module.state_dict())
        unfuse(copy.module)
        batch = copy.preprocess(samples)
        with FlopCounterMode(display=False) as counter:
            copy.forward(batch)
        return float(counter.get_total_flops())

    @property
    def pooled_batches(self) -> int:
        return self.options.pooled_batches

    def bucketing_key(self, sample: Sample) -> int:
        """Return the number of words in the source."""
        return len(source_of(sample).split())

    def curriculum_fraction(self, step: int) -> float:
        return curriculum_fraction(step, self.options.curriculum)

    def training_batch(
        self, samples: Sequence[Sample], generator: np.random.Generator
    ) -> list[SentencePairs]:
        """Sort the samples by length into parts, and draw one of several references at random."""
        pairs = []
        for sample in samples:
            references = _references(sample)
            target = references[int(generator.integers(len(references)))]
            pairs.append((self.vocabulary.encode(source_of(sample)), self.vocabulary.encode(target)))
        pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        step = _PAIRS_PER_PART
        return [self.sentence_pairs(pairs[start : start + step]) for start in range(0, len(pairs), step)]

    def loss(self, batch: list[SentencePairs]) -> dict[str, Tensor]:
        """Return the mean cross-entropy per target token, including END, in nats."""
        total: Tensor | float = 0.0
        count = 0
        for pairs in batch:
            target, following = pairs.targets[:, :-1], pairs.targets[:, 1:]
            mask = following != PAD
            expected = following[mask]
            total = total + nn.functional.cross_entropy(
                self.logits(pairs.sources, target, mask),
                expected,
                label_smoothing=self.options.label_smoothing,
                reduction="sum",
            )
            count += len(expected)
        return {"cross_entropy": torch.as_tensor(total) / count}

    def training_units(self, batch: list[SentencePairs]) -> dict[str, int]:
        """Count source and target tokens, including END."""
        return {
            "source_tokens": sum(int(pairs.sources.lengths.sum()) for pairs in batch),
            "target_tokens": sum(int((pairs.targets[:, 1:] != PAD).sum()) for pairs in batch),
        }

    def sentence_pairs(self, pairs: Sequence[tuple[list[int], list[int]]]) -> SentencePairs:
        """Pad pairs of token ids, given without BEGIN and END, to tensors."""
        targets = [[BEGIN, *target, END][: self.options.maximum_tokens + 1] for _, target in pairs]
        return SentencePairs(self._sources([source for source, _ in pairs]), self._pad(targets))

    def reading_order(self, tokens: list[int]) -> list[int]:
        """Return the tokens of a source in the order in which the encoder reads them; END is always last."""
        return tokens

    def _sources(self, sentences: Sequence[list[int]]) -> Sources:
        limit = self.options.maximum_tokens - 1
        tokens = [[*self.reading_order(sentence[:limit]), END] for sentence in sentences]
        lengths = torch.tensor([len(sentence) for sentence in tokens], dtype=torch.long)
        limits = _TARGET_TOKENS_PER_SOURCE_TOKEN * lengths + _EXTRA_TARGET_TOKENS
        limits = torch.where(lengths > 1, limits, 0)
        return Sources(self._pad(tokens), lengths, limits.to(self.runtime.device))

    def _pad(self, sentences: Sequence[list[int]]) -> Tensor:
        longest = max((len(tokens) for tokens in sentences), default=0)
        rows = [tokens + [PAD] * (longest - len(tokens)) for tokens in sentences]
        return torch.tensor(rows, dtype=torch.long).view(len(rows), longest).to(self.runtime.device)


def source_of(sample: Sample) -> str:
    """Return the source text of a sample."""
    assert isinstance(sample.input, str)
    return sample.input


def text_of(prediction: Prediction) -> str:
    """Return the text of a translation."""
    assert isinstance(prediction, Translation)
    return prediction.text


def _references(sample: Sample) -> tuple[str, ...]:
    assert isinstance(sample.target, tuple)
    return sample.target
