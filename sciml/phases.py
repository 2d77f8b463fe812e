"""Phases are values: an algorithm with its hyper-parameters, and what ends it. `solve` runs them in order."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.optim.first_order import AdamRule, FirstOrder, SGDRule
from sciml.optim.iterates import Keep
from sciml.optim.jacobian import ResidualJacobian
from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.linearization import linearize
from sciml.optim.method import Method
from sciml.optim.natural_gradient import LevenbergMarquardt
from sciml.optim.quasi_newton import QuasiNewton
from sciml.optim.self_scaled import DenseSelfScaled
from sciml.optim.transforms import Transform
from sciml.parameters import FlatParameters
from sciml.problem import Problem
from sciml.schedules import Schedule

DENSE_LIMIT = 3000
"""Unknowns up to which the dense self-scaled update is the default finisher (its matrix then takes 72 MB in
float64)."""


@dataclass(frozen=True, kw_only=True)
class Stochastic(ABC):
    """A phase on mini-batches.

    Attributes:
        lr: step size, a number or a schedule of the step within the phase.
        steps: at most so many steps.
        batch: items per step; None lets `solve` choose (a quarter of the fixed set, 32 to 128 items) and grow it while
            the gradient noise holds the phase back. A given batch is kept.
        micro_batches: independent parts of a batch from which the gradient noise is measured. More parts give more
            precise estimates and cost more: small parts take as long as large ones.
        accumulate: parts in which a batch is evaluated one after the other, to save memory; their mean over the items
            is exact, also for unequal parts.
        transforms: what is done to the gradient before the rule takes it, in order (`sciml.optim.Clip`, `Normalize`,
            `Quantize`). The noise is measured before.
        keep: the iterate left at the end (`sciml.optim.Average`, `Best`); None for the last one.
    """

    lr: float | Schedule = 1e-3
    steps: int = 20_000
    batch: int | None = None
    micro_batches: int = 2
    accumulate: int = 1
    transforms: tuple[Transform, ...] = ()
    keep: Keep | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.micro_batches < 2 or (self.batch is not None and self.batch < self.micro_batches):
            raise InputError(
                f"{type(self).__name__}(steps={self.steps}, batch={self.batch}, micro_batches={self.micro_batches}): "
                "need steps >= 1, micro_batches >= 2, batch >= micro_batches"
            )
        if not isinstance(self.lr, Schedule) and not self.lr > 0:
            raise InputError(f"{type(self).__name__}(lr={self.lr}): the step size must be positive")
        if self.accumulate < 1:
            raise InputError(f"{type(self).__name__}(accumulate={self.accumulate}): need at least one part")
        if not all(isinstance(transform, Transform) for transform in self.transforms):
            allowed = "a tuple of Clip, Normalize and Quantize"
            raise InputError(f"{type(self).__name__}(transforms={self.transforms!r}): allowed is {allowed}")

    @abstractmethod
    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """The update rule with fresh state."""

    def slower(self, factor: float) -> Self:
        """The same phase with a step size `factor` times as large; a schedule stays as it is."""
        return self if isinstance(self.lr, Schedule) else replace(self, lr=self.lr * factor)


@dataclass(frozen=True, kw_only=True)
class Adam(Stochastic):
    """Adam (Kingma and Ba 2015)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """Adam's moments."""
        return AdamRule(vector, self.betas, self.eps)


@dataclass(frozen=True, kw_only=True)
class SGD(Stochastic):
    """Stochastic gradient descent along the preconditioned gradient, with momentum."""

    lr: float | Schedule = 1e-2
    momentum: float = 0.0
    nesterov: bool = False

    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """The velocity and the problem's preconditioner."""
        return SGDRule(vector, self.momentum, self.nesterov, problem.preconditioner(model))


