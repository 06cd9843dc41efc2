"""Where tokens enter a translation model, and where they leave it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.translation.vocabulary import BEGIN, PAD, UNKNOWN


def token_embedding(count: int, size: int) -> nn.Embedding:
    """A vector of `size` for each of `count` tokens."""
    # The scale keeps tied logits near ±1 at first: a product of `size` terms.
    embedding = nn.Embedding(count, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding


def log_probabilities(logits: Tensor) -> Tensor:
    """Of the next token, […, n]; −∞ for PAD, UNKNOWN and BEGIN, which no translation contains."""
    never = torch.tensor([PAD, UNKNOWN, BEGIN], device=logits.device)
    # Sums of bf16, as autocast leaves them, would rank hypotheses by rounding.
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return exact.log_softmax(dim=-1).index_fill_(-1, never, -torch.inf)
