"""Six problems on which an earlier form of the switch was judged, and thresholds are chosen now: a density without
poses, counts, classes, a nonlinear PDE, a matrix of which few entries are known, and a deep network fitted to noisy
values."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cases.particles import Particles, Sample
from cases.switch import FINITE, Case, Weights, _bumps
from cases.table import Rows, Table
from sciml import LBFGS, SGD, Adam, Problem, SelfScaled
from sciml.pde import MLP, Box, gradient
from sciml.seeds import generator


class Counts(Table):
    """Poisson regression: 100,000 counts whose logarithm of the mean is linear in 30 correlated variables."""

    size = 100_000

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        basis = torch.linalg.qr(torch.randn(30, 30, generator=draw, dtype=torch.float64)).Q
        spread = torch.logspace(0, -1, 30, dtype=torch.float64)
        self.rows = torch.randn(self.size, 30, generator=draw, dtype=torch.float64) * spread @ basis.T
        truth = basis @ (torch.randn(30, generator=draw, dtype=torch.float64) / spread) * 0.15
        self.values = torch.poisson(torch.exp(self.rows @ truth), generator=draw)
        self.lowest = float(self._mean(self._minimum()))

    def _minimum(self) -> Tensor:
        """The minimiser, by Newton's method."""
        theta = torch.zeros(30, dtype=torch.float64)
        for _ in range(20):
            mean = torch.exp(self.rows @ theta)
            slope = self.rows.T @ (mean - self.values)
            theta = theta - torch.linalg.solve((self.rows * mean[:, None]).T @ self.rows, slope)
        return theta

    def _mean(self, theta: Tensor) -> Tensor:
        return self._of(theta, (self.rows, self.values))

    def _of(self, theta: Tensor, batch: Rows) -> Tensor:
        fit = batch[0] @ theta
        return (torch.exp(fit) - batch[1] * fit).mean()

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The negative log likelihood, less what does not depend on the fit."""
        assert isinstance(model, Weights)
        return {"loss": self._of(model.theta, batch)}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The loss above its minimum."""
        assert isinstance(model, Weights)
        return {"excess": float(self._mean(model.theta.detach())) - self.lowest}


class Classes(Table):
    """Softmax regression: 20,000 rows of 20 variables, 8 classes that overlap, a little weight decay."""

    size = 20_000

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        scale = torch.logspace(0, -1, 20, dtype=torch.float64)
        self.rows = torch.randn(self.size, 20, generator=draw, dtype=torch.float64) * scale
        truth = torch.randn(20, 8, generator=draw, dtype=torch.float64) / scale[:, None] * 0.5
        odds = torch.softmax(self.rows @ truth, 1)
        self.values = torch.multinomial(odds, 1, generator=draw)[:, 0]
        self.lowest = float(self._mean(self._minimum()))

    def _minimum(self) -> Tensor:
        """The minimiser, by Newton's method."""
        theta = torch.zeros(160, dtype=torch.float64)
        shown = nn.functional.one_hot(self.values, 8).double()
        for _ in range(12):
            odds = torch.softmax(self.rows @ theta.reshape(20, 8), 1)
            slope = (self.rows.T @ (odds - shown) / self.size).reshape(-1) + 2e-4 * theta
            product = (self.rows[:, :, None] * odds[:, None, :]).reshape(self.size, 160)
            hessian = torch.zeros(20, 8, 20, 8, dtype=torch.float64)
            for k in range(8):
                hessian[:, k, :, k] = self.rows.T @ (self.rows * odds[:, k : k + 1])
            hessian = (hessian.reshape(160, 160) - product.T @ product) / self.size
            theta = theta - torch.linalg.solve(hessian + 2e-4 * torch.eye(160, dtype=torch.float64), slope)
        return theta

    def _mean(self, theta: Tensor) -> Tensor:
        return self._of(theta, (self.rows, self.values))

    def _of(self, theta: Tensor, batch: Rows) -> Tensor:
        fit = batch[0] @ theta.reshape(20, 8)
        return nn.functional.cross_entropy(fit, batch[1]) + 1e-4 * theta.square().sum()

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The cross entropy with weight decay."""
        assert isinstance(model, Weights)
        return {"loss": self._of(model.theta, batch)}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The loss above its minimum."""
        assert isinstance(model, Weights)
        return {"excess": float(self._mean(model.theta.detach())) - self.lowest}


