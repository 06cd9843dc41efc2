"""The options that all translation models share, and the order of sentences that follows from them."""

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from adapters.translation.vocabulary import VocabularyKind
from harness.adapter import AdapterOptions


class TranslatorOptions(AdapterOptions):
    """Options of every translation model."""

    vocabulary: VocabularyKind = "unigram"
    """Tokens: `unigram` or `bpe` subwords (sentencepiece), or whole words."""
    vocabulary_size: int = Field(4000, ge=8)
    """Maximum number of tokens in the vocabulary, which source and target share."""
    embedding_size: int = Field(128, ge=1)
    """Width of the token embeddings."""
    tied_embeddings: bool = True
    """Use one matrix for the source and target embeddings and for the output logits."""
    dropout: float = Field(0.25, ge=0, lt=1)
    """Probability with which training drops an activation."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Probability mass that training spreads over the other tokens (Szegedy et al. 2016 §7)."""
    maximum_tokens: int = Field(256, ge=2)
    """Longer sentences are cut to this number of tokens; warnings and the analysis report their number."""
    maximum_batch_tokens: int = Field(2048, ge=1)
    """The sources of a batch are sorted by length and computed in parts of at most this number of tokens,
    padding included. The translations do not depend on it."""
    pooled_batches: int = Field(1, ge=1)
    """Length bucketing: the sentences of this number of training batches are sorted by length before they are
    cut into batches."""
    curriculum: int = Field(0, ge=0)
    """Training steps until all pooled batches are used; earlier steps use only the shorter ones."""
    beam: int = Field(1, ge=1)
    """Hypotheses per sentence in the search; 1 is greedy search."""
    length_penalty: float = Field(0.6, ge=0)
    """Exponent α of beam search's length penalty; Wu et al. 2016 §7 found 0.6 to 0.7 best."""

    @model_validator(mode="after")
    def _curriculum_needs_pooled_batches(self) -> Self:
        if self.curriculum and self.pooled_batches == 1:
            raise ValueError("curriculum: it orders pooled batches by length, so set pooled_batches > 1")
        return self


def curriculum_fraction(step: int, curriculum: int) -> float:
    """Return the fraction of the data, shortest sentences first, that a training step draws from.

    c(t) = min(1, t (1 − c_0) / T + c_0) with c_0 = 0.01, after t of T steps: the linear competence of
    Platanios et al. 2019 §3.2. It is 1 if T is 0.
    """
    if step >= curriculum:
        return 1.0
    first = 0.01  # c_0, Platanios et al. 2019 §4.1
    return step * (1 - first) / curriculum + first


def length_batches(lengths: Sequence[int], maximum_tokens: int) -> list[list[int]]:
    """Sort sentences by length and cut them into batches of at most `maximum_tokens` tokens with padding.

    Returns the indices of the sentences in each batch. A sentence longer than the maximum is a separate one.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= maximum_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
