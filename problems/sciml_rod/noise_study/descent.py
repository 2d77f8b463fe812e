"""What the noise does to plain SGD: the largest stable step of every form, and the cost of an error with it.

The largest stable step is found by trial, from the same initial networks as the runs: step sizes on a geometric grid of
ratio 4, then of ratio sqrt 2, `trial` steps each with every seed. A step is stable if after half and all of the trial
the exact loss of every seed is finite and not above its start by more than half of the largest fall that any step size
brought that seed (at tiny steps noise may lift it a little: that is no instability). The answer is the last stable one
below the first that is not. The same with the exact gradient says what the curvature alone would allow. Step sizes of
different losses have different units and do not compare; the ratio of the two does.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml.pde import composite_gauss
from sciml.seeds import generator
from sciml_rod.cases import find_case
from sciml_rod.forms.strong import StrongForm
from sciml_rod.noise_study.ensemble import Ensemble, parameters
from sciml_rod.noise_study.estimators import EVALUATIONS, Draw, Estimator, make_controls, make_estimators
from sciml_rod.reference import reference_solution

EXACT = "exact gradient"
DIVERGED = 10.0
"""Relative error above which a run counts as diverged."""
TOLERATED = 0.5
"""Rise of the loss that a stable step may show, relative to the largest fall that any step size brought."""
SETTLED = 3
"""Looks in a row that must be at or below a target before it counts as reached."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        cases: names of bars.
        seeds: of networks and batches.
        steps: of every run.
        trial: steps of a trial of the step size.
        every: steps between two looks at the error.
        fractions: of the largest stable step.
        targets: relative L2 errors.
        grid: exponents of 2 of the smallest and the largest step tried.
    """

    cases: tuple[str, ...] = ("smooth", "bimaterial")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 3000
    trial: int = 200
    every: int = 20
    fractions: tuple[float, ...] = (1.0, 0.5)
    targets: tuple[float, ...] = (1e-1, 3e-2, 1e-2)
    grid: tuple[int, int] = (-12, 6)


def descend(plan: Plan) -> Iterator[dict[str, Any]]:
    """Run plain SGD from the same networks with every estimator, and with the exact gradient of every form.

    Yields:
        One row per case, estimator, fraction and seed: `step_size`; `step_kept`, its ratio to the largest stable step
        with the exact gradient; `evaluations_to_E` for every target E (None: not reached), `floor`, the median error
        over the last quarter, `scatter`, the ratio of its 90 % to its 10 % quantile there, `diverged`, and
        `milliseconds`, the processor time of one step of one run; `curve`, the error at every look.
    """
    for name in plan.cases:
        case = find_case(name)
        form = case.form("strong")
        assert isinstance(form, StrongForm)
        models = [case.network(form, seed) for seed in plan.seeds]
        ensemble, starts = Ensemble(form, models[0]), parameters(models)
        error = Errors(form, ensemble)
        controls = {control.form: control for control in make_controls(form, ensemble)}
        limits = {kind: stable_step(control, control, starts, plan) for kind, control in controls.items()}
        for estimator in [*controls.values(), *make_estimators(form, ensemble)]:
            exact = estimator.sampling == EXACT
            control, limit = controls[estimator.form], limits[estimator.form]
            step = limit if exact else stable_step(estimator, control, starts, plan)
            fractions = plan.fractions[:1] if exact else plan.fractions
            for row in _runs(estimator, starts, step, fractions, (plan, error)):
                yield {"case": name, **row, "step_kept": row["step_size"] / limit}


def _runs(
    estimator: Estimator, starts: Tensor, step: float, fractions: Sequence[float], how: tuple[Plan, "Errors"]
) -> Iterator[dict[str, Any]]:
    plan = how[0]
    seeds = len(plan.seeds)
    sizes = step * torch.tensor(fractions, dtype=torch.float64).repeat_interleave(seeds)
    curves = sgd(estimator, starts.repeat(len(fractions), 1), sizes, how)
    cost = milliseconds(estimator, starts[:1])
    for member in range(len(sizes)):
        yield {
            "form": estimator.form,
            "sampling": estimator.sampling,
            "fraction": fractions[member // seeds],
            "seed": plan.seeds[member % seeds],
            "step_size": float(sizes[member]),
            **judge(curves[:, member], plan),
            "milliseconds": cost,
            "curve": [float(f"{value:.4g}") for value in curves[:, member]],
        }


def sgd(
    estimator: Estimator, theta: Float[Tensor, "members n"], sizes: Float[Tensor, "members"], how: tuple[Plan, "Errors"]
) -> Float[np.ndarray, "looks members"]:
    """Plain SGD, all members at once, each with its own step size and its own batches.

    Returns:
        The relative L2 errors at the start and after every `plan.every` steps.
    """
    plan, error = how
    random = generator(plan.seeds[0], "descent", estimator.form, estimator.sampling)
    curves = [error(theta)]
    for _ in range(plan.steps // plan.every):
        theta = _advance(estimator, theta, sizes, plan.every, random)
        curves.append(error(theta))
    return torch.stack(curves).numpy()


def _advance(estimator: Estimator, theta: Tensor, sizes: Tensor, steps: int, random: torch.Generator) -> Tensor:
    members = len(theta)
    drawn = estimator.draw(members * steps, random)  # all at once: locating points costs as much as a step

    def part(step: int) -> Draw:
        return drawn.each(lambda column: column[step * members : (step + 1) * members])

    for step in range(steps):
        theta = theta - sizes[:, None] * estimator.gradient(theta, part(step))
    return theta


def stable_step(estimator: Estimator, control: Estimator, starts: Float[Tensor, "seeds n"], plan: Plan) -> float:
    """The largest stable step by trial; see the module.

    Args:
        estimator: the stochastic gradient.
        control: the exact one of the same form, whose loss is watched.
        starts: initial parameters, a row per seed.
        plan: length of the trials and grid. Where the grid does not hold the answer it is moved.
    """
    low, high = plan.grid
    random = generator(plan.seeds[0], "trial", estimator.form, estimator.sampling)
    for _ in range(4):
        coarse = 2.0 ** torch.arange(low, high + 1, 2, dtype=torch.float64)
        last = _last_stable(estimator, control, starts, (coarse, plan.trial, random))
        if last is not None and last < len(coarse) - 1:
            fine = coarse[last] * 2.0 ** (torch.arange(4, dtype=torch.float64) / 2)
            best = _last_stable(estimator, control, starts, (fine, plan.trial, random))
            return float(fine[best or 0])
        low, high = (low - 14, low) if last is None else (high, high + 14)
    raise ArithmeticError(f"no largest stable step of {estimator.form}, {estimator.sampling} between 2^{low}, 2^{high}")


def _last_stable(
    estimator: Estimator, control: Estimator, starts: Tensor, trial: tuple[Tensor, int, torch.Generator]
) -> int | None:
    """Index of the last stable step size below the first that is not; None if the first is not."""
    sizes, steps, random = trial
    begin = _exact_loss(control, starts)[:, None]
    theta, every = starts.repeat_interleave(len(sizes), 0), sizes.repeat(len(starts))
    good = torch.ones(len(sizes), dtype=torch.bool)
    for _ in range(2):
        for _ in range(steps // 20):
            theta = _advance(estimator, theta, every, 10, random)
        loss = _exact_loss(control, theta).view(len(starts), -1)
        fall = begin - torch.where(loss.isfinite(), loss, begin).amin(1, keepdim=True)
        good &= (loss.isfinite() & (loss <= begin + TOLERATED * fall.clamp(min=0))).all(0)
    return int(good.long().cumprod(0).sum()) - 1 if bool(good[0]) else None


def _exact_loss(control: Estimator, theta: Tensor) -> Tensor:
    with torch.no_grad():
        return control.exact_loss(theta, control.exact.expand(len(theta)))


def judge(curve: Float[np.ndarray, "looks"], plan: Plan) -> dict[str, Any]:
    """What is read from one error curve: evaluations to the targets, floor, scatter, whether it diverged."""
    curve = np.where(np.isfinite(curve), curve, np.inf)
    values: dict[str, Any] = {}
    for target in plan.targets:
        below = np.convolve(curve <= target, np.ones(SETTLED), "valid") == SETTLED
        first = int(np.argmax(below)) if below.any() else None
        values[f"evaluations_to_{target:g}"] = None if first is None else first * plan.every * EVALUATIONS
    last = curve[-max(len(curve) // 4, 1) :]
    diverged = bool(last.max() > DIVERGED)
    low, middle, high = (np.inf,) * 3 if diverged else np.quantile(last, (0.1, 0.5, 0.9))
    return values | {
        "floor": None if diverged else float(middle),
        "scatter": None if diverged else float(high / low),
        "diverged": diverged,
    }


def milliseconds(estimator: Estimator, theta: Float[Tensor, "1 n"], steps: int = 20) -> float:
    """Processor time of one step of one run: the fastest of five blocks, draws included."""
    random, sizes = generator(0, "time"), torch.zeros(1, dtype=torch.float64)
    spent = []
    for _ in range(5):
        begin = time.process_time()
        _advance(estimator, theta, sizes, steps, random)
        spent.append(time.process_time() - begin)
    return min(spent) / steps * 1e3


class Errors:
    """Relative L2 errors of the displacement for all members of an ensemble."""

    def __init__(self, form: StrongForm, ensemble: Ensemble) -> None:
        parts = len(form.unit.nodes) - 1
        x, weights = composite_gauss(form.unit.nodes, points=4, cells=max(8, 40 // parts))
        self._ensemble, self._at, self._weights = ensemble, ensemble.at(x.reshape(1, -1)), weights.reshape(-1)
        self._u = torch.from_numpy(reference_solution(form.unit).displacement(x.reshape(-1).numpy()))
        self._norm = (self._weights * self._u.square()).sum().sqrt()

    def __call__(self, theta: Float[Tensor, "members n"]) -> Float[Tensor, "members"]:
        """The error of every member."""
        with torch.no_grad():
            u, _ = self._ensemble.field(theta, self._at, 1)
            return (self._weights * (u - self._u).square()).sum(1).sqrt() / self._norm


def summarize(rows: Sequence[Mapping[str, Any]], targets: Sequence[float]) -> list[dict[str, Any]]:
    """Across seeds: one row per case, estimator and fraction, without the curves.

    Returns:
        `evaluations_to_E`: the median if more than half of the seeds reached E, else None, and `reached_E`, the
        fraction that did; medians of `floor` and `scatter` over the seeds that did not diverge; `diverged`, a fraction.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["form"], row["sampling"], row["fraction"]), []).append(row)
    found = []
    for (case, form, sampling, fraction), own in groups.items():
        summary: dict[str, Any] = {"case": case, "form": form, "sampling": sampling, "fraction": fraction}
        summary |= {name: own[0][name] for name in ("step_size", "step_kept", "milliseconds")} | {"seeds": len(own)}
        for target in targets:
            costs = [entry[f"evaluations_to_{target:g}"] for entry in own]
            middle = float(np.median([np.inf if cost is None else cost for cost in costs]))
            summary[f"evaluations_to_{target:g}"] = middle if np.isfinite(middle) else None
            summary[f"reached_{target:g}"] = sum(cost is not None for cost in costs) / len(costs)
        for name in ("floor", "scatter"):
            values = [entry[name] for entry in own if entry[name] is not None]
            summary[name] = float(np.median(values)) if values else None
        found.append(summary | {"diverged": sum(entry["diverged"] for entry in own) / len(own)})
    return found
