"""The problems on which the switch is judged: finite sums, PDEs, a larger network, float32, a noisy stream."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from sciml_pdes.collocation import Collocation
from sciml_pdes.equations.helmholtz import Helmholtz
from sciml_pdes.equations.poisson import Poisson2D
from sciml_pdes.equations.reaction import Reaction
from sciml_rod import CASES as BARS
from sciml_rod import StrongForm
from torch import Tensor, nn

from sciml import LBFGS, Adam, Problem, SelfScaled
from sciml.pde import MLP
from sciml.phases import Phase
from sciml.seeds import generator


@dataclass(frozen=True)
class Case:
    """A problem with what must be reached.

    Attributes:
        name: its row in the table.
        problem: seed -> problem; a problem with data draws them from the seed.
        model: seed -> model at its start.
        phases: the stochastic phase and the finisher.
        value: which value of `Problem.evaluate` is judged. target: how small it must become.
        limit: evaluations after which a run has missed the target.
        points: the fixed switch points of the oracle, in Adam steps.
    """

    name: str
    problem: Callable[[int], Problem]
    model: Callable[[int], nn.Module]
    phases: tuple[Phase, Phase]
    value: str
    target: float
    limit: float
    points: tuple[int, ...] = (0, 50, 100, 200, 400, 1000, 2000, 4000)


FINITE = (0, 200, 400, 1000, 2000, 4000, 8000, 16000)


class Weights(nn.Module):
    """The unknowns of a linear model, zero at the start."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(count, dtype=torch.float64))


