"""Plain SGD with many members: its steps against a loop, the stable step against 2 / L, its report against curves."""

import numpy as np
import pytest
import torch
from sciml_rod import CASES, StrongForm
from sciml_rod.noise_study.descent import Errors, Plan, descend, judge, sgd, stable_step, summarize
from sciml_rod.noise_study.ensemble import Ensemble, parameters
from sciml_rod.noise_study.estimators import EVALUATIONS, Estimator, make_controls
from sciml_rod.noise_study.verdict import on_steps


@pytest.fixture(scope="module")
def smooth() -> tuple[StrongForm, Ensemble, torch.Tensor, dict[str, Estimator]]:
    form = StrongForm(CASES["smooth"].rod)
    models = [form.network((6, 5), seed=seed) for seed in (0, 1)]
    ensemble = Ensemble(form, models[0])
    return form, ensemble, parameters(models), {control.form: control for control in make_controls(form, ensemble)}


def test_steps_with_the_exact_gradient_are_gradient_descent(smooth) -> None:
    form, ensemble, theta, controls = smooth
    plan = Plan(steps=12, every=4)
    error = Errors(form, ensemble)
    curves = sgd(controls["energy"], theta, torch.tensor([0.1, 0.05], dtype=torch.float64), (plan, error))
    by_hand = theta[1:].clone()
    for _ in range(12):
        by_hand = by_hand - 0.05 * controls["energy"].exact_gradient(by_hand)
    assert curves.shape == (4, 2)
    assert curves[-1, 1] == pytest.approx(float(error(by_hand)[0]), rel=1e-10)


def test_errors_are_those_of_the_form(smooth) -> None:
    form, ensemble, theta, _ = smooth
    model = form.network((6, 5), seed=1)
    assert float(Errors(form, ensemble)(theta)[1]) == pytest.approx(form.evaluate(model)["relative_l2"], rel=1e-6)


def test_the_largest_stable_step_of_a_quadratic_is_two_over_its_curvature(smooth) -> None:
    """Loss a t^2 / 2: gradient descent is stable up to 2 / a, on the grid of ratio sqrt 2; also off the first grid."""
    _, _, theta, controls = smooth
    for curvature in (3.0, 1e-5, 1e7):
        loss = lambda theta, draw, a=curvature: a * theta.square().sum(1) / 2
        quadratic = Estimator(
            "quadratic", "exact", controls["energy"].draw, loss, loss, *[controls["energy"].exact] * 2
        )
        found = stable_step(quadratic, quadratic, theta, Plan(trial=60))
        assert 2 / curvature / 2**0.5 * 0.999 <= found <= 2 / curvature * 1.001


def test_what_is_read_from_a_curve() -> None:
    plan = Plan(every=10, targets=(1e-1, 1e-2))
    curve = np.array([1.0, 0.09, 0.5, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02, 0.02, 0.02, 0.04])
    read = judge(curve, plan)
    assert read["evaluations_to_0.1"] == 3 * 10 * EVALUATIONS  # a single look below the target does not count
    assert read["evaluations_to_0.01"] is None
    assert read["floor"] == pytest.approx(0.02)
    assert not read["diverged"]
    assert judge(np.append(curve, np.nan), plan)["diverged"]


@pytest.mark.slow
def test_the_report_of_a_short_study_counts_what_its_rows_say() -> None:
    plan = Plan(("smooth",), (0, 1), steps=40, trial=20, every=10, targets=(100.0, 1e-9))
    rows = list(descend(plan))
    assert len(rows) == 2 * (4 + 2 * 11)  # four exact gradients; eleven estimators with two step sizes
    summary = summarize(rows, plan.targets)
    assert len(summary) == 26
    assert all(row["reached_1e-09"] == 0 and row["evaluations_to_1e-09"] is None for row in summary)
    strong = next(row for row in summary if (row["form"], row["sampling"]) == ("strong", "exact gradient"))
    assert (strong["evaluations_to_100"], strong["reached_100"], strong["step_kept"]) == (0.0, 1.0, 1.0)
    assert 0 < strong["milliseconds"] < 100
    text = " ".join(on_steps(summary, plan.targets))
    assert "smooth, cost of an error of 100" in text
    assert "larger steps" in text
