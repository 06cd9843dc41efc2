"""Recurrent layers: one step written as its equations, and the same numbers from torch's fused kernels.

Both read the parameters of a `torch.nn.RNN` or `torch.nn.LSTM` (its layout, so that its kernels and the
equations share them). Shapes: […] any leading dimensions, B sentences, T steps, I inputs, H hidden units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

CellPath = Literal["reference", "fused"]
"""How the layers compute: step by step from the equations, or in torch's kernels."""

CellState = tuple[Tensor, ...]
"""Between two steps, each […, H]: (h,) of a vanilla network, (h, c) of an LSTM."""


def rnn_cell(x: Tensor, state: CellState, weight: Tensor, bias: Tensor) -> CellState:
    """h_t = tanh(w [h_{t−1}, x_t] + b) (Elman 1990).

    Args:
        x: […, I].
        state: (h_{t−1},).
        weight: [H, H + I], w.
        bias: [H].
    """
    (h,) = state
    return (torch.tanh(nn.functional.linear(torch.cat([h, x], dim=-1), weight, bias)),)


def lstm_cell(x: Tensor, state: CellState, weight: Tensor, bias: Tensor) -> CellState:
    """Hochreiter and Schmidhuber 1997 with the forget gate of Gers, Schmidhuber and Cummins 2000.

    i_t = σ(w_i [h_{t−1}, x_t] + b_i), f_t and o_t likewise, c̃_t = tanh(w_c [h_{t−1}, x_t] + b_c),
    c_t = f_t ⊙ c_{t−1} + i_t ⊙ c̃_t, h_t = o_t ⊙ tanh(c_t).

    Args:
        x: […, I].
        state: (h_{t−1}, c_{t−1}).
        weight: [4H, H + I]: w_i, w_f, w_c, w_o, torch's order.
        bias: [4H], likewise.
    """
    h, c = state
    w_i, w_f, w_c, w_o = weight.chunk(4)
    b_i, b_f, b_c, b_o = bias.chunk(4)
    seen = torch.cat([h, x], dim=-1)
    input_gate = torch.sigmoid(nn.functional.linear(seen, w_i, b_i))
    forget_gate = torch.sigmoid(nn.functional.linear(seen, w_f, b_f))
    output_gate = torch.sigmoid(nn.functional.linear(seen, w_o, b_o))
    candidate = torch.tanh(nn.functional.linear(seen, w_c, b_c))
    c = forget_gate * c + input_gate * candidate
    return output_gate * torch.tanh(c), c


class Recurrence(nn.Module, ABC):
    """One layer in one direction."""

    parts: ClassVar[int]
    """Tensors of a state."""
    weights: nn.RNNBase
    """Holds the parameters; is the fused path."""

    def __init__(self, hidden_size: int, path: CellPath) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.path = path

    @abstractmethod
    def equations(self, x: Tensor, state: CellState, weight: Tensor, bias: Tensor) -> CellState:
        """The reference cell."""

    @abstractmethod
    def fused_cell(self, gates: Tensor, state: CellState) -> CellState:
        """The state after a step from w [h_{t−1}, x_t] + b of all gates, computed in one product."""

    @abstractmethod
    def run(self, x: Tensor, state: CellState) -> Tensor:
        """The fused path over [B, T, I]."""

    def forward(self, x: Tensor, state: CellState | None = None) -> Tensor:
        """All steps: x [B, T, I] and the state before the first (zeros), [B, H] → h_1 … h_T [B, T, H]."""
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size),) * self.parts
        if self.path == "fused":
            return self.run(x, state)
        weight, bias = self._joined()
        hidden = []
        for position in range(x.shape[1]):
            state = self.equations(x[:, position], state, weight, bias)
            hidden.append(state[0])
        return torch.stack(hidden, dim=1)

    def step(self, x: Tensor, state: CellState) -> CellState:
        """One step: x […, I], the state before → the state after."""
        if self.path == "reference":
            return self.equations(x, state, *self._joined())
        of_x, of_h, bias_x, bias_h = self.weights.all_weights[0]
        gates = nn.functional.linear(x, of_x, bias_x) + nn.functional.linear(state[0], of_h, bias_h)
        return self.fused_cell(gates, state)

    def first(self, x: Tensor) -> Tensor:
        """Prepare the first inputs […, F] of many steps at once, for `step_after`: what they and the biases
        add up to in all gates. On the reference path, without such a shortcut, they stay what they are."""
        if self.path == "reference":
            return x
        of_x, _, bias_x, bias_h = self.weights.all_weights[0]
        return nn.functional.linear(x, of_x[:, : x.shape[-1]], bias_x + bias_h)

    def step_after(self, first: Tensor, x: Tensor, state: CellState) -> CellState:
        """One step, of the prepared first inputs and of x […, I − F], those that follow them."""
        if self.path == "reference":
            return self.step(torch.cat([first, x], dim=-1), state)
        of_x, of_h, _, _ = self.weights.all_weights[0]
        seen = nn.functional.linear(x, of_x[:, -x.shape[-1] :]) + nn.functional.linear(state[0], of_h)
        return self.fused_cell(first + seen, state)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """w of [h_{t−1}, x_t] and b; torch keeps them in two parts, and two biases whose sum is b."""
        of_x, of_h, bias_x, bias_h = self.weights.all_weights[0]
        return torch.cat([of_h, of_x], dim=1), bias_h + bias_x


