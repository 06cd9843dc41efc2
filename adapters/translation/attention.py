"""The adapter `attention`: translation with additive attention between LSTMs (attention_model.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from adapters.translation.attention_model import AttentionModel, State
from adapters.translation.options import TranslatorOptions
from adapters.translation.search import Hypotheses, SearchState, beam_search
from adapters.translation.translator import Sources, Translator, source_of, text_of
from adapters.translation.vocabulary import PAD
from harness.adapter import Exportable
from harness.task import Alignment, Prediction, Sample

S = TypeVar("S", bound=SearchState)


class AttentionOptions(TranslatorOptions):
    """Options of `attention`. With 4,000 subwords, the default sizes give a checkpoint of 2.8 MB."""

    encoder_size: int = Field(128, ge=1)
    """Hidden units of the encoder per direction."""
    encoder_layers: int = Field(1, ge=1)
    """Number of layers of the encoder."""
    decoder_size: int = Field(192, ge=1)
    """Hidden units of the decoder."""
    attention_size: int = Field(96, ge=1)
    """Hidden units of the alignment model (Bahdanau et al. 2015 §A.1.2)."""
    coverage_penalty: float = Field(0.0, ge=0)
    """Strength β of beam search's coverage penalty; Wu et al. 2016 §7 used 0.2."""

    @model_validator(mode="after")
    def _coverage_needs_a_beam(self) -> Self:
        if self.coverage_penalty and self.beam == 1:
            raise ValueError("coverage_penalty: it ranks the hypotheses of a beam, so set beam > 1")
        return self


@dataclass(frozen=True)
class CoverageState(Generic[S]):
    """A model's state, with the attention that each source position has received so far."""

    state: S
    attention: Tensor  # [B, K, S], Σ_j p_ij over the target tokens j written so far
    mask: Tensor  # [B, S], false at padding

    def select(self, rows: Tensor, parents: Tensor) -> CoverageState[S]:
        """Keep sentences and hypotheses as in `SearchState.select`."""
        attention = self.attention[rows.unsqueeze(1), parents]
        return CoverageState(self.state.select(rows, parents), attention, self.mask[rows])


def coverage_penalty(coverage: CoverageState[S], beta: float) -> Tensor:
    """Return cp(X; Y) = β Σ_i log(min(Σ_j p_ij, 1)): [B, K], ≤ 0 (Wu et al. 2016, §7, equation 14).

    i runs over the source tokens and j over the tokens of the translation. Both include END.
    """
    smallest = torch.finfo(coverage.attention.dtype).tiny  # attention may underflow to 0
    logarithms = coverage.attention.clamp(smallest, 1.0).log()
    return beta * torch.where(coverage.mask.unsqueeze(1), logarithms, 0.0).sum(dim=-1)


class Attention(Translator[State]):
    """Encoder–decoder whose decoder attends to every source position."""

    name = "attention"
    Options = AttentionOptions
    options: AttentionOptions
    architecture_options = (
        *Translator.architecture_options,
        *("encoder_size", "encoder_layers", "decoder_size", "attention_size"),
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
        )

    def encode(self, sources: Sources) -> State:
        return self.module.encode(sources.tokens, sources.lengths)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probabilities, state, _ = self.module.step(tokens, state)
        return log_probabilities, state

    def step_part(self, tokens: Tensor, state: State) -> Exportable:
        memory = state.memory
        example = (tokens, memory.values, memory.keys, memory.bias, state.layer)
        return Exportable(self.module, "decoded", example, ((0, 1),) * 6)

    def search(self, sources: Sources) -> Hypotheses:
        options = self.options
        if options.coverage_penalty == 0:
            return super().search(sources)
        mask = sources.tokens != PAD
        start = CoverageState(
            self.encode(sources), torch.zeros_like(mask.unsqueeze(1), dtype=torch.float), mask
        )

        def step(tokens: Tensor, coverage: CoverageState[State]) -> tuple[Tensor, CoverageState[State]]:
            log_probabilities, state, weights = self.module.step(tokens, coverage.state)
            return log_probabilities, CoverageState(state, coverage.attention + weights, coverage.mask)

        return beam_search(
            step,
            start,
            sources.limits,
            options.beam,
            options.length_penalty,
            lambda coverage: coverage_penalty(coverage, options.coverage_penalty),
        )

    def logits(self, sources: Sources, target: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.module(sources.tokens, sources.lengths, target, mask)[0]
        return logits

    def alignments(self, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[Alignment]:
        """Return the attention weights α of teacher forcing with the predictions, including END."""
        encode = self.vocabulary.encode
        pairs = self.sentence_pairs(
            [(encode(source_of(s)), encode(text_of(p))) for s, p in zip(samples, predictions, strict=True)]
        )
        sources, following = pairs.sources, pairs.targets[:, 1:]
        with torch.inference_mode(), self.autocast():
            _, weights = self.module(sources.tokens, sources.lengths, pairs.targets[:, :-1], following != PAD)
        alignments = []
        for source, target, alpha in zip(sources.tokens, following, weights.float().cpu(), strict=True):
            read, written = self._tokens(source), self._tokens(target)
            alignments.append(Alignment(read, written, np.asarray(alpha[: len(written), : len(read)])))
        return alignments

    def _tokens(self, ids: Tensor) -> tuple[str, ...]:
        """Return the tokens of ids [n], without padding."""
        return tuple(self.vocabulary.token(id) for id in ids.tolist() if id != PAD)
