"""Elasticity: known fields give known strains, stresses and energies in a plane and in space; wrong input is told."""

import math

import pytest
import torch

from sciml.errors import InputError
from sciml.pde import Box, Disk, Elastic, Interval, divergence, interleave, strain, traction


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(matrix: list[list[float]]):  # type: ignore[no-untyped-def]
    return lambda x: x @ torch.tensor(matrix, dtype=torch.float64).T


PLANE = Box((0.0, 0.0), (1.0, 2.0)).sample(20, seeded())
SPACE = Box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0)).sample(20, seeded())


def test_rotations_strain_nothing_and_shear_half() -> None:
    assert strain(linear([[0.0, -3.0], [3.0, 0.0]]), PLANE).abs().max() < 1e-12
    expected = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).expand(20, 2, 2)
    assert torch.allclose(strain(linear([[0.0, 2.0], [0.0, 0.0]]), PLANE), expected)
    u = lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 1] ** 2], dim=1)
    x, y = PLANE.unbind(1)
    assert torch.allclose(strain(u, PLANE), torch.stack([y, x / 2, x / 2, 2 * y], dim=1).reshape(-1, 2, 2))


@pytest.mark.parametrize(
    ("plane", "points", "across"),
    [("stress", PLANE, -0.3), ("strain", PLANE, -0.3 / 0.7), ("stress", SPACE, -0.3)],
    ids=["plane stress", "plane strain", "space"],
)
def test_a_bar_under_tension_thins(plane: str, points: torch.Tensor, across: float) -> None:
    # free sides: the lateral strain over that along the bar is -nu, and -nu / (1 - nu) in plane strain
    dim = points.shape[1]
    slope = torch.diag(torch.tensor([1.0] + [across] * (dim - 1), dtype=torch.float64)) * 1e-3
    material = Elastic(young=210.0, poisson=0.3, plane=plane)  # type: ignore[arg-type]
    stress = material.stress(linear(slope.tolist()), points)
    modulus = 210.0 / (1 - 0.3**2) if plane == "strain" else 210.0
    expected = torch.zeros(20, dim, dim, dtype=torch.float64)
    expected[:, 0, 0] = modulus * 1e-3
    assert torch.allclose(stress, expected, atol=1e-12)
    energy = material.energy(linear(slope.tolist()), points)
    assert energy.shape == (20, 1)
    assert torch.allclose(energy, torch.full_like(energy, modulus * 1e-6 / 2))


def test_the_stress_of_a_field_has_a_divergence_and_a_graph() -> None:
    # u = (x^2, 0): sigma_xx = 2 E x / (1 - nu^2), whose divergence is the constant 2 E / (1 - nu^2)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    u = lambda x: scale * torch.stack([x[:, 0] ** 2, torch.zeros_like(x[:, 0])], dim=1)
    force = divergence(lambda x: Elastic(poisson=0.25).stress(u, x), PLANE)
    assert torch.allclose(force, torch.tensor([4 / (1 - 0.25**2), 0.0], dtype=torch.float64).expand(20, 2))
    (slope,) = torch.autograd.grad(force[:, 0].mean(), scale)
    assert float(slope) == pytest.approx(2 / (1 - 0.25**2))


def test_traction_of_a_pressure_is_along_the_normals_of_the_chosen_part() -> None:
    disk = Disk((0.0, 0.0), 2.0)
    right = disk.boundary(100, seeded()).where(lambda x: x[:, 0] > 0)
    assert 20 < len(right.points) < 80
    assert bool((right.points[:, 0] > 0).all())
    assert torch.allclose(right.normals, right.points / 2)
    force = traction(lambda x: -3 * torch.eye(2, dtype=x.dtype).expand(len(x), 2, 2), right)
    assert torch.allclose(force, -3 * right.normals)


def test_interleaved_points_belong_to_the_domains_in_turn() -> None:
    far, near = Box((0.0, 0.0), (1.0, 1.0)), Box((5.0, 5.0), (6.0, 6.0))
    points = interleave((far, near), 101, seeded())
    assert points.shape == (101, 2)
    assert bool(far.contains(points[::2]).all() and near.contains(points[1::2]).all())
    with pytest.raises(InputError, match="same number of coordinates"):
        interleave((far, Interval(0.0, 1.0)), 10, seeded())


def test_wrong_fields_and_materials_are_told() -> None:
    with pytest.raises(InputError, match="as many components as coordinates"):
        strain(lambda x: x[:, :1], PLANE)
    for wrong in ({"young": 0.0}, {"poisson": 0.5}, {"young": math.nan}):
        with pytest.raises(InputError, match="no such material"):
            Elastic(**wrong)  # type: ignore[arg-type]
