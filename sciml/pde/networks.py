"""Small networks for fields: smooth activations, inputs scaled to [-1, 1], reproducible start."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde.domains import Box


class MLP(nn.Module):
    """A fully connected network with Glorot-normal weights and zero biases.

    Args:
        inputs: number of coordinates.
        outputs: number of field components.
        hidden: widths of the hidden layers.
        activation: a smooth function; PDEs differentiate it as often as the unknown.
        domain: if given, inputs are mapped from it to [-1, 1].
        seed: the start is a function of this number alone, not of torch's global generator.

    Raises:
        InputError: the domain has another number of coordinates than `inputs`.
    """

    center: Tensor
    stretch: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: Sequence[int] = (24, 24),
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        domain: Box | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if domain is not None and domain.dim != inputs:
            raise InputError(f"the network has {inputs} inputs, its domain {domain.dim} coordinates.")
        widths = [inputs, *hidden, outputs]
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(_glorot(a, b, generator) for a, b in pairwise(widths))
        self.activation = activation
        low, high = (domain.lower, domain.upper) if domain else ((-1.0,) * inputs, (1.0,) * inputs)
        self.scaled = domain is not None
        self.register_buffer("center", torch.tensor([(a + b) / 2 for a, b in zip(low, high, strict=True)]))
        self.register_buffer("stretch", torch.tensor([2 / (b - a) for a, b in zip(low, high, strict=True)]))

    def forward(self, x: Float[Tensor, "*points inputs"]) -> Float[Tensor, "*points outputs"]:
        """The field at the points."""
        if self.scaled:
            x = (x - self.center) * self.stretch
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class Kinks(nn.Module):
    """Adds the input |x - p| for every position p: what follows can then kink where a coefficient of the PDE jumps.

    A smooth network cannot hold a jump of its slope; a smooth function of (x, |x - p|) has exactly the jump it needs.
    Use it in front of a network: `nn.Sequential(kinks, MLP(kinks.outputs, 1, domain=kinks.domain))`.

    Args:
        domain: the interval of x.
        positions: where the slope may jump, inside the interval.
    """

    positions: Tensor

    def __init__(self, domain: Box, positions: Sequence[float]) -> None:
        super().__init__()
        low, high = domain.lower[0], domain.upper[0]
        if domain.dim != 1 or any(not low < p < high for p in positions):
            raise InputError(f"kinks at {list(positions)}: they must lie inside an interval, given {domain}.")
        self.outputs = 1 + len(positions)
        self.domain = Box((low, *(0.0 for _ in positions)), (high, *(max(p - low, high - p) for p in positions)))
        # float64 whatever the default: a position rounded to float32 would move the interface by 1e-8.
        self.register_buffer("positions", torch.tensor(positions, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "*points 1"]) -> Float[Tensor, "*points features"]:
        """The coordinate and its distances from the positions."""
        return torch.cat([x, (x - self.positions.to(x.dtype)).abs()], dim=-1)


def _glorot(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    # Made without memory first: the usual constructor would draw from torch's global generator.
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    nn.init.xavier_normal_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
