"""RNN encoder–decoder without attention: the decoder reads the source only as one context vector.

    c = [→h_S; ←h_1]                          the last hidden states of the encoder's top layer
    s_0 = tanh(W c^l), cell = W' c^l          layer l of the decoder starts from layer l of the encoder
    s_i = f(s_{i−1}, [y_{i−1}; c])            context `every-step`, Cho et al. 2014 §2.2
    s_i = f(s_{i−1}, y_{i−1})                 context `initial`, Sutskever, Vinyals and Le 2014
    p(y_i) = softmax(E tanh(U [s_i; y_{i−1}; c]) + b)         without c if the context is `initial`

Shapes: B sentences, S source positions, T target positions, K hypotheses per sentence, n tokens in the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adapters.translation.cells import CellState, LstmLayer, RecurrentLayer, RnnLayer, StackedEncoder
from adapters.translation.tokens import log_probabilities, token_embedding

ContextUse = Literal["every-step", "initial"]


@dataclass(frozen=True)
class State:
    """The decoder between two steps, with K hypotheses per sentence."""

    context: Tensor  # [B, C], c; C = 0 if the context is `initial`
    layers: tuple[CellState, ...]  # tensors [B, K, decoder_size] per layer: s_i, and the cell of an LSTM

    def select(self, rows: Tensor, parents: Tensor) -> State:
        """Keep the sentences `rows` [B'], and of sentence b the hypotheses `parents[b]` [B', K']."""
        index = rows.unsqueeze(1), parents
        return State(self.context[rows], tuple(tuple(part[index] for part in layer) for layer in self.layers))


class Seq2SeqModel(nn.Module):
    """Encoder, decoder and embeddings, in the order in which they compute."""

    def __init__(
        self,
        layer: type[RnnLayer | LstmLayer],
        vocabulary_size: int,
        embedding_size: int,
        encoder_size: int,
        decoder_size: int,
        layers: int = 1,
        bidirectional: bool = True,
        context: ContextUse = "every-step",
        dropout: float = 0.0,
        tied_embeddings: bool = True,
    ) -> None:
        """Create the model with random weights; encoder and decoder have `layers` layers each.

        Tied embeddings are one matrix for source, target and E (Press and Wolf 2017).
        """
        super().__init__()
        self.context = context
        self.state_tensors = layer.state_tensors
        # Scales embeddings, initialised for logits near ±1, to inputs of variance 1, Vaswani et al. 2017
        # §3.4. Measured on `phrases`, learning rate .002: loss of an LSTM after 1,100 steps 2.17, unscaled
        # 2.33.
        self.scale = embedding_size**0.5
        self.embedding = token_embedding(vocabulary_size, embedding_size)
        self.encoder = StackedEncoder(layer, embedding_size, encoder_size, layers, bidirectional, dropout)
        encoded = self.encoder.output_size
        self.initial = nn.ModuleList(
            nn.Linear(encoded, layer.state_tensors * decoder_size) for _ in range(layers)
        )
        self.target_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        context_size = encoded if context == "every-step" else 0
        sizes = [embedding_size + context_size, *[decoder_size] * (layers - 1)]
        self.decoder = nn.ModuleList(layer(size, decoder_size) for size in sizes)
        self.readout = nn.Linear(decoder_size + embedding_size + context_size, embedding_size)
        self.output_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor, lengths: Tensor) -> State:
        """Encode sources [B, S], each followed by PAD, with `lengths` [B] ≥ 1: s_0 of one hypothesis each."""
        return State(*self.encoded(source, lengths))

    def encoded(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[CellState, ...]]:
        """Compute the tensors of the state that `encode` returns."""
        embedded = self.dropout(self.scale * self.embedding(source))
        _, finals = self.encoder(embedded, lengths.to(source.device))
        layers = []
        for final, initial in zip(finals, self.initial, strict=True):
            hidden, *cell = initial(final).chunk(self.state_tensors, dim=-1)
            layers.append(tuple(part.unsqueeze(1) for part in (hidden.tanh(), *cell)))
        context = self.dropout(finals[-1]) if self.context == "every-step" else finals[-1][:, :0]
        return context, tuple(layers)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Decode one target position: y_{i−1} [B, K] → log p(y_i) [B, K, n] and s_i.

        PAD, UNKNOWN and BEGIN have log-probability −∞, because no translation contains them.
        """
        scores, layers = self.decoded(tokens, state.context, state.layers)
        return scores, State(state.context, layers)

    def decoded(
        self, tokens: Tensor, context: Tensor, states: tuple[CellState, ...]
    ) -> tuple[Tensor, tuple[CellState, ...]]:
        """Compute the tensors of `step` from those of its arguments."""
        embedded = self.scale * (self.target_embedding or self.embedding)(tokens)
        context = context.unsqueeze(1).expand(-1, tokens.shape[1], -1)
        hidden = torch.cat([embedded, context], dim=-1)
        layers = []
        for layer, before in zip(self.decoder, states, strict=True):
            assert isinstance(layer, RecurrentLayer)
            layers.append(layer.step(hidden, before))
            hidden = layers[-1][0]
        logits = self._logits(hidden, embedded, context)
        return log_probabilities(logits), tuple(layers)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Decode with teacher forcing the targets [B, T]: y_0 = BEGIN, y_1, …

        Returns the logits [mask.sum(), n] of the tokens that follow where the mask [B, T] is true, row by
        row.
        """
        state = self.encode(source, lengths)
        embedded = self.dropout(self.scale * (self.target_embedding or self.embedding)(target))
        context = state.context.unsqueeze(1).expand(-1, target.shape[1], -1)
        hidden = torch.cat([embedded, context], dim=-1)
        for number, (layer, before) in enumerate(zip(self.decoder, state.layers, strict=True)):
            inputs = hidden if number == 0 else self.dropout(hidden)
            hidden = layer(inputs, tuple(part[:, 0] for part in before))
        return self._logits(hidden[mask], embedded[mask], context[mask])

    def _logits(self, hidden: Tensor, embedded: Tensor, context: Tensor) -> Tensor:
        """Return E tanh(U [s_i; y_{i−1}; c]) + b: […, ·] → […, n]."""
        readout = torch.tanh(self.readout(torch.cat([hidden, embedded, context], dim=-1)))
        weight = (self.output_embedding or self.embedding).weight
        return nn.functional.linear(self.dropout(readout), weight, self.output_bias)
