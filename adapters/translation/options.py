"""What every translation model can be told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from adapters.translation.cells import CellPath
from adapters.translation.vocabulary import VocabularyKind
from harness.adapter import AdapterOptions


class TranslatorOptions(AdapterOptions):
    """What every translation model has."""

    vocabulary: VocabularyKind = "unigram"
    vocabulary_size: int = Field(4000, ge=8)
    """Tokens at most; source and target share the vocabulary."""
    embedding_size: int = Field(128, ge=1)
    tied_embeddings: bool = True
    """One matrix embeds source and target and gives the output's logits."""
    cell: CellPath = "fused"
    """How the recurrent layers compute; the figures are the same."""
    dropout: float = Field(0.25, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    maximum_tokens: int = Field(256, ge=2)
    """Longer sentences are cut to so many tokens; warnings and the analysis count them."""
    maximum_batch_tokens: int = Field(2048, ge=1)
    """Sources of a batch are sorted by length and computed in parts of at most so many tokens, with padding.
    It changes no translation."""
    pooled_batches: int = Field(1, ge=1)
    """Length bucketing: training batches are cut from the sentences of so many of them, sorted by length."""
    curriculum: int = Field(0, ge=0)
    """Training steps until all of the pooled batches are used; before, only the shorter ones are."""
    beam: int = Field(1, ge=1)
    """Hypotheses kept by the search; 1 is greedy search."""
    length_penalty: float = Field(0.6, ge=0)
    """Exponent α of beam search: Wu et al. 2016 §7 found 0.6 to 0.7 best."""

    @model_validator(mode="after")
    def _curriculum_has_lengths(self) -> Self:
        if self.curriculum and self.pooled_batches == 1:
            raise ValueError(
                "curriculum: there is none without pooled_batches > 1, whose shortest come first"
            )
        return self


def curriculum_fraction(step: int, curriculum: int) -> float:
    """Share of the data, shortest first, that a model is ready for (Platanios et al. 2019 §3.2, linear).

    c(t) = min(1, t (1 − c_0) / T + c_0), c_0 = 0.01, after t of T steps; 1 where T is 0.
    """
    if step >= curriculum:
        return 1.0
    first = 0.01  # c_0, Platanios et al. 2019 §4.1
    return step * (1 - first) / curriculum + first
