"""How the first layer of a bar's network starts: with its transitions where the load has its waves."""

import math

import torch
from torch import nn

from sciml.pde import MLP, composite_gauss
from sciml.seeds import generator
from sciml_rod.mechanics import Rod

MANY_WAVES = 2.0
"""Waves of the load above which Glorot's start, which bends at the middle of the bar only, is left."""


def load_waves(unit: Rod) -> float:
    """How often the load of a unit bar rises and falls: its total variation over twice its range (10 for ten sines)."""
    x, _ = composite_gauss(unit.nodes, points=8, cells=128)
    load = unit.f(x.reshape(-1))
    reach = float(load.max() - load.min())
    return float(load.diff().abs().sum()) / (2 * reach) if reach > 0 else 0.0


def spread(network: MLP, steepness: float, seed: int) -> None:
    """Start the first layer with its transitions spread evenly over the first coordinate.

    With zero biases all units of a network on a line bend at its middle, and the ends of a bar with many waves see
    straight lines until the biases have wandered there. Here unit i is tanh(w . (t - c_i)) with c_i one in each of
    equal cells of [-1, 1] and |w| normal with standard deviation `steepness`.

    Args:
        network: changed in place; its inputs are scaled to [-1, 1]. Further inputs are taken at their middle.
        steepness: of the units, per half the bar.
        seed: of the draw.
    """
    first = network.layers[0]
    assert isinstance(first, nn.Linear)
    units, inputs = first.weight.shape
    random = generator(seed, "spread")
    with torch.no_grad():
        drawn = torch.randn(units, inputs, generator=random, dtype=torch.float64) * (steepness / math.sqrt(inputs))
        cell = torch.arange(units, dtype=torch.float64) + torch.rand(units, generator=random, dtype=torch.float64)
        first.weight.copy_(drawn)
        first.bias.copy_(-drawn[:, 0] * (2 * cell / units - 1))
