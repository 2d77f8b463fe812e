"""The inverse bar: its truth, its data, and that each term vanishes at the truth only; solved to four digits."""

import pytest
import torch
from sciml_pdes import RodInverse
from sciml_pdes.equations.rod_inverse import SENSORS, true_stiffness
from scipy.integrate import solve_ivp

import sciml
from sciml.errors import InputError


def terms(problem: RodInverse, stiffness: float = 1.0, force: float = 0.8) -> dict[str, float]:
    """Largest residual of each term for the truth, its stiffness times a factor, and a force."""
    model, batch = problem.model(0), problem.sample(50, torch.Generator().manual_seed(1))
    factor = torch.tensor([1.0, stiffness], dtype=torch.float64)
    problem.field = lambda model, x: problem.reference(x) * factor
    with torch.no_grad():
        model.get_parameter("force").fill_(force)
    found = {name: float(part.detach().abs().max()) for name, part in problem.least_squares(model, batch).items()}
    del problem.field
    return found


def test_the_reference_solves_the_bar() -> None:
    """Against scipy's integration of u' = N / EA with N = 0.8 + 2 (1 - x)."""

    def slope(x: float, u: list[float]) -> list[float]:
        return [(2.8 - 2 * x) / float(true_stiffness(torch.tensor([x], dtype=torch.float64)))]

    problem, places = RodInverse(), [0.0, 0.17, 0.5, 0.83, 1.0]
    expected = solve_ivp(slope, (0, 1), [0.0], method="DOP853", t_eval=places, rtol=1e-12, atol=1e-14).y[0]
    found = problem.reference(torch.tensor(places, dtype=torch.float64)[:, None])
    assert found[:, 0].tolist() == pytest.approx(expected.tolist(), abs=1e-11)
    assert found[:, 1].tolist() == pytest.approx([1.0, *true_stiffness(torch.tensor(places[1:]).double()).tolist()])


def test_every_term_vanishes_at_the_truth_only() -> None:
    problem = RodInverse()
    assert max(terms(problem).values()) < 1e-12
    # Another stiffness with another force balances the bar too: only EA(0) = 1 tells them apart.
    assert terms(problem, stiffness=1.1)["residual"] > 0.05
    assert terms(problem, force=0.9)["force"] == pytest.approx(0.05)
    untrained = problem.field(problem.model(3), torch.zeros(1, 1, dtype=torch.float64)).detach()
    assert untrained.tolist() == [[0.0, 1.0]]


def test_noise_is_in_the_data_and_brings_a_prior() -> None:
    exact, noisy = RodInverse(), RodInverse(noise=0.01, seed=3)
    error = (noisy.data - exact.data) / exact.data.abs().max()
    assert float(error.std()) == pytest.approx(0.01, rel=0.3)
    assert len(error) == SENSORS
    assert torch.equal(noisy.data, RodInverse(noise=0.01, seed=3).data)
    assert not torch.equal(noisy.data, RodInverse(noise=0.01, seed=4).data)
    assert "prior" not in terms(exact)
    assert terms(noisy)["prior"] == pytest.approx(0.01 / (10 * SENSORS**0.5) * 10.9, rel=0.1)  # largest (ln EA)''
    for noise in (-1.0, float("nan")):
        with pytest.raises(InputError, match="not negative"):
            RodInverse(noise=noise)


@pytest.mark.slow
def test_stiffness_and_force_are_found() -> None:
    problem = RodInverse()
    solution = sciml.solve(problem, problem.model(0), [sciml.GaussNewton(steps=250)], seed=0)
    values = problem.evaluate(solution.model)
    assert values["relative_l2"] < 2e-4
    assert values["force"] < 2e-4
    assert values["displacement"] < 1e-6


@pytest.mark.slow
def test_noise_is_not_fitted_however_long_the_solve() -> None:
    """With a prior that allows rough functions the misfit fell to a tenth of the noise, and EA was off by 6 to 19 %."""
    misfits, errors = [], []
    for seed in range(2):
        problem = RodInverse(noise=1e-3, seed=seed)
        solution = sciml.solve(problem, problem.model(0), [sciml.GaussNewton(steps=250)], seed=0)
        with torch.no_grad():
            gap = (problem.field(solution.model, problem.sensors)[:, :1] - problem.data) / problem.scale
        misfits.append(float(gap.square().mean()) / problem.noise**2)
        errors.append(problem.evaluate(solution.model)["relative_l2"])
    assert 0.4 < sum(misfits) / 2 < 1.3
    assert sum(errors) / 2 < 0.08
