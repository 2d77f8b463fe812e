"""The equations as DeepXDE's documentation would write them: its own geometries, conditions and networks.

Networks and numbers of points are those of `sciml_pdes` where DeepXDE has no example of its own, else the example's
(Burgers: 3 x 20 and 2540 + 80 + 160 points; convection and reaction: 3 x 50, as in the literature on their failure).
Importing this module imports DeepXDE with its PyTorch backend.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

os.environ.setdefault("DDE_BACKEND", "pytorch")
import deepxde as dde  # type: ignore[import-not-found]

from cases.clock import Curve

ADAM_SHARE = 1 / 3
"""Share of the time that Adam gets before L-BFGS."""
PI = math.pi


@dataclass
class Recipe:
    """A problem in DeepXDE's terms.

    Attributes:
        geometry: where. equation: (x, u) -> residual. conditions: soft conditions. widths: of the hidden layers.
        transform: what builds conditions into the output. domain, boundary, initial: numbers of points.
    """

    geometry: Any
    equation: Callable[[Tensor, Tensor], Tensor]
    widths: tuple[int, ...]
    domain: int
    conditions: list[Any] = field(default_factory=list)
    boundary: int = 0
    initial: int = 0
    transform: Callable[[Tensor, Tensor], Tensor] | None = None

    def data(self) -> Any:
        """Its training points."""
        if isinstance(self.geometry, dde.geometry.GeometryXTime):
            counts = {"num_domain": self.domain, "num_boundary": self.boundary, "num_initial": self.initial}
            return dde.data.TimePDE(self.geometry, self.equation, self.conditions, **counts)
        counts = {"num_domain": self.domain, "num_boundary": self.boundary}
        return dde.data.PDE(self.geometry, self.equation, self.conditions, **counts)


def _first(u: Tensor, x: Tensor, axis: int) -> Tensor:
    return dde.grad.jacobian(u, x, i=0, j=axis)


def _second(u: Tensor, x: Tensor, axis: int) -> Tensor:
    return dde.grad.hessian(u, x, i=axis, j=axis)


def _spacetime(low: float, high: float) -> Any:
    return dde.geometry.GeometryXTime(dde.geometry.Interval(low, high), dde.geometry.TimeDomain(0, 1))


def _on_boundary(x: np.ndarray, on: bool) -> bool:
    return on


def _start(geometry: Any, values: Callable[[np.ndarray], np.ndarray]) -> Any:
    return dde.icbc.IC(geometry, lambda x: values(x[:, :1]), lambda x, on: on)


def poisson_2d() -> Recipe:
    load = lambda x: 2 * PI**2 * torch.sin(PI * x).prod(dim=1, keepdim=True)
    return Recipe(
        dde.geometry.Rectangle([0, 0], [1, 1]),
        lambda x, u: _second(u, x, 0) + _second(u, x, 1) + load(x),
        (20, 20),
        1000,
        transform=lambda x, u: 16 * (x * (1 - x)).prod(dim=1, keepdim=True) * u,
    )


def helmholtz() -> Recipe:
    load = lambda x: (17 * PI**2 - 1) * torch.sin(PI * x[:, :1]) * torch.sin(4 * PI * x[:, 1:])
    return Recipe(
        dde.geometry.Rectangle([-1, -1], [1, 1]),
        lambda x, u: _second(u, x, 0) + _second(u, x, 1) + u + load(x),
        (30, 30, 30),
        1500,
        transform=lambda x, u: (1 - x**2).prod(dim=1, keepdim=True) * u,
    )


def convection() -> Recipe:
    geometry = _spacetime(0, 2 * PI)
    conditions = [dde.icbc.PeriodicBC(geometry, 0, _on_boundary), _start(geometry, np.sin)]
    equation = lambda x, u: _first(u, x, 1) + 40 * _first(u, x, 0)
    return Recipe(geometry, equation, (50, 50, 50), 1500, conditions, 100, 160)


def reaction() -> Recipe:
    geometry = _spacetime(0, 2 * PI)
    hill = lambda x: np.exp(-((x - PI) ** 2) / (2 * (PI / 4) ** 2))
    conditions = [dde.icbc.PeriodicBC(geometry, 0, _on_boundary), _start(geometry, hill)]
    equation = lambda x, u: _first(u, x, 1) - 5 * u * (1 - u)
    return Recipe(geometry, equation, (50, 50, 50), 1500, conditions, 100, 160)


def burgers() -> Recipe:
    geometry = _spacetime(-1, 1)
    ends = dde.icbc.DirichletBC(geometry, lambda x: 0, _on_boundary)
    conditions = [ends, _start(geometry, lambda x: -np.sin(PI * x))]
    equation = lambda x, u: _first(u, x, 1) + u * _first(u, x, 0) - 0.01 / PI * _second(u, x, 0)
    return Recipe(geometry, equation, (20, 20, 20), 2540, conditions, 80, 160)


def allen_cahn() -> Recipe:
    geometry = _spacetime(-1, 1)
    periodic = [dde.icbc.PeriodicBC(geometry, 0, _on_boundary, derivative_order=order) for order in (0, 1)]
    equation = lambda x, u: _first(u, x, 1) - 1e-4 * _second(u, x, 0) + 5 * (u**3 - u)
    transform = lambda x, u: x[:, :1] ** 2 * torch.cos(PI * x[:, :1]) + x[:, 1:] * u
    return Recipe(geometry, equation, (20, 20, 20), 8000, periodic, 400, 0, transform)


def rod_smooth() -> Recipe:
    from sciml_rod import CASES

    rod, line = CASES["smooth"].rod, dde.geometry.Interval(0, 1)
    stiffness: Callable[[Tensor], Tensor] = rod.stiffness  # type: ignore[assignment]

    def equation(x: Tensor, u: Tensor) -> Tensor:
        return stiffness(x) * _second(u, x, 0) + 0.5 * _first(u, x, 0) + rod.load(x)  # type: ignore[operator]

    force = rod.right.force / 1.5  # EA = 1.5 at the pulled end  # type: ignore[union-attr]
    pulled = dde.icbc.NeumannBC(line, lambda x: force, lambda x, on: on and x[0] > 0.5)
    return Recipe(line, equation, (24, 24), 256, [pulled], 2, transform=lambda x, u: x * u)


RECIPES = {f.__name__: f for f in (poisson_2d, helmholtz, convection, reaction, burgers, allen_cahn, rod_smooth)}


class _Watch(dde.callbacks.Callback):
    """Stops a stage when its time is up."""

    def __init__(self, curve: Curve, until: float) -> None:
        super().__init__()
        self.curve, self.until = curve, until

    def on_epoch_end(self) -> None:
        left = self.curve.left()
        if self.curve.seconds - left >= self.until:
            self.model.stop_training = True


def solve(name: str, points: np.ndarray, truth: np.ndarray, seconds: float, seed: int) -> list[tuple[float, float]]:
    """Adam for a third of the time, L-BFGS (tolerances off) for the rest.

    Args:
        name: which recipe. points, truth: where the error is measured, and the reference there.
        seconds: CPU seconds. seed: of everything.

    Returns:
        (CPU seconds, relative L2 error) pairs.
    """
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(seed)
    recipe = RECIPES[name]()
    network = dde.nn.FNN([points.shape[1], *recipe.widths, 1], "tanh", "Glorot normal")
    if recipe.transform is not None:
        network.apply_output_transform(recipe.transform)
    model = dde.Model(recipe.data(), network)
    error = lambda: float(np.linalg.norm(model.predict(points) - truth) / np.linalg.norm(truth))
    model.compile("adam", lr=1e-3, verbose=0)
    curve = Curve(error, seconds)
    quiet = {"display_every": 10**9, "verbose": 0}
    model.train(iterations=10**8, callbacks=[_Watch(curve, ADAM_SHARE * seconds)], **quiet)
    dde.optimizers.set_LBFGS_options(maxcor=100, ftol=0, gtol=1e-12, maxiter=10**7)
    dde.optimizers.config.LBFGS_options.update(iter_per_step=20, fun_per_step=25)
    model.compile("L-BFGS", verbose=0)
    model.train(callbacks=[_Watch(curve, seconds)], **quiet)
    curve.look()
    return curve.points
