"""The coverage penalty of beam search, against translations that omit a part of the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from adapters.translation.search import SearchState

S = TypeVar("S", bound=SearchState)


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
