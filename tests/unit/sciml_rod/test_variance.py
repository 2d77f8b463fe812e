"""The comparison of gradient noise: its statistic against a closed form, its intervals honest, its verdict computed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sciml_rod import CASES, StrongForm
from sciml_rod.noise_study.ensemble import Ensemble, parameters
from sciml_rod.noise_study.estimators import Draw, make_estimators
from sciml_rod.noise_study.variance import Study, _training, intervals, measure, squared_deviations, summarize
from sciml_rod.noise_study.verdict import on_variance

import sciml


def test_relative_variance_of_a_gradient_known_in_closed_form() -> None:
    """Loss t * mean(z) + t^2 / 2 at t = 1 with z ~ N(2, 9): gradient 3, variance 9 / 64 per batch of 64."""
    form = StrongForm(CASES["smooth"].rod)
    model = form.network((2,))
    any_estimator = make_estimators(form, Ensemble(form, model))[0]

    def batch(z: torch.Tensor) -> Draw:
        return Draw(any_estimator.exact.at, z, z.new_zeros(len(z), 0))

    loss = lambda theta, draw: theta[:, 0] * draw.weights.mean(1) + theta[:, 0].square() / 2
    known = replace(
        any_estimator,
        draw=lambda members, g: batch(2 + 3 * torch.randn(members, 64, generator=g, dtype=torch.float64)),
        loss=loss,
        exact_loss=loss,
        exact=batch(torch.full((1, 1), 2.0, dtype=torch.float64)),
        check=batch(torch.full((1, 1), 2.3, dtype=torch.float64)),
    )
    theta = torch.ones(1, 1, dtype=torch.float64)
    values, inexact = squared_deviations(known, theta, 2000, torch.Generator().manual_seed(0))
    assert values.mean() == pytest.approx(9 / 64 / 9, rel=4 * np.sqrt(2 / 2000))
    assert inexact == pytest.approx(0.1)


def test_intervals_cover_the_true_ratio_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for seed in range(150):
        row = intervals(2 * random.exponential(size=100), random.exponential(size=100), seed=seed)
        assert row["variance_low"] < row["relative_variance"] < row["variance_high"]
        inside += row["ci_low"] < 2 < row["ci_high"]
    assert 0.88 <= inside / 150 <= 0.99  # nominal 0.95; two standard errors are 0.036


def test_intervals_shrink_with_more_batches_and_a_form_has_ratio_one_to_itself() -> None:
    random = np.random.default_rng(1)
    rows = [intervals(random.exponential(size=n), random.exponential(size=n), seed=0) for n in (50, 5000)]
    widths = [row["ci_high"] - row["ci_low"] for row in rows]
    assert widths[1] < 0.2 * widths[0]
    base = random.exponential(size=50)
    same = intervals(base, base, seed=0)
    assert (same["ratio_to_strong"], same["ci_low"], same["ci_high"]) == (1.0, 1.0, 1.0)


def row(state: str, seed: int, ratio: float, low: float, high: float, reliable: bool = True) -> dict:
    place = {"case": "smooth", "state": state, "form": "energy", "sampling": "cells", "seed": seed}
    numbers = {"relative_l2": 0.1, "relative_variance": 1.0, "ratio_to_strong": ratio, "ci_low": low, "ci_high": high}
    return place | numbers | {"reliable": reliable}


def test_the_verdict_follows_the_intervals_of_all_seeds() -> None:
    rows = [
        *(row("init", seed, 0.2, 0.1, 0.3) for seed in (0, 1)),
        row("mid", 0, 5.0, 4.0, 6.0),
        row("mid", 1, 50.0, 40.0, 60.0),
        row("late", 0, 2.0, 1.5, 3.0),
        row("late", 1, 0.9, 0.5, 1.4),
        row("end", 0, 9.0, 8.0, 10.0, reliable=False),
    ]
    summary = summarize(rows)
    assert [entry["compared"] for entry in summary] == ["lower", "higher", "undecided", "unreliable"]
    assert (summary[1]["ratio_to_strong"], summary[1]["ratio_to_strong_min"]) == (27.5, 5.0)
    (entry,) = on_variance(summary)
    assert [len(entry[name]) for name in ("lower", "higher", "undecided", "unreliable")] == [1, 1, 1, 1]
    assert "less noisy than the strong form in 1 by a factor of 5 (smooth init)" in entry["sentence"]
    assert "noisier in 1 by a factor of 28 (smooth mid)" in entry["sentence"]


SHORT = Study(("smooth",), (1,), batches=30, adam=(100, 0), finisher=(60, 150))


@pytest.mark.slow
def test_points_of_the_energy_are_noisier_near_the_solution_and_test_functions_are_not() -> None:
    rows = {(row["state"], row["form"], row["sampling"]): row for row in measure(SHORT)}
    assert {state for state, _, _ in rows} == {"init", "mid", "late", "close", "end"}
    assert rows["end", "strong", "points uniform"]["relative_l2"] < 1e-3
    assert all(row["reliable"] for row in rows.values())
    assert rows["end", "energy", "points uniform"]["ci_low"] > 1e3
    for state in ("init", "late", "end"):
        assert 0.1 < rows[state, "weak hats", "test functions"]["relative_variance"] < 100
    again = measure(SHORT)
    assert [row["relative_variance"] for row in again] == [row["relative_variance"] for row in rows.values()]


@pytest.mark.slow
@pytest.mark.parametrize("trajectory", ["weak", "energy"])
def test_the_states_may_lie_on_the_training_of_another_form(trajectory: str) -> None:
    study = replace(SHORT, trajectory=trajectory, batches=10)
    rows = list(measure(study))
    errors = [row["relative_l2"] for row in rows]
    assert errors[-1] < 1e-2 < errors[0]


def test_parameters_are_a_row_per_network() -> None:
    form = StrongForm(CASES["smooth"].rod)
    models = [form.network((3,), seed=seed) for seed in (0, 1)]
    table = parameters(models)
    assert table.shape == (2, 10)
    assert bool((table[0] != table[1]).any())


def test_an_interrupted_training_is_measured_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else rows of a model that was not trained would stand under the names of later states."""
    solve = sciml.solve
    solved = []

    def interrupted(*words, **more):
        solved.append(solve(*words, **{**more, "budget": sciml.Budget(evaluations=1)}))
        return replace(solved[-1], result=sciml.Result.INTERRUPTED)

    monkeypatch.setattr(sciml, "solve", interrupted)
    form = StrongForm(CASES["smooth"].rod)
    states = _training(CASES["smooth"], form, form.network((4,)), Study(), 0, None)
    assert next(states) == "init"
    with pytest.raises(KeyboardInterrupt):
        next(states)
    assert len(solved) == 1
