"""Recurrent layers: single steps from the papers' equations, whole sequences with torch's fused kernels.

Both read the parameters of a `torch.nn.RNN` or `torch.nn.LSTM`. Shapes: […] any leading dimensions,
B sentences, T steps, I inputs, H hidden units, G gates (1 or 4).
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

CellState = tuple[Tensor, ...]
"""The state after a step, each tensor […, H]: (h,) of a vanilla RNN, (h, c) of an LSTM."""


class RecurrentLayer(nn.Module, ABC):
    """Read a sequence in one direction with one layer. Subclasses define the cell.

    a_t = W x_t + U h_{t−1} + b, with the gates stacked
    """

    state_tensors: ClassVar[int]  # number of tensors in a `CellState`
    fused = True
    """Read sequences with torch's kernel, or step by step from the equations if false (see `unfuse`)."""

    def __init__(self, weights: nn.RNNBase) -> None:
        super().__init__()
        self.weights = weights  # W [G·H, I], U [G·H, H] and two biases [G·H] whose sum is b

    @abstractmethod
    def cell(self, gates: Tensor, state: CellState) -> CellState:
        """Return the state after a step from its a_t [..., G·H] and the state before."""

    def forward(self, x: Tensor, state: CellState | None = None) -> Tensor:
        """Read x [B, T, I] from an initial state, each tensor [B, H] (zeros): h_1 … h_T [B, T, H]."""
        if state is None:
            state = (x.new_zeros(x.shape[0], self.weights.hidden_size),) * self.state_tensors
        if self.fused:
            initial = tuple(part.unsqueeze(0) for part in state)
            hidden: Tensor = self.weights(x, initial if len(initial) > 1 else initial[0])[0]
            return hidden
        outputs = []
        for x_t in x.unbind(dim=1):
            state = self.step(x_t, state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1)

    def step(self, x: Tensor, state: CellState) -> CellState:
        """Return the state after an input x […, I], computed from the equations."""
        W, U, bias_x, bias_h = self.weights.all_weights[0]
        gates = nn.functional.linear(x, W, bias_x) + nn.functional.linear(state[0], U, bias_h)
        return self.cell(gates, state)

    def project(self, x: Tensor) -> Tensor:
        """Return W x + b of the first F of I inputs, x […, F], for many steps at once: […, G·H]."""
        W, _, bias_x, bias_h = self.weights.all_weights[0]
        return nn.functional.linear(x, W[:, : x.shape[-1]], bias_x + bias_h)

    def step_projected(self, projected: Tensor, context: Tensor, state: CellState) -> CellState:
        """Return the state after inputs that `project` prepared, followed by a context […, I − F]."""
        W, U, _, _ = self.weights.all_weights[0]
        inputs = nn.functional.linear(context, W[:, -context.shape[-1] :])
        return self.cell(projected + (inputs + nn.functional.linear(state[0], U)), state)


class RnnLayer(RecurrentLayer):
    """The vanilla recurrent network of Elman 1990: h_t = tanh(a_t)."""

    state_tensors = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(nn.RNN(input_size, hidden_size, batch_first=True))
        # An orthogonal U preserves the norm of the hidden state, Saxe, McClelland and Ganguli 2014 §3.
        nn.init.orthogonal_(self.weights.all_weights[0][1])

    def cell(self, gates: Tensor, state: CellState) -> CellState:  # noqa: ARG002
        return (gates.tanh(),)


class LstmLayer(RecurrentLayer):
    """The LSTM of Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000.

    a_t = [a_i; a_f; a_g; a_o]
    c_t = σ(a_f) ⊙ c_{t−1} + σ(a_i) ⊙ tanh(a_g)
    h_t = σ(a_o) ⊙ tanh(c_t)
    """

    state_tensors = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(nn.LSTM(input_size, hidden_size, batch_first=True))
        with torch.no_grad():
            # Forget gates start open, Jozefowicz, Zaremba and Sutskever 2015 §4.
            self.weights.all_weights[0][2][hidden_size : 2 * hidden_size].fill_(1.0)

    def cell(self, gates: Tensor, state: CellState) -> CellState:
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def unfuse(module: nn.Module) -> None:
    """Make all recurrent layers of a module compute from their equations.

    The results are the same up to rounding. Torch counts no FLOPs for its fused kernels.
    """
    for layer in module.modules():
        if isinstance(layer, RecurrentLayer):
            layer.fused = False


class StackedEncoder(nn.Module):
    """Recurrent layers, each in one direction or in both, that read padded sentences.

    Sentences are not packed: on a CPU the dense kernels are 1.5–2.7 times as fast (docs/benchmarks.md).
    Padding follows the sentence, so computations on it do not affect the states before it.
    """

    def __init__(
        self,
        layer: type[RnnLayer | LstmLayer],
        input_size: int,
        hidden_size: int,
        layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        """Create the layers; `hidden_size` is per direction, and dropout is applied between the layers."""
        super().__init__()
        directions = 2 if bidirectional else 1
        sizes = [input_size, *[directions * hidden_size] * (layers - 1)]
        self.forwards = nn.ModuleList(layer(size, hidden_size) for size in sizes)
        self.backwards = nn.ModuleList(layer(size, hidden_size) for size in sizes if bidirectional)
        self.dropout = nn.Dropout(dropout)
        self.output_size = directions * hidden_size

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Read x [B, T, I] with sentence lengths [B], all ≥ 1 and on the device of x.

        Return h_t of the top layer, directions concatenated, [B, T, output_size], undefined at padding; and
        for each layer its last hidden state, [B, output_size]. The backward direction ends at t = 1.
        """
        rows = torch.arange(x.shape[0], device=x.device)  # an export fixes `len(x)`
        last = lengths - 1
        if self.backwards:
            positions = torch.arange(x.shape[1], device=x.device)
            reversed_positions = last.unsqueeze(1) - positions
            # Reverses each sentence and keeps its padding after it. The permutation is its own inverse.
            reverse = rows.unsqueeze(1), reversed_positions.where(reversed_positions >= 0, positions)
        finals = []
        for number, forward in enumerate(self.forwards):
            inputs = x if number == 0 else self.dropout(x)
            x = forward(inputs)
            final = x[rows, last]
            if self.backwards:
                backward = self.backwards[number](inputs[reverse])
                final = torch.cat([final, backward[rows, last]], dim=-1)
                x = torch.cat([x, backward[reverse]], dim=-1)
            finals.append(final)
        return x, finals
