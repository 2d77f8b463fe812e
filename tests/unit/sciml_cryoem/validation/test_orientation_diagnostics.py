"""Diagnosis of view directions: closed forms of SCF and efficiency, and what must be flagged."""

import json
import time

import numpy as np
import pytest
from sciml_cryoem.imaging import rotations, symmetry
from sciml_cryoem.validation import orientation_diagnostics as diagnostics
from sciml_cryoem.validation import view_sampling

from sciml.errors import InputError


def _even(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _cap(count: int, axis: np.ndarray, angle_deg: float, seed: int = 1) -> np.ndarray:
    """Directions spread evenly within an angle of an axis."""
    draw = np.random.default_rng(seed)
    height = draw.uniform(np.cos(np.radians(angle_deg)), 1.0, count)
    turn, radius = draw.uniform(0, 2 * np.pi, count), np.sqrt(1 - height**2)
    frame = np.linalg.qr(np.column_stack([axis, np.eye(3)[:, :2]]))[0]
    frame[:, 0] = axis
    return height[:, None] * frame[:, 0] + radius[:, None] * (
        np.cos(turn)[:, None] * frame[:, 1] + np.sin(turn)[:, None] * frame[:, 2]
    )


def _axis(rot: float, tilt: float) -> np.ndarray:
    return view_sampling.view_directions(np.array([[rot, tilt, 0.0]]))[0]


def _belt(count: int) -> np.ndarray:
    turn = np.random.default_rng(2).uniform(0, 2 * np.pi, count)
    return np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)


def test_directions_are_the_third_rows() -> None:
    angles = np.random.default_rng(0).uniform(-180, 180, (20, 3))
    np.testing.assert_allclose(view_sampling.view_directions(angles), rotations.matrices(angles)[:, 2], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [200, 2000, 20000])
def test_even_views_are_not_flagged(count: int, seed: int) -> None:
    found = diagnostics.diagnose(_even(count, seed))
    assert found.kind == "even"
    assert not found.flagged
    assert found.scf_star > 0.93
    assert found.efficiency > (0.85 if count == 200 else 0.93)
    assert found.cap_share < 0.134 + 1.2 / count**0.5 + 0.01
    assert "spread over all directions" in found.verdict(0.9)
    assert "unevenly" in found.verdict(0.3)


@pytest.mark.parametrize("count", [300, 2000, 20000])
@pytest.mark.parametrize(("rot", "tilt"), [(40, 12), (-100, 75), (0, 0), (170, 90)])
def test_preferred_orientation_is_flagged_and_named(rot: float, tilt: float, count: int) -> None:
    """80 % of the views within 30 degrees of one axis."""
    axis = _axis(rot, tilt)
    views = np.concatenate([_cap(int(0.8 * count), axis, 30.0), _even(count - int(0.8 * count), 3)])
    views *= np.random.default_rng(5).choice([-1.0, 1.0], (count, 1))  # both faces
    found = diagnostics.diagnose(views)
    assert found.kind == "preferred"
    assert found.scf_star < 0.5
    assert abs(found.cap_share - (0.8 + 0.2 * 0.134)) < (0.05 if count == 300 else 0.03)
    assert np.degrees(np.arccos(min(1.0, abs(_axis(*found.cap_axis_deg) @ axis)))) < (5.0 if count == 300 else 3.0)
    assert found.verdict(0.2).startswith("preferred orientation: 8")
    assert "cFAR 0.20 (threshold 0.5)" in found.verdict(0.2)
    if (rot, tilt, count) == (40, 12, 20000):
        assert "of views within 30 degrees of one axis (tilt 1" in found.verdict()


def test_top_views_only() -> None:
    """Views within 30 degrees of z: the directions within 60 degrees of z hold no slice, half of the sphere."""
    found = diagnostics.diagnose(_cap(20000, np.array([0.0, 0.0, 1.0]), 30.0))
    assert abs(found.unsampled - 0.5) < 0.03
    assert found.scf_star < 0.05
    assert abs(found.gap_deg - 60.0) < 3.0
    assert found.kind == "preferred"
    assert "48 % of Fourier directions without data" in found.verdict()


