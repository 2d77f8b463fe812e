"""The problems on which the thresholds of the switch are chosen. None of them is judged.

Two are of the judged kinds (logistic regression, Poisson's equation), but with other data, sizes or targets. Six were
judged before, with other seeds.
"""

from collections.abc import Mapping

import torch
from sciml_pdes.equations.convection import Convection
from sciml_pdes.equations.heat import Heat
from sciml_rod import CASES as BARS
from sciml_rod import StrongForm
from torch import Tensor, nn

from cases.formerly_unseen import FORMERLY_UNSEEN
from cases.switch import FINITE, Case, CoarsePoisson, Linear, Weights, _Coarse
from cases.table import some_of
from sciml import LBFGS, Adam, Problem, SelfScaled
from sciml.pde import MLP
from sciml.seeds import generator


class CoarseHeat(_Coarse, Heat):
    """The heat equation."""

    points = 1000


class CoarseConvection(_Coarse, Convection):
    """Convection, where a network first finds the trivial solution."""

    points = 1000


class Many(Linear):
    """A linear model of so many rows that a permutation of them all for every batch would take most of the time."""

    def sample(self, size: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All rows, or some without replacement."""
        if size is None:
            return self.rows, self.values
        chosen = some_of(self.items, size, generator)
        return self.rows[chosen], self.values[chosen]


class Rings(Problem[nn.Module, tuple[Tensor, Tensor]]):
    """Two classes of points in the plane, which alternate with the distance from the origin, one label in ten wrong."""

    size = 8192

    def __init__(self, seed: int) -> None:
        draw = generator(seed, "data")
        self.rows, self.held_out = (torch.rand(n, 2, generator=draw, dtype=torch.float64) * 2 - 1 for n in (8192, 2000))
        wrong = torch.rand(8192, generator=draw) < 0.1
        self.labels = torch.where(wrong[:, None], 1 - _ring(self.rows), _ring(self.rows))
        self.truth = 0.1 + 0.8 * _ring(self.held_out)

    def sample(self, size: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """All rows, or some without replacement."""
        if size is None:
            return self.rows, self.labels
        chosen = torch.randperm(8192, generator=generator)[:size]
        return self.rows[chosen], self.labels[chosen]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        """The mean cross entropy."""
        return {"loss": nn.functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])}

    def evaluate(self, model: nn.Module) -> Mapping[str, float]:
        """The root mean square error of the probability."""
        with torch.no_grad():
            return {"error": float((torch.sigmoid(model(self.held_out)) - self.truth).square().mean().sqrt())}


def _ring(x: Tensor) -> Tensor:
    return (torch.sin(6 * x.norm(dim=1, keepdim=True)) > 0).double()


_BAR = BARS["oscillatory"]
_ROD = StrongForm(_BAR.rod, points=256)
_LINEAR = (Adam(lr=0.1), LBFGS())
_SMALL = (Adam(), SelfScaled())

TUNING = (
    Case(
        "logistic 1e3", lambda s: Linear(s, logistic=True), lambda _: Weights(40), _LINEAR, "excess", 1e-6, 400, FINITE
    ),
    Case("poisson_2d", lambda _: CoarsePoisson(), CoarsePoisson().model, _SMALL, "relative_l2", 1e-6, 1500),
    Case(
        "logistic 1e4, 65536 items", lambda s: Many(s, 65536, 1e4, logistic=True), lambda _: Weights(40), _LINEAR,
        "excess", 1e-5, 400, FINITE,
    ),
    Case(
        "least squares 1e3, 65536 items", lambda s: Many(s, 65536, 1e3), lambda _: Weights(40), _LINEAR, "excess",
        1e-5, 400, FINITE,
    ),
    Case(
        "least squares 1e3, 24576 items", lambda s: Linear(s, 24576, 1e3), lambda _: Weights(40), _LINEAR, "excess",
        1e-5, 400, FINITE,
    ),
    Case(
        "least squares 1e2, 4096 items", lambda s: Linear(s, 4096, 1e2), lambda _: Weights(40), _LINEAR, "excess",
        1e-6, 400, FINITE,
    ),
    Case(
        "least squares 1e4, 8192 items", lambda s: Linear(s, 8192, 1e4), lambda _: Weights(40), _LINEAR, "excess",
        1e-3, 400, FINITE,
    ),
    Case(
        "rings", Rings, lambda s: MLP(2, 1, (20, 20), seed=s).double(), (Adam(lr=3e-3), SelfScaled()), "error", 0.16,
        600,
    ),
    Case("heat", lambda _: CoarseHeat(), CoarseHeat().model, _SMALL, "relative_l2", 1e-4, 1500),
    Case("convection", lambda _: CoarseConvection(), CoarseConvection().model, _SMALL, "relative_l2", 1e-2, 2000),
    Case("rod oscillatory", lambda _: _ROD, lambda s: _BAR.network(_ROD, s), _SMALL, "relative_l2", 1e-3, 2000),
    *FORMERLY_UNSEEN,
)  # fmt: skip
