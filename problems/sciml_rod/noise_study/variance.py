"""How noisy the gradients of the forms are, at equal numbers of network evaluations.

Every form gets batches that cost 64 evaluations of the network and its derivatives; see `estimators` for what is drawn.
At a state theta of a training,

    relative variance = tr Cov(g_batch) / |g|^2

with the exact gradient g of the same form (a fine Gauss rule, all test functions), so units and norms of test functions
drop out; 1 means that a batch holds as much noise as signal. Absolute variances of different losses cannot be compared.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

import sciml
from sciml.runs.run import Run
from sciml.seeds import generator
from sciml_rod.cases import Case, find_case
from sciml_rod.forms.form import RodForm
from sciml_rod.forms.strong import StrongForm
from sciml_rod.noise_study.ensemble import Ensemble, parameters
from sciml_rod.noise_study.estimators import EVALUATIONS, Estimator, make_estimators

BOOTSTRAP = 2000
INEXACT = 0.1
"""Relative difference of the exact gradient between two rules above which its size, and so the row, means nothing."""
NEAR = {"close": 1e-3, "end": 1e-6}
"""Relative L2 errors at which the finisher stops: two states that are defined by the error, whatever Adam reached."""

KEY = ("case", "state", "form", "sampling")


@dataclass(frozen=True)
class Study:
    """What to measure.

    Attributes:
        cases: names of bars.
        seeds: of network, training and batches: all is repeated for each.
        batches: random batches per row.
        trajectory: the form along whose training the states lie.
        device: where the training computes.
        adam: steps of Adam, on batches of 64 items, from the start to `mid` and from there to `late`; 0 leaves the
            second leg to the finisher.
        finisher: iterations of the finisher to `late` (where Adam does not go there), and at most to `close` and to
            `end`, where it stops at the errors `NEAR`.
    """

    cases: tuple[str, ...] = ("smooth", "oscillatory", "bimaterial")
    seeds: tuple[int, ...] = (0,)
    batches: int = 150
    trajectory: str = "strong"
    device: str = "cpu"
    adam: tuple[int, int] = (1000, 2000)
    finisher: tuple[int, int] = (60, 4000)


def measure(study: Study, run: Run | None = None) -> Iterator[dict[str, Any]]:
    """Train each bar and measure every estimator at the states on the way.

    Args:
        study: what to measure.
        run: where the trainings keep metrics and checkpoints.

    Yields:
        One row per case, seed, state and estimator: `relative_variance` with its 95 % interval `variance_low`,
        `variance_high`; `ratio_to_strong`, its ratio to the strong form with points drawn as evenly (stratified with
        stratified, otherwise uniform), with the interval `ci_low`, `ci_high`; the error `relative_l2` of the state;
        `gradient_error`, how exactly the gradient is known, and `reliable`, whether that of both forms suffices.
    """
    for name in study.cases:
        case = find_case(name)
        form, strong = case.form(study.trajectory), case.form("strong")
        assert isinstance(strong, StrongForm)
        for seed in study.seeds:
            model = case.network(form, seed).to(study.device)
            estimators = make_estimators(strong, Ensemble(strong, model))
            for state in _training(case, form, model, study, seed, run):
                place = {"case": name, "state": state, "relative_l2": form.evaluate(model)["relative_l2"], "seed": seed}
                yield from _rows(estimators, parameters([model]), study, place)


def _rows(
    estimators: Sequence[Estimator], theta: Tensor, study: Study, place: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    measured = {}
    for estimator in estimators:
        random = generator(place["seed"], "variance", place["case"], place["state"], estimator.form, estimator.sampling)
        spread, inexact = squared_deviations(estimator, theta, study.batches, random)
        measured[estimator.form, estimator.sampling] = spread, inexact
    for estimator in estimators:
        base, base_inexact = measured["strong", "points stratified" if estimator.stratified else "points uniform"]
        spread, inexact = measured[estimator.form, estimator.sampling]
        yield {
            **{name: place[name] for name in ("case", "seed", "state", "relative_l2")},
            "form": estimator.form,
            "sampling": estimator.sampling,
            **intervals(spread, base, place["seed"]),
            "gradient_error": inexact,
            "reliable": max(inexact, base_inexact) <= INEXACT,
            "trajectory": study.trajectory,
            "evaluations": EVALUATIONS,
            "batches": study.batches,
        }


def squared_deviations(
    estimator: Estimator, theta: Float[Tensor, "1 parameters"], batches: int, random: Any
) -> tuple[Float[np.ndarray, "batches"], float]:
    """Noise of a stochastic gradient relative to the exact one.

    Args:
        estimator: draws the batches.
        theta: the state.
        batches: how many to draw.
        random: the generator.

    Returns:
        |g_b - mean|^2 / |g|^2 for every batch, scaled so that the mean is the unbiased relative variance; and the
        relative difference of the exact gradient g between two quadrature rules.
    """
    exact, check = estimator.exact_gradient(theta), estimator.exact_gradient(theta, check=True)
    drawn = estimator.gradient(theta.expand(batches, -1), estimator.draw(batches, random))
    spread = (drawn - drawn.mean(0)).square().sum(1) * (batches / (batches - 1)) / exact.square().sum()
    return spread.numpy(), float((exact - check).norm() / exact.norm())


def intervals(values: Float[np.ndarray, "batches"], base: Float[np.ndarray, "batches"], seed: int) -> dict[str, float]:
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


def summarize(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Across seeds: one row per case, state and estimator.

    Returns:
        Medians with smallest and largest value over the seeds (`..._min`, `..._max`) of the error, the relative
        variance and the ratio; `seeds`, and `compared`: `lower` or `higher` than the strong form if the interval of
        every seed says so, else `undecided` (the strong form: `itself`); `unreliable` if the exact gradient of a seed
        is not known well enough.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in KEY), []).append(row)
    found = []
    for key, own in groups.items():
        summary: dict[str, Any] = {**dict(zip(KEY, key, strict=True)), "seeds": len(own)}
        for name in ("relative_l2", "relative_variance", "ratio_to_strong"):
            values = np.array([entry[name] for entry in own])
            summary |= {name: float(np.median(values)), f"{name}_min": float(values.min())}
            summary |= {f"{name}_max": float(values.max())}
        found.append(summary | {"compared": _compare(own)})
    return found


def _compare(rows: Sequence[Mapping[str, Any]]) -> str:
    if rows[0]["form"] == "strong":
        return "itself"
    if not all(row["reliable"] for row in rows):
        return "unreliable"
    if all(row["ci_high"] < 1 for row in rows):
        return "lower"
    return "higher" if all(row["ci_low"] > 1 for row in rows) else "undecided"


def _training(case: Case, form: RodForm, model: nn.Module, study: Study, seed: int, run: Run | None) -> Iterator[str]:
    """Yields the name of each state of the training when the model is in it."""
    yield "init"
    first, second = study.adam
    plans = {
        "mid": sciml.Adam(steps=first, batch=_batch(form)),
        "late": sciml.Adam(steps=second, batch=_batch(form)) if second else sciml.SelfScaled(steps=study.finisher[0]),
        **dict.fromkeys(NEAR, sciml.SelfScaled(steps=study.finisher[1], tolerance=1e-12)),
    }
    for state, phase in plans.items():
        stage = run.stage(f"{case.name}-{seed}-{state}") if run else None
        budget = sciml.Budget(target={"relative_l2": NEAR[state]}) if state in NEAR else None
        sciml.solve(form, model, [phase], seed=seed, budget=budget, run=stage).whole()
        yield state


def _batch(form: RodForm) -> int:
    """64 points; of test functions and cells as many as cost that, or 8."""
    return EVALUATIONS if form.size is None else 8
