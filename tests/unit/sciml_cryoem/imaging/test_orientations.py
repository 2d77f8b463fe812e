"""Grids of orientations: they cover all rotations, turns keep them whole, random turns are uniform."""

import numpy as np
import pytest
from sciml_cryoem.imaging import orientations, rotations
from sciml_cryoem.imaging.orientations import HALF_TURN


def _distances(some: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Degrees from each rotation to the nearest of a grid."""
    trace = (some.reshape(-1, 9) @ grid.reshape(-1, 9).T).max(1)
    return np.degrees(np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0)))


# The farthest point of a cell: half a diagonal of its pixel and half a step in the plane together.
@pytest.mark.parametrize(("order", "farthest", "typical"), [(0, 50.0, 30.0), (1, 25.0, 15.0), (2, 11.5, 7.6)])
def test_grid_and_half_turned_grid_cover_all_rotations(order: int, farthest: float, typical: float) -> None:
    half = orientations.half_turn_grid(order)
    assert half.shape == (12 * 4**order * 3 * 2**order, 3, 3)
    whole = np.concatenate([half, HALF_TURN @ half])
    random = orientations.random_turns(500, np.random.default_rng(1))
    away = _distances(random, whole)
    assert away.max() < farthest
    assert np.median(away) < typical
    assert np.mean(_distances(random, half) > farthest) > 0.15  # one half alone does not


@pytest.mark.parametrize("order", [1, 2])
def test_every_pose_of_the_grid_is_there_once(order: int) -> None:
    half = orientations.half_turn_grid(order)
    whole = np.concatenate([half, HALF_TURN @ half])
    trace = whole.reshape(-1, 9) @ whole.reshape(-1, 9).T
    np.fill_diagonal(trace, -1.0)
    nearest = np.degrees(np.arccos((trace.max(1) - 1.0) / 2.0))
    assert nearest.min() > 0.5 * orientations.spacing_deg(order)
    assert nearest.max() < 1.1 * orientations.spacing_deg(order)


def test_spacing_halves_with_every_order_and_is_that_of_the_views() -> None:
    assert [round(orientations.spacing_deg(order), 1) for order in range(4)] == [58.6, 29.3, 14.7, 7.3]
    rot, tilt = orientations.view_directions(2).T
    assert len(rot) == 192
    views = rotations.matrices(np.stack([rot, tilt, np.zeros_like(rot)], 1))[:, 2]
    cosine = views @ views.T
    np.fill_diagonal(cosine, -1.0)
    nearest = np.degrees(np.arccos(cosine.max(1)))
    assert 0.7 < nearest.mean() / orientations.spacing_deg(2) < 1.05
    assert np.abs(views.mean(0)).max() < 1e-9  # no direction is preferred
    np.testing.assert_allclose(views.T @ views / len(views), np.eye(3) / 3.0, atol=2e-3)


def test_half_turn_is_psi_plus_180() -> None:
    angles = np.random.default_rng(0).uniform(-180.0, 180.0, (20, 3))
    other = rotations.matrices(angles + np.array([0.0, 0.0, 180.0]))
    np.testing.assert_allclose(HALF_TURN @ rotations.matrices(angles), other, atol=1e-12)


def test_a_turned_grid_keeps_its_distances_and_moves_its_views() -> None:
    grid = orientations.half_turn_grid(1)
    turn = rotations.matrices(np.array([30.0, 50.0, -70.0]))
    turned = orientations.turned(grid, turn)
    first, second = np.random.default_rng(2).integers(len(grid), size=(2, 300))
    before = rotations.angular_distance(grid[first], grid[second])
    np.testing.assert_allclose(rotations.angular_distance(turned[first], turned[second]), before, atol=1e-6)
    # Reference axes turn: every pose moves by the same angle, and the half turn in the plane stays what it is.
    away = rotations.angular_distance(grid, turned)
    assert away.min() > 20.0
    np.testing.assert_allclose(away, away[0], atol=1e-6)
    np.testing.assert_allclose(turned[:, 2], grid[:, 2] @ turn, atol=1e-12)


def test_random_turns_are_uniform_rotations() -> None:
    turns = orientations.random_turns(4000, np.random.default_rng(5))
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=1e-9)
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), np.tile(np.eye(3), (4000, 1, 1)), atol=1e-9)
    assert np.abs(turns.mean(0)).max() < 0.04  # 4 standard errors of numbers with variance 1/3
    np.testing.assert_allclose(np.square(turns).mean(0), 1.0 / 3.0, atol=0.02)
    # Uniform turns have angles of density (1 - cos) / pi: mean pi / 2 + 2 / pi.
    angles = rotations.angular_distance(turns, np.broadcast_to(np.eye(3), turns.shape))
    assert angles.mean() == pytest.approx(np.degrees(np.pi / 2 + 2 / np.pi), abs=2.0)
    assert angles.std() == pytest.approx(37.0, abs=1.2)
    np.testing.assert_array_equal(orientations.random_turns(4000, np.random.default_rng(5)), turns)


def test_shift_disc() -> None:
    shifts = orientations.shift_disc(4.0, 2.0)
    assert len(shifts) == 13  # lattice points within a circle of radius 2
    np.testing.assert_array_equal(shifts[0], [0.0, 0.0])
    length = np.hypot(*shifts.T)
    assert np.all(np.diff(length) >= 0)
    assert length.max() == 4.0
    points = {tuple(point) for point in shifts}
    assert points == {(-x, -y) for x, y in points} == {(y, x) for x, y in points}
    assert len(points) == len(shifts)
    np.testing.assert_array_equal(orientations.shift_disc(0.0, 1.0), [[0.0, 0.0]])
    assert len(orientations.shift_disc(3.0, 0.5)) == 113
    # A radius that is a multiple of the step but for rounding keeps its border.
    assert len(orientations.shift_disc(0.3, 0.1)) == 29
