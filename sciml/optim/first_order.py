"""First-order update rules on a flat vector: Adam, and SGD with momentum, Nesterov's correction and preconditioner."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sciml.watching.noise import Metric


class FirstOrder(ABC):
    """An update rule, which moves the vector along a stochastic gradient.

    Attributes:
        averaging: the SNR of the direction relative to that of one gradient. It is (1 + b) / (1 - b) for a running
            average over the steps with factor b.
    """

    averaging: float = 1.0

    @abstractmethod
    def apply(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """Take one step, in place.

        Args:
            vector: the parameters, shape (n,).
            gradient: the gradient there, shape (n,).
            lr: the step size.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """The metric of the noise statistic. It is fixed before the next batch is drawn."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""

    @abstractmethod
    def numbers(self) -> dict:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to the state of a checkpoint."""


class AdamRule(FirstOrder):
    """Adam: Kingma and Ba (2015), algorithm 1, with bias correction.

    Args:
        vector: the parameters, shape (n,): gives size, dtype and device.
        betas: factors of the running averages of the gradient and of its square.
        eps: is added to the root of the second average.
    """

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
        """The diagonal 1 / (sqrt(vhat) + eps) of the steps so far; the identity before the first."""
        if self.count == 0:
            return None
        return 1 / (self.second / (1 - self.betas[1] ** self.count)).sqrt_().add_(self.eps)

    def tensors(self) -> dict[str, Tensor]:
        """The running averages of the gradient and of its square."""
        return {"first": self.first, "second": self.second}

    def numbers(self) -> dict:
        """The number of steps taken."""
        return {"count": self.count}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to the state of a checkpoint."""
        self.first.copy_(tensors["first"])
        self.second.copy_(tensors["second"])
        self.count = int(numbers["count"])


class SGDRule(FirstOrder):
    """v <- momentum v + P g;  theta <- theta - lr v, or theta - lr (P g + momentum v) with Nesterov's correction.

    P is the problem's preconditioner or the identity. The step is a natural-gradient step when P is the inverse of the
    Fisher or energy metric.

    Args:
        vector: the parameters, shape (n,): gives size, dtype and device.
        momentum: the factor of the velocity; 0 for none.
        nesterov: whether to apply Nesterov's correction.
        preconditioner: P; None for the identity.
    """

    def __init__(
        self, vector: Tensor, momentum: float, nesterov: bool, preconditioner: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.velocity = torch.zeros_like(vector) if momentum else None
        self.momentum, self.nesterov, self.preconditioner = momentum, nesterov, preconditioner
        self.averaging = (1 + momentum) / (1 - momentum)

    def apply(self, vector: Tensor, gradient: Tensor, lr: float) -> None:
        """v <- momentum v + P g;  theta <- theta - lr v, or as Nesterov corrects it."""
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
        """The preconditioner P."""
        return self.preconditioner

    def tensors(self) -> dict[str, Tensor]:
        """The velocity, if there is momentum."""
        return {} if self.velocity is None else {"velocity": self.velocity}

    def numbers(self) -> dict:
        """None: the velocity is the whole state."""
        return {}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to the state of a checkpoint."""
        if self.velocity is not None:
            self.velocity.copy_(tensors["velocity"])
