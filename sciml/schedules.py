"""Step sizes as functions of the step. They are frozen values, so that a phase and a checkpoint can hold them."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from sciml.errors import InputError


class Schedule(ABC):
    """A step size for every step, counted from 0 within its phase."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The step size at this step."""


@dataclass(frozen=True)
class Polynomial(Schedule):
    """lr / (1 + step / delay)^power.

    The conditions of Robbins and Monro (1951), sum lr = infinity and sum lr^2 < infinity, hold for 1/2 < power <= 1.
    On a mode of curvature h the noise then dies out like V ~ lr s^2 / 2 B; with power 1 it does so like 1 / step if
    lr delay h > 1/2, and best with lr delay = 1 / h. Power 1/2 is the schedule of subgradient methods; the mean of the
    iterates (`sciml.optim.Average`) gets the best rate from any power in (1/2, 1) (Polyak and Juditsky 1992).
    """

    lr: float
    delay: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        _check(self, self.lr > 0 and self.delay > 0 and self.power > 0, "lr, delay and power must be positive")

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        return self.lr / (1 + step / self.delay) ** self.power


@dataclass(frozen=True)
class Exponential(Schedule):
    """lr factor^(step / steps): the step size falls by `factor` every `steps` steps (a staircase without stairs).

    It needs no knowledge of the curvature and comes within a logarithm of 1 / step at the end of a run whose length it
    was made for (Li, Zhuang and Orabona 2021, arXiv 2002.05273).
    """

    lr: float
    steps: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        valid = self.lr > 0 and self.steps > 0 and 0 < self.factor <= 1
        _check(self, valid, "lr and steps must be positive, 0 < factor <= 1")

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        return self.lr * self.factor ** (step / self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (lr - final) (1 + cos(pi step / steps)) / 2 up to `steps`, `final` afterwards.

    One cycle of Loshchilov and Hutter (2017, arXiv 1608.03983, eq. 5).
    """

    lr: float
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _check(self, self.lr > 0 and self.steps > 0 and self.final >= 0, "lr and steps must be positive, final >= 0")

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        return _half_cosine(self.lr, self.final, min(step / self.steps, 1.0))


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosine cycles that start at `lr`. The first is `steps` long, each later one `growth` times as long as the last.

    Loshchilov and Hutter (2017, arXiv 1608.03983, eq. 5; their T_0 and T_mult). A restart brings back the noise floor
    of `lr`, so only the ends of cycles are worth keeping, and longer cycles end lower.
    """

    lr: float
    steps: int
    growth: float = 2.0
    final: float = 0.0

    def __post_init__(self) -> None:
        valid = self.lr > 0 and self.steps > 0 and self.growth >= 1 and self.final >= 0
        _check(self, valid, "lr and steps must be positive, growth >= 1, final >= 0")

    def __call__(self, step: int) -> float:
        """The step size at this step."""
        position, length = float(step), float(self.steps)
        if self.growth == 1:
            position %= length
        while position >= length:
            position -= length
            length *= self.growth
        return _half_cosine(self.lr, self.final, position / length)


def value(lr: float | Schedule, step: int) -> float:
    """The step size of a constant or a schedule."""
    return lr(step) if isinstance(lr, Schedule) else lr


def _half_cosine(lr: float, final: float, fraction: float) -> float:
    return final + 0.5 * (lr - final) * (1 + math.cos(math.pi * fraction))


def _check(schedule: Schedule, valid: bool, rule: str) -> None:
    if not valid:
        raise InputError(f"{schedule}: {rule}")
