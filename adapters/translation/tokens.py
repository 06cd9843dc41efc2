"""The embedding and the output distribution of tokens in a translation model."""

import torch
from torch import Tensor, nn

from adapters.translation.vocabulary import BEGIN, PAD, UNKNOWN


def token_embedding(count: int, size: int) -> nn.Embedding:
    """Create an embedding of `count` tokens as vectors of `size` numbers."""
    # The standard deviation keeps tied logits, which are sums of `size` products, near ±1 at first.
    embedding = nn.Embedding(count, size)
    nn.init.normal_(embedding.weight, std=size**-0.5)
    return embedding


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the log-probabilities […, n] of the next token, −∞ for PAD, UNKNOWN and BEGIN.

    No translation contains these tokens.
    """
    never = torch.tensor([PAD, UNKNOWN, BEGIN], device=logits.device)
    # In bf16, which autocast would keep, sums would rank hypotheses by rounding errors.
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return exact.log_softmax(dim=-1).index_fill_(-1, never, -torch.inf)
