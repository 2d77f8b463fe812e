"""The rate at which batch losses fall with the cost, and how well it is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 40
"""Losses, at least, that a rate is fitted to."""
BINS = 8
"""Parts of the cost in which losses are averaged; their scatter about a line gives the error."""


@dataclass(frozen=True)
class LossRate:
    """What a loss falls by.

    Attributes:
        value: fall of its logarithm for a unit of cost.
        error: standard error.
    """

    value: float
    error: float

    @property
    def high(self) -> float:
        """What it is surely below: its standard error is added."""
        return self.value + self.error

    def __str__(self) -> str:
        """The rate with its standard error, as reports print it."""
        return f"{self.value:.3g} +- {self.error:.1g}"


def loss_rate(costs: Sequence[float], losses: Sequence[float], lowest: float, highest: float) -> LossRate | None:
    """The least-squares slope of -log(loss) over the cost.

    A loss that is not always positive (an energy) is measured by its decrease relative to the whole decrease so far.

    Args:
        costs: spent after each step, rising.
        losses: of the same steps.
        lowest: of all losses, earlier ones included.
        highest: of all losses, earlier ones included.

    Returns:
        None where fewer than `SHORTEST` losses are given.
    """
    if len(losses) < SHORTEST:
        return None
    scale = max(highest - lowest, 1e-300)
    first, width = costs[0], (costs[-1] - costs[0]) / BINS
    parts: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for cost, loss in zip(costs, losses, strict=True):
        place = min(int((cost - first) / width), BINS - 1) if width > 0 else 0
        parts[place].append((cost, -math.log(loss) if lowest > 0 else -loss / scale))
    return _line([tuple(math.fsum(column) / len(part) for column in zip(*part, strict=True)) for part in parts if part])


def _line(points: list[tuple[float, ...]]) -> LossRate:
    """Least-squares slope through (x, y) points and its standard error."""
    count = len(points)
    if count < 3:
        return LossRate(math.inf, 0.0)
    mean_x = math.fsum(x for x, _ in points) / count
    mean_y = math.fsum(y for _, y in points) / count
    sxx = math.fsum((x - mean_x) ** 2 for x, _ in points)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in points) / sxx
    residual = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return LossRate(slope, math.sqrt(residual / (count - 2) / sxx))
