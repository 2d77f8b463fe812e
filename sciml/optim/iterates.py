"""Which iterate a stochastic phase leaves behind when the last one is not the best answer.

    SGD(lr=Polynomial(0.1, delay=100, power=0.75), keep=Average())
    SGD(lr=Polynomial(0.1, power=0.5), transforms=(Normalize(),), keep=Best())

The choices are frozen values. They do not change the training.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sciml.errors import InputError


class IterateTracker(ABC):
    """Watches the iterates of a running phase and knows the one to leave behind."""

    @abstractmethod
    def observe(self, vector: Tensor, loss: Tensor) -> None:
        """Look at one iterate.

        Args:
            vector: the iterate, before its step.
            loss: of the step's batch there, a scalar tensor.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint. `vector` among them is the iterate to leave behind."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to the state of a checkpoint."""


class IterateChoice(ABC):
    """Which iterate a phase leaves behind."""

    whole_set: bool = False
    """Whether every step must see the whole set."""

    @abstractmethod
    def start(self, vector: Tensor) -> IterateTracker:
        """A tracker that has seen no iterate yet."""


@dataclass(frozen=True)
class Best(IterateChoice):
    """The iterate of the smallest loss, as subgradient methods need it: their loss does not fall in every step.

    With step sizes eta_t, subgradients no longer than G and a start at distance R from the minimum, the best loss is
    within (R^2 + G^2 sum eta_t^2) / (2 sum eta_t) of it (Shor 1985; Nesterov 2004, theorem 3.2.2). Every step must see
    the whole set: among samples the smallest loss is that of the luckiest sample, and `Average` is the answer.
    """

    whole_set = True

    def start(self, vector: Tensor) -> IterateTracker:
        """A tracker that has seen no iterate yet."""
        return _BestTracker(vector)


@dataclass(frozen=True)
class Average(IterateChoice):
    """The mean of the iterates with weights proportional to t^power.

    Power 0 is the plain mean of Polyak and Ruppert: with lr ~ t^-g, 1/2 < g < 1, its error has the best possible
    variance s^2 / (B h^2 T) without knowing the curvature h (Polyak and Juditsky 1992). A positive power forgets a poor
    start (Shamir and Zhang 2013, arXiv 1212.1824, section 4; 3 is their choice).
    """

    power: float = 0.0

    def __post_init__(self) -> None:
        if self.power < 0:
            raise InputError(f"{self}: the power must be at least 0")

    def start(self, vector: Tensor) -> IterateTracker:
        """A tracker that has seen no iterate yet."""
        return _AverageTracker(vector, self.power)


class _BestTracker(IterateTracker):
    def __init__(self, vector: Tensor) -> None:
        self.vector = vector.clone()
        self.loss = vector.new_full((1,), float("inf"))

    def observe(self, vector: Tensor, loss: Tensor) -> None:
        """Keep the iterate if its loss is the smallest so far. No number leaves the device."""
        better = loss < self.loss
        self.vector = torch.where(better, vector, self.vector)
        self.loss = torch.where(better, loss, self.loss)

    def tensors(self) -> dict[str, Tensor]:
        """The best iterate and its loss."""
        return {"vector": self.vector, "loss": self.loss}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a best iterate and its loss."""
        self.vector, self.loss = tensors["vector"].clone(), tensors["loss"].clone()


class _AverageTracker(IterateTracker):
    def __init__(self, vector: Tensor, power: float) -> None:
        self.vector, self.power = vector.clone(), power
        self.count = torch.zeros(1, dtype=torch.float64)

    def observe(self, vector: Tensor, loss: Tensor) -> None:
        """mean <- mean + (power + 1) / (t + power) (iterate - mean), t = 1, 2, ..."""
        self.count += 1
        self.vector.lerp_(vector, (self.power + 1) / (float(self.count) + self.power))

    def tensors(self) -> dict[str, Tensor]:
        """The mean and the number of iterates in it."""
        return {"vector": self.vector, "count": self.count}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a mean and the number of iterates in it."""
        self.vector.copy_(tensors["vector"])
        self.count = tensors["count"].cpu().clone()