class Linear(Problem[Weights, tuple[Tensor, Tensor]]):
    """Least squares (mean of (x'w - y)^2 / 2) or logistic regression on Gaussian rows of a given condition number.

    The truth weighs every eigendirection alike: at the start each holds the same share of the excess loss.

    Args:
        seed: of the data. items: rows; of the declared set if `stream`. condition: of the covariance of the rows.
        logistic: labels 0 and 1 of the logistic model instead of noisy values.
        noise: standard deviation of the values.
        stream: rows without end; the excess is then over the expected loss, not over that of the rows drawn.
    """

    def __init__(
        self, seed: int, items: int = 16384, condition: float = 1e3, *, logistic: bool = False, noise: float = 1.0,
        stream: bool = False,
    ) -> None:  # fmt: skip
        self.items, self.logistic, self.noise = items, logistic, noise
        draw = generator(seed, "data")
        count = 40
        basis = torch.linalg.qr(torch.randn(count, count, generator=draw, dtype=torch.float64)).Q
        spread = torch.logspace(0, -math.log10(condition) / 2, count, dtype=torch.float64)
        self.root = spread[:, None] * basis.T  # rows are x = z' root, so their covariance is root' root
        signs = torch.randint(2, (count,), generator=draw).double() * 2 - 1
        self.truth = basis @ (signs / spread) * (0.5 if logistic else 1.0)
        if stream:
            self.best, self.hessian = self.truth, self.root.T @ self.root
            return
        self.size = items
        self.rows, self.values = self._draw(items, draw)
        self.best, self.hessian = self._minimum()
        self.lowest = self._mean(self.best)

    def _draw(self, size: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randn(size, len(self.root), generator=draw, dtype=torch.float64) @ self.root
        if self.logistic:
            return rows, torch.bernoulli(torch.sigmoid(rows @ self.truth), generator=draw)
        return rows, rows @ self.truth + self.noise * torch.randn(size, generator=draw, dtype=torch.float64)

    def _minimum(self) -> tuple[Tensor, Tensor]:
        """The minimiser by Newton's method, and the Hessian there."""
        theta = torch.zeros_like(self.truth)
        hessian = self.rows.T @ self.rows / self.items
        for _ in range(30 if self.logistic else 1):
            fit = torch.sigmoid(self.rows @ theta) if self.logistic else self.rows @ theta
            if self.logistic:
                hessian = (self.rows * (fit * (1 - fit))[:, None]).T @ self.rows / self.items
            theta = theta - torch.linalg.solve(hessian, self.rows.T @ (fit - self.values) / self.items)
        return theta, hessian

    def _mean(self, theta: Tensor) -> float:
        return float(self._loss(self.rows @ theta, self.values))

    def _loss(self, fit: Tensor, values: Tensor) -> Tensor:
        if self.logistic:
            return nn.functional.binary_cross_entropy_with_logits(fit, values)
        return 0.5 * (fit - values).square().mean()

    def sample(self, size: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows and values: all of them, some without replacement, or new ones of the stream."""
        if self.size is None:
            return self._draw(size or self.items, generator)
        if size is None:
            return self.rows, self.values
        chosen = torch.randperm(self.items, generator=generator)[:size]
        return self.rows[chosen], self.values[chosen]

    def loss(self, model: Weights, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """The mean loss of the rows."""
        rows, values = batch
        return {"loss": self._loss(rows @ model.theta, values)}

    def evaluate(self, model: Weights) -> Mapping[str, float]:
        """The loss above its minimum."""
        theta = model.theta.detach()
        if self.logistic:
            return {"excess": self._mean(theta) - self.lowest}
        gap = theta - self.best
        return {"excess": 0.5 * float(gap @ self.hessian @ gap)}


class Regression(Problem[nn.Module, tuple[Tensor, Tensor]]):
    """A network fitted to 4096 noise-free values of a function of four variables."""

    size = 4096

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        self.rows, self.held_out = (torch.rand(n, 4, generator=draw, dtype=torch.float64) * 2 - 1 for n in (4096, 1000))
        self.values, self.truth = _bumps(self.rows), _bumps(self.held_out)

    def sample(self, size: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All rows, or some without replacement."""
        if size is None:
            return self.rows, self.values
        chosen = torch.randperm(4096, generator=generator)[:size]
        return self.rows[chosen], self.values[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """The mean square misfit."""
        return {"misfit": (model(batch[0]) - batch[1]).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative misfit at rows that are not trained on."""
        with torch.no_grad():
            return {"relative_l2": float((model(self.held_out) - self.truth).norm() / self.truth.norm())}


def _bumps(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(-1)
    return (torch.sin(3 * a) * torch.cos(2 * b) + torch.exp(-4 * (c - a / 2).square()) * d)[:, None]


class _Coarse:
    """Mixed into a PDE: only the error is evaluated, on a coarse grid, for it is asked for after every iteration."""

    shape = (31, 31)

    def evaluate(self: Collocation, model: nn.Module) -> Mapping[str, float]:  # type: ignore[misc]
        """The relative error on 31 x 31 points."""
        with torch.no_grad():
            error = self.field(model, self.grid.to(next(model.parameters()))).double() - self.truth
        return {"relative_l2": float(error.norm() / self.truth.norm())}


class CoarsePoisson(_Coarse, Poisson2D):
    """Poisson on the square."""


class CoarseReaction(_Coarse, Reaction):
    """Logistic reaction, rate 5."""

    points = 1000


class HelmholtzOneTwo(_Coarse, Helmholtz):
    """Helmholtz's equation with one half wave along x and two along y."""

    points = 1000

    def residual(self, u: Tensor, x: Tensor) -> Tensor:
        """(Laplacian u + u) / (5 pi^2 - 1) + sin(pi x) sin(2 pi y)."""
        stiff = (17 * math.pi**2 - 1) / (5 * math.pi**2 - 1)
        wrong = torch.sin(math.pi * x[:, :1]) * torch.sin(4 * math.pi * x[:, 1:])
        return (super().residual(u, x) - wrong) * stiff + self.reference(x)

    def reference(self, x: Tensor) -> Tensor:
        """sin(pi x) sin(2 pi y)."""
        return torch.sin(math.pi * x[:, :1]) * torch.sin(2 * math.pi * x[:, 1:])


def _network(problem: Collocation, hidden: tuple[int, ...]) -> Callable[[int], nn.Module]:
    return lambda seed: MLP(2, 1, hidden, domain=problem.domain, seed=seed).double()


_BAR = BARS["smooth"]
_ROD = StrongForm(_BAR.rod, points=256)
_LINEAR = (Adam(lr=0.1), LBFGS())
_SMALL = (Adam(), SelfScaled())

CASES = (
    Case("least squares 1e3", Linear, lambda _: Weights(40), _LINEAR, "excess", 1e-5, 400, FINITE),
    Case(
        "logistic 1e3", lambda s: Linear(s, logistic=True), lambda _: Weights(40), _LINEAR, "excess", 1e-6, 400, FINITE
    ),
    Case("regression", Regression, lambda s: MLP(4, 1, (24, 24), seed=s).double(), _SMALL, "relative_l2", 1e-2, 800),
    Case("rod smooth", lambda _: _ROD, lambda s: _BAR.network(_ROD, s), _SMALL, "relative_l2", 1e-6, 1500),
    Case("poisson_2d", lambda _: CoarsePoisson(), CoarsePoisson().model, _SMALL, "relative_l2", 1e-6, 1500),
    Case("reaction", lambda _: CoarseReaction(), CoarseReaction().model, _SMALL, "relative_l2", 1e-4, 3000),
    Case("helmholtz (1,2)", lambda _: HelmholtzOneTwo(), HelmholtzOneTwo().model, _SMALL, "relative_l2", 1e-4, 3000),
    Case(
        "poisson_2d 4x40", lambda _: CoarsePoisson(), _network(CoarsePoisson(), (40, 40, 40, 40)),
        (Adam(), LBFGS(history=50)), "relative_l2", 1e-4, 1500,
    ),
    Case(
        "poisson_2d float32", lambda _: CoarsePoisson(), lambda s: CoarsePoisson().model(s).float(), _SMALL,
        "relative_l2", 1e-4, 1500,
    ),
    Case(
        "noisy stream", lambda s: Linear(s, 1024, 1e2, stream=True), lambda _: Weights(40), _LINEAR, "excess", 4e-3,
        3000, FINITE,
    ),
)  # fmt: skip
