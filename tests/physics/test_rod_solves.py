"""The rod as users solve it: every case and form reaches its bar with the default settings."""

import pytest
import torch
from sciml_rod import CASES, Displacement, PointLoad, Rod, StrongForm, WeakForm
from torch import nn

import sciml

BARS = {
    ("smooth", "strong"): 1e-6,
    ("smooth", "weak"): 1e-5,
    ("smooth", "energy"): 1e-5,
    ("bimaterial", "strong"): 1e-6,
    ("bimaterial", "weak"): 1e-5,
    ("bimaterial", "energy"): 1e-5,
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "form"), BARS)
def test_the_defaults_reach_the_bar(case: str, form: str) -> None:
    problem = CASES[case].form(form)
    solution = sciml.solve(problem, CASES[case].network(problem, seed=1), seed=1, budget=sciml.Budget(evaluations=8000))
    assert solution.result is sciml.Result.CONVERGED
    assert solution.values["relative_l2"] < BARS[case, form]
    assert solution.values["held_out_balance"] < 1e-4


@pytest.mark.slow
def test_an_indeterminate_bar_with_a_point_load_in_si_units() -> None:
    rod = Rod(
        3.0, (8.4e7, 2.8e7), (31.0, 10.6), right=Displacement(1e-4),
        point_loads=(PointLoad(2.0, -8e3),), breakpoints=(1.2,),
    )  # fmt: skip
    for form in (StrongForm(rod, points=128), WeakForm(rod)):
        solution = sciml.solve(form, form.network((12, 12)), seed=0, budget=sciml.Budget(evaluations=2000))
        assert solution.values["relative_l2"] < 1e-5


@pytest.mark.slow
def test_a_smooth_network_cannot_hold_two_materials_and_the_check_says_so() -> None:
    form = WeakForm(CASES["bimaterial"].rod, cells=48)
    model = sciml.pde.MLP(1, 1, (20, 20), domain=sciml.pde.Interval(0, 1)).double()
    solution = sciml.solve(form, model, seed=0, budget=sciml.Budget(evaluations=1000))
    assert solution.loss < 1e-3
    assert solution.values["held_out_balance"] > 1e-2


@pytest.mark.rounding
def test_a_short_solve_makes_progress() -> None:
    problem = CASES["smooth"].form("weak")
    model: nn.Module = problem.network((12, 12))
    before = problem.evaluate(model)["relative_l2"]
    solution = sciml.solve(problem, model, seed=0, budget=sciml.Budget(evaluations=150))
    assert solution.values["relative_l2"] < 0.05 * before
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
