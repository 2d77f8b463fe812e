"""The problems on which no threshold of the switch was chosen: a density without poses, robust regression on 1e5 rows,
a tomogram from counts, an emulator of a simulation, an ordinary differential equation, and an energy to minimize."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from cases.particles import Particles, Sample
from cases.switch import Case, Weights
from cases.table import Rows, Table
from sciml import LBFGS, SGD, Adam, Problem, SelfScaled
from sciml.pde import MLP, Box, Interval, derivatives, gradient
from sciml.seeds import generator


class Outliers(Table):
    """Robust regression (pseudo-Huber loss): 100,000 rows of 40 correlated variables, one value in ten an outlier."""

    size = 100_000

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "outliers")
        normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
        basis = torch.linalg.qr(normal(40, 40)).Q
        spread = torch.logspace(0, -1.25, 40, dtype=torch.float64)
        self.rows = normal(self.size, 40) * spread @ basis.T
        wild = torch.rand(self.size, generator=draw) < 0.1
        self.values = self.rows @ (basis @ (normal(40) / spread)) + 0.5 * normal(self.size)
        self.values = torch.where(wild, self.values + 8.0 * normal(self.size), self.values)
        self.lowest = float(self._of(self._minimum(), (self.rows, self.values)))

    def _minimum(self) -> Tensor:
        """The minimizer, by weighted least squares again and again."""
        theta = torch.zeros(40, dtype=torch.float64)
        for _ in range(60):
            weight = (1 + (self.rows @ theta - self.values).square()).rsqrt()
            weighted = self.rows * weight[:, None]
            theta = torch.linalg.solve(weighted.T @ self.rows, weighted.T @ self.values)
        return theta

    def _of(self, theta: Tensor, batch: Rows) -> Tensor:
        return ((1 + (batch[0] @ theta - batch[1]).square()).sqrt() - 1).mean()

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The mean loss of the rows."""
        assert isinstance(model, Weights)
        return {"loss": self._of(model.theta, batch)}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The loss above its minimum."""
        assert isinstance(model, Weights)
        return {"excess": float(self._of(model.theta.detach(), (self.rows, self.values))) - self.lowest}


PIXELS, SMOOTHNESS = 24, 2e-6


class Tomogram(Table):
    """An image of 24 x 24 pixels from the photons that pass it along 8192 rays: Poisson counts, some 400 unattenuated.

    A ray is 48 points a pixel apart or closer, at which the image is interpolated bilinearly.
    """

    size = 8192
    photons = 400.0

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "tomogram")
        self.rows = _rays(self.size, draw)
        self.truth = _phantom(draw)
        self.values = torch.poisson(self.photons * torch.exp(-self.rows @ self.truth), generator=draw) / self.photons
        self.lowest = self._total(self._minimum())

    def _minimum(self) -> Tensor:
        """The minimizer, by Newton's method."""
        line = torch.eye(PIXELS, dtype=torch.float64).diff(dim=0)
        whole = torch.eye(PIXELS, dtype=torch.float64)
        stiff = 2 * SMOOTHNESS * (torch.kron(line.T @ line, whole) + torch.kron(whole, line.T @ line))
        theta = torch.zeros(PIXELS**2, dtype=torch.float64)
        for _ in range(8):
            passed = torch.exp(-self.rows @ theta)
            slope = self.rows.T @ (self.values - passed) / self.size + stiff @ theta
            hessian = (self.rows * passed[:, None]).T @ self.rows / self.size + stiff
            theta = theta - torch.linalg.solve(hessian, slope)
        return theta

    def _terms(self, theta: Tensor, batch: Rows) -> dict[str, Tensor]:
        passed, image = batch[0] @ theta, theta.reshape(PIXELS, PIXELS)
        rough = image.diff(dim=0).square().sum() + image.diff(dim=1).square().sum()
        return {"misfit": (torch.exp(-passed) + batch[1] * passed).mean(), "roughness": SMOOTHNESS * rough}

    def _total(self, theta: Tensor) -> float:
        return float(sum(self._terms(theta, (self.rows, self.values)).values()))

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The negative log likelihood of the counts, over the photons of a ray, and what makes the image smooth."""
        assert isinstance(model, Weights)
        return self._terms(model.theta, batch)

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The loss above its minimum."""
        assert isinstance(model, Weights)
        return {"excess": self._total(model.theta.detach()) - self.lowest}


