"""Coverage penalty: a translation that never looked at a part of the source has probably left it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from adapters.translation.search import SearchState

S = TypeVar("S", bound=SearchState)


@dataclass(frozen=True)
class Covered(Generic[S]):
    """A model's state with the attention that each source position has got so far."""

    state: S
    attention: Tensor  # [B, K, S], Σ_j p_ij over the target tokens j written so far
    real: Tensor  # [B, S], false at padding

    def select(self, rows: Tensor, parents: Tensor) -> Covered[S]:
        """See `SearchState.select`."""
        attention = self.attention[rows.unsqueeze(1), parents]
        return Covered(self.state.select(rows, parents), attention, self.real[rows])


def coverage_penalty(covered: Covered[S], beta: float) -> Tensor:
    """cp(X; Y) = β Σ_i log(min(Σ_j p_ij, 1)) (Wu et al. 2016, §7, equation 14): [B, K], ≤ 0.

    i runs over the source's tokens, its END included, j over those of the translation, its END included.
    """
    least = torch.finfo(covered.attention.dtype).tiny  # attention may underflow to 0
    logarithms = covered.attention.clamp(least, 1.0).log()
    return beta * torch.where(covered.real.unsqueeze(1), logarithms, 0.0).sum(dim=-1)
