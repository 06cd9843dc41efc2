"""Recurrent cells: their equations by hand, torch's layers with copied weights, fused against reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from adapters.translation.cells import (
    CellState,
    LstmRecurrence,
    StackedEncoder,
    VanillaRecurrence,
    lstm_cell,
    rnn_cell,
)

Cell = type[VanillaRecurrence | LstmRecurrence]
CELLS: list[Cell] = [VanillaRecurrence, LstmRecurrence]
TORCH: dict[Cell, type[nn.RNNBase]] = {VanillaRecurrence: nn.RNN, LstmRecurrence: nn.LSTM}
WITHIN: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def state_of(cell: Cell, *shape: int) -> CellState:
    return tuple(0.5 * torch.randn(*shape) for _ in range(cell.parts))


def both_paths(cell: Cell, input_size: int, hidden_size: int) -> tuple[Any, Any]:
    """The same parameters, from one state dict."""
    torch.manual_seed(0)
    fused, reference = cell(input_size, hidden_size, "fused"), cell(input_size, hidden_size, "reference")
    reference.load_state_dict(fused.state_dict())
    return fused, reference


def test_one_step_of_the_vanilla_network_by_hand() -> None:
    x, h = torch.tensor([[2.0]]), torch.tensor([[0.5]])
    (found,) = rnn_cell(x, (h,), torch.tensor([[3.0, -1.0]]), torch.tensor([0.25]))
    assert found.item() == pytest.approx(math.tanh(3 * 0.5 - 2 + 0.25))


def test_one_step_of_the_lstm_by_hand() -> None:
    x, h, c = 2.0, 0.5, -0.8
    of_h, of_x, bias = [0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8], [0.01, 0.02, 0.03, 0.04]
    a_i, a_f, a_c, a_o = (u * h + v * x + b for u, v, b in zip(of_h, of_x, bias, strict=True))

    def sigma(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    expected_c = sigma(a_f) * c + sigma(a_i) * math.tanh(a_c)
    expected_h = sigma(a_o) * math.tanh(expected_c)
    weight = torch.tensor([of_h, of_x]).T
    found_h, found_c = lstm_cell(
        torch.tensor([[x]]), (torch.tensor([[h]]), torch.tensor([[c]])), weight, torch.tensor(bias)
    )
    assert found_h.item() == pytest.approx(expected_h)
    assert found_c.item() == pytest.approx(expected_c)


def test_a_closed_input_gate_and_an_open_forget_gate_keep_the_memory() -> None:
    bias = torch.tensor([-50.0, 50.0, 7.0, 50.0])  # input, forget, candidate, output
    state: CellState = (torch.zeros(1, 1), torch.tensor([[0.3]]))
    for step in range(100):
        state = lstm_cell(torch.full((1, 1), float(step)), state, torch.zeros(4, 2), bias)
    assert state[1].item() == pytest.approx(0.3)


@pytest.mark.parametrize("cell", CELLS)
def test_reference_cells_have_right_gradients(cell: Cell) -> None:
    torch.manual_seed(0)
    function = rnn_cell if cell is VanillaRecurrence else lstm_cell
    rows = 3 if cell is VanillaRecurrence else 12
    inputs = [torch.randn(2, 4), *state_of(cell, 2, 3), torch.randn(rows, 7), torch.randn(rows)]

    def run(x: Tensor, *rest: Tensor) -> CellState:
        return function(x, rest[:-2], rest[-2], rest[-1])

    assert torch.autograd.gradcheck(run, [tensor.double().requires_grad_() for tensor in inputs])


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_have_right_gradients(cell: Cell, path: Any) -> None:
    torch.manual_seed(0)
    layer = cell(2, 3, path).double()
    names = [name for name, _ in layer.named_parameters()]
    inputs = [torch.randn(2, 4, 2), *state_of(cell, 2, 3), *(p.detach() for p in layer.parameters())]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        parameters = dict(zip(names, rest[cell.parts :], strict=True))
        found: Tensor = torch.func.functional_call(layer, parameters, (x, rest[: cell.parts]))
        return found

    assert torch.autograd.gradcheck(run, [tensor.double().requires_grad_() for tensor in inputs])


def outcome(layer: nn.Module, run: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Output, gradients of inputs and of all parameters."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = run(*leaves)
    layer.zero_grad()
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output, *(leaf.grad for leaf in leaves), *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (5, 30)])
@pytest.mark.parametrize("cell", CELLS)
def test_fused_and_reference_agree_in_values_and_gradients(cell: Cell, batch: int, steps: int) -> None:
    fused, reference = both_paths(cell, 6, 10)
    inputs = [torch.randn(batch, steps, 6), *state_of(cell, batch, 10)]
    found = [outcome(layer, lambda x, *state, of=layer: of(x, state), inputs) for layer in (fused, reference)]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, **WITHIN)


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("cell", CELLS)
def test_layers_equal_those_of_torch_with_copied_weights(cell: Cell, path: Any) -> None:
    torch.manual_seed(1)
    ours, theirs = cell(6, 10, path), TORCH[cell](6, 10, batch_first=True)
    ours.weights.load_state_dict(theirs.state_dict())
    inputs = [torch.randn(4, 20, 6), *state_of(cell, 4, 10)]

    def torchs(x: Tensor, *state: Tensor) -> Tensor:
        parts = tuple(part.unsqueeze(0) for part in state)
        found: Tensor = theirs(x, parts if len(parts) > 1 else parts[0])[0]
        return found

    ours_found = outcome(ours, lambda x, *state: ours(x, state), inputs)
    for a, b in zip(ours_found, outcome(theirs, torchs, inputs), strict=True):
        torch.testing.assert_close(a, b, **WITHIN)


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("cell", CELLS)
def test_step_by_step_equals_the_whole_sequence(cell: Cell, path: Any) -> None:
    torch.manual_seed(2)
    layer = cell(4, 5, path)
    x, state = torch.randn(3, 7, 4), state_of(cell, 3, 5)
    whole = layer(x, state)
    for position in range(7):
        state = layer.step(x[:, position], state)
        torch.testing.assert_close(state[0], whole[:, position], **WITHIN)


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_step_takes_hypotheses_as_another_dimension(cell: Cell, path: Any) -> None:
    torch.manual_seed(3)
    layer = cell(4, 5, path)
    x, state = torch.randn(3, 2, 4), state_of(cell, 3, 2, 5)
    together = layer.step(x, state)
    for k in range(2):
        alone = layer.step(x[:, k], tuple(part[:, k] for part in state))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[:, k], b)


def test_forget_gates_start_open() -> None:
    bias = LstmRecurrence(3, 4, "fused").weights.bias_ih_l0
    assert bias[4:8].eq(1).all() and bias[:4].abs().le(0.5).all() and bias[8:].abs().le(0.5).all()


def test_the_vanilla_network_starts_orthogonal() -> None:
    carried = VanillaRecurrence(3, 8, "fused").weights.weight_hh_l0
    torch.testing.assert_close(carried @ carried.T, torch.eye(8))


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_encoder_equals_torchs_packed_layers(
    cell: Cell, bidirectional: bool, layers: int, path: Any
) -> None:
    torch.manual_seed(4)
    ours = StackedEncoder(cell, 6, 8, layers, bidirectional, 0.0, path)
    theirs = TORCH[cell](6, 8, layers, batch_first=True, bidirectional=bidirectional)
    for layer in range(layers):
        for suffix, side in [("", ours.forwards), ("_reverse", ours.backwards)][: 1 + bidirectional]:
            side[layer].weights.load_state_dict(
                {f"{name}_l0": getattr(theirs, f"{name}_l{layer}{suffix}")
                 for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            )  # fmt: skip
    x, lengths = torch.randn(4, 9, 6), torch.tensor([9, 1, 5, 8])

    def packed(x: Tensor) -> Tensor:
        out, final = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        hidden = final[0] if cell is LstmRecurrence else final
        return real(pad_packed_sequence(out, batch_first=True)[0], list(hidden.view(layers, -1, 4, 8)))

    def dense(x: Tensor) -> Tensor:
        out, finals = ours(x, lengths)
        return real(out, [final.view(4, -1, 8).transpose(0, 1) for final in finals])

    def real(out: Tensor, finals: list[Tensor]) -> Tensor:
        return torch.cat(
            [out[torch.arange(9) < lengths.unsqueeze(1)].flatten(), *(f.flatten() for f in finals)]
        )

    found, expected = outcome(ours, dense, [x]), outcome(theirs, packed, [x])
    # Output, gradient of x, then of the parameters: torch's lie layer by layer, ours direction by direction.
    grads = [found[2 + at : 2 + at + 4] for at in range(0, len(found) - 2, 4)]
    sides = range(1 + bidirectional)
    in_order = [g for layer in range(layers) for side in sides for g in grads[side * layers + layer]]
    for mine, other in zip([*found[:2], *in_order], expected, strict=True):
        torch.testing.assert_close(mine, other, **WITHIN)


@pytest.mark.parametrize("cell", CELLS)
def test_what_stands_at_padding_reaches_nothing(cell: Cell) -> None:
    torch.manual_seed(5)
    encoder = StackedEncoder(cell, 3, 4, 2, bidirectional=True, dropout=0.0, path="fused")
    x, lengths = torch.randn(2, 6, 3), torch.tensor([6, 2])
    changed = x.clone()
    changed[1, 2:] = 100.0
    (out, finals), (other, others) = encoder(x, lengths), encoder(changed, lengths)
    assert torch.equal(out[1, :2], other[1, :2])
    assert all(torch.equal(a, b) for a, b in zip(finals, others, strict=True))
    x.requires_grad_()
    torch.cat(encoder(x, lengths)[1]).sum().backward()
    assert x.grad is not None and x.grad[1, 2:].eq(0).all() and x.grad[1, :2].ne(0).all()