def _rays(count: int, draw: torch.Generator) -> Tensor:
    """Length of each ray within each pixel, in units of the image's half width."""
    angle = math.pi * torch.rand(count, 1, generator=draw, dtype=torch.float64)
    offset = 1.8 * torch.rand(count, 1, generator=draw, dtype=torch.float64) - 0.9
    along = torch.linspace(-1.4, 1.4, 2 * PIXELS, dtype=torch.float64)
    x = offset * torch.cos(angle) - along * torch.sin(angle)
    y = offset * torch.sin(angle) + along * torch.cos(angle)
    rays = torch.zeros(count, PIXELS * PIXELS, dtype=torch.float64)
    column, row = ((c + 1) / 2 * (PIXELS - 1) for c in (x, y))
    for right in (0, 1):
        for up in (0, 1):
            i, j = column.floor() + right, row.floor() + up
            weight = (1 - (column - i).abs()) * (1 - (row - j).abs()) * (2.8 / len(along))
            inside = (i >= 0) & (i < PIXELS) & (j >= 0) & (j < PIXELS)
            place = (j * PIXELS + i).clamp(0, PIXELS * PIXELS - 1).long()
            rays.scatter_add_(1, place, torch.where(inside, weight, 0.0))
    return rays


def _phantom(draw: torch.Generator) -> Tensor:
    """Attenuation: five ellipses within a larger one."""
    line = torch.linspace(-1, 1, PIXELS, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    image = 0.5 * ((x / 0.8).square() + (y / 0.9).square() < 1).double()
    for _ in range(5):
        u, v, a, b, height = torch.rand(5, generator=draw, dtype=torch.float64).tolist()
        inside = ((x - u + 0.5) / (0.1 + 0.3 * a)).square() + ((y - v + 0.5) / (0.1 + 0.3 * b)).square() < 1
        image = image + (0.3 + height) * inside
    return image.reshape(-1)


class Borehole(Table):
    """An emulator: a network fitted to 20,000 results of the borehole function, a flow rate of eight inputs."""

    size = 20_000
    low = torch.tensor([0.05, 100.0, 63070.0, 990.0, 63.1, 700.0, 1120.0, 9855.0], dtype=torch.float64)
    high = torch.tensor([0.15, 50000.0, 115600.0, 1110.0, 116.0, 820.0, 1680.0, 12045.0], dtype=torch.float64)

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "borehole")
        self.rows, self.held_out = (
            torch.rand(n, 8, generator=draw, dtype=torch.float64) * 2 - 1 for n in (20_000, 1000)
        )
        self.values, self.truth = self._flow(self.rows), self._flow(self.held_out)

    def _flow(self, inputs: Tensor) -> Tensor:
        """Flow through the borehole, per 100 cubic meters a year (Harper and Gupta, 1983)."""
        well, reach, upper, upper_head, lower, lower_head, length, conductivity = (
            self.low + (self.high - self.low) * (inputs + 1) / 2
        ).T
        ratio = torch.log(reach / well)
        along = 2 * length * upper / (ratio * well.square() * conductivity)
        flow = 2 * math.pi * upper * (upper_head - lower_head) / (ratio * (1 + along + upper / lower))
        return flow[:, None] / 100

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The mean square misfit."""
        return {"misfit": (model(batch[0]) - batch[1]).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative error at inputs that are not trained on."""
        with torch.no_grad():
            return {"relative_l2": float((model(self.held_out) - self.truth).norm() / self.truth.norm())}


