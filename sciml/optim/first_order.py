"""First-order update rules on a flat vector: Adam, and SGD with momentum, Nesterov's correction and a
preconditioner."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sciml.watching.noise import Metric


class FirstOrder(ABC):
    """An update rule: moves the vector along a stochastic gradient.

    Attributes:
        averaging: how many times the SNR of its direction is that of one gradient: (1 + b) / (1 - b) for an average
            over steps with factor b.
    """

    averaging: float = 1.0

    @abstractmethod
    def apply(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """One step, in place."""

    @abstractmethod
    def metric(self) -> Metric:
        """The metric of the noise statistic: fixed before the next batch is seen."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""

    @abstractmethod
    def numbers(self) -> dict:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back a checkpoint."""


class AdamRule(FirstOrder):
    """Kingma and Ba (2015), algorithm 1, with bias correction."""

    def __init__(self, vector: Tensor, betas: tuple[float, float], eps: float) -> None:
        self.first, self.second = torch.zeros_like(vector), torch.zeros_like(vector)
        self.betas, self.eps, self.count = betas, eps, 0
        self.averaging = (1 + betas[0]) / (1 - betas[0])

    def apply(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """theta <- theta - lr mhat / (sqrt(vhat) + eps)."""
        beta1, beta2 = self.betas
        self.count += 1
        self.first.lerp_(gradient, 1 - beta1)
        self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (self.second / (1 - beta2**self.count)).sqrt_().add_(self.eps)
        vector.addcdiv_(self.first, scale, value=-lr / (1 - beta1**self.count))

    def metric(self) -> Metric:
        """1 / (sqrt(vhat) + eps) of the steps so far; the identity before the first."""
        if self.count == 0:
            return None
        return 1 / (self.second / (1 - self.betas[1] ** self.count)).sqrt_().add_(self.eps)

    def tensors(self) -> dict[str, Tensor]:
        """Both moments."""
        return {"first": self.first, "second": self.second}

    def numbers(self) -> dict:
        """Steps taken."""
        return {"count": self.count}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back a checkpoint."""
        self.first.copy_(tensors["first"])
        self.second.copy_(tensors["second"])
        self.count = int(numbers["count"])


class SGDRule(FirstOrder):
    """v <- momentum v + P g;  theta <- theta - lr v, or - lr (P g + momentum v) with Nesterov's correction.

    P is the problem's preconditioner (a natural-gradient step when P is the inverse Fisher or energy metric), or the
    identity.
    """

    def __init__(
        self, vector: Tensor, momentum: float, nesterov: bool, preconditioner: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.velocity = torch.zeros_like(vector) if momentum else None
        self.momentum, self.nesterov, self.preconditioner = momentum, nesterov, preconditioner
        self.averaging = (1 + momentum) / (1 - momentum)

    def apply(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """One step."""
        direction = gradient if self.preconditioner is None else self.preconditioner(gradient)
        if self.velocity is None:
            vector.add_(direction, alpha=-lr)
            return
        self.velocity.mul_(self.momentum).add_(direction)
        if self.nesterov:
            vector.add_(direction, alpha=-lr)
            vector.add_(self.velocity, alpha=-lr * self.momentum)
        else:
            vector.add_(self.velocity, alpha=-lr)

    def metric(self) -> Metric:
        """The preconditioner."""
        return self.preconditioner

    def tensors(self) -> dict[str, Tensor]:
        """The velocity, if there is momentum."""
        return {} if self.velocity is None else {"velocity": self.velocity}

    def numbers(self) -> dict:
        """Nothing."""
        return {}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back a checkpoint."""
        if self.velocity is not None:
            self.velocity.copy_(tensors["velocity"])
