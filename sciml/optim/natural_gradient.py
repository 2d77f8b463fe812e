"""Levenberg-Marquardt with geodesic acceleration: the natural gradient of losses that are means of squares.

With the rows r of all residuals, scaled so that the loss is r'r, and their Jacobian J, one step solves

    (J'J + mu s I) v = -J'r,       (J'J + mu s I) a = -J' r_vv / 2,       theta <- theta + v + a,

s = tr(J'J) / n, so that mu has no unit, and r_vv the second derivative of r along v, from one extra evaluation of r.
J'J is the Fisher matrix of residuals with Gaussian errors and half the Gauss-Newton Hessian: the step is the natural
gradient, damped. The correction a follows the curved valley of the loss that a straight step must creep along; without
it the loss of small networks for PDEs stalled 1000 times higher in the same time (measured). The damping follows the
gain ratio.

Sources: Transtrum and Sethna (2012, arXiv 1201.5885) for the correction; Nielsen (1999, IMM-REP-1999-05) for the
damping; Amari (1998) for the natural gradient.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.optim.linearization import Linearization
from sciml.optim.method import Iteration, Method, Status

ATTEMPTS = 25
"""Dampings tried in one iteration."""
BEND = 0.75
"""Longest correction, relative to the step, that the second-order path is trusted for."""
PROBE = 0.1
"""The fraction of the step at which r_vv is measured."""


class LevenbergMarquardt(Method):
    """Minimises r'r in place over a flat vector.

    Args:
        vector: shape (n,), the parameters.
        closure: loss and gradient at the vector's present content.
        linearization: gives r and J there, on the same samples.
        rows: gives r alone there; None for no geodesic acceleration.
        damping: the first mu.
        spend: is called with what the linearizations cost, in loss-and-gradient evaluations.
    """

    def __init__(
        self,
        vector: Tensor,
        closure: Callable[[], tuple[Tensor, Tensor]],
        linearization: Callable[[], Linearization],
        rows: Callable[[], Tensor] | None = None,
        damping: float = 1e-2,
        spend: Callable[[float], None] = lambda cost: None,
    ) -> None:
        self.vector, self.closure, self.linearization, self.rows = vector, closure, linearization, rows
        self.start, self.damping, self.growth = damping, damping, 2.0
        self.spend = spend
        self.value: float | None = None
        self.gradient: Tensor | None = None

    def forget(self) -> None:
        """Go back to the first damping: the curvature itself is computed anew in every iteration."""
        self.damping, self.growth = self.start, 2.0

    def refresh(self) -> float:
        """Evaluate at the present point, at the start or on new samples. The damping is kept. One evaluation."""
        loss, self.gradient = self.closure()
        self.value = float(loss)
        return self.value

    def iterate(self) -> Iteration:
        """One step, with as many dampings as it takes. If it fails, the vector is left where it was."""
        spent = 0
        if self.gradient is None or self.value is None:
            self.refresh()
            spent = 1
        value, gradient = self.value, self.gradient
        assert value is not None and gradient is not None
        if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
            return Iteration(Status.NONFINITE, value, 0.0, spent)
        if not bool(gradient.any()):
            return Iteration(Status.STATIONARY, value, 0.0, spent)
        model, origin, decrement = self.linearization(), self.vector.clone(), 0.0
        self._check(model, value)
        first, counted = self.damping, 0.0
        for _ in range(ATTEMPTS):
            found = self._step(model, origin)
            self.spend(model.cost - counted)
            counted = model.cost
            if found is None:
                self._reject()
                continue
            step, predicted, decrement = found
            torch.add(origin, step, out=self.vector)
            loss, trial = self.closure()
            spent += 1
            if float(loss) < value and bool(torch.isfinite(trial).all()):
                self._accept((value - float(loss)) / predicted)
                self.value, self.gradient = float(loss), trial
                return Iteration(Status.PROGRESS, float(loss), decrement, spent, 1.0)
            self._reject()
        self.vector.copy_(origin)
        self.forget()
        status = Status.LINE_SEARCH_FAILED if first == self.start else Status.RESTARTED
        return Iteration(status, value, decrement, spent)

    def _check(self, model: Linearization, value: float) -> None:
        """Refuse residuals that are not those of the loss: they would be minimised without notice."""
        total = float(model.rows.double().square().sum())
        floor = (1e6 * torch.finfo(self.vector.dtype).eps) ** 2  # below it, rounding decides
        if max(value, total) > floor and abs(total - value) > 1e-2 * max(value, total):
            raise InputError(
                f"the residuals' mean squares add up to {total:.6g}, the loss is {value:.6g}: least_squares must give "
                "residuals whose mean squares are the loss terms"
            )

    def _step(self, model: Linearization, origin: Tensor) -> tuple[Tensor, float, float] | None:
        """The step, the decrease that the linear model promises, and the decrement g'Hg; None if it is not trusted."""
        velocity = model.solve(-model.rows, self.damping)
        if velocity is None or not bool(torch.isfinite(velocity).all()):
            return None
        image = model.product(velocity)
        slope = float(model.rows @ image)
        predicted = -2 * slope - float(image @ image)
        if not predicted > 0:
            return None
        if self.rows is None:
            return velocity, predicted, -2 * slope
        torch.add(origin, velocity, alpha=PROBE, out=self.vector)
        bent = (self.rows() - model.rows) * (2 / PROBE**2) - image * (2 / PROBE)
        self.spend(0.5)
        correction = model.solve(-0.5 * bent, self.damping) if bool(torch.isfinite(bent).all()) else None
        if correction is None or not float(correction.norm()) <= BEND * float(velocity.norm()):
            return None
        return velocity + correction, predicted, -2 * slope

    def _accept(self, gain: float) -> None:
        self.damping = max(self.damping * max(1 / 3, 1 - (2 * gain - 1) ** 3), 1e-16)
        self.growth = 2.0

    def _reject(self) -> None:
        self.damping *= self.growth
        self.growth *= 2

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint; the vector itself is the caller's to save."""
        return {} if self.gradient is None else {"gradient": self.gradient}

    def numbers(self) -> dict:
        """State numbers for a checkpoint."""
        return {"value": self.value, "damping": self.damping, "growth": self.growth}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to what `tensors` and `numbers` gave: the next iteration is the one that would have come."""
        gradient = tensors.get("gradient")
        self.gradient = None if gradient is None else gradient.to(self.vector)
        self.value, self.damping, self.growth = numbers["value"], numbers["damping"], numbers["growth"]
