"""Quadrature is exact to its degree, and test functions integrate like finite elements."""

import math

import pytest
import torch

from sciml.errors import InputError
from sciml.pde import (
    Box,
    Disk,
    Interval,
    box_gauss,
    bubbles,
    composite_gauss,
    concatenate,
    derivative,
    disk_gauss,
    dot,
    gauss_legendre,
    gradient,
    hats,
    sines,
    tensor_product,
)

NODES = [0.0, 0.2, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("points", [1, 2, 5, 9])
def test_gauss_is_exact_to_twice_its_points(points: int) -> None:
    x, w = gauss_legendre(points)
    for degree in range(2 * points):
        exact = 2 / (degree + 1) if degree % 2 == 0 else 0.0
        assert float((w * x**degree).sum()) == pytest.approx(exact, abs=1e-14)
    assert abs(float((w * x ** (2 * points)).sum()) - 2 / (2 * points + 1)) > 1e-6


def test_composite_gauss_integrates_jumps_at_its_breakpoints() -> None:
    x, w = composite_gauss([0.0, 0.3, 1.0], points=3, cells=2)
    assert x.shape == w.shape == (4, 3)
    step = torch.where(x < 0.3, x**2, 5 + x**5)
    exact = 0.3**3 / 3 + 5 * 0.7 + (1 - 0.3**6) / 6
    assert float((w * step).sum()) == pytest.approx(exact, rel=1e-14)
    with pytest.raises(InputError, match="ascending"):
        composite_gauss([0.0, 0.5, 0.5], points=2)


def test_hats_are_a_partition_of_unity() -> None:
    v = hats(NODES, points=3, left=True, right=True)
    assert len(v) == 5
    assert float(v.integrate(v.value).sum()) == pytest.approx(1.0)
    assert float(v.integrate(v.value * v.x**2).sum()) == pytest.approx(1 / 3)
    assert v.integrate(v.slope).tolist() == pytest.approx([-1, 0, 0, 0, 1], abs=1e-14)


def test_hats_test_like_the_stiffness_matrix_of_finite_elements() -> None:
    """For a piecewise linear u the virtual work against the hats is K u with the tridiagonal stiffness matrix."""
    nodes = torch.tensor(NODES, dtype=torch.float64)
    values = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.7], dtype=torch.float64)
    v = hats(NODES, points=2, left=True, right=True)
    cell = torch.searchsorted(nodes, v.x.squeeze(-1), right=True) - 1
    slope = (values.diff() / nodes.diff())[cell][..., None]
    stiffness = torch.zeros(5, 5, dtype=torch.float64)
    for i, h in enumerate(nodes.diff()):
        stiffness[i : i + 2, i : i + 2] += torch.tensor([[1, -1], [-1, 1]], dtype=torch.float64) / h
    assert torch.allclose(v.integrate(slope * v.slope), stiffness @ values, atol=1e-13)


def test_slopes_are_the_derivatives_of_the_values() -> None:
    """Integration by parts: the integral of v g' is minus that of v' g for functions that vanish at their ends."""
    families = (hats(NODES, 8), bubbles(NODES, 4, 12), sines(Interval(0, 2), 6, 12))
    for v in families:
        g = torch.exp(v.x)
        assert torch.allclose(v.integrate(v.value * g), -v.integrate(v.slope * g), atol=1e-10)


def test_bubbles_are_orthogonal_in_slope_and_vanish_at_the_ends() -> None:
    v = bubbles([0.0, 0.5], degree=5, points=8)
    assert len(v) == 4
    products = torch.stack([v.integrate(v.slope * v.slope[i]) for i in range(4)])
    assert torch.allclose(products, 4 * torch.eye(4, dtype=torch.float64), atol=1e-12)  # 2 / h
    assert torch.allclose(v.integrate(v.slope), torch.zeros(4, dtype=torch.float64), atol=1e-13)


def test_sines_are_orthogonal() -> None:
    v = sines(Interval(-1, 1), 5)
    for k in range(5):
        products = v.integrate(v.value * v.value[k])
        assert products.tolist() == pytest.approx([1.0 if j == k else 0.0 for j in range(5)], abs=1e-9)


