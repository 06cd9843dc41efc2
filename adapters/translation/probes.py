"""Probes of recurrent networks: the gradient that is left at the start of a sentence, and their size."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from adapters.translation.cells import RecurrentLayer, StackedEncoder, unfuse

PROBES = {"gradient_ratio": "decades", "recurrent_parameters": "parameters"}
DIRECTIONS = 32  # random projections of the Jacobian
LEAST = torch.finfo(torch.float64).tiny  # stands for a gradient that vanished to 0


def gradient_ratios(encoder: StackedEncoder, embedded: list[Tensor]) -> list[float]:
    """Return log10 ‖∂h_T/∂x_1‖ − log10 ‖∂h_T/∂x_T‖ of each sentence, a tensor x [T, I].

    x_1 is the first token that the encoder reads, and x_T the last one, END. 0 means that the last state h_T
    depends as much on the first as on the last; −3, a thousandth as much (Bengio et al. 1994; Pascanu et al.
    2013, §2.1). h_T is the forward direction's, in the top layer. The Frobenius norms are estimated from
    random projections with ±1 (Hutchinson 1990).
    """
    encoder = deepcopy(encoder).double().eval()
    unfuse(encoder)
    generator = torch.Generator().manual_seed(0)
    return [_gradient_ratio(encoder, x.double(), generator) for x in embedded]


def _gradient_ratio(encoder: StackedEncoder, x: Tensor, generator: torch.Generator) -> float:
    top = encoder.forwards[-1]
    assert isinstance(top, RecurrentLayer)
    copies = x.detach().expand(DIRECTIONS, -1, -1).clone().requires_grad_()
    final = encoder(copies, torch.full((DIRECTIONS,), len(x)))[1][-1][:, : top.weights.hidden_size]
    signs = torch.randint(0, 2, final.shape, generator=generator) * 2.0 - 1.0
    (gradients,) = torch.autograd.grad(final, copies, signs.double())
    squares = gradients[:, [0, -1]].square().sum(dim=(0, 2))
    first, last = squares.clamp(min=LEAST).log10().tolist()
    return float((first - last) / 2)


def recurrent_parameters(module: nn.Module) -> int:
    """Count the parameters of all recurrent layers."""
    layers = [part for part in module.modules() if isinstance(part, RecurrentLayer)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())
