"""Translation with additive attention: a bidirectional LSTM reads, an LSTM that looks back writes.

Bahdanau, Cho and Bengio 2015 ("RNNsearch"), with LSTMs in place of gated recurrent units:

    h_j = [→h_j; ←h_j]                      the encoder's annotation of source position j
    c_i = Σ_j α_ij h_j                      α_i from s_{i−1} and all h_j: additive_attention.py
    s_i = LSTM(s_{i−1}, [y_{i−1}; c_i])
    p(y_i) = softmax(E tanh(U [s_i; c_i; y_{i−1}]) + b)

Shapes: B sentences, S source positions, T target positions, K hypotheses a sentence, n tokens in the
vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.translation.additive_attention import AdditiveAttention
from adapters.translation.cells import CellPath, CellState, LstmRecurrence, StackedEncoder
from adapters.translation.tokens import log_probabilities, token_embedding
from adapters.translation.vocabulary import PAD


@dataclass(frozen=True)
class Memory:
    """What the decoder sees of the sources."""

    values: Tensor  # [B, S, 2·encoder_size], h_j
    keys: Tensor  # [B, S, attention_size], V h_j
    bias: Tensor  # [B, S], 0 at tokens, −∞ at padding


@dataclass(frozen=True)
class State:
    """The decoder between two steps, K hypotheses a sentence."""

    memory: Memory
    layer: CellState  # of [B, K, decoder_size], s_i and the LSTM's memory

    def select(self, rows: Tensor, parents: Tensor) -> State:
        """Keep the sentences `rows` [B'], and of sentence b the hypotheses `parents[b]` [B', K']."""
        memory = self.memory
        if len(rows) < len(memory.bias):  # else `rows` is all of them: nothing to copy
            memory = Memory(memory.values[rows], memory.keys[rows], memory.bias[rows])
        index = rows.unsqueeze(1), parents
        return State(memory, tuple(part[index] for part in self.layer))


class AttentionModel(nn.Module):
    """Encoder, decoder and their embeddings. The modules stand in the order in which they compute."""

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        encoder_size: int,
        decoder_size: int,
        attention_size: int,
        encoder_layers: int = 1,
        dropout: float = 0.0,
        tied_embeddings: bool = True,
        path: CellPath = "fused",
    ) -> None:
        """`encoder_size` is the width of one direction. Tied: one matrix embeds source and target and is E
        too (Press and Wolf 2017)."""
        super().__init__()
        self.embedding = token_embedding(vocabulary_size, embedding_size)
        self.encoder = StackedEncoder(
            LstmRecurrence, embedding_size, encoder_size, encoder_layers, True, dropout, path
        )
        kept = self.encoder.output_size
        self.initial = nn.Linear(kept, decoder_size)
        self.target_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        self.attention = AdditiveAttention(decoder_size, kept, attention_size)
        self.decoder = LstmRecurrence(embedding_size + kept, decoder_size, path)
        self.readout = nn.Linear(decoder_size + kept + embedding_size, embedding_size)
        self.output_embedding = None if tied_embeddings else token_embedding(vocabulary_size, embedding_size)
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor, lengths: Tensor) -> State:
        """Read the sources and set s_0, of one hypothesis each.

        Args:
            source: [B, S], token ids, PAD behind each sentence.
            lengths: [B], all ≥ 1.
        """
        annotations, finals = self.encoder(self.dropout(self.embedding(source)), lengths.to(source.device))
        values = self.dropout(annotations)
        bias = torch.zeros_like(values[..., 0]).masked_fill(source == PAD, -torch.inf)
        # Both directions' last states; Bahdanau §A.2.2 takes the backward one's only.
        hidden = torch.tanh(self.initial(finals[-1])).unsqueeze(1)
        memory = Memory(values, self.attention.keys(values), bias)
        return State(memory, (hidden, torch.zeros_like(hidden)))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State, Tensor]:
        """One target position: y_{i−1} [B, K] → log p(y_i) [B, K, n], s_i, α_i [B, K, S].

        PAD, UNKNOWN and BEGIN, which no translation contains, have log-probability −∞.
        """
        embedded = (self.target_embedding or self.embedding)(tokens)
        state, context, weights = self._advance(self.decoder.first(embedded), state)
        return log_probabilities(self._logits(state.layer[0], context, embedded)), state, weights

    def forward(
        self, source: Tensor, lengths: Tensor, target: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Teacher forcing: the steps' logits where they are wanted, and all attention weights.

        Args:
            source, lengths: as for `encode`.
            target: [B, T], y_0 = BEGIN, y_1, …
            wanted: [B, T], true where the next token's distribution is asked for.

        Returns:
            logits [wanted.sum(), n], row by row of `wanted`; α [B, T, S].
        """
        state = self.encode(source, lengths)
        embedded = self.dropout((self.target_embedding or self.embedding)(target))
        first = self.decoder.first(embedded)
        hidden, contexts, weights = [], [], []
        for position in range(target.shape[1]):
            state, context, weight = self._advance(first[:, position : position + 1], state)
            hidden.append(state.layer[0])
            contexts.append(context)
            weights.append(weight)
        states, seen = torch.cat(hidden, dim=1), torch.cat(contexts, dim=1)
        return self._logits(states[wanted], seen[wanted], embedded[wanted]), torch.cat(weights, dim=1)

    def _advance(self, first: Tensor, state: State) -> tuple[State, Tensor, Tensor]:
        """The recurrence: y_{i−1} [B, K, ·] as `Recurrence.first` prepares it, s_{i−1} → s_i, c_i, α_i."""
        memory = state.memory
        context, weights = self.attention(state.layer[0], memory.keys, memory.values, memory.bias)
        return State(memory, self.decoder.step_after(first, context, state.layer)), context, weights

    def _logits(self, hidden: Tensor, context: Tensor, embedded: Tensor) -> Tensor:
        """U, tanh and E: [..., ·] → [..., n]."""
        readout = torch.tanh(self.readout(torch.cat([hidden, context, embedded], dim=-1)))
        weight = (self.output_embedding or self.embedding).weight
        return nn.functional.linear(self.dropout(readout), weight, self.output_bias)
