"""Transforms of a stochastic gradient, applied in order before the update rule takes it. They are frozen values.

    Adam(transforms=(Clip(1.0), Quantize(1e-3)))

Noise statistics are taken from the gradient before any of this: a clipped gradient says nothing about the noise.
Randomness comes from a generator that is a function of (seed, phase, transform, step), so a resumed run repeats it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError


class Transform(ABC):
    """Maps the gradient to what the update rule takes in its place."""

    @abstractmethod
    def __call__(self, gradient: Float[Tensor, "n"], draw: Callable[[], torch.Generator]) -> Float[Tensor, "n"]:
        """The transformed gradient.

        Args:
            gradient: mean over the step's items.
            draw: gives this step's CPU generator; all randomness must come from it.
        """


@dataclass(frozen=True)
class Clip(Transform):
    """g min(1, norm / ||g||): gradients longer than `norm` are shortened to it.

    Clipping bounds a step and introduces a bias: the fixed point solves E[clip(g)] = 0, which is the minimum only for
    symmetric noise. For h = 1 and noise Exp(1) - 1 it is 1 - ln(2 sinh(c) / c) where that is at most 1 - c, else
    e^(x-1-c) = x.
    """

    norm: float

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise InputError(f"{self}: the norm must be positive")

    def __call__(self, gradient: Float[Tensor, "n"], draw: Callable[[], torch.Generator]) -> Float[Tensor, "n"]:
        """The clipped gradient."""
        length = torch.linalg.vector_norm(gradient)
        return gradient * torch.clamp(self.norm / length, max=1.0)  # a zero gradient: norm / 0 = inf, clamped to 1


@dataclass(frozen=True)
class Normalize(Transform):
    """g / ||g||: every step of SGD has the length of the step size, and f and c f give the same iterates.

    With lr ~ 1 / sqrt(T) the mean gradient norm falls like 1 / sqrt(T) without noise; with noise, momentum or a larger
    batch must average the direction, or a floor stays (Cutkosky and Mehta 2020, arXiv 2002.03305). It is also the
    subgradient method's step (Shor): use it with `Polynomial(lr, power=0.5)` and `keep=Best()` or `Average()`.
    """

    def __call__(self, gradient: Float[Tensor, "n"], draw: Callable[[], torch.Generator]) -> Float[Tensor, "n"]:
        """The direction; a zero gradient stays zero."""
        largest = gradient.abs().max()  # first brought to order one: the square of 1e-200 would underflow
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        length = torch.linalg.vector_norm(scaled)
        return scaled / torch.where(length > 0, length, 1.0)


@dataclass(frozen=True)
class Quantize(Transform):
    """step floor(g / step + u), u uniform on [0, 1): stochastic rounding of every entry to a multiple of `step`.

    Unbiased; the variance is step^2 f (1 - f) with f the fractional part of g / step, at most step^2 / 4, on average
    step^2 / 6 where the gradient's noise spreads over half a step or more. Rounding to nearest would be less noisy and
    biased: entries below step / 2 would never move their parameter.
    """

    step: float

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise InputError(f"{self}: the step must be positive")

    def __call__(self, gradient: Float[Tensor, "n"], draw: Callable[[], torch.Generator]) -> Float[Tensor, "n"]:
        """The quantised gradient."""
        uniform = torch.rand(gradient.shape, generator=draw(), dtype=gradient.dtype).to(gradient.device)
        return torch.floor(gradient / self.step + uniform) * self.step