def test_belt_of_side_views() -> None:
    """Slices all around z: s = (2 / pi) / sin(polar angle), so SCF = 8 / pi^2; the efficiency has a closed form too."""
    found = diagnostics.diagnose(_belt(20000))
    assert abs(found.scf - 8 / np.pi**2) < 0.02
    assert found.unsampled == 0.0
    mean, square = 2 * np.arcsinh(1.0), np.pi
    assert abs(found.efficiency - (1 - 2 * np.sqrt(square - mean**2) / mean)) < 0.01
    assert found.kind == "belt"
    assert found.flagged
    assert found.belt_axis_deg[1] < 1.0
    assert found.verdict().startswith(
        "side views: 100 % of views within 15 degrees of the plane across the axis (tilt 0"
    )
    assert abs(found.gap_deg - 90.0) < 3.0


def test_sampling_counts_slices() -> None:
    """One view along z: the band about the equator, as wide as the shell is thick, and its mate at -k."""
    import healpix

    sampling = view_sampling.fourier_sampling(np.array([[0.0, 0.0, 1.0]]), np.array([2.5]), radius=4.0)
    heights = np.stack(healpix.pix2vec(16, np.arange(3072)), -1)[:, 2]
    np.testing.assert_array_equal(sampling, np.where(np.abs(heights) < 0.125, 2.5, 0.0))
    views = _even(50)
    tilted = view_sampling.fourier_sampling(views, radius=3.0)
    grid = np.stack(healpix.pix2vec(16, np.arange(3072)), -1)
    np.testing.assert_allclose(tilted, (np.abs(grid @ views.T) < 1 / 6).sum(1), atol=0)


def test_compensation_factor_by_hand() -> None:
    """SCF* as Baldwin and Lyumkis's program has it, at their usual mean of 100 slices."""
    assert view_sampling.sampling_compensation(np.full(10, 3.0)) == pytest.approx((1.0, 1.0))
    assert view_sampling.sampling_compensation(np.array([1.0, 3.0]))[0] == pytest.approx(1 / (0.5 * (2 + 2 / 3)))
    scf, star = view_sampling.sampling_compensation(np.array([0.0, 2.0, 2.0, 4.0]))
    assert scf == pytest.approx(1 / (2 * np.mean([1 / 2, 1 / 2, 1 / 4])))
    assert star == pytest.approx(scf / (1 + (1 / 3) * 50 * scf))
    assert view_sampling.sampling_compensation(np.zeros(4)) == (0.0, 0.0)


def test_symmetry_fills_and_weights_count() -> None:
    """Top views of an octahedron are views along six axes; weights of 0 are as good as absent."""
    top = _cap(2000, _axis(20, 50), 20.0)
    alone = diagnostics.diagnose(top)
    octahedral = diagnostics.diagnose(top, group=symmetry.point_group("O"))
    assert alone.kind == "preferred"
    assert octahedral.kind == "even"
    assert octahedral.views == 2000
    mixed = np.concatenate([top, _even(2000)])
    np.testing.assert_allclose(
        diagnostics.diagnose(mixed, np.repeat([0.0, 1.0], 2000)).sampling,
        diagnostics.diagnose(_even(2000)).sampling,
    )
    density = view_sampling.relative_density(mixed, nside=2)
    assert density.shape == (48,)
    assert density.mean() == pytest.approx(1.0)
    assert density.max() > 5.0


def test_one_view_and_refusals() -> None:
    single = diagnostics.diagnose(np.array([[0.0, 3.0, 0.0]]))
    assert single.efficiency == 0.0
    assert single.flagged
    assert json.loads(json.dumps(single.summary()))["cap_share"] == 1.0
    with pytest.raises(InputError, match="no view"):
        diagnostics.diagnose(np.zeros((0, 3)))
    with pytest.raises(InputError, match="direction 2"):
        diagnostics.diagnose(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    for weights in ([-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(InputError, match="weights"):
            diagnostics.diagnose(_even(2), np.array(weights))


def test_cost() -> None:
    views = _even(50000)
    diagnostics.diagnose(views[:100])
    began = time.process_time()
    diagnostics.diagnose(views)
    assert time.process_time() - began < 3.0
