"""`attention`: translation with additive attention between LSTMs (attention_model.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapters.translation.attention_model import AttentionModel, State
from adapters.translation.coverage import Covered, coverage_penalty
from adapters.translation.options import TranslatorOptions
from adapters.translation.search import Hypotheses, beam_search
from adapters.translation.translator import Sources, Translator, source_of, text_of
from adapters.translation.vocabulary import PAD
from harness.task import Alignment, Prediction, Sample


class AttentionOptions(TranslatorOptions):
    """The defaults of the widths make a checkpoint of 2.8 MB with 4,000 subwords."""

    encoder_size: int = Field(128, ge=1)
    """Width of one direction."""
    encoder_layers: int = Field(1, ge=1)
    decoder_size: int = Field(192, ge=1)
    attention_size: int = Field(96, ge=1)
    coverage_penalty: float = Field(0.0, ge=0)
    """Strength β of beam search's coverage penalty; Wu et al. 2016 §7 used 0.2."""

    @model_validator(mode="after")
    def _coverage_has_a_beam(self) -> Self:
        if self.coverage_penalty and self.beam == 1:
            raise ValueError("coverage_penalty: it ranks the hypotheses of a beam; give beam > 1 with it")
        return self


class Attention(Translator):
    """The decoder looks back at every source position."""

    name = "attention"
    Options = AttentionOptions
    options: AttentionOptions
    architecture_options = (
        *Translator.architecture_options,
        "encoder_size",
        "encoder_layers",
        "decoder_size",
        "attention_size",
    )

    module: AttentionModel

    def make_module(self) -> AttentionModel:
        options = self.options
        return AttentionModel(
            vocabulary_size=len(self.vocabulary),
            embedding_size=options.embedding_size,
            encoder_size=options.encoder_size,
            decoder_size=options.decoder_size,
            attention_size=options.attention_size,
            encoder_layers=options.encoder_layers,
            dropout=options.dropout,
            tied_embeddings=options.tied_embeddings,
            path=options.cell,
        )

    def start(self, sources: Sources) -> State:
        return self.module.encode(sources.tokens, sources.lengths)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probabilities, state, _ = self.module.step(tokens, state)
        return log_probabilities, state

    def search(self, sources: Sources) -> Hypotheses:
        options = self.options
        if options.coverage_penalty == 0:
            return super().search(sources)
        state = self.start(sources)
        real = sources.tokens != PAD
        start = Covered(state, torch.zeros_like(real.unsqueeze(1), dtype=torch.float), real)

        def step(tokens: Tensor, covered: Covered[State]) -> tuple[Tensor, Covered[State]]:
            log_probabilities, state, weights = self.module.step(tokens, covered.state)
            return log_probabilities, Covered(state, covered.attention + weights, real=covered.real)

        return beam_search(
            step,
            start,
            sources.limits,
            options.beam,
            options.length_penalty,
            lambda covered: coverage_penalty(covered, options.coverage_penalty),
        )

    def logits(self, sources: Sources, given: Tensor, wanted: Tensor) -> Tensor:
        logits, _ = self.module(sources.tokens, sources.lengths, given, wanted)
        return logits

    def alignments(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Alignment]:
        """α of teacher forcing: the model reads the translation as given. END counts on both sides."""
        encode, read = self.vocabulary.encode, self._tokens
        pairs = self.pairs(
            [(encode(source_of(s)), encode(text_of(p))) for s, p in zip(samples, predictions, strict=True)]
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
