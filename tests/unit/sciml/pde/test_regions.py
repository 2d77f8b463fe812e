"""Domains made from others: what they contain, where their boundary runs, which way its normals point."""

import math

import pytest
import torch

from sciml.errors import InputError
from sciml.pde import Box, Disk, Domain, Interval, SpaceTime, gradient

SQUARE = Box((-1.0, -1.0), (1.0, 1.0))
HOLE = Disk((0.2, 0.0), 0.4)
DOMAINS: dict[str, tuple[Domain, float, float]] = {  # with area and length of the boundary
    "disk": (HOLE, math.pi * 0.16, 0.8 * math.pi),
    "box": (SQUARE, 4.0, 8.0),
    "hole": (SQUARE - HOLE, 4 - math.pi * 0.16, 8 + 0.8 * math.pi),
    "ell": (SQUARE - Box((0.0, 0.0), (1.0, 1.0)), 3.0, 8.0),
    "ell of two": (Box((-1.0, -1.0), (1.0, 0.0)) | Box((-1.0, 0.0), (0.0, 1.0)), 3.0, 8.0),
    "capsule": (Box((0.0, 0.0), (1.0, 1.0)) | Disk((1.0, 0.5), 0.5), 1 + math.pi / 8, 3 + math.pi / 2),
    "half": (HOLE & Box((0.2, -1.0), (1.0, 1.0)), math.pi * 0.08, 0.4 * math.pi + 0.8),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=DOMAINS)
def shape(request: pytest.FixtureRequest) -> tuple[Domain, float, float]:
    return DOMAINS[request.param]


def test_points_lie_inside_and_fill_the_area(shape: tuple[Domain, float, float]) -> None:
    domain, area, _ = shape
    points = domain.sample(3000, seeded())
    assert points.shape == (3000, 2)
    assert bool(domain.contains(points).all())
    if domain is not DOMAINS["capsule"][0]:
        assert bool((domain.bubble(points) >= 0).all())
    assert torch.equal(points, domain.sample(3000, seeded()))
    box = Box(domain.lower, domain.upper)
    inside = domain.contains(box.sample(20_000, seeded(1))).double().mean()
    assert float(inside) * box.volume == pytest.approx(area, rel=0.01)
    # Uniform: a disk inside holds its share.
    part = Disk(tuple(points[7].tolist()), 0.05)
    share = float((domain.contains(around := part.sample(4000, seeded(2)))).double().mean()) * part.volume / area
    assert len(around) == 4000
    drawn = domain.sample(60_000, seeded(3))
    assert float(part.contains(drawn).double().mean()) == pytest.approx(share, rel=0.15)


def test_the_boundary_is_where_distance_and_bubble_vanish(shape: tuple[Domain, float, float]) -> None:
    domain, _, length = shape
    points, normals = domain.boundary(1000, seeded())
    assert points.shape == normals.shape == (1000, 2)
    assert float(domain.distance(points).abs().max()) < 1e-14
    if domain is not DOMAINS["capsule"][0]:
        assert float(domain.bubble(points).abs().max()) < 2e-14
    assert torch.allclose(normals.norm(dim=1), torch.ones(1000).double())
    away = 1e-5 * normals
    assert not bool(domain.contains(points + away).any())
    assert float(domain.contains(points - away).double().mean()) > 0.999  # a corner may be closer
    # The gradient of the distance is the inward normal.
    slope = gradient(domain.distance, points).detach()
    assert float((slope + normals).norm(dim=1).median()) < 1e-12
    # Spread over the whole length: no disk of radius s holds more than about 2 s / length of the points.
    radius = 0.05 * length / 2
    close = (torch.cdist(points, points) < radius).double().mean(dim=1)
    assert float(close.mean()) == pytest.approx(2 * radius / length, rel=0.25)


def test_divergence_theorem(shape: tuple[Domain, float, float]) -> None:
    """int div F = int F . n with F = (x^2 + y, x y): links sampling inside, on the boundary, and normals."""
    domain, area, length = shape
    x = domain.sample(30_000, seeded(1))
    points, normals = domain.boundary(30_000, seeded(2))
    flux = torch.stack([points[:, 0] ** 2 + points[:, 1], points.prod(dim=1)], dim=1)
    inside = 3 * float(x[:, 0].mean()) * area
    assert float((flux * normals).sum(dim=1).mean()) * length == pytest.approx(inside, abs=0.03)


def test_space_time_has_walls_a_start_and_an_end() -> None:
    domain = (SQUARE - HOLE) * Interval(1.0, 3.0)
    assert isinstance(domain, SpaceTime)
    assert (domain.dim, domain.lower, domain.upper) == (3, (-1.0, -1.0, 1.0), (1.0, 1.0, 3.0))
    points = domain.sample(500, seeded())
    assert bool(domain.contains(points).all())
    assert not bool(HOLE.contains(points[:, :2]).any())
    assert float(points[:, 2].mean()) == pytest.approx(2.0, abs=0.05)
    walls = domain.boundary(500, seeded())
    assert float(domain.space.distance(walls.points[:, :2]).abs().max()) < 1e-14
    assert float(walls.points[:, 2].mean()) == pytest.approx(2.0, abs=0.1)
    assert bool((walls.normals[:, 2] == 0).all())
    start = domain.at(1.0, 100, seeded())
    assert bool((start[:, 2] == 1).all())
    assert bool(domain.contains(start).all())
    assert not bool(domain.contains(domain.at(3.1, 10, seeded())).any())
    line = (Interval(0.0, 2.0) * Interval(0.0, 1.0)).boundary(50, seeded())
    assert set(line.points[:, 0].tolist()) == {0.0, 2.0}


def test_boundary_of_an_interval_are_its_ends() -> None:
    points, normals = Interval(2.0, 5.0).boundary(2, seeded())
    assert sorted(points[:, 0].tolist()) == [2.0, 5.0]
    assert torch.equal(normals[:, 0], torch.sign(points[:, 0] - 3))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="radius > 0"):
        Disk((0.0, 0.0), -1.0)
    with pytest.raises(InputError, match="make them equal"):
        _ = SQUARE - Box((0.0,), (1.0,))
    with pytest.raises(InputError, match="seems to be empty"):
        (Disk((0.0, 0.0), 1.0) & Disk((3.0, 0.0), 1.0)).sample(5, seeded())
    with pytest.raises(InputError, match="no boundary"):
        (Disk((0.0, 0.0), 1.0) & Disk((3.0, 0.0), 1.0)).boundary(5, seeded())


def test_time_has_one_coordinate() -> None:
    box = Box((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(InputError, match="as time has 2 coordinates: give an Interval"):
        SpaceTime(box, box)
