"""The loop that all quasi-Newton methods share: direction, strong-Wolfe search, curvature pair, restart, status.

A method supplies an `InverseHessian`; everything is relative, so f and c f give the same iterates up to rounding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from sciml.optim.line_search import Ending, Search, Trial, Wolfe, search


class Status(Enum):
    """What one iteration did."""

    PROGRESS = "progress"
    RESTARTED = "restarted"  # the search failed along a quasi-Newton direction; the curvature was dropped
    LINE_SEARCH_FAILED = "line search failed"  # it failed along steepest descent too
    NONFINITE = "nonfinite"  # loss or gradient is not finite at the current point
    STATIONARY = "stationary"  # the gradient is zero


class InverseHessian(ABC):
    """An approximation H of the inverse Hessian, updated by curvature pairs."""

    fresh: bool = True
    """True while no pair has been taken in: the direction is (preconditioned) steepest descent and has no natural
    length."""

    @abstractmethod
    def product(self, gradient: Tensor) -> Tensor:
        """H g, shape (n,)."""

    @abstractmethod
    def update(self, pair: "Pair") -> bool:
        """Take in a curvature pair; False if it was refused (no positive curvature)."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all curvature."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""

    @abstractmethod
    def numbers(self) -> dict:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back what `tensors` and `numbers` gave."""


@dataclass(frozen=True)
class Pair:
    """A curvature pair and what is known with it.

    Attributes:
        s: step x+ - x = step * p along the direction p = -H g.
        y: gradient difference g+ - g, both on the same samples.
        gradient: g+.
        step: length taken.
        slope: p' g.
    """

    s: Tensor
    y: Tensor
    gradient: Tensor
    step: float
    slope: float


@dataclass(frozen=True)
class Iteration:
    """One iteration's record: status, loss after it, Newton decrement g' H g before it, evaluations spent, step
    taken."""

    status: Status
    value: float
    decrement: float
    evaluations: int
    step: float = 0.0
    ending: Ending | None = None


class QuasiNewton:
    """Minimises in place over a flat vector.

    Args:
        vector: shape (n,), the parameters; the closure reads them.
        closure: loss (scalar tensor) and gradient, shape (n,), at the vector's present content. The same samples in
            every call between two `refresh` calls.
        inverse_hessian: the method.
        rules: constants of the line search.
    """

    def __init__(
        self,
        vector: Tensor,
        closure: Callable[[], tuple[Tensor, Tensor]],
        inverse_hessian: InverseHessian,
        rules: Wolfe | None = None,
    ) -> None:
        self.vector, self.closure, self.inverse_hessian = vector, closure, inverse_hessian
        self.rules = rules or Wolfe(epsilon=torch.finfo(vector.dtype).eps)
        self.value: float | None = None
        self.gradient: Tensor | None = None

    def refresh(self) -> float:
        """Evaluate at the present point (start, or new samples); the curvature is kept. One evaluation."""
        loss, self.gradient = self.closure()
        self.value = float(loss)
        return self.value

    def iterate(self) -> Iteration:
        """One iteration; on any failure the vector is left at the best point known."""
        spent = 0
        if self.gradient is None or self.value is None:
            self.refresh()
            spent = 1
        value, gradient = self.value, self.gradient
        assert value is not None and gradient is not None
        direction = self.inverse_hessian.product(gradient).neg_()
        slope = _dot(direction, gradient)
        if not slope < 0 and not self.inverse_hessian.fresh:
            self.inverse_hessian.reset()
            direction = self.inverse_hessian.product(gradient).neg_()
            slope = _dot(direction, gradient)
        if not (slope == slope and value == value) or abs(value) == float("inf"):
            return Iteration(Status.NONFINITE, value, 0.0, spent)
        if not slope < 0:
            return Iteration(Status.STATIONARY, value, 0.0, spent)
        first = self._first_step(gradient, direction) if self.inverse_hessian.fresh else 1.0
        origin = self.vector.clone()
        found = self._search(origin, direction, Trial(0.0, value, slope, gradient), first)
        spent += found.evaluations
        trial = found.trial
        if trial is None or trial.gradient is None:
            self.vector.copy_(origin)
            if self.inverse_hessian.fresh:
                return Iteration(Status.LINE_SEARCH_FAILED, value, -slope, spent, ending=found.ending)
            self.inverse_hessian.reset()
            return Iteration(Status.RESTARTED, value, -slope, spent, ending=found.ending)
        torch.add(origin, direction, alpha=trial.step, out=self.vector)
        self.value, self.gradient = trial.value, trial.gradient
        pair = Pair(direction * trial.step, trial.gradient - gradient, trial.gradient, trial.step, slope)
        self.inverse_hessian.update(pair)
        return Iteration(Status.PROGRESS, trial.value, -slope, spent, trial.step, found.ending)

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint (the vector itself is the caller's)."""
        state = dict(self.inverse_hessian.tensors())
        if self.gradient is not None:
            state["gradient"] = self.gradient
        return state

    def numbers(self) -> dict:
        """State numbers for a checkpoint."""
        return {"value": self.value, **self.inverse_hessian.numbers()}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back what `tensors` and `numbers` gave: the next iteration is the one that would have come."""
        gradient = tensors.get("gradient")
        self.gradient = None if gradient is None else gradient.to(self.vector)
        self.value = numbers["value"]
        self.inverse_hessian.restore(tensors, numbers)

    def _search(self, origin: Tensor, direction: Tensor, start: Trial, first: float) -> Search:
        def trial(step: float) -> Trial:
            torch.add(origin, direction, alpha=step, out=self.vector)
            loss, gradient = self.closure()
            value, slope = torch.stack((loss.double(), _dot_tensor(direction, gradient))).tolist()
            return Trial(step, value, slope, gradient)

        return search(trial, start, first, self.rules)

    def _first_step(self, gradient: Tensor, direction: Tensor) -> float:
        """Length of a step whose direction has no natural one: 1 % of the largest parameter (Hager and Zhang 2005)."""
        if getattr(self.inverse_hessian, "preconditioned", False):
            return 1.0
        largest = float(self.vector.abs().max())
        length = float(direction.abs().max())
        return 0.01 * (largest if largest > 0 else 1.0) / length


def _dot_tensor(a: Tensor, b: Tensor) -> Tensor:
    """a' b accumulated in float64, as a scalar tensor."""
    return torch.dot(a, b) if a.dtype == torch.float64 else torch.sum(a.double() * b.double())


def _dot(a: Tensor, b: Tensor) -> float:
    """a' b accumulated in float64."""
    return float(_dot_tensor(a, b))
