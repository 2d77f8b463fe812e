"""The loop that all quasi-Newton methods share: direction, strong-Wolfe search, curvature pair, restart, status.

A method supplies an `InverseHessian`; everything is relative, so f and c f give the same iterates up to rounding.

Where the loss and its gradient carry errors that differ from call to call, `QuasiNewton.noise` says how large they are.
The search then allows for them. A pair is taken in only if the change of the slope exceeds what such errors alone would
cause. The iteration ends where the gradient is mostly error (after Shi, Xie, Byrd and Nocedal 2022, arXiv 2010.04352).

Along -H g the search tries the step 1 first. For a method that `overshoots` it tries a step a <= 1 that follows the
minima of the latest lines: a moves half of the way down to a shorter one, a fifth of the way up to a longer one (in
log a, 0.1 <= a <= 1). As H becomes right those minima go to 1, so does a, and convergence stays superlinear.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.optim.line_search import Search, Trial, Wolfe, line_minimum, search
from sciml.optim.method import Iteration, Method, Status


class InverseHessian(ABC):
    """An approximation H of the inverse Hessian, updated by curvature pairs."""

    fresh: bool = True
    """Whether no pair was taken in yet. The direction is then (preconditioned) steepest descent, whose length means
    nothing."""
    overshoots: bool = False
    """Whether H tends to be too large away from the minimum, so that a search should not try the step 1 first."""
    preconditioned: bool = False
    """Whether steepest descent has a natural length, the step 1."""

    @abstractmethod
    def product(self, gradient: Tensor) -> Tensor:
        """H g, shape (n,)."""

    @abstractmethod
    def update(self, pair: "Pair") -> bool:
        """Take in a curvature pair; False if it was refused because its curvature is not positive."""

    @abstractmethod
    def reset(self) -> None:
        """Drop all curvature: the next direction is steepest descent."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""

    @abstractmethod
    def numbers(self) -> dict:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to what `tensors` and `numbers` gave."""


@dataclass(frozen=True)
class Pair:
    """A curvature pair and what is known with it.

    Attributes:
        s: the step x+ - x = step * p along the direction p = -H g.
        y: the gradient difference g+ - g, both on the same samples.
        gradient: g+.
        step: the length taken, in units of p.
        slope: p' g.
    """

    s: Tensor
    y: Tensor
    gradient: Tensor
    step: float
    slope: float


@dataclass(frozen=True)
class Noise:
    """Errors of one evaluation that another evaluation at the same point would not repeat.

    Attributes:
        value: standard deviation of the error of the loss.
        gradient: root mean square of the norm of the gradient's error, sqrt(tr Cov); for sampled items this is
            sqrt(phi N) of `sciml.watching.noise.GradientNoise`.
    """

    value: float = 0.0
    gradient: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.value < math.inf and 0 <= self.gradient < math.inf):
            raise InputError(f"{self}: both errors must be finite and at least 0")


class QuasiNewton(Method):
    """Minimises in place over a flat vector.

    Attributes:
        noise: errors of the closure's answers; it may be changed at any time. The default is an exact closure. Keep
            that where every call sees the same items, however few: curvature pairs are then exact for that sample.

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
        self.noise = Noise()
        self._failures = 0  # searches failed in a row
        self._moved = 0.0  # length of the latest move
        self._first = 1.0  # first step to try along a direction of natural length

    def refresh(self) -> float:
        """Evaluate at the present point, at the start or on new samples. The curvature is kept. One evaluation."""
        loss, self.gradient = self.closure()
        self.value = float(loss)
        return self.value

    def iterate(self) -> Iteration:
        """One iteration. If it fails, the vector is left at the best point known."""
        spent = 0
        if self.gradient is None or self.value is None:
            self.refresh()
            spent = 1
        value, gradient = self.value, self.gradient
        assert value is not None and gradient is not None
        direction, slope = self._direction(gradient)
        if not (math.isfinite(slope) and math.isfinite(value)):
            return Iteration(Status.NONFINITE, value, 0.0, spent)
        if not slope < 0:
            return Iteration(Status.STATIONARY, value, 0.0, spent)
        if self._at_floor(gradient, direction, slope):
            return Iteration(Status.NOISE_FLOOR, value, -slope, spent)
        origin, start = self.vector.clone(), Trial(0.0, value, slope, gradient)
        found = self._search(origin, direction, start, self._first_step(direction))
        spent += found.evaluations
        trial = found.trial
        if trial is None or trial.gradient is None:
            self.vector.copy_(origin)
            status, value, more = self._failed(value)
            return Iteration(status, value, -slope, spent + more, ending=found.ending)
        y, s_step = trial.gradient - gradient, trial.step
        if not self._tells(trial.slope - slope, direction):
            y, s_step, more = self._longer(origin, direction, trial, start)
            spent += more
        self._adapt(start, found)
        torch.add(origin, direction, alpha=trial.step, out=self.vector)
        self.value, self.gradient, self._failures = trial.value, trial.gradient, 0
        self._moved = trial.step * math.sqrt(_dot(direction, direction))
        if s_step:
            self.inverse_hessian.update(Pair(direction * s_step, y, gradient + y, s_step, slope))
        return Iteration(Status.PROGRESS, trial.value, -slope, spent, trial.step, found.ending)

    def forget(self) -> None:
        """Drop the curvature: the next direction is steepest descent."""
        self.inverse_hessian.reset()

    def _failed(self, value: float) -> tuple[Status, float, int]:
        """After a failed search: status, loss, evaluations spent. With an exact closure the curvature is to blame; in
        noise it may be a value drawn too low, which is drawn again first."""
        self._failures += 1
        spent = 0
        if self.noise != Noise():
            value, spent = self.refresh(), 1
            if self._failures <= 2:
                return Status.RESTARTED, value, spent
        if self.inverse_hessian.fresh:
            return Status.LINE_SEARCH_FAILED, value, spent
        self.inverse_hessian.reset()
        return Status.RESTARTED, value, spent

    def _longer(self, origin: Tensor, direction: Tensor, trial: Trial, start: Trial) -> tuple[Tensor, float, int]:
        """A pair over a longer step than the one taken, where that one drowns in noise: y, its step (0 for no pair) and
        evaluations spent."""
        change = abs(trial.slope - start.slope)
        need = 1.5 * self._threshold(direction)
        step = trial.step * min(max(need / change if change else 100.0, 2.0), 100.0)
        torch.add(origin, direction, alpha=step, out=self.vector)
        _, gradient = self.closure()
        assert start.gradient is not None
        y = gradient - start.gradient
        return y, step if self._tells(_dot(y, direction), direction) else 0.0, 1

    def _direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """-H g and its slope; where that is not a direction of descent the curvature is dropped."""
        direction = self.inverse_hessian.product(gradient).neg_()
        slope = _dot(direction, gradient)
        if not slope < 0 and not self.inverse_hessian.fresh:
            self.inverse_hessian.reset()
            direction = self.inverse_hessian.product(gradient).neg_()
            slope = _dot(direction, gradient)
        return direction, slope

    def _at_floor(self, gradient: Tensor, direction: Tensor, slope: float) -> bool:
        """Whether noise leaves nothing to follow: of E ||g||^2 = ||true gradient||^2 + noise^2 the second is the
        larger, or neither the loss nor its slope can tell a Newton step from none."""
        value, error = self.noise.value, self.noise.gradient
        if error == 0:
            return False
        if _dot(gradient, gradient) <= 2 * error**2:
            return True
        return -slope <= value and slope**2 <= error**2 * _dot(direction, direction)

    def _threshold(self, direction: Tensor) -> float:
        """What the errors of two gradients alone make of a change of slope (g+ - g)'p."""
        return 3 * self.noise.gradient * math.sqrt(_dot(direction, direction))

    def _tells(self, change: float, direction: Tensor) -> bool:
        """Whether a change of slope is more than noise."""
        return self.noise.gradient == 0 or abs(change) >= self._threshold(direction)

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint; the vector itself is the caller's to save."""
        state = dict(self.inverse_hessian.tensors())
        if self.gradient is not None:
            state["gradient"] = self.gradient
        return state

    def numbers(self) -> dict:
        """State numbers for a checkpoint."""
        own = {"value": self.value, "failures": self._failures, "moved": self._moved, "first": self._first}
        return {**own, **self.inverse_hessian.numbers()}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to what `tensors` and `numbers` gave: the next iteration is the one that would have come."""
        gradient = tensors.get("gradient")
        self.gradient = None if gradient is None else gradient.to(self.vector)
        self.value = numbers["value"]
        self._failures, self._moved = int(numbers.get("failures", 0)), float(numbers.get("moved", 0.0))
        self._first = float(numbers.get("first", 1.0))
        self.inverse_hessian.restore(tensors, numbers)

    def _search(self, origin: Tensor, direction: Tensor, start: Trial, first: float) -> Search:
        def trial(step: float) -> Trial:
            torch.add(origin, direction, alpha=step, out=self.vector)
            loss, gradient = self.closure()
            value, slope = torch.stack((loss.double(), _dot_tensor(direction, gradient))).tolist()
            return Trial(step, value, slope, gradient)

        rules = self.rules
        if self.noise != Noise():
            slope_noise = 2 * self.noise.gradient * math.sqrt(_dot(direction, direction))
            rules = replace(rules, noise=self.noise.value, slope_noise=slope_noise)
        return search(trial, start, first, rules)

    def _first_step(self, direction: Tensor) -> float:
        """First step to try. Along a direction of natural length: see the module. Otherwise as long as the latest move;
        at the start a move of length 1, or of the parameters' own norm if that is less. (1 % of the largest parameter,
        as of Hager and Zhang 2005, costs 9 % more evaluations on CUTEst; longer moves leave the basin of the start.)"""
        if not self.inverse_hessian.fresh:
            return self._first if self.noise == Noise() else 1.0
        self._first = 1.0
        if self.inverse_hessian.preconditioned:
            return 1.0
        norm = math.sqrt(_dot(self.vector, self.vector))
        length = self._moved or min(norm, 1.0) or 1.0
        return length / math.sqrt(_dot(direction, direction))

    def _adapt(self, start: Trial, found: Search) -> None:
        """Move the first step to try toward the minimum of the line just searched; not from lines that are noisy."""
        if not self.inverse_hessian.overshoots or self.inverse_hessian.fresh or self.noise != Noise():
            return
        minimum = min(max(line_minimum(start, found), 0.1), 1.0)
        weight = 0.5 if minimum < self._first else 0.2
        self._first = min(max(self._first ** (1 - weight) * minimum**weight, 0.1), 1.0)


def _dot_tensor(a: Tensor, b: Tensor) -> Tensor:
    """a' b accumulated in float64, as a scalar tensor."""
    return torch.dot(a, b) if a.dtype == torch.float64 else torch.sum(a.double() * b.double())


def _dot(a: Tensor, b: Tensor) -> float:
    """a' b accumulated in float64."""
    return float(_dot_tensor(a, b))
