"""`attention`: translation with additive attention between LSTMs (attention_model.py)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters.torch_adapter import TorchAdapter
from adapters.translation.attention_model import AttentionModel, State
from adapters.translation.search import Hypotheses, beam_search, greedy_search
from adapters.translation.vocabulary import (
    BEGIN,
    END,
    PAD,
    UNKNOWN,
    Vocabulary,
    VocabularyKind,
    learn_vocabulary,
    read_vocabulary,
)
from harness.adapter import AdapterOptions, Runtime
from harness.datasets.dataset import Dataset
from harness.errors import UsageError
from harness.task import Alignment, Prediction, Sample, Translation

log = logging.getLogger(__name__)

_ASSET = "vocabulary"
_VOCABULARY_SAMPLES = 40_000  # pairs the vocabulary is learnt from; all of `gettext`, and quick to generate


class AttentionOptions(AdapterOptions):
    """The defaults of the widths make a checkpoint of 2.8 MB with 4,000 subwords."""

    vocabulary: VocabularyKind = "unigram"
    vocabulary_size: int = Field(4000, ge=8)
    """Tokens at most; source and target share the vocabulary."""
    embedding_size: int = Field(128, ge=1)
    encoder_size: int = Field(128, ge=1)
    """Width of one direction."""
    decoder_size: int = Field(192, ge=1)
    attention_size: int = Field(96, ge=1)
    tied_embeddings: bool = True
    """One matrix embeds source and target and gives the output's logits."""
    dropout: float = Field(0.25, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    maximum_tokens: int = Field(256, ge=2)
    """Longer sentences are cut to so many tokens, with a warning that counts them."""
    beam: int = Field(1, ge=1)
    """Hypotheses kept by the search; 1 is greedy search."""
    length_penalty: float = Field(0.6, ge=0)
    """Exponent α of beam search: Wu et al. 2016 §7 found 0.6 to 0.7 best."""


@dataclass(frozen=True)
class Sources:
    """Source sentences, each closed by END."""

    tokens: Tensor  # [B, S], PAD behind each sentence; on the device
    lengths: Tensor  # [B], END included; on the host
    limits: Tensor  # [B], tokens that a translation may have; 0 for an empty source


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs of similar length."""

    sources: Sources
    targets: Tensor  # [B, 1 + T], BEGIN y_1 … END, PAD behind each sentence


class Attention(TorchAdapter):
    """The model, its vocabulary and a search.

    An empty source, or one of white space, has an empty translation. Signs that the vocabulary lacks are
    read as UNKNOWN, which is never written.
    """

    name = "attention"
    task = "translation"
    Options = AttentionOptions
    shaping = (
        "vocabulary",
        "vocabulary_size",
        "embedding_size",
        "encoder_size",
        "decoder_size",
        "attention_size",
        "tied_embeddings",
    )

    module: AttentionModel
    vocabulary: Vocabulary

    def learn(self, train: Dataset) -> None:
        samples = [train[index] for index in range(min(len(train), _VOCABULARY_SAMPLES))]
        texts = [text for sample in samples for text in (_source(sample), _references(sample)[0])]
        self.vocabulary = learn_vocabulary(self.options.vocabulary, self.options.vocabulary_size, texts)

    def assets(self) -> dict[str, bytes]:
        return {_ASSET: self.vocabulary.to_bytes()}

    def restore(self, assets: Mapping[str, bytes]) -> None:
        if _ASSET not in assets:
            raise UsageError(f"checkpoint of adapter '{self.name}': it holds no vocabulary")
        self.vocabulary = read_vocabulary(self.options.vocabulary, assets[_ASSET])

    def make_module(self) -> AttentionModel:
        options = self.options
        return AttentionModel(
            vocabulary_size=len(self.vocabulary),
            embedding_size=options.embedding_size,
            encoder_size=options.encoder_size,
            decoder_size=options.decoder_size,
            attention_size=options.attention_size,
            dropout=options.dropout,
            tied_embeddings=options.tied_embeddings,
        )

    def preprocess(self, samples: Sequence[Sample]) -> Sources:
        sentences = [self.vocabulary.encode(_source(sample)) for sample in samples]
        limit = self.options.maximum_tokens
        cut = [sample.id for sample, tokens in zip(samples, sentences, strict=True) if len(tokens) >= limit]
        if cut:
            log.warning("attention: %d sources cut to %d tokens, the first: %s", len(cut), limit, cut[0])
        unknown = sum(tokens.count(UNKNOWN) for tokens in sentences)
        if unknown:
            log.info("attention: %d source tokens are not in the vocabulary", unknown)
        return self._sources(sentences)

    def infer(self, batch: Sources) -> Hypotheses:
        state = self.module.encode(batch.tokens, batch.lengths)
        if self.options.beam == 1:
            return greedy_search(self._step, state, batch.limits)
        return beam_search(self._step, state, batch.limits, self.options.beam, self.options.length_penalty)

    def postprocess(self, raw: Hypotheses, batch: Sources) -> list[Prediction]:  # noqa: ARG002
        rows = raw.tokens.tolist()
        return [Translation(self.vocabulary.decode(_before_end(row))) for row in rows]

    def flops(self, samples: Sequence[Sample]) -> float:
        """Counted on the CPU, where torch takes the LSTM apart; it counts a GPU's fused kernel as nothing."""
        twin = Attention(self.options, Runtime())
        twin.vocabulary, twin.module = self.vocabulary, deepcopy(self.module).cpu()
        batch = twin.preprocess(samples)
        with FlopCounterMode(display=False) as counter:
            twin.forward(batch)
        return float(counter.get_total_flops())

    def training_batch(self, samples: Sequence[Sample], generator: np.random.Generator) -> list[Pairs]:
        """Sorted by length into parts, so that little is padded; of several references one is drawn."""
        pairs = []
        for sample in samples:
            references = _references(sample)
            target = references[int(generator.integers(len(references)))]
            pairs.append((self.vocabulary.encode(_source(sample)), self.vocabulary.encode(target)))
        pairs.sort(key=lambda pair: (len(pair[1]), len(pair[0])))
        return [self._pairs(pairs[i : i + _PART]) for i in range(0, len(pairs), _PART)]

    def loss(self, batch: list[Pairs]) -> dict[str, Tensor]:
        """Cross-entropy a target token, END included, in nats."""
        total: Tensor | float = 0.0
        count = 0
        for pairs in batch:
            given, following = pairs.targets[:, :-1], pairs.targets[:, 1:]
            wanted = following != PAD
            logits, _ = self.module(pairs.sources.tokens, pairs.sources.lengths, given, wanted)
            gold = following[wanted]
            total = total + nn.functional.cross_entropy(
                logits, gold, label_smoothing=self.options.label_smoothing, reduction="sum"
            )
            count += len(gold)
        return {"cross_entropy": torch.as_tensor(total) / count}

    def alignments(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Alignment]:
        """α of teacher forcing: the model reads the translation as given. END counts on both sides."""
        encode, read = self.vocabulary.encode, self._tokens
        pairs = self._pairs(
            [(encode(_source(s)), encode(_text(p))) for s, p in zip(samples, predictions, strict=True)]
        )
        sources, given, following = pairs.sources, pairs.targets[:, :-1], pairs.targets[:, 1:]
        with torch.inference_mode(), self.autocast():
            _, weights = self.module(sources.tokens, sources.lengths, given, following != PAD)
        found = []
        for source, target, alpha in zip(sources.tokens, following, weights.float().cpu(), strict=True):
            rows, columns = read(target), read(source)
            found.append(Alignment(columns, rows, np.asarray(alpha[: len(rows), : len(columns)])))
        return found

    def _tokens(self, row: Tensor) -> tuple[str, ...]:
        """Of ids [n], padding left out."""
        return tuple(self.vocabulary.token(id) for id in row.tolist() if id != PAD)

    def _step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probabilities, state, _ = self.module.step(tokens, state)
        return log_probabilities, state

    def _sources(self, sentences: Sequence[list[int]]) -> Sources:
        closed = [[*tokens[: self.options.maximum_tokens - 1], END] for tokens in sentences]
        lengths = torch.tensor([len(tokens) for tokens in closed])
        limits = torch.where(lengths > 1, _LONGER * lengths + _LONGER_BY, 0)
        return Sources(self._padded(closed), lengths, limits.to(self.runtime.device))

    def _pairs(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Pairs:
        targets = [[BEGIN, *target, END][: self.options.maximum_tokens + 1] for _, target in pairs]
        return Pairs(self._sources([source for source, _ in pairs]), self._padded(targets))

    def _padded(self, sentences: Sequence[list[int]]) -> Tensor:
        longest = max((len(tokens) for tokens in sentences), default=0)
        rows = [tokens + [PAD] * (longest - len(tokens)) for tokens in sentences]
        return torch.tensor(rows, dtype=torch.long).to(self.runtime.device)


# Pairs computed at once. Measured on `gettext`, one CPU thread, batches of 128: 282 pairs/s in parts of 16,
# 310 in parts of 32, 264 in parts of 64: smaller parts are padded less, larger products are faster.
_PART = 32
# A translation has at most 2 tokens per source token, and 10. Measured: 2 of 22,470 pairs of `gettext`
# (EN→DE, 4,000 subwords) are longer, and none of `phrases`.
_LONGER, _LONGER_BY = 2, 10


def _source(sample: Sample) -> str:
    assert isinstance(sample.input, str)
    return sample.input


def _text(prediction: Prediction) -> str:
    assert isinstance(prediction, Translation)
    return prediction.text


def _references(sample: Sample) -> tuple[str, ...]:
    assert isinstance(sample.target, tuple)
    return sample.target


def _before_end(row: list[int]) -> list[int]:
    return row[: row.index(END)] if END in row else row