def test_a_weak_form_reads_like_the_formula() -> None:
    """-u'' = pi^2 sin(pi x): the exact solution does no missing work, another does."""
    v = hats(Interval(0, 1).grid(16), points=6)
    load = math.pi**2 * torch.sin(math.pi * v.x)
    missing = lambda u: v.integrate(derivative(u, v.x) * v.slope - load * v.value).detach()
    assert float(missing(lambda x: torch.sin(math.pi * x)).abs().max()) < 1e-10
    assert float(missing(lambda x: 1.01 * torch.sin(math.pi * x)).abs().max()) > 1e-3


def test_taking_and_joining() -> None:
    v = concatenate(hats(NODES, 4), bubbles(NODES, 2, 8))
    assert len(v) == 7
    part = v.take(torch.tensor([5, 0]))
    assert torch.equal(part.integrate(part.value), v.integrate(v.value)[[5, 0]])
    with pytest.raises(InputError, match="equal"):
        concatenate(hats(NODES, 4), bubbles(NODES, 2, 7))


def test_faulty_meshes_are_refused() -> None:
    with pytest.raises(InputError, match="no hat function"):
        hats([0.0, 1.0])
    with pytest.raises(InputError, match="ascending"):
        hats([0.0, 0.0, 1.0])
    with pytest.raises(InputError, match="degree 2"):
        bubbles(NODES, 1)
    with pytest.raises(InputError, match="at least 1"):
        sines(Interval(0, 1), 0)


def test_gauss_on_a_box_and_on_a_disk_is_exact_for_polynomials() -> None:
    x, w = box_gauss(Box((0.0, -1.0), (2.0, 3.0)), points=3, cells=2)
    assert x.shape == (36, 2)
    assert float((w * x[:, 0] ** 5 * x[:, 1] ** 4).sum()) == pytest.approx(2**6 / 6 * (3**5 + 1) / 5, rel=1e-13)
    disk = Disk((1.0, -2.0), 3.0)
    x, w = disk_gauss(disk, points=4)
    assert bool(disk.contains(x).all())
    assert float(w.sum()) == pytest.approx(9 * math.pi)
    local = (x - torch.tensor([1.0, -2.0])) / 3
    assert float((w * local[:, 0] ** 4 * local[:, 1] ** 2).sum()) == pytest.approx(9 * math.pi / 64, rel=1e-13)
    assert float((w * local[:, 0] ** 3 * local[:, 1] ** 4).sum()) == pytest.approx(0.0, abs=1e-13)


def test_bilinear_functions_test_like_the_stencil_of_finite_elements() -> None:
    """Laplace's bilinear stiffness on squares is 8/3 in the middle, -1/3 at the eight neighbors; the mass is h^2."""
    grid = Interval(0.0, 1.0).grid(4)
    v = tensor_product(hats(grid), hats(grid))
    assert (len(v), v.x.shape[-1], v.gradient.shape[-1]) == (9, 2, 2)
    assert torch.allclose(v.integrate(v.value), torch.full((9,), 1 / 16, dtype=torch.float64))
    middle = lambda x: torch.relu(1 - (x - 0.5).abs() * 4).prod(dim=-1, keepdim=True)
    entries = v.integrate(dot(gradient(middle, v.x), v.gradient)).detach()
    expected = torch.full((9,), -1 / 3, dtype=torch.float64)
    expected[4] = 8 / 3
    assert torch.allclose(entries, expected, atol=1e-12)


def test_a_weak_form_in_a_plane_vanishes_at_the_solution_only() -> None:
    grid = Interval(0.0, 1.0).grid(5)
    v = tensor_product(hats(grid, points=8), sines(Interval(0.0, 2.0), 3))
    solution = lambda x: torch.sin(math.pi * x[..., :1]) * torch.sin(math.pi * x[..., 1:] / 2) * (1 + x[..., :1])
    load = lambda x: -sum(derivative(solution, x, order=2, dim=dim) for dim in (0, 1))

    def missing(u):
        return v.integrate(dot(gradient(u, v.x), v.gradient) - load(v.x) * v.value).detach()

    assert float(missing(solution).abs().max()) < 1e-8
    assert float(missing(lambda x: 1.01 * solution(x)).abs().max()) > 1e-3
    chosen = v.take(torch.tensor([7, 2]))
    assert torch.equal(chosen.gradient, v.gradient[[7, 2]])
