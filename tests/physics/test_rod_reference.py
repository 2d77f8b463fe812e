"""The reference solution of the bar against finite elements, collocation by scipy, closed forms and statics."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from rod_solutions import RODS, finite_elements  # pyright: ignore[reportMissingImports]
from sciml_rod import CASES, Displacement, PointLoad, Rod, Traction, reference_solution
from scipy.integrate import solve_bvp

from sciml.errors import InputError


@pytest.mark.parametrize("name", RODS)
def test_finite_elements_converge_to_the_reference_at_their_rate(name: str) -> None:
    rod = RODS[name]
    x = np.linspace(0, rod.length, 301)[1:-1]
    exact = reference_solution(rod).displacement(x)
    errors = [np.abs(finite_elements(rod, cells, x) - exact).max() / np.abs(exact).max() for cells in (8, 16, 32)]
    assert errors[-1] < 1e-5
    if errors[0] > 1e-9:  # polynomials of degree 2 are met exactly
        assert np.log2(errors[0] / errors[1]) > 2.7
        assert np.log2(errors[1] / errors[2]) > 2.7


def test_scipy_solves_the_same_boundary_value_problem() -> None:
    rod = RODS["held at both ends"]
    assert isinstance(rod.left, Displacement)
    assert isinstance(rod.right, Displacement)
    low, high = rod.left.value, rod.right.value

    def slopes(x, state):  # state: u, N
        at = torch.from_numpy(x)
        return np.stack([state[1] / rod.EA(at).numpy(), -rod.f(at).numpy()])

    x = np.linspace(0, 1, 50)
    answer = solve_bvp(slopes, lambda a, b: np.array([a[0] - low, b[0] - high]), x, np.zeros((2, 50)), tol=1e-11)
    reference = reference_solution(rod)
    assert np.abs(answer.sol(x)[0] - reference.displacement(x)).max() < 1e-10
    assert np.abs(answer.sol(x)[1] - reference.force(x)).max() < 1e-9


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_the_cases_have_the_solution_they_claim(case) -> None:
    x = (np.arange(1000) + 0.5) / 1000
    reference = reference_solution(case.rod)
    at = torch.from_numpy(x)
    assert np.abs(reference.displacement(x) - case.displacement(at).numpy()).max() < 1e-12
    assert np.abs(reference.force(x) - case.force(at).numpy()).max() < 1e-11


def test_the_bimaterial_energy() -> None:
    assert reference_solution(CASES["bimaterial"].rod).energy == pytest.approx(-18.9416666667, rel=1e-10)


@pytest.mark.parametrize("name", [n for n, r in RODS.items() if not isinstance(r.right, Displacement)])
def test_the_support_carries_all_loads(name: str) -> None:
    """Pulled at the right: N(0) is the sum of everything that acts on the bar."""
    rod = RODS[name]
    nodes = np.array(rod.nodes)
    t, w = np.polynomial.legendre.leggauss(40)
    total = sum(force.force for force in rod.point_loads)
    for a, b in pairwise(nodes):
        x = torch.from_numpy((a + b) / 2 + (b - a) / 2 * t)
        total += float((torch.from_numpy(w) * rod.f(x)).sum()) * (b - a) / 2
    assert isinstance(rod.right, Traction)
    assert reference_solution(rod).force(np.zeros(1))[0] == pytest.approx(total + rod.right.force, rel=1e-12)


@pytest.mark.parametrize("name", ["point loads", "point load, held", "steel in SI units"])
def test_the_force_falls_by_a_point_load_and_the_displacement_does_not_jump(name: str) -> None:
    rod = RODS[name]
    reference = reference_solution(rod)
    for load in rod.point_loads:
        sides = np.array([np.nextafter(load.position, 0), load.position])
        before, after = reference.force(sides)
        assert after - before == pytest.approx(-load.force, rel=1e-10)
        assert np.diff(reference.displacement(sides))[0] == pytest.approx(0, abs=1e-12)


def test_ends_have_what_was_prescribed() -> None:
    for rod in RODS.values():
        reference = reference_solution(rod)
        for place, end, sign in ((0.0, rod.left, -1), (rod.length, rod.right, 1)):
            at = np.array([place])
            if isinstance(end, Displacement):
                assert reference.displacement(at)[0] == pytest.approx(end.value, abs=1e-13)
            else:
                assert reference.force(at)[0] == pytest.approx(sign * end.force, rel=1e-12)


def test_patch_test_constant_force_in_any_materials() -> None:
    rod = Rod(2.0, (1.0, 4.0, 0.5), right=Traction(3.0), breakpoints=(0.3, 1.1))
    reference = reference_solution(rod)
    x = np.array([0.1, 0.3, 0.7, 1.1, 2.0])
    assert reference.force(x) == pytest.approx(3.0)
    assert reference.displacement(x) == pytest.approx([0.3, 0.9, 1.2, 1.5, 1.5 + 3 * 0.9 / 0.5], rel=1e-12)


def test_clapeyron_half_the_work_of_dead_loads_is_stored() -> None:
    """Homogeneous supports: the potential energy at the solution is minus half the work of the loads."""
    rod = Rod(1.0, lambda x: 1 + x, lambda x: x, right=Traction(0.5), point_loads=(PointLoad(0.3, 1.0),))
    reference = reference_solution(rod)
    x, w = np.polynomial.legendre.leggauss(60)
    work = 0.0
    for a, b in ((0.0, 0.3), (0.3, 1.0)):
        at = (a + b) / 2 + (b - a) / 2 * x
        work += float(w @ (at * reference.displacement(at))) * (b - a) / 2
    work += 0.5 * reference.displacement(np.ones(1))[0] + reference.displacement(np.array([0.3]))[0]
    assert reference.energy == pytest.approx(-work / 2, rel=1e-12)


def test_an_undeclared_jump_is_refused() -> None:
    with pytest.raises(InputError, match="declare every jump"):
        reference_solution(Rod(stiffness=lambda x: torch.where(x < 1 / 3, 1.0, 2.0).to(x)))
