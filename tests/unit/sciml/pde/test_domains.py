"""Points in domains: where they lie, how evenly, and that they are a function of the generator."""

import math

import pytest
import torch

from sciml.errors import InputError
from sciml.pde import Box, Interval, residual_adaptive, unit_points
from sciml.pde.sampling import METHODS


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_points_are_a_function_of_the_generator(method: str, dim: int) -> None:
    first = unit_points(50, dim, seeded(), method)
    assert first.shape == (50, dim)
    assert first.dtype == torch.float64
    assert bool(((first >= 0) & (first < 1)).all())
    assert torch.equal(first, unit_points(50, dim, seeded(), method))
    same = seeded()
    assert not torch.equal(unit_points(50, dim, same, method), unit_points(50, dim, same, method))


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_a_function_is_unbiased(method: str) -> None:
    """Over independent calls the mean of f(x, y) = x y^2 scatters about 1/6 within its own standard error."""
    stream = seeded(7)
    means = torch.stack(
        [(p[:, 0] * p[:, 1] ** 2).mean() for p in (unit_points(30, 2, stream, method) for _ in range(300))]
    )
    error = (means.mean() - 1 / 6).abs() / (means.std() / math.sqrt(len(means)))
    assert float(error) < 4


def test_spread_sampling_has_less_variance_than_uniform() -> None:
    def spread(method: str, dim: int) -> float:
        stream = seeded(1)
        draws = (unit_points(64, dim, stream, method) for _ in range(200))
        return float(torch.stack([torch.exp(p.sum(1)).mean() for p in draws]).var())

    assert spread("stratified", 1) < 1e-3 * spread("uniform", 1)  # n^-3 against n^-1
    assert spread("sobol", 2) < 1e-2 * spread("uniform", 2)
    assert spread("stratified", 2) < 0.1 * spread("uniform", 2)
    assert spread("latin", 2) < 0.2 * spread("uniform", 2)


def test_stratified_has_one_point_a_cell_in_random_order() -> None:
    line = unit_points(32, 1, seeded(), "stratified")[:, 0]
    assert sorted((line * 32).long().tolist()) == list(range(32))
    assert not bool((line.diff() > 0).all())
    plane = (unit_points(36, 2, seeded(), "stratified") * 6).long()
    assert len({(int(i), int(j)) for i, j in plane}) == 36


def test_latin_has_one_point_a_slice_of_every_axis() -> None:
    cells = (unit_points(20, 3, seeded(), "latin") * 20).long()
    assert all(sorted(cells[:, axis].tolist()) == list(range(20)) for axis in range(3))


def test_any_part_of_a_stratified_draw_covers_the_line() -> None:
    part = unit_points(256, 1, seeded(), "stratified")[:64, 0]
    assert float(part.min()) < 0.1
    assert float(part.max()) > 0.9


def test_a_box_holds_its_points_and_faces() -> None:
    box = Box((-1.0, 0.0), (1.0, 3.0))
    points = box.sample(200, seeded())
    assert bool((points >= torch.tensor([-1.0, 0.0])).all() & (points <= torch.tensor([1.0, 3.0])).all())
    assert float(points[:, 1].max()) > 2.5
    assert (box.dim, box.volume) == (2, 6.0)
    start = box.face(1, "lower", 50, seeded())
    assert torch.equal(start[:, 1], torch.zeros(50, dtype=torch.float64))
    assert float(start[:, 0].min()) < -0.8


def test_the_boundary_is_shared_out_by_area() -> None:
    box = Box((0.0, 0.0), (1.0, 3.0))
    points = box.boundary(800, seeded()).points
    assert len(points) == 800
    sides = [int(((points[:, axis] - value).abs() < 1e-15).sum()) for axis, value in ((0, 0), (0, 1), (1, 0), (1, 3))]
    assert sides == [300, 300, 100, 100]


def test_an_interval_is_a_box_of_one_dimension() -> None:
    interval = Interval(2, 5)
    assert interval.ends.tolist() == [[2.0], [5.0]]
    assert interval.grid(3).tolist() == [2.0, 3.0, 4.0, 5.0]
    assert sorted(interval.boundary(2, seeded()).points.tolist()) == [[2.0], [5.0]]
    assert interval == Interval(2.0, 5.0)


def test_faulty_domains_are_refused() -> None:
    with pytest.raises(InputError, match="lower < upper"):
        Interval(1.0, 1.0)
    with pytest.raises(InputError, match="as many lower as upper"):
        Box((0.0, 0.0), (1.0,))
    with pytest.raises(InputError, match="choose one of"):
        Interval(0, 1).sample(5, seeded(), "grid")
    with pytest.raises(InputError, match="at least 1"):
        Interval(0, 1).sample(0, seeded())


def test_adaptive_points_follow_the_density_and_cover_the_rest() -> None:
    """Nine tenths of the residual on a tenth of the square: .5 * .9 + .5 * .1 of the points lie there, none twice."""
    candidates = unit_points(40_000, 2, seeded(1))
    inside = candidates[:, 0] < 0.1
    density = torch.where(inside, 0.9 / 0.1, 0.1 / 0.9).double()
    points = residual_adaptive(candidates, density, 800, seeded())
    assert float((points[:, 0] < 0.1).double().mean()) == pytest.approx(0.5, abs=0.06)
    assert len(points.unique(dim=0)) == 800
    assert float((points[:400, 0] < 0.1).double().mean()) == pytest.approx(0.5, abs=0.08)  # in random order
    assert torch.equal(points, residual_adaptive(candidates, 17 * density, 800, seeded()))
    only = residual_adaptive(candidates, inside.double(), 800, seeded(), uniform_fraction=0.0)
    assert bool((only[:, 0] < 0.1).all())
    for even in (torch.zeros_like(density), density):
        spread = residual_adaptive(candidates, even, 800, seeded(), uniform_fraction=1.0)
        assert float((spread[:, 0] < 0.1).double().mean()) == pytest.approx(0.1, abs=0.04)


def test_adaptive_points_refuse_what_cannot_be_drawn() -> None:
    candidates = unit_points(10, 1, seeded())
    with pytest.raises(InputError, match="11 points out of 10"):
        residual_adaptive(candidates, torch.ones(10).double(), 11, seeded())
    with pytest.raises(InputError, match="non-finite"):
        residual_adaptive(candidates, torch.full((10,), torch.nan).double(), 5, seeded())
    with pytest.raises(InputError, match="uniform_fraction"):
        residual_adaptive(candidates, torch.ones(10).double(), 5, seeded(), uniform_fraction=1.5)
