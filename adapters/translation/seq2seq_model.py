"""Translation through one vector: a recurrent encoder reads, a recurrent decoder writes from what it kept.

    c = [→h_S; ←h_1]                          the encoder's last states, of its top layer
    s_0 = tanh(W c^l), memory = W' c^l        the decoder's layer l starts from the encoder's layer l
    s_i = f(s_{i−1}, [y_{i−1}; c])            context `every-step`, Cho et al. 2014 §2.2
    s_i = f(s_{i−1}, y_{i−1})                 context `initial`, Sutskever, Vinyals and Le 2014
    p(y_i) = softmax(E tanh(U [s_i; y_{i−1}; c]) + b)         without c where it is `initial`

Shapes: B sentences, S source positions, T target positions, K hypotheses a sentence, n tokens in the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adapters.translation.cells import (
    CellPath,
    CellState,
    LstmRecurrence,
    Recurrence,
    StackedEncoder,
    VanillaRecurrence,
)
from adapters.translation.tokens import log_probabilities, token_embedding

ContextUse = Literal["every-step", "initial"]


@dataclass(frozen=True)
class State:
    """The decoder between two steps, K hypotheses a sentence."""

    context: Tensor  # [B, C], c; C = 0 where it is `initial`
    layers: tuple[CellState, ...]  # of [B, K, decoder_size], s_i

    def select(self, rows: Tensor, parents: Tensor) -> State:
        """Keep the sentences `rows` [B'], and of sentence b the hypotheses `parents[b]` [B', K']."""
        index = rows.unsqueeze(1), parents
        return State(self.context[rows], tuple(tuple(part[index] for part in layer) for layer in self.layers))


class Seq2SeqModel(nn.Module):
    """Encoder, decoder and their embeddings. The modules stand in the order in which they compute."""

    def __init__(
        self,
        cell: type[VanillaRecurrence | LstmRecurrence],
        vocabulary_size: int,
        embedding_size: int,
        encoder_size: int,
        decoder_size: int,
        layers: int = 1,
        bidirectional: bool = True,
        context: ContextUse = "every-step",
        dropout: float = 0.0,
        tied_embeddings: bool = True,
        path: CellPath = "fused",
    ) -> None:
        """`encoder_size` is the width of one direction; `layers` are those of encoder and decoder each.
        Tied: one matrix embeds source and target and is E too (Press and Wolf 2017)."""
        super().__init__()
        self.context = context
        self.parts = cell.parts
        # Inputs of variance 1 from embeddings whose logits are near ±1, Vaswani et al. 2017 §3.4. Measured on
        # `phrases`, learning rate .002: an LSTM's loss after 1,100 steps is 2.17 with it, and 2.33 without.
        self.scale = embedding_size**0.5
        self.embedding = token_embedding(vocabulary_size, embedding_size)
        self.encoder = StackedEncoder(
            cell, embedding_size, encoder_size, layers, bidirectional, dropout, path
        )
        kept = self.encoder.output_size
        self.initial = nn.ModuleList(nn.Linear(kept, cell.parts * decoder_size) for _ in range(layers))
        self.target_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        fed = kept if context == "every-step" else 0
        sizes = [embedding_size + fed, *[decoder_size] * (layers - 1)]
        self.decoder = nn.ModuleList(cell(size, decoder_size, path) for size in sizes)
        self.readout = nn.Linear(decoder_size + embedding_size + fed, embedding_size)
        self.output_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor, lengths: Tensor) -> State:
        """Read the sources and set s_0, of one hypothesis each.

        Args:
            source: [B, S], token ids, PAD behind each sentence.
            lengths: [B], all ≥ 1.
        """
        embedded = self.dropout(self.scale * self.embedding(source))
        _, finals = self.encoder(embedded, lengths.to(source.device))
        layers = []
        for final, initial in zip(finals, self.initial, strict=True):
            hidden, *memory = initial(final).chunk(self.parts, dim=-1)
            layers.append(tuple(part.unsqueeze(1) for part in (hidden.tanh(), *memory)))
        fed = self.dropout(finals[-1]) if self.context == "every-step" else finals[-1][:, :0]
        return State(fed, tuple(layers))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One target position: y_{i−1} [B, K] → log p(y_i) [B, K, n], s_i.

        PAD, UNKNOWN and BEGIN, which no translation contains, have log-probability −∞.
        """
        embedded = self.scale * (self.target_embedding or self.embedding)(tokens)
        context = state.context.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        hidden = torch.cat([embedded, context], dim=-1)
        layers = []
        for recurrence, before in zip(self.decoder, state.layers, strict=True):
            assert isinstance(recurrence, Recurrence)
            layers.append(recurrence.step(hidden, before))
            hidden = layers[-1][0]
        logits = self._logits(hidden, embedded, context)
        return log_probabilities(logits), State(state.context, tuple(layers))

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, wanted: Tensor) -> Tensor:
        """Teacher forcing: the steps' logits where they are wanted.

        Args:
            source, lengths: as for `encode`.
            target: [B, T], y_0 = BEGIN, y_1, …
            wanted: [B, T], true where the next token's distribution is asked for.

        Returns:
            logits [wanted.sum(), n], row by row of `wanted`.
        """
        state = self.encode(source, lengths)
        embedded = self.dropout(self.scale * (self.target_embedding or self.embedding)(target))
        context = state.context.unsqueeze(1).expand(-1, target.shape[1], -1)
        hidden = torch.cat([embedded, context], dim=-1)
        for layer, (recurrence, before) in enumerate(zip(self.decoder, state.layers, strict=True)):
            inputs = hidden if layer == 0 else self.dropout(hidden)
            hidden = recurrence(inputs, tuple(part[:, 0] for part in before))
        return self._logits(hidden[wanted], embedded[wanted], context[wanted])

    def _logits(self, hidden: Tensor, embedded: Tensor, context: Tensor) -> Tensor:
        """U, tanh and E: […, ·] → […, n]."""
        readout = torch.tanh(self.readout(torch.cat([hidden, embedded, context], dim=-1)))
        weight = (self.output_embedding or self.embedding).weight
        return nn.functional.linear(self.dropout(readout), weight, self.output_bias)
