"""The two domains with a hole: references against finite differences, conditions term by term, known stresses."""

import math

import pytest
import torch
from sciml_pdes import Plate, PoissonHole
from sciml_pdes.collocation import Collocation
from sciml_pdes.equations.plate import PLATE, POISSON
from torch import Tensor

import sciml
from sciml.pde import Box

H = 1e-3


def inside(problem: Collocation, size: int = 200) -> Tensor:
    """Points far enough from the boundary for central differences."""
    points = problem.domain.sample(3 * size, torch.Generator().manual_seed(3))
    return points[problem.domain.distance(points)[:, 0] > 4 * H][:size]


def shifted(problem: Collocation, points: Tensor, axis: int, steps: int) -> Tensor:
    step = torch.zeros(2, dtype=torch.float64)
    step[axis] = steps * H
    return problem.reference(points + step)


def first(problem: Collocation, points: Tensor, axis: int) -> Tensor:
    """Central difference, fourth order."""
    at = lambda k: shifted(problem, points, axis, k)
    return (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * H)


def second(problem: Collocation, points: Tensor, axis: int) -> Tensor:
    """Central difference, fourth order."""
    at = lambda k: shifted(problem, points, axis, k)
    return (-at(-2) + 16 * at(-1) - 30 * at(0) + 16 * at(1) - at(2)) / (12 * H**2)


def mixed(problem: Collocation, points: Tensor) -> Tensor:
    """d2 / dx dy, by first differences of first differences."""

    def slope(steps: int) -> Tensor:
        return first(problem, points + torch.tensor([steps * H, 0.0], dtype=torch.float64), 1)

    return (slope(-2) - 8 * slope(-1) + 8 * slope(1) - slope(2)) / (12 * H)


def terms_of_reference(problem: Collocation, factor: float = 1.0) -> dict[str, float]:
    """Largest residual of each term for the reference (times a factor) in place of the network."""
    problem.field = lambda model, x: factor * problem.reference(x)
    try:
        model, batch = problem.model(0), problem.sample(100, torch.Generator().manual_seed(1))
        return {name: float(part.detach().abs().max()) for name, part in problem.least_squares(model, batch).items()}
    finally:
        del problem.field


@pytest.mark.parametrize("problem", [PoissonHole(), Plate()], ids=["poisson_hole", "plate"])
def test_every_term_vanishes_at_the_reference_only(problem: Collocation) -> None:
    assert max(terms_of_reference(problem).values()) < 1e-12
    wrong = terms_of_reference(problem, factor=1.01)
    assert wrong.pop("residual", 0.0) > 1e-3 or isinstance(problem, Plate)  # div sigma = 0 has no source
    assert min(wrong.values()) > 1e-3
    values = problem.evaluate(problem.model(0))
    assert 0.1 < values["relative_l2"] < 10
    assert float(problem.domain.distance(problem.grid).min()) > -1e-12
    # The picture has the lattice's shape, and nothing where the hole is.
    picture = problem.picture(problem.truth)
    assert picture.shape == (101, 101)
    assert int(picture.isnan().sum()) == len(problem.lattice) - len(problem.grid) > 400


def test_poisson_by_finite_differences() -> None:
    problem = PoissonHole()
    points = inside(problem)
    laplacian = second(problem, points, 0) + second(problem, points, 1)
    assert torch.allclose(laplacian, torch.full_like(laplacian, -2.0), atol=1e-6)
    circle = problem.hole.boundary(50, torch.Generator().manual_seed(0)).points
    assert float(problem.reference(circle).abs().max()) < 1e-15
    assert float(problem.field(problem.model(3), circle).detach().abs().max()) < 1e-15
    # The given flux, by one-sided steps across the side x = 1.
    points, normals, flux = problem._sides
    right = points[:, 0] == 1
    assert int(right.sum()) == pytest.approx(40, abs=8)
    assert torch.equal(normals[right], torch.tensor([[1.0, 0.0]]).double().expand(int(right.sum()), 2))
    assert torch.allclose(flux[right], first(problem, points[right], 0), atol=1e-8)


def test_plate_is_in_equilibrium_by_finite_differences() -> None:
    """Navier's equations of plane stress: mu Laplacian u + (E / 2 (1 - nu)) grad div u = 0 with mu = E / 2 (1 + nu)."""
    problem = Plate()
    points = inside(problem)
    xx, yy, xy = second(problem, points, 0), second(problem, points, 1), mixed(problem, points)
    grad_div = torch.stack([xx[:, 0] + xy[:, 1], xy[:, 0] + yy[:, 1]], dim=1)
    force = (xx + yy) / (2 * (1 + POISSON)) + grad_div / (2 * (1 - POISSON))
    assert float(xx.abs().max()) > 1
    assert float(force.abs().max()) < 1e-4


def test_kirsch_stresses() -> None:
    """Three times the tension beside the hole, minus one above it, the tension far away, no traction on the hole."""
    problem = Plate()

    def at(x: float, y: float) -> list[float]:
        point = torch.tensor([[x, y]], dtype=torch.float64, requires_grad=True)
        stress = PLATE.stress(problem.reference(point), point).detach()[0]
        return [float(stress[i, j]) for i, j in ((0, 0), (1, 1), (0, 1))]

    assert at(0.0, 0.25) == pytest.approx([3.0, 0.0, 0.0], abs=1e-12)
    assert at(0.25, 0.0) == pytest.approx([0.0, -1.0, 0.0], abs=1e-12)
    assert at(300.0, 200.0) == pytest.approx([1.0, 0.0, 0.0], abs=2e-6)
    half = math.sqrt(0.5) * 0.25
    xx, yy, xy = at(half, half)
    assert (xx + xy, xy + yy) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_the_plate_keeps_its_symmetry_whatever_the_network_says() -> None:
    problem, generator = Plate(), torch.Generator().manual_seed(0)
    model, quarter = problem.model(4), Box((0.0, 0.0), (1.0, 1.0))
    for axis in (0, 1):
        points = quarter.face(axis, "lower", 60, generator)
        x = points[problem.domain.contains(points)].requires_grad_(True)
        u = problem.field(model, x)
        assert float(u[:, axis].detach().abs().max()) == 0
        assert float(u[:, 1 - axis].detach().abs().max()) > 1e-3
        assert float(PLATE.stress(u, x)[:, 0, 1].detach().abs().max()) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("problem", [PoissonHole(), Plate()], ids=["poisson_hole", "plate"])
def test_it_is_solved_to_three_digits_in_thirty_steps(problem: Collocation) -> None:
    solution = sciml.solve(problem, problem.model(0), [sciml.GaussNewton(steps=30)], seed=0)
    assert problem.evaluate(solution.model)["relative_l2"] < 1e-3
