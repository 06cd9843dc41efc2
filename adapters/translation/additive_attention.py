"""Where to look in the source: a small network compares the decoder's state with every source position."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Bahdanau, Cho and Bengio 2015, §3.1 and appendix A.1.2, here with Greek letters as there:

    e_ij = vᵀ tanh(W s_{i−1} + V h_j),   α_i = softmax_j e_ij,   c_i = Σ_j α_ij h_j

    Computed with tanh(x + y) = 1 − 2 / (1 + e^{2x} e^{2y}): an exponential for each state and each position
    in place of a tanh for each pair of them. Measured for 320 states, 30 positions and size 96 on one CPU
    thread: 0.26 ms against 2.4 ms.
    """

    def __init__(self, query_size: int, value_size: int, size: int) -> None:
        super().__init__()
        self.W = nn.Linear(query_size, size, bias=False)
        self.V = nn.Linear(value_size, size)
        self.v = nn.Parameter(torch.empty(size).uniform_(-(size**-0.5), size**-0.5))  # as nn.Linear's

    def keys(self, values: Tensor) -> Tensor:
        """e^{2 V h_j} of all positions, computed once a sentence: [B, S, value_size] → [B, S, size]."""
        return _exponential(self.V(values))

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
        one = torch.ones((), dtype=keys.dtype, device=keys.device)
        pairs = torch.addcmul(one, _exponential(self.W(query)).unsqueeze(2), keys.unsqueeze(1))
        energies = -2 * (pairs.reciprocal_() @ self.v)  # Σ v, the same at all positions, changes no softmax
        weights = (energies + bias.unsqueeze(1)).softmax(dim=-1)
        return torch.bmm(weights, values), weights


def _exponential(x: Tensor) -> Tensor:
    """e^{2x} in fp32 at least; x beyond ±40 counts as ±40, so that e^80 and its reciprocal are finite.

    So the equation holds exactly where W s and V h each lie within ±40. Trained weights stay far inside."""
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return (2 * x.clamp(-40, 40)).exp()
