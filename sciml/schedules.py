"""Step sizes as functions of the step: frozen values, so that they can stand in a phase and in a checkpoint."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


class Schedule(ABC):
    """A step size for every step, counted from 0 within its phase."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The step size at this step."""


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from `lr` to `final` over `steps` (Loshchilov and Hutter 2017, one cycle); `final` afterwards."""

    lr: float
    steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        fraction = min(step / self.steps, 1.0)
        return self.final + 0.5 * (self.lr - self.final) * (1 + math.cos(math.pi * fraction))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """lr / (1 + step / delay)^power: Robbins and Monro's conditions hold for 1/2 < power <= 1."""

    lr: float
    delay: float = 1.0
    power: float = 1.0

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        return self.lr / (1 + step / self.delay) ** self.power


def value(lr: float | Schedule, step: int) -> float:
    """The step size of a constant or a schedule."""
    return lr(step) if isinstance(lr, Schedule) else lr
