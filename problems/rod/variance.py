"""How noisy the gradients of the forms are, at equal numbers of network evaluations.

Every form gets batches that cost 64 evaluations of the network and its slope. At a state theta of the training,

    relative variance = tr Cov(g_batch) / |g|^2

with the exact gradient g of the same form (Gauss rule, all test functions), so units and norms of test functions drop
out; 1 means that a batch holds as much noise as signal. Absolute variances of different losses cannot be compared.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import sciml
from problems.rod.cases import Case, find_case
from problems.rod.energy import EnergyForm
from problems.rod.mechanics import Displacement, Rod, Traction
from problems.rod.strong import StrongForm
from problems.rod.weak import WeakForm
from sciml.batches import move
from sciml.pde import Interval, composite_gauss, derivatives
from sciml.run import Run
from sciml.seeds import generator

EVALUATIONS = 64
SINES = 16
BOOTSTRAP = 2000

Batch = Any


@dataclass(frozen=True)
class Study:
    """What to measure.

    Attributes:
        cases: names of bars.
        batches: random batches per row.
        seed: of network, training and batches.
        device: where to compute.
        adam: steps of Adam, on batches of 64 points, from the start to `mid` and from there to `late`; 0 leaves the
            second leg to the finisher.
        finisher: iterations of the finisher to `late` (where Adam does not go there) and to `end`.
    """

    cases: tuple[str, ...] = ("smooth", "oscillatory")
    batches: int = 150
    seed: int = 0
    device: str = "cpu"
    adam: tuple[int, int] = (1000, 2000)
    finisher: tuple[int, int] = (60, 800)


@dataclass(frozen=True)
class Entry:
    """A stochastic gradient: a form and what is drawn at random.

    Attributes:
        form, sampling: what it is called in the table.
        draw: a random batch of 64 network evaluations.
        loss: the loss of a batch.
        exact: the batch whose loss has the exact gradient.
    """

    form: str
    sampling: str
    draw: Callable[[torch.Generator], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    exact: Batch


def measure(study: Study, run: Run | None = None) -> list[dict[str, Any]]:
    """Train each bar in strong form and measure every entry at the states on the way.

    Args:
        study: what to measure.
        run: where the training keeps metrics and checkpoints.

    Returns:
        One row per case, state and entry: `relative_variance` with its 95 % interval `variance_low`, `variance_high`;
        `ratio_to_strong`, its ratio to the strong form with the same sampling of points (with uniform points for
        entries that do not sample points), with the interval `ci_low`, `ci_high`; the error `relative_l2` of the state.
    """
    rows = []
    for name in study.cases:
        case = find_case(name)
        form = StrongForm(case.rod, points=case.sizes["strong"]["points"])
        model = case.network(form, study.seed).to(study.device)
        entries = make_entries(case.rod)
        for state in _training(case, form, model, study, run):
            error = form.evaluate(model)["relative_l2"]
            spreads = {
                (entry.form, entry.sampling): _squared_deviations(entry, model, study, (name, state))
                for entry in entries
            }
            for (kind, sampling), values in spreads.items():
                base = spreads.get(("strong", sampling), spreads["strong", "points uniform"])
                rows.append(
                    {"case": name, "form": kind, "sampling": sampling, "state": state, "relative_l2": error}
                    | _intervals(values, base, study.seed)
                    | {"evaluations": EVALUATIONS, "batches": study.batches, "seed": study.seed}
                )
    return rows


def make_entries(rod: Rod) -> list[Entry]:
    """All stochastic gradients of a bar that are compared."""
    strong = StrongForm(rod)
    weak, energy = WeakForm(rod, cells=64, points=4), EnergyForm(rod, cells=64, points=6)
    x, weights = composite_gauss(strong.unit.nodes, points=8, cells=max(1, 128 // (len(strong.unit.nodes) - 1)))
    fine = (x.reshape(-1, 1), weights.reshape(-1, 1))
    entries = []
    losses = {
        "strong": lambda model, batch: strong_loss(strong, model, *batch),
        "energy": lambda model, batch: energy_loss(strong, model, *batch),
        "weak sines": lambda model, batch: sine_loss(strong, model, *batch),
    }
    for name, loss in losses.items():
        for method in ("uniform", "stratified"):
            entries.append(Entry(name, f"points {method}", _point_sampler(method), loss, fine))
    total = lambda form: lambda model, batch: torch.stack(list(form.loss(model, batch).values())).sum()
    for name, sampling, form in (("energy", "cells", energy), ("weak hats", "test functions", weak)):
        full = form.sample(None, torch.Generator())
        entries.append(Entry(name, sampling, _item_sampler(full), total(form), full))
    return entries


def strong_loss(form: StrongForm, model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean square of the residual, and the end residuals in full."""
    residual, edges = form.residuals(model, form.at(x))
    return (weights * residual.square()).sum() + sum(edges.values())


