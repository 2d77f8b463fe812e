"""The stochastic gradients that the forms offer: what is drawn at random, and the loss of a draw.

Every draw costs 64 evaluations of the network and its derivatives. With x drawn on the bar (uniform: independently;
stratified: one in each of 64 equal cells), w = 1/64:

    strong               sum of w r(x)^2 + squares of the end and interface residuals, r = (EA u')' + f, scaled
    energy               sum of w (EA u'^2 / 2 - f u) - work of end and point forces             (Deep Ritz)
    weak sines           mean over 16 sines v of (sum of w (EA u' v' - f v) - forces v)^2        (VPINN)
    weak sines, halves   the same with the square replaced by the product of two independent halves of the draw

and with items drawn that carry a quadrature rule of their own:

    energy, cells        8 of 64 cells, 8 Gauss points each
    weak hats            8 of 64 hat functions v, 2 x 4 Gauss points each: mean of (∫ EA u' v' - f v - forces v)^2
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.pde import composite_gauss
from sciml_rod.forms.strong import StrongForm, edges
from sciml_rod.forms.weak import mesh, virtual_work
from sciml_rod.mechanics import Displacement, Rod, Traction
from sciml_rod.noise_study.ensemble import Ensemble, Places, join

EVALUATIONS = 64
SINES = 16
ITEMS = 64
"""Cells and hat functions that there are to draw from."""
CHOSEN = 8
"""Cells or hat functions in a draw, `EVALUATIONS / CHOSEN` Gauss points each."""


@dataclass(frozen=True)
class Draw:
    """One batch per member.

    Attributes:
        at: the points.
        weights: of the quadrature; for hat functions weight EA v'.
        external: work of the loads and forces on each hat function; empty for the other forms.
    """

    at: Places
    weights: Float[Tensor, "members points"]
    external: Float[Tensor, "members tests"]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Draw":
        """The same with every column changed."""
        return Draw(self.at.each(change), change(self.weights), change(self.external))

    def expand(self, members: int) -> "Draw":
        """The one batch for every member."""
        return self.each(lambda column: column.expand(members, *column.shape[1:]))


@dataclass(frozen=True)
class Estimator:
    """A stochastic gradient: a form and what is drawn at random.

    Attributes:
        form: name of the formulation in the tables.
        sampling: name of what is drawn, likewise.
        draw: so many independent batches of 64 network evaluations.
        loss: the loss of each member on its batch.
        exact_loss: the loss whose exact gradient it estimates (the same, except for the two halves).
        exact: the batch, one for all members, whose loss has the exact gradient.
        check: the same by another quadrature rule: tells how exact the exact one is.
    """

    form: str
    sampling: str
    draw: Callable[[int, torch.Generator], Draw]
    loss: Callable[[Tensor, Draw], Tensor]
    exact_loss: Callable[[Tensor, Draw], Tensor]
    exact: Draw
    check: Draw

    def gradient(self, theta: Float[Tensor, "members n"], draw: Draw) -> Float[Tensor, "members n"]:
        """The gradient of each member on its batch."""
        return _gradient(self.loss, theta, draw)

    def exact_gradient(self, theta: Float[Tensor, "members n"], check: bool = False) -> Float[Tensor, "members n"]:
        """The exact gradient of each member, by the fine rule (or by the other one, to check)."""
        return _gradient(self.exact_loss, theta, (self.check if check else self.exact).expand(len(theta)))

    @property
    def stratified(self) -> bool:
        """Whether its draws are spread evenly."""
        return self.sampling.endswith("stratified")


def _gradient(loss: Callable[[Tensor, Draw], Tensor], theta: Tensor, draw: Draw) -> Tensor:
    with torch.enable_grad():
        theta = theta.detach().requires_grad_(True)
        return torch.autograd.grad(loss(theta, draw).sum(), theta)[0]


class Losses:
    """The losses of the forms for all members of an ensemble at once. Each takes (parameters, draw)."""

    def __init__(self, ensemble: Ensemble, form: StrongForm) -> None:
        self.ensemble, unit = ensemble, form.unit
        self.scale = form.load_scale
        ends = edges(unit, interface=form.interface, like=torch.zeros(1, dtype=torch.float64))
        self.edges, self._at_edges = ends, ensemble.at(ends.x[None, :, 0])
        places, forces = _forces(unit)
        self._forces, self._at_forces = forces, ensemble.at(places[None])
        self._unit = unit

    def strong(self, theta: Tensor, draw: Draw) -> Tensor:
        """Weighted mean square of the residual, and the end and interface residuals in full."""
        count, ends = draw.at.x.shape[1], self.edges
        places = join(draw.at, self._at_edges)
        _, slope, bend = self.ensemble.field(theta, places, 2)
        inside = places.stiffness * bend + places.stiffness_slope * slope + places.load
        loss = (draw.weights * (inside[:, :count] / self.scale).square()).sum(1)
        force = ends.stiffness[:, 0] * slope[:, count:]
        pulled, pairs = len(ends.end_force), len(ends.point_force)
        if pulled:
            loss = loss + (force[:, :pulled] - ends.end_force[:, 0]).square().sum(1)
        if pairs:
            jump = force[:, pulled + pairs :] - force[:, pulled : pulled + pairs] + ends.point_force[:, 0]
            loss = loss + jump.square().sum(1)
        return loss

    def energy(self, theta: Tensor, draw: Draw) -> Tensor:
        """The potential energy."""
        count = draw.at.x.shape[1]
        u, slope = self.ensemble.field(theta, join(draw.at, self._at_forces), 1)
        at, strain = draw.at, slope[:, :count]
        inside = (draw.weights * (at.stiffness * strain.square() / 2 - at.load * u[:, :count])).sum(1)
        return inside - (self._forces * u[:, count:]).sum(1)

    def sines(self, theta: Tensor, draw: Draw) -> Tensor:
        """Mean square of the missing work against the sines. The batch stands inside the square: biased."""
        return self._work(theta, draw).sum(1).square().mean(-1)

    def halves(self, theta: Tensor, draw: Draw) -> Tensor:
        """Product of the missing works of two halves of the batch: unbiased if they are independent."""
        work = self._work(theta, draw)
        half = work.shape[1] // 2
        return 4 * (work[:, :half].sum(1) * work[:, half:].sum(1)).mean(-1)

    def hats(self, theta: Tensor, draw: Draw) -> Tensor:
        """Mean square of the missing work against hat functions, each with its own quadrature."""
        _, slope = self.ensemble.field(theta, draw.at, 1)
        tests = draw.external.shape[1]
        work = (draw.weights * slope).view(len(theta), tests, -1).sum(2) - draw.external
        return work.square().mean(1)

    def _work(self, theta: Tensor, draw: Draw) -> Tensor:
        """Missing work (members, points, sines): its sum over the points is the work."""
        _, slope = self.ensemble.field(theta, draw.at, 1)
        value, slopes = _sines(self._unit, draw.at.x)
        external = (self._forces[:, None] * _sines(self._unit, self._at_forces.x)[0][0]).sum(0)
        inside = (draw.at.stiffness * slope)[..., None] * slopes - draw.at.load[..., None] * value
        return draw.weights[..., None] * inside - external / draw.at.x.shape[1]


def make_estimators(form: StrongForm, ensemble: Ensemble) -> list[Estimator]:
    """All stochastic gradients of a bar that are compared."""
    losses = Losses(ensemble, form)
    parts = len(form.unit.nodes) - 1
    fine, other = (_rule(ensemble, form.unit, max(1, cells // parts), points) for cells, points in ((128, 8), (96, 10)))
    found = []
    for name, loss in (("strong", losses.strong), ("energy", losses.energy), ("weak sines", losses.sines)):
        for method in ("uniform", "stratified"):
            draw = _point_sampler(ensemble, stratified=method == "stratified")
            found.append(Estimator(name, f"points {method}", draw, loss, loss, fine, other))
    draw = _point_sampler(ensemble, stratified=False)
    found.append(Estimator("weak sines", "points, two halves", draw, losses.halves, losses.sines, fine, other))
    cells, hats = _cells(ensemble, form.unit), _hats(ensemble, form.unit, EVALUATIONS // CHOSEN // 2)
    precise = _hats(ensemble, form.unit, EVALUATIONS // CHOSEN)
    for suffix in ("", " stratified"):
        draw = _item_sampler(cells, ITEMS, stratified=bool(suffix))
        found.append(Estimator("energy", f"cells{suffix}", draw, losses.energy, losses.energy, cells, fine))
        draw = _item_sampler(hats, hats.external.shape[1], stratified=bool(suffix))
        found.append(Estimator("weak hats", f"test functions{suffix}", draw, losses.hats, losses.hats, hats, precise))
    return found


def make_controls(form: StrongForm, ensemble: Ensemble) -> list[Estimator]:
    """The exact gradient of every form: by a Gauss rule of 128 points, of all hat functions."""
    losses, unit = Losses(ensemble, form), form.unit
    rule, hats = _rule(ensemble, unit, 16 // (len(unit.nodes) - 1), 8), _hats(ensemble, unit, 2)
    table = {"strong": (losses.strong, rule), "energy": (losses.energy, rule), "weak sines": (losses.sines, rule),
             "weak hats": (losses.hats, hats)}  # fmt: skip
    return [
        Estimator(name, "exact gradient", lambda members, _, full=full: full.expand(members), loss, loss, full, full)
        for name, (loss, full) in table.items()
    ]


def _rule(ensemble: Ensemble, unit: Rod, cells: int, points: int) -> Draw:
    x, weights = composite_gauss(unit.nodes, points, cells)
    return Draw(ensemble.at(x.reshape(1, -1)), weights.reshape(1, -1), torch.zeros(1, 0, dtype=torch.float64))


def _cells(ensemble: Ensemble, unit: Rod) -> Draw:
    """All cells with their Gauss points."""
    x, weights = composite_gauss(mesh(unit, ITEMS), EVALUATIONS // CHOSEN)
    return Draw(ensemble.at(x.reshape(1, -1)), weights.reshape(1, -1), torch.zeros(1, 0, dtype=torch.float64))


def _hats(ensemble: Ensemble, unit: Rod, points: int) -> Draw:
    """All hat functions, each with `points` Gauss points on either half of its support."""
    work = virtual_work(unit, ITEMS, points)
    return Draw(ensemble.at(work.x.reshape(1, -1)), work.internal.reshape(1, -1), work.external[None])


def _point_sampler(ensemble: Ensemble, *, stratified: bool) -> Callable[[int, torch.Generator], Draw]:
    corner = torch.arange(EVALUATIONS, dtype=torch.float64)

    def draw(members: int, random: torch.Generator) -> Draw:
        x = torch.rand(members, EVALUATIONS, generator=random, dtype=torch.float64)
        if stratified:
            x = (corner + x) / EVALUATIONS
        return Draw(ensemble.at(x), torch.full_like(x, 1 / EVALUATIONS), x.new_zeros(members, 0))

    return draw


def _item_sampler(full: Draw, items: int, *, stratified: bool) -> Callable[[int, torch.Generator], Draw]:
    """Items with replacement: without it a finite set would look better than the same functions drawn from many."""
    points = full.at.x.shape[1] // items
    tests = full.external.shape[1] > 0  # hat functions are averaged, cells are summed
    weights = full.weights if tests else full.weights * (items / CHOSEN)
    corner = torch.arange(CHOSEN, dtype=torch.float64)

    def draw(members: int, random: torch.Generator) -> Draw:
        place = torch.rand(members, CHOSEN, generator=random, dtype=torch.float64)
        item = ((corner + place) / CHOSEN if stratified else place).mul(items).long().clamp_(max=items - 1)
        index = (item[..., None] * points + torch.arange(points)).reshape(members, -1)
        external = full.external[0, item] if tests else full.external.expand(members, 0)
        return Draw(full.at.each(lambda column: column[0, index]), weights[0, index], external)

    return draw


def _sines(unit: Rod, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sines of slope norm 1 that vanish where the bar is held, and their slopes; shape (..., SINES)."""
    number = torch.arange(1, SINES + 1, dtype=x.dtype, device=x.device)
    both = isinstance(unit.left, Displacement) and isinstance(unit.right, Displacement)
    wave = (number if both else number - 0.5) * torch.pi
    phase = wave * (x if isinstance(unit.left, Displacement) else 1 - x)[..., None]
    sign = 1.0 if isinstance(unit.left, Displacement) else -1.0
    return phase.sin() * 2**0.5 / wave, sign * phase.cos() * 2**0.5


def _forces(unit: Rod) -> tuple[Tensor, Tensor]:
    """Where given forces act, and how large they are."""
    ends = [(x, end.force) for x, end in ((0.0, unit.left), (1.0, unit.right)) if isinstance(end, Traction)]
    pairs = [*ends, *((load.position, load.force) for load in unit.point_loads)]
    table = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