class Pendulum(Problem[nn.Module, Tensor]):
    """A pendulum with friction, let go at two radians: u'' + 0.3 u' + 4 sin u = 0 for four units of time."""

    domain = Interval(0.0, 4.0)

    def __init__(self) -> None:
        self.times = torch.linspace(0, 4, 201, dtype=torch.float64)[:, None]
        motion = lambda _, s: (s[1], -0.3 * s[1] - 4 * np.sin(s[0]))
        found = solve_ivp(motion, (0, 4), (2.0, 0.0), "DOP853", self.times[:, 0].numpy(), rtol=1e-11, atol=1e-11)
        self.truth = torch.from_numpy(found.y[0])[:, None]

    def field(self, model: nn.Module, times: Tensor) -> Tensor:
        """The angle; it starts at two, at rest."""
        return 2 + times.square() * model(times)

    def sample(self, size: int | None, generator: torch.Generator) -> Tensor:
        """Points in time without end; 512 in the fixed set."""
        return self.domain.sample(size or 512, generator)

    def loss(self, model: nn.Module, batch: Tensor) -> Mapping[str, Tensor]:
        """The mean square residual."""
        times = batch.detach().requires_grad_(True)
        u, speed, acceleration = derivatives(lambda t: self.field(model, t), times, 2)
        return {"residual": (acceleration + 0.3 * speed + 4 * torch.sin(u)).square().mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative error at 201 times."""
        with torch.no_grad():
            return {"relative_l2": float((self.field(model, self.times) - self.truth).norm() / self.truth.norm())}


class Energy(Table):
    """-Laplacian u + u^3 = f on the unit square with u = 0 around it, by its energy on 64 x 64 midpoints.

    The solution is sin(pi x) sin(2 pi y).
    """

    size = 4096
    domain = Box((0.0, 0.0), (1.0, 1.0))

    def __init__(self) -> None:
        line = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
        self.rows = torch.cartesian_prod(line, line)
        u = self.truth(self.rows)
        self.values = 5 * math.pi**2 * u + u**3

    def truth(self, x: Tensor) -> Tensor:
        """The solution."""
        return torch.sin(math.pi * x[:, :1]) * torch.sin(2 * math.pi * x[:, 1:])

    def field(self, model: nn.Module, x: Tensor) -> Tensor:
        """The network, which vanishes around the square."""
        return 16 * (x * (1 - x)).prod(1, keepdim=True) * model(x)

    def loss(self, model: nn.Module, batch: Rows) -> Mapping[str, Tensor]:
        """The mean density of the energy."""
        x = batch[0].detach().requires_grad_(True)
        u = self.field(model, x)
        slope = gradient(u, x)
        return {"energy": (0.5 * slope.square().sum(1, keepdim=True) + u**4 / 4 - batch[1] * u).mean()}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The relative error at the midpoints."""
        with torch.no_grad():
            truth = self.truth(self.rows)
            return {"relative_l2": float((self.field(model, self.rows) - truth).norm() / truth.norm())}


_SAMPLE = Sample(images=1024, blobs=20, signal=50.0, radius=7.0, density=5)

UNSEEN_CASES = (
    Case(
        "density, 1024 images", lambda s: Particles(s, _SAMPLE), lambda s: Particles(s, _SAMPLE).model(s),
        (SGD(lr=0.1), LBFGS(history=5)), "missing", 0.5, 60, (0, 16, 32, 48, 64, 96, 128, 192),
    ),
    Case(
        "outliers, 1e5 items", Outliers, lambda _: Weights(40), (Adam(lr=0.1), LBFGS()), "excess", 1e-6, 200,
        (0, 100, 200, 400, 1000, 2000, 4000, 8000),
    ),
    Case("tomogram", Tomogram, lambda _: Weights(PIXELS**2), (Adam(lr=0.02), LBFGS()), "excess", 1e-8, 400),
    Case(
        "emulator", Borehole, lambda s: MLP(8, 1, (16, 16), seed=s).double(), (Adam(lr=3e-3), SelfScaled()),
        "relative_l2", 1e-3, 600,
    ),
    Case(
        "pendulum", lambda _: Pendulum(), lambda s: MLP(1, 1, (20, 20), domain=Pendulum.domain, seed=s).double(),
        (Adam(), SelfScaled()), "relative_l2", 1e-4, 1500,
    ),
    Case(
        "energy on a square", lambda _: Energy(), lambda s: MLP(2, 1, (16, 16), domain=Energy.domain, seed=s).double(),
        (Adam(lr=3e-3), SelfScaled()), "relative_l2", 3e-3, 800,
    ),
)  # fmt: skip