def energy_loss(form: StrongForm, model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """The potential energy with the integrals as weighted sums over points, as Deep Ritz takes them."""
    unit = form.unit
    u, slope = derivatives(lambda x: form.field(model, x), x, order=1)
    inside = (weights * (unit.EA(x) * slope.square() / 2 - unit.f(x) * u)).sum()
    places, forces = _forces(unit, x)
    return inside - (forces * form.field(model, places)).sum()


def sine_loss(form: StrongForm, model: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Mean square of the missing work against 16 sines, all integrated with the same points (a VPINN).

    The batch stands inside the square, so its expectation is the loss plus the variance of the work: a biased gradient.
    """
    unit = form.unit
    _, slope = derivatives(lambda x: form.field(model, x), x, order=1)
    value, slopes = _sines(unit, x)
    work = (weights * (unit.EA(x) * slope * slopes - unit.f(x) * value)).sum(0)
    places, forces = _forces(unit, x)
    return (work - (forces * _sines(unit, places)[0]).sum(0)).square().mean()


def _sines(unit: Rod, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sines of slope norm 1 that vanish where the bar is held, and their slopes; shape (points, SINES)."""
    number = torch.arange(1, SINES + 1, dtype=x.dtype, device=x.device)
    both = isinstance(unit.left, Displacement) and isinstance(unit.right, Displacement)
    wave = (number if both else number - 0.5) * torch.pi
    phase = wave * (x if isinstance(unit.left, Displacement) else 1 - x)
    sign = 1.0 if isinstance(unit.left, Displacement) else -1.0
    return phase.sin() * 2**0.5 / wave, sign * phase.cos() * 2**0.5


def _forces(unit: Rod, like: Tensor) -> tuple[Tensor, Tensor]:
    ends = [(x, end.force) for x, end in ((0.0, unit.left), (1.0, unit.right)) if isinstance(end, Traction)]
    table = like.new_tensor([*ends, *((load.position, load.force) for load in unit.point_loads)]).reshape(-1, 2)
    return table[:, :1], table[:, 1:]


def _point_sampler(method: str) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def draw(random: torch.Generator) -> tuple[Tensor, Tensor]:
        x = Interval(0.0, 1.0).sample(EVALUATIONS, random, method)
        return x, torch.full_like(x, 1 / EVALUATIONS)

    return draw


def _item_sampler(full: Batch) -> Callable[[torch.Generator], Batch]:
    count, places = full.x.shape[:2]

    def draw(random: torch.Generator) -> Batch:
        # With replacement: without it a finite set would look better than the same functions drawn from many.
        index = torch.randint(count, (EVALUATIONS // places,), generator=random)
        return type(full)(*(column[index] for column in vars(full).values()))

    return draw


def _training(case: Case, form: StrongForm, model: nn.Module, study: Study, run: Run | None) -> Iterator[str]:
    """Yields the name of each state of the training when the model is in it."""
    yield "init"
    first, second = study.adam
    plans = {
        "mid": [sciml.Adam(steps=first, batch=EVALUATIONS)],
        "late": [sciml.Adam(steps=second, batch=EVALUATIONS) if second else sciml.SelfScaled(steps=study.finisher[0])],
        "end": [sciml.SelfScaled(steps=study.finisher[1])],
    }
    for state, phases in plans.items():
        stage = run.stage(f"{case.name}-{state}") if run else None
        sciml.solve(form, model, phases, seed=study.seed, run=stage)
        yield state


def _squared_deviations(
    entry: Entry, model: nn.Module, study: Study, purpose: tuple[str, str]
) -> Float[np.ndarray, "batches"]:
    """|g_b - mean|^2 / |exact g|^2 for every batch, scaled so that the mean is the unbiased relative variance."""
    parameters = list(model.parameters())

    def gradient(batch: Batch) -> Tensor:
        loss = entry.loss(model, move(batch, parameters[0]))
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)]).double()

    exact = gradient(entry.exact).square().sum()
    stream = ("variance", *purpose, entry.form, entry.sampling)
    draws = (entry.draw(generator(study.seed, *stream, counter=number)) for number in range(study.batches))
    drawn = torch.stack([gradient(batch) for batch in draws])
    spread = (drawn - drawn.mean(0)).square().sum(1) * (study.batches / (study.batches - 1))
    return (spread / exact).cpu().numpy()


def _intervals(values: np.ndarray, base: np.ndarray, seed: int) -> dict[str, float]:
    """Means, their ratio, and percentile bootstrap intervals over batches."""
    random = np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(BOOTSTRAP, len(values)))].mean(1)
    same = values is base
    others = means if same else base[random.integers(len(base), size=(BOOTSTRAP, len(base)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    ratio_low, ratio_high = np.percentile(means / others, (2.5, 97.5))
    return {
        "relative_variance": float(values.mean()),
        "variance_low": float(low),
        "variance_high": float(high),
        "ratio_to_strong": float(values.mean() / base.mean()),
        "ci_low": float(ratio_low),
        "ci_high": float(ratio_high),
    }
