"""Where to look in the source: a small network compares the decoder's state with every source position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Bahdanau, Cho and Bengio 2015, §3.1 and appendix A.1.2, here with Greek letters as there:

    e_ij = vᵀ tanh(W s_{i−1} + V h_j),   α_i = softmax_j e_ij,   c_i = Σ_j α_ij h_j
    """

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.W = nn.Linear(query_size, size, bias=False)
        self.V = nn.Linear(value_size, size)
        self.v = nn.Parameter(torch.empty(size).uniform_(-(size**-0.5), size**-0.5))  # as nn.Linear's

    def keys(self, values: Tensor) -> Tensor:
        """V h_j of all positions, computed once a sentence: [B, S, value_size] → [B, S, size]."""
        keys: Tensor = self.V(values)
        return keys

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts and weights for K queries a sentence (the hypotheses of a beam).

        Args:
            query: [B, K, query_size], the states s_{i−1}.
            keys: [B, S, size] from `keys`.
            values: [B, S, value_size], the annotations h_j.
            bias: [B, S], 0 at tokens and −∞ at padding.

        Returns:
            c_i [B, K, value_size]; α_i [B, K, S], exactly 0 at padding, its rows sum to 1.
        """
        energies = torch.tanh(self.W(query).unsqueeze(2) + keys.unsqueeze(1)) @ self.v
        weights = (energies + bias.unsqueeze(1)).softmax(dim=-1)
        return torch.bmm(weights, values), weights
