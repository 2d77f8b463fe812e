"""Phases are values: an algorithm, its hyper-parameters, and what ends it. `solve` runs them in order.

A stochastic phase (`Adam`, `SGD`) takes an update rule from `sciml.optim.first_order` and works on mini-batches. A
deterministic phase (`LBFGS`, `SelfScaled`, `GaussNewton`) takes a method from `sciml.optim` and works on a fixed set of
items. `Stochastic` and `Deterministic` declare; the five phases implement.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.optim.first_order import AdamRule, FirstOrder, SGDRule
from sciml.optim.iterates import IterateChoice
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
"""Unknowns up to which the dense self-scaled update is the default; its matrix then takes 72 MB in float64."""


@dataclass(frozen=True, kw_only=True)
class Stochastic(ABC):
    """A phase on mini-batches.

    Attributes:
        lr: the step size, a number or a schedule of the step within the phase.
        steps: the largest number of steps.
        batch: items per step. None lets `solve` choose (a quarter of the fixed set, 32 to 128 items) and enlarge the
            batch while the gradient noise holds the phase back. A given batch stays as it is.
        micro_batches: independent parts of a batch from which the gradient noise is measured. More parts give more
            precise estimates and cost more: small parts take as long as large ones.
        window: measurements of the noise that an estimate is made of.
        accumulate: parts in which a batch is evaluated one after the other, to save memory. Their mean over the items
            is exact, also for parts of unequal size.
        transforms: what is done to the gradient before the rule takes it, in order (`sciml.optim.Clip`, `Normalize`,
            `Quantize`). The noise is measured before.
        keep: the iterate left at the end (`sciml.optim.Average`, `Best`); None for the last one.

    Raises:
        InputError: an option is out of range.
    """

    lr: float | Schedule = 1e-3
    steps: int = 20_000
    batch: int | None = None
    micro_batches: int = 2
    window: int = 20
    accumulate: int = 1
    transforms: tuple[Transform, ...] = ()
    keep: IterateChoice | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.micro_batches < 2 or (self.batch is not None and self.batch < self.micro_batches):
            raise InputError(
                f"{type(self).__name__}(steps={self.steps}, batch={self.batch}, micro_batches={self.micro_batches}): "
                "need steps >= 1, micro_batches >= 2, batch >= micro_batches"
            )
        if not isinstance(self.lr, Schedule) and not self.lr > 0:
            raise InputError(f"{type(self).__name__}(lr={self.lr}): the step size must be positive")
        if self.window < 1:
            raise InputError(f"{type(self).__name__}(window={self.window}): need at least one measurement")
        if self.accumulate < 1:
            raise InputError(f"{type(self).__name__}(accumulate={self.accumulate}): need at least one part")
        if not all(isinstance(transform, Transform) for transform in self.transforms):
            allowed = "a tuple of Clip, Normalize and Quantize"
            raise InputError(f"{type(self).__name__}(transforms={self.transforms!r}): allowed is {allowed}")

    @abstractmethod
    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """The update rule with fresh state.

        Args:
            problem: may have a preconditioner.
            model: the module.
            vector: its parameters, shape (n,).
        """

    def slower(self, factor: float) -> Self:
        """The same phase with a step size `factor` times as large; a schedule stays as it is."""
        return self if isinstance(self.lr, Schedule) else replace(self, lr=self.lr * factor)


@dataclass(frozen=True, kw_only=True)
class Adam(Stochastic):
    """Adam (Kingma and Ba 2015).

    Attributes:
        betas: factors of the running averages of the gradient and of its square.
        eps: is added to the root of the second average.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """Adam's running averages, empty."""
        return AdamRule(vector, self.betas, self.eps)


@dataclass(frozen=True, kw_only=True)
class SGD(Stochastic):
    """Stochastic gradient descent along the preconditioned gradient, with momentum.

    Attributes:
        lr: as in `Stochastic`.
        momentum: the factor of the velocity; 0 for none.
        nesterov: whether to apply Nesterov's correction.
    """

    lr: float | Schedule = 1e-2
    momentum: float = 0.0
    nesterov: bool = False

    def rule(self, problem: Problem, model: torch.nn.Module, vector: Tensor) -> FirstOrder:
        """A velocity of zero and the problem's preconditioner."""
        return SGDRule(vector, self.momentum, self.nesterov, problem.preconditioner(model))


@dataclass(frozen=True)
class Objective:
    """What a deterministic method works on.

    Attributes:
        problem: as given to `solve`.
        model: as given to `solve`.
        flat: the model's parameters as one vector.
        batch: gives the fixed set as it is now.
        closure: gives loss and gradient over the set at the present parameters, and counts the evaluation.
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
        steps: the largest number of iterations.
        tolerance: the phase has converged when the Newton decrement g'Hg is below tolerance^2 times the largest change
            of the loss seen in the whole solve, in three iterations running. For a sum of squares that is a residual
            `tolerance` times the first one.
        patience: the phase has also converged when, over this many iterations, neither the decrement halves nor the
            loss falls by 1 %.
        check: iterations between two looks at fresh samples (streams only).
        payoff: the phase has also converged when twice the iterations (at least 4 times `patience`) do not lower the
            loss on fresh samples by this factor (streams only). None: the last digits are worth any work.

    Raises:
        InputError: an option is out of range.
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
        """The compact form over `history` pairs, none of them taken in yet."""
        if self.history < 1:
            raise InputError(f"LBFGS(history={self.history}): keep at least one pair")
        vector, preconditioner = objective.flat.vector, objective.problem.preconditioner(objective.model)
        return QuasiNewton(vector, objective.closure, CompactLBFGS(vector, self.history, preconditioner))


@dataclass(frozen=True, kw_only=True)
class SelfScaled(Deterministic):
    """Dense self-scaled Broyden updates, for models of up to a few thousand parameters: n^2 numbers are kept."""

    def method(self, objective: Objective) -> Method:
        """The dense update, without curvature yet."""
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
        patience: as in `Deterministic`; smaller, because a step does the work of many quasi-Newton iterations.
        check: as in `Deterministic`; smaller, because such steps over-fit sooner.
        damping: the first damping, relative to the mean diagonal of J'J. It adapts.
        acceleration: whether to follow the curve of the valley to second order.
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
    """The phases that `solve` takes when none are given.

    Adam comes first, then the dense self-scaled update for small models or L-BFGS for large ones. For a problem with a
    preconditioner: SGD, then L-BFGS.

    Args:
        problem: may have a preconditioner.
        model: the module.
        unknowns: number of its parameters.
    """
    if problem.preconditioner(model) is not None:
        return SGD(lr=0.1), LBFGS()
    return Adam(), SelfScaled() if unknowns <= DENSE_LIMIT else LBFGS(history=50)