class Factors(nn.Module):
    """A matrix of 200 x 150 as a product of rank 4; small at the start."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = generator(seed, "model")
        self.left = nn.Parameter(0.3 * torch.randn(200, 4, generator=draw, dtype=torch.float64))
        self.right = nn.Parameter(0.3 * torch.randn(150, 4, generator=draw, dtype=torch.float64))

    def forward(self, places: Tensor) -> Tensor:
        """Entries at (row, column)."""
        return (self.left[places[:, 0]] * self.right[places[:, 1]]).sum(1)


class Entries(Table):
    """A matrix of rank 4, of which 40 % of the entries are known with noise of a tenth of their size."""

    size = 12_000

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        left, right = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in (200, 150))
        self.truth = left @ right.T / 2.0
        places = torch.randperm(30_000, generator=draw)[: self.size]
        self.rows = torch.stack([places // 150, places % 150], 1)
        noise = 0.1 * torch.randn(self.size, generator=draw, dtype=torch.float64)
        self.values = self.truth[self.rows[:, 0], self.rows[:, 1]] + noise

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The mean square misfit."""
        return {"misfit": (model(batch[0]) - batch[1]).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative error of the whole matrix."""
        assert isinstance(model, Factors)
        error = (model.left @ model.right.T).detach() - self.truth
        return {"error": float(error.norm() / self.truth.norm())}


class NoisyValues(Table):
    """A deep network fitted to 8192 values of a function of four variables, with noise of a third of their spread."""

    size = 8192

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        self.rows, self.held_out = (torch.rand(n, 4, generator=draw, dtype=torch.float64) * 2 - 1 for n in (8192, 1000))
        noise = 0.2 * torch.randn(8192, 1, generator=draw, dtype=torch.float64)
        self.values, self.truth = _bumps(self.rows) + noise, _bumps(self.held_out)

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The mean square misfit."""
        return {"misfit": (model(batch[0]) - batch[1]).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative misfit to the values without noise, at rows that are not trained on."""
        with torch.no_grad():
            return {"relative_l2": float((model(self.held_out) - self.truth).norm() / self.truth.norm())}


class Front(Problem[nn.Module, Tensor]):
    """Burgers' equation u_t + u u_x = 0.05 u_xx on the unit square: a front that travels at half a unit of speed.

    The solution is 1/2 - tanh(5 (x - 1/4 - t / 2)) / 2; start and ends are kept by construction.
    """

    domain = Box((0.0, 0.0), (1.0, 1.0))
    grid = torch.cartesian_prod(*(torch.linspace(0, 1, 31, dtype=torch.float64),) * 2)

    def truth(self, x: Tensor, t: Tensor) -> Tensor:
        """The solution."""
        return 0.5 - 0.5 * torch.tanh(5 * (x - 0.25 - t / 2))

    def field(self, model: nn.Module, points: Tensor) -> Tensor:
        """What keeps start and ends, and the network where it may act."""
        x, t = points[:, :1], points[:, 1:]
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        ends = (1 - x) * (self.truth(zero, t) - self.truth(zero, zero))
        ends = ends + x * (self.truth(one, t) - self.truth(one, zero))
        return self.truth(x, zero) + ends + x * (1 - x) * t * model(points)

    def sample(self, size: int | None, generator: torch.Generator) -> Tensor:
        """Points in the square, without end; 1500 in the fixed set."""
        return self.domain.sample(size or 1500, generator)

    def loss(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        """The mean square residual."""
        x = batch.detach().requires_grad_(True)
        u = self.field(model, x)
        slope = gradient(u, x)
        bend = gradient(slope[:, :1], x)[:, :1]
        return {"residual": (slope[:, 1:] + u * slope[:, :1] - 0.05 * bend).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative error on 31 x 31 points."""
        with torch.no_grad():
            truth = self.truth(self.grid[:, :1], self.grid[:, 1:])
            return {"relative_l2": float((self.field(model, self.grid) - truth).norm() / truth.norm())}


FORMERLY_UNSEEN = (
    Case(
        "density without poses", lambda s: Particles(s, Sample()), lambda s: Particles(s, Sample()).model(s),
        (SGD(lr=0.5), LBFGS(history=5)), "missing", 0.5, 60, (0, 8, 16, 24, 32, 48, 64, 96),
    ),
    Case(
        "counts, 1e5 items", Counts, lambda _: Weights(30), (Adam(lr=0.1), LBFGS()), "excess", 1e-6, 200,
        (0, 400, 1000, 2000, 4000, 8000, 12000, 16000),
    ),
    Case("classes", Classes, lambda _: Weights(160), (Adam(lr=0.03), LBFGS()), "excess", 1e-6, 400, FINITE),
    Case("entries of a matrix", Entries, Factors, (Adam(lr=0.02), LBFGS()), "error", 0.08, 400),
    Case(
        "deep network, noisy values", NoisyValues, lambda s: MLP(4, 1, (16,) * 5, seed=s).double(),
        (Adam(lr=3e-3), LBFGS(history=50)), "relative_l2", 0.15, 800,
    ),
    Case(
        "burgers front", lambda _: Front(), lambda s: MLP(2, 1, (20, 20), domain=Front.domain, seed=s).double(),
        (Adam(), SelfScaled()), "relative_l2", 1e-4, 1500,
    ),
)  # fmt: skip
