"""Recurrent layers: equations by hand, torch's layers with copied weights, kernels against equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from adapters.translation.cells import CellState, LstmLayer, RecurrentLayer, RnnLayer, StackedEncoder, unfuse

Layer = type[RnnLayer | LstmLayer]
LAYERS: list[Layer] = [RnnLayer, LstmLayer]
TORCH: dict[Layer, type[nn.RNNBase]] = {RnnLayer: nn.RNN, LstmLayer: nn.LSTM}
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def state_of(cls: Layer, *shape: int) -> CellState:
    return tuple(0.5 * torch.randn(*shape) for _ in range(cls.state_tensors))


def layer_of(cls: Layer, input_size: int, hidden_size: int, fused: bool) -> RnnLayer | LstmLayer:
    """Return a layer that uses torch's kernel or, unfused, the equations."""
    layer = cls(input_size, hidden_size)
    if not fused:
        unfuse(layer)
    assert layer.fused is fused
    return layer


def of_one_unit(cls: Layer, W: list[float], U: list[float], bias: list[float]) -> RecurrentLayer:
    """Return a layer with one input and one hidden unit, with a row per gate."""
    layer = cls(1, 1)
    layer.weights.load_state_dict(
        {
            "weight_ih_l0": torch.tensor(W).unsqueeze(1),
            "weight_hh_l0": torch.tensor(U).unsqueeze(1),
            "bias_ih_l0": torch.tensor(bias) / 4,
            "bias_hh_l0": torch.tensor(bias) * 3 / 4,
        }
    )
    return layer


def test_one_step_of_the_vanilla_network_by_hand() -> None:
    layer = of_one_unit(RnnLayer, W=[-1.0], U=[3.0], bias=[0.25])
    (h,) = layer.step(torch.tensor([[2.0]]), (torch.tensor([[0.5]]),))
    assert h.item() == pytest.approx(math.tanh(3 * 0.5 - 2 + 0.25))


