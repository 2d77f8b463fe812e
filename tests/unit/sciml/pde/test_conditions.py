"""Conditions: residuals vanish for fields that keep them and only for those; by construction any field keeps them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde import (
    MLP,
    Boundary,
    Box,
    Creases,
    Disk,
    Interval,
    blend,
    box_lift,
    derivative,
    dirichlet,
    exact_dirichlet,
    exact_initial,
    exact_neumann,
    initial_velocity,
    interface,
    neumann,
    normal_derivative,
    periodic,
    robin,
)

SQUARE = Box((-1.0, -1.0), (1.0, 1.0))
HOLE = Disk((0.2, 0.0), 0.4)
PLATE = SQUARE - HOLE
NET = MLP(2, 1, domain=SQUARE, seed=3).double()
G = lambda x: x[:, :1] ** 3 - x[:, 1:2] + 0.5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max())


def test_normal_derivatives_of_one_and_of_several_components() -> None:
    boundary = HOLE.boundary(50, seeded())
    u = lambda x: x[:, :1] ** 2 * x[:, 1:]
    x, y = boundary.points.split(1, dim=1)
    expected = 2 * x * y * boundary.normals[:, :1] + x**2 * boundary.normals[:, 1:]
    assert torch.allclose(normal_derivative(u, boundary), expected)
    both = normal_derivative(lambda x: torch.cat([u(x), 3 * u(x)], dim=1), boundary)
    assert torch.allclose(both, torch.cat([expected, 3 * expected], dim=1))


def test_soft_conditions_vanish_for_a_field_that_keeps_them() -> None:
    # ln r about the hole's center: u = ln R on the circle, du/dn = 1 / R.
    u = lambda x: (x - torch.tensor(HOLE.center, dtype=torch.float64)).norm(dim=1, keepdim=True).log()
    circle = HOLE.boundary(40, seeded())
    assert largest(dirichlet(u, circle.points, math.log(0.4))) < 1e-12
    assert largest(neumann(u, circle, 2.5)) < 1e-12
    assert largest(neumann(u, circle, lambda x: 5 + 0 * x[:, :1], coefficient=2.0)) < 1e-12
    assert largest(robin(u, circle, transfer=2.0, ambient=math.log(0.4) + 1.25)) < 1e-12
    assert largest(neumann(u, circle)) == pytest.approx(2.5)
    assert largest(robin(u, circle, transfer=2.0)) > 0.1


def test_periodic_compares_values_and_slopes() -> None:
    box = Box((0.0, 0.0), (2.0, 1.0))
    left = box.face(0, "lower", 30, seeded())
    wave = lambda x: torch.sin(math.pi * x[:, :1] + x[:, 1:])
    assert largest(periodic(wave, box, left)) < 1e-12
    assert periodic(wave, box, left).shape == (30, 2)
    shifted = lambda x: x[:, :1] * (2 - x[:, :1])  # equal values, opposite slopes
    assert largest(periodic(shifted, box, left, orders=1)) < 1e-12
    assert largest(periodic(shifted, box, left)) == pytest.approx(4.0)
    with pytest.raises(InputError, match="orders = 0"):
        periodic(wave, box, left, orders=0)


def test_initial_velocity() -> None:
    start = (Interval(0.0, 1.0) * Interval(0.0, 2.0)).at(0.0, 20, seeded())
    u = lambda x: x[:, :1] * torch.sin(3 * x[:, 1:])
    assert largest(initial_velocity(u, start, lambda x: 3 * x[:, :1])) < 1e-12
    assert largest(initial_velocity(u, start)) > 0.1


def test_interface_sees_the_jump_of_the_flux() -> None:
    """Conductivity 5 in a disk, 1 outside: r^2 inside, 5 r^2 - 4 R^2 outside has a continuous flux and value."""
    disk, square = Disk((0.0, 0.0), 0.5), lambda x: x.square().sum(dim=1, keepdim=True)
    u = lambda x: torch.where(square(x) < 0.25, square(x), 5 * square(x) - 1)
    boundary = disk.boundary(30, seeded())
    assert largest(interface(u, boundary, inside=5.0, outside=1.0)) < 1e-7
    assert largest(interface(square, boundary, inside=5.0, outside=1.0)) == pytest.approx(4.0, rel=1e-6)


def test_creases_let_a_network_bend_at_an_inclusion_only() -> None:
    disk = Disk((0.0, 0.0), 0.5)
    creases = Creases(SQUARE, [disk])
    u = nn.Sequential(creases, MLP(creases.outputs, 1, domain=creases.domain, seed=1)).double()
    jump = interface(u, disk.boundary(20, seeded()), inside=1.0, outside=1.0)
    assert float(jump.detach().abs().min()) > 1e-3
    assert largest(interface(u, Disk((0.3, 0.3), 0.5).boundary(20, seeded()), 1.0, 1.0)) < 1e-6
    with pytest.raises(InputError, match="other dimensions"):
        Creases(SQUARE, [Interval(0.0, 1.0)])


def test_dirichlet_by_construction_on_outline_and_hole() -> None:
    boundary = PLATE.boundary(300, seeded())
    assert largest(exact_dirichlet(NET, PLATE)(boundary.points)) < 1e-14
    assert largest(dirichlet(exact_dirichlet(NET, PLATE, G), boundary.points, G)) < 1e-14
    assert largest(exact_dirichlet(NET, PLATE)(PLATE.sample(50, seeded()))) > 1e-3
    # A different value on either part.
    u = exact_dirichlet(NET, PLATE, blend({SQUARE: G, HOLE: 2.0}))
    assert largest(dirichlet(u, SQUARE.boundary(50, seeded()).points, G)) < 1e-12
    assert largest(dirichlet(u, HOLE.boundary(50, seeded()).points, 2.0)) < 1e-12
    with pytest.raises(InputError, match="at least two"):
        blend({SQUARE: 1.0})


@pytest.mark.parametrize(
    "box", [Interval(-1.0, 2.0), Box((0.0, 1.0), (2.0, 4.0)), Box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))]
)
def test_a_lift_takes_the_values_of_the_faces_and_no_others(box: Box) -> None:
    value = lambda x: torch.sin(x.sum(dim=1, keepdim=True)) * torch.exp(x[:, :1])
    lift = box_lift(box, value)
    points = box.boundary(100, seeded()).points
    assert torch.allclose(lift(points), value(points), atol=1e-12)
    inside = box.sample(100, seeded())
    assert largest(lift(inside) - value(inside)) > 1e-3
    other = box_lift(box, lambda x: value(x) + box.bubble(x))
    assert torch.allclose(other(inside), lift(inside), atol=1e-12)


def test_start_by_construction() -> None:
    domain = (Interval(0.0, 1.0)) * Interval(0.5, 2.0)
    start, walls = domain.at(0.5, 40, seeded()), domain.boundary(40, seeded()).points
    u0, v0 = lambda x: torch.sin(math.pi * x[:, :1]), lambda x: x[:, :1] * (1 - x[:, :1])
    net = MLP(2, 1, domain=domain, seed=1).double()
    first = exact_initial(exact_dirichlet(net, domain), u0, start=0.5)
    assert largest(dirichlet(first, start, u0)) < 1e-14
    assert largest(first(walls)) < 1e-14
    assert largest(initial_velocity(first, start)) > 1e-3
    for span in (None, 0.3):
        second = exact_initial(exact_dirichlet(net, domain), u0, v0, start=0.5, span=span)
        assert largest(dirichlet(second, start, u0)) < 1e-14
        assert largest(initial_velocity(second, start, v0)) < 1e-12
        assert largest(derivative(second, start, order=2, dim=1)) > 1e-3


@pytest.mark.parametrize("domain", [HOLE, Interval(-1.0, 3.0)], ids=["disk", "interval"])
def test_neumann_by_construction(domain: Disk | Interval) -> None:
    net = MLP(domain.dim, 1, domain=domain, seed=2).double()
    boundary = domain.boundary(30, seeded())
    assert largest(neumann(net, boundary)) > 1e-3
    assert largest(neumann(exact_neumann(net, domain), boundary)) < 1e-12
    flux = lambda x: 1 + x[:, :1] ** 2
    assert largest(neumann(exact_neumann(net, domain, flux), boundary, flux)) < 1e-12
    x = domain.sample(5, seeded())
    assert largest(exact_neumann(net, domain)(x) - net(x)) > 1e-4


COLUMN = torch.linspace(0.0, 1.0, 6, dtype=torch.float64)[:, None]
SCALAR, VECTOR = (lambda x: x**2), (lambda x: torch.cat([x, x**2], dim=-1))


@pytest.mark.parametrize("condition", [
    lambda u, data: dirichlet(u, COLUMN, data),
    lambda u, data: initial_velocity(u, COLUMN, data),
    lambda u, data: neumann(u, Boundary(COLUMN, torch.ones_like(COLUMN)), data),
    lambda u, data: neumann(u, Boundary(COLUMN, torch.ones_like(COLUMN)), 0.0, data),
    lambda u, data: robin(u, Boundary(COLUMN, torch.ones_like(COLUMN)), data),
    lambda u, data: robin(u, Boundary(COLUMN, torch.ones_like(COLUMN)), 1.0, data),
    lambda u, data: interface(u, Boundary(COLUMN, torch.ones_like(COLUMN)), data, 1.0),
    lambda u, data: exact_dirichlet(u, Interval(0.0, 1.0), data)(COLUMN),
    lambda u, data: exact_neumann(u, Interval(0.0, 1.0), data)(COLUMN),
    lambda u, data: exact_initial(u, data)(COLUMN),
    lambda u, data: exact_initial(u, 0.0, data)(COLUMN),
    lambda u, data: blend({Interval(0.0, 1.0): 0.0, Interval(-1.0, 2.0): data})(COLUMN),
])  # fmt: skip
def test_data_that_would_meet_other_points_are_refused(condition: Callable[..., Tensor]) -> None:
    for wrong in (COLUMN[:, 0], COLUMN[None, :, :], COLUMN[:3], COLUMN.T, lambda x: x[:, 0], COLUMN[:, 0].numpy()):
        with pytest.raises(InputError, match="shape"):
            condition(SCALAR, wrong)
    for right in (2.0, torch.tensor(2.0), COLUMN, lambda x: x, COLUMN.numpy()):
        assert condition(SCALAR, right).shape == (6, 1)


def test_data_of_several_components_come_one_column_each_or_one_number_each() -> None:
    both = dirichlet(VECTOR, COLUMN, VECTOR(COLUMN))
    assert both.shape == (6, 2)
    assert largest(both) == 0.0
    each = dirichlet(VECTOR, COLUMN, torch.tensor([1.0, 2.0]))
    assert torch.equal(each, VECTOR(COLUMN) - torch.tensor([1.0, 2.0]))
    assert torch.equal(dirichlet(VECTOR, COLUMN, COLUMN), VECTOR(COLUMN) - COLUMN)
    for wrong in (COLUMN[:, 0], torch.zeros(6, 3), torch.zeros(3), torch.zeros(2, 1)):
        with pytest.raises(InputError, match="one row a point, one column a component"):
            dirichlet(VECTOR, COLUMN, wrong)