class VanillaRecurrence(Recurrence):
    """The tanh network."""

    parts = 1

    def __init__(self, input_size: int, hidden_size: int, path: CellPath) -> None:
        super().__init__(hidden_size, path)
        self.weights = nn.RNN(input_size, hidden_size, batch_first=True)
        # Keeps the length of what it carries from step to step, Saxe, McClelland and Ganguli 2014 §3.
        nn.init.orthogonal_(self.weights.all_weights[0][1])

    def equations(self, x: Tensor, state: CellState, weight: Tensor, bias: Tensor) -> CellState:
        return rnn_cell(x, state, weight, bias)

    def fused_cell(self, gates: Tensor, state: CellState) -> CellState:  # noqa: ARG002
        return (gates.tanh(),)

    def run(self, x: Tensor, state: CellState) -> Tensor:
        hidden: Tensor = self.weights(x, state[0].unsqueeze(0))[0]
        return hidden


class LstmRecurrence(Recurrence):
    """The long short-term memory."""

    parts = 2

    def __init__(self, input_size: int, hidden_size: int, path: CellPath) -> None:
        super().__init__(hidden_size, path)
        self.weights = nn.LSTM(input_size, hidden_size, batch_first=True)
        with torch.no_grad():
            # Remember at first: forget gates start open, Jozefowicz, Zaremba and Sutskever 2015 §4.
            self.weights.all_weights[0][2][hidden_size : 2 * hidden_size].fill_(1.0)

    def equations(self, x: Tensor, state: CellState, weight: Tensor, bias: Tensor) -> CellState:
        return lstm_cell(x, state, weight, bias)

    def fused_cell(self, gates: Tensor, state: CellState) -> CellState:
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def run(self, x: Tensor, state: CellState) -> Tensor:
        hidden: Tensor = self.weights(x, (state[0].unsqueeze(0), state[1].unsqueeze(0)))[0]
        return hidden


class StackedEncoder(nn.Module):
    """Layers that read padded sentences, each in one direction or in both.

    Nothing is packed: on a CPU the dense kernels are 1.5–2.7 times as fast (measured: docs/benchmarks.md),
    and what is computed at padding, always behind a sentence, is never looked at.
    """

    def __init__(
        self,
        cell: type[VanillaRecurrence | LstmRecurrence],
        input_size: int,
        hidden_size: int,
        layers: int,
        bidirectional: bool,
        dropout: float,
        path: CellPath,
    ) -> None:
        """`hidden_size` is the width of one direction; dropout lies between the layers."""
        super().__init__()
        directions = 2 if bidirectional else 1
        sizes = [input_size, *[directions * hidden_size] * (layers - 1)]
        self.forwards = nn.ModuleList(cell(size, hidden_size, path) for size in sizes)
        self.backwards = nn.ModuleList(cell(size, hidden_size, path) for size in sizes if bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.output_size = directions * hidden_size

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Read [B, T, I] of `lengths` [B] ≥ 1, on x's device.

        Returns:
            The top layer's h_t, both directions joined, [B, T, output_size], anything at padding; every
            layer's state after its last step, [B, output_size], of the backward direction the one at t = 1.
        """
        rows = torch.arange(len(x), device=x.device)
        last = lengths - 1
        if self.backwards:
            places = torch.arange(x.shape[1], device=x.device)
            # Its own inverse; padding stays behind.
            turned = rows.unsqueeze(1), (last.unsqueeze(1) - places) % x.shape[1]
        finals = []
        for layer, forward in enumerate(self.forwards):
            inputs = x if layer == 0 else self.dropout(x)
            x = forward(inputs)
            final = x[rows, last]
            if self.backwards:
                reading = self.backwards[layer](inputs[turned])
                final = torch.cat([final, reading[rows, last]], dim=-1)
                x = torch.cat([x, reading[turned]], dim=-1)
            finals.append(final)
        return x, finals