def test_one_step_of_the_lstm_by_hand() -> None:
    x, h, c = 2.0, 0.5, -0.8
    U, W, bias = [0.1, -0.2, 0.3, 0.4], [0.5, 0.6, -0.7, 0.8], [0.01, 0.02, 0.03, 0.04]
    a_i, a_f, a_g, a_o = (u * h + w * x + b for u, w, b in zip(U, W, bias, strict=True))

    def sigma(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    expected_c = sigma(a_f) * c + sigma(a_i) * math.tanh(a_g)
    expected_h = sigma(a_o) * math.tanh(expected_c)
    layer = of_one_unit(LstmLayer, W, U, bias)
    next_h, next_c = layer.step(torch.tensor([[x]]), (torch.tensor([[h]]), torch.tensor([[c]])))
    assert next_h.item() == pytest.approx(expected_h)
    assert next_c.item() == pytest.approx(expected_c)


def test_a_closed_input_gate_and_an_open_forget_gate_keep_the_memory() -> None:
    bias = [-50.0, 50.0, 7.0, 50.0]  # input, forget, candidate, output
    layer = of_one_unit(LstmLayer, W=[0.0] * 4, U=[0.0] * 4, bias=bias)
    state: CellState = (torch.zeros(1, 1), torch.tensor([[0.3]]))
    for step in range(100):
        state = layer.step(torch.full((1, 1), float(step)), state)
    assert state[1].item() == pytest.approx(0.3)


@pytest.mark.parametrize("cls", LAYERS)
def test_cells_have_correct_gradients(cls: Layer) -> None:
    torch.manual_seed(0)
    layer = cls(4, 3).double()
    inputs = [torch.randn(2, len(layer.weights.weight_ih_l0)), *state_of(cls, 2, 3)]

    def run(gates: Tensor, *state: Tensor) -> CellState:
        return layer.cell(gates, state)

    assert torch.autograd.gradcheck(run, [tensor.double().requires_grad_() for tensor in inputs])


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cls", LAYERS)
def test_layers_have_correct_gradients(cls: Layer, fused: bool) -> None:
    torch.manual_seed(0)
    layer = layer_of(cls, 2, 3, fused).double()
    names = [name for name, _ in layer.named_parameters()]
    inputs = [torch.randn(2, 4, 2), *state_of(cls, 2, 3), *(p.detach() for p in layer.parameters())]

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        parameters = dict(zip(names, rest[cls.state_tensors :], strict=True))
        hidden: Tensor = torch.func.functional_call(layer, parameters, (x, rest[: cls.state_tensors]))
        return hidden

    assert torch.autograd.gradcheck(run, [tensor.double().requires_grad_() for tensor in inputs])


def outcome(layer: nn.Module, run: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Return the output, the gradients of the inputs and those of all parameters."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    output = run(*leaves)
    layer.zero_grad()
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return [output, *(leaf.grad for leaf in leaves), *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (5, 30)])
@pytest.mark.parametrize("cls", LAYERS)
def test_kernel_and_equations_agree_in_values_and_gradients(cls: Layer, batch: int, steps: int) -> None:
    torch.manual_seed(0)
    kernel, equations = (layer_of(cls, 6, 10, fused) for fused in (True, False))
    equations.load_state_dict(kernel.state_dict())
    inputs = [torch.randn(batch, steps, 6), *state_of(cls, batch, 10)]
    outcomes = [
        outcome(layer, lambda x, *state, layer=layer: layer(x, state), inputs)
        for layer in (kernel, equations)
    ]
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cls", LAYERS)
def test_layers_equal_those_of_torch_with_copied_weights(cls: Layer, fused: bool) -> None:
    torch.manual_seed(1)
    ours, theirs = layer_of(cls, 6, 10, fused), TORCH[cls](6, 10, batch_first=True)
    ours.weights.load_state_dict(theirs.state_dict())
    inputs = [torch.randn(4, 20, 6), *state_of(cls, 4, 10)]

    def torchs(x: Tensor, *state: Tensor) -> Tensor:
        parts = tuple(part.unsqueeze(0) for part in state)
        hidden: Tensor = theirs(x, parts if len(parts) > 1 else parts[0])[0]
        return hidden

    expected = outcome(theirs, torchs, inputs)
    for a, b in zip(outcome(ours, lambda x, *state: ours(x, state), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cls", LAYERS)
def test_step_by_step_equals_the_whole_sequence(cls: Layer, fused: bool) -> None:
    torch.manual_seed(2)
    layer = layer_of(cls, 4, 5, fused)
    x, state = torch.randn(3, 7, 4), state_of(cls, 3, 5)
    whole = layer(x, state)
    for position in range(7):
        state = layer.step(x[:, position], state)
        torch.testing.assert_close(state[0], whole[:, position], **TOLERANCE)


@pytest.mark.parametrize("cls", LAYERS)
def test_a_step_of_projected_inputs_and_a_context_is_a_step_of_both(cls: Layer) -> None:
    torch.manual_seed(6)
    layer = cls(9, 5)
    x, context, state = torch.randn(3, 2, 4), torch.randn(3, 2, 5), state_of(cls, 3, 2, 5)
    expected = layer.step(torch.cat([x, context], dim=-1), state)
    for a, b in zip(layer.step_projected(layer.project(x), context, state), expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("cls", LAYERS)
def test_a_step_takes_hypotheses_as_another_dimension(cls: Layer) -> None:
    torch.manual_seed(3)
    layer = cls(4, 5)
    x, state = torch.randn(3, 2, 4), state_of(cls, 3, 2, 5)
    together = layer.step(x, state)
    for k in range(2):
        alone = layer.step(x[:, k], tuple(part[:, k] for part in state))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[:, k], b)


def test_forget_gates_start_open() -> None:
    bias = LstmLayer(3, 4).weights.bias_ih_l0
    assert bias[4:8].eq(1).all() and bias[:4].abs().le(0.5).all() and bias[8:].abs().le(0.5).all()


def test_the_vanilla_network_starts_orthogonal() -> None:
    U = RnnLayer(3, 8).weights.weight_hh_l0
    torch.testing.assert_close(U @ U.T, torch.eye(8))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cls", LAYERS)
def test_the_encoder_equals_torchs_packed_layers(
    cls: Layer, bidirectional: bool, layers: int, fused: bool
) -> None:
    torch.manual_seed(4)
    ours = StackedEncoder(cls, 6, 8, layers, bidirectional, 0.0)
    if not fused:
        unfuse(ours)
    theirs = TORCH[cls](6, 8, layers, batch_first=True, bidirectional=bidirectional)
    for layer in range(layers):
        for suffix, side in [("", ours.forwards), ("_reverse", ours.backwards)][: 1 + bidirectional]:
            side[layer].weights.load_state_dict(
                {f"{name}_l0": getattr(theirs, f"{name}_l{layer}{suffix}")
                 for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            )  # fmt: skip
    x, lengths = torch.randn(4, 9, 6), torch.tensor([9, 1, 5, 8])

    def packed(x: Tensor) -> Tensor:
        out, final = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        hidden = final[0] if cls is LstmLayer else final
        return real(pad_packed_sequence(out, batch_first=True)[0], list(hidden.view(layers, -1, 4, 8)))

    def dense(x: Tensor) -> Tensor:
        out, finals = ours(x, lengths)
        return real(out, [final.view(4, -1, 8).transpose(0, 1) for final in finals])

    def real(out: Tensor, finals: list[Tensor]) -> Tensor:
        return torch.cat(
            [out[torch.arange(9) < lengths.unsqueeze(1)].flatten(), *(f.flatten() for f in finals)]
        )

    actual, expected = outcome(ours, dense, [x]), outcome(theirs, packed, [x])
    # Output, gradient of x, then those of the parameters: torch's by layer, ours by direction.
    grads = [actual[2 + at : 2 + at + 4] for at in range(0, len(actual) - 2, 4)]
    sides = range(1 + bidirectional)
    in_order = [g for layer in range(layers) for side in sides for g in grads[side * layers + layer]]
    for a, b in zip([*actual[:2], *in_order], expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


@pytest.mark.parametrize("cls", LAYERS)
def test_padding_affects_no_output(cls: Layer) -> None:
    torch.manual_seed(5)
    encoder = StackedEncoder(cls, 3, 4, 2, bidirectional=True, dropout=0.0)
    x, lengths = torch.randn(2, 6, 3), torch.tensor([6, 2])
    changed = x.clone()
    changed[1, 2:] = 100.0
    (out, finals), (other, others) = encoder(x, lengths), encoder(changed, lengths)
    assert torch.equal(out[1, :2], other[1, :2])
    assert all(torch.equal(a, b) for a, b in zip(finals, others, strict=True))
    x.requires_grad_()
    torch.cat(encoder(x, lengths)[1]).sum().backward()
    assert x.grad is not None and x.grad[1, 2:].eq(0).all() and x.grad[1, :2].ne(0).all()