@dataclass(frozen=True)
class Objective:
    """What a deterministic method works on.

    Attributes:
        problem, model, flat: as given to `solve`, and the model's parameters as one vector.
        batch: the fixed set as it is now.
        closure: loss and gradient over it at the vector's present content; counts itself.
        spend: counts other work, in loss-and-gradient evaluations over the set.
    """

    problem: Problem
    model: torch.nn.Module
    flat: FlatParameters
    batch: Callable[[], Any]
    closure: Callable[[], tuple[Tensor, Tensor]]
    spend: Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Deterministic(ABC):
    """A quasi-Newton phase on a fixed set of items.

    Attributes:
        steps: at most so many iterations.
        tolerance: converged when the Newton decrement g'Hg, in three iterations running, is below tolerance^2 times the
            largest change of the loss seen in the whole solve. For a sum of squares that is a residual `tolerance`
            times the first one.
        patience: converged also when, over so many iterations, neither the decrement halves nor the loss falls by 1 %.
        check: iterations between two looks at fresh samples (streams only).
        payoff: converged also when twice the iterations (at least 4 times `patience`) do not lower the loss on fresh
            samples by this factor (streams only); None: last digits are worth any work.
    """

    steps: int = 20_000
    tolerance: float = 1e-9
    patience: int = 300
    check: int = 20
    payoff: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.patience < 1 or self.check < 1 or self.tolerance < 0:
            raise InputError(f"{self}: need steps, patience and check of at least 1 and a tolerance of at least 0")
        if self.payoff is not None and not self.payoff > 1:
            raise InputError(f"{type(self).__name__}(payoff={self.payoff}): a factor above 1, or None")

    @abstractmethod
    def method(self, objective: Objective) -> Method:
        """The algorithm with fresh state."""


@dataclass(frozen=True, kw_only=True)
class LBFGS(Deterministic):
    """Limited-memory BFGS in compact form, preconditioned by the problem's operator if it has one.

    Attributes:
        history: curvature pairs kept.
    """

    history: int = 20

    def method(self, objective: Objective) -> Method:
        """The compact form over `history` pairs."""
        if self.history < 1:
            raise InputError(f"LBFGS(history={self.history}): keep at least one pair")
        vector, preconditioner = objective.flat.vector, objective.problem.preconditioner(objective.model)
        return QuasiNewton(vector, objective.closure, CompactLBFGS(vector, self.history, preconditioner))


@dataclass(frozen=True, kw_only=True)
class SelfScaled(Deterministic):
    """Dense self-scaled Broyden updates, for models of up to a few thousand parameters: n^2 numbers are kept."""

    def method(self, objective: Objective) -> Method:
        """The dense matrix."""
        vector = objective.flat.vector
        if vector.numel() > 20_000:
            gigabytes = vector.numel() ** 2 * vector.element_size() / 1e9
            raise InputError(
                f"SelfScaled on {vector.numel()} unknowns needs a matrix of {gigabytes:.0f} GB; use LBFGS above 20,000"
            )
        return QuasiNewton(vector, objective.closure, DenseSelfScaled(vector))


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Deterministic):
    """Damped Gauss-Newton steps (Levenberg-Marquardt) with geodesic acceleration: the natural gradient of a loss that
    is a sum of mean squares, for problems that define `Problem.least_squares`.

    Attributes:
        damping: the first damping, relative to the mean diagonal of J'J; it adapts.
        acceleration: follow the curve of the valley to second order.
        check: a step does the work of many quasi-Newton iterations, and so over-fits as much sooner.
    """

    patience: int = 100
    check: int = 5
    damping: float = 1e-2
    acceleration: bool = True

    def method(self, objective: Objective) -> Method:
        """Levenberg-Marquardt on the problem's residuals."""
        problem, model = objective.problem, objective.model

        def residuals(batch: Any) -> Mapping[str, Tensor]:
            named = problem.least_squares(model, batch)
            if named is None:
                raise InputError(
                    f"GaussNewton needs residuals, and {type(problem).__name__}.least_squares gives none; define it "
                    "(the loss must be a sum of mean squares), or use SelfScaled or LBFGS"
                )
            return named

        if not self.damping > 0:
            raise InputError(f"GaussNewton(damping={self.damping}): must be positive")
        jacobian = ResidualJacobian(objective.flat, residuals)
        return LevenbergMarquardt(
            objective.flat.vector,
            objective.closure,
            lambda: linearize(jacobian, objective.batch()),
            (lambda: jacobian.rows(objective.batch())) if self.acceleration else None,
            self.damping,
            objective.spend,
        )


Phase = Stochastic | Deterministic


def default_phases(problem: Problem, model: torch.nn.Module, unknowns: int) -> tuple[Phase, ...]:
    """Adam, then the dense self-scaled finisher for small models and L-BFGS for large ones; preconditioned SGD, then
    L-BFGS, when the problem has a preconditioner."""
    if problem.preconditioner(model) is not None:
        return SGD(lr=0.1), LBFGS()
    return Adam(), SelfScaled() if unknowns <= DENSE_LIMIT else LBFGS(history=50)
