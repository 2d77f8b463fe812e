"""Euler angles: against scipy, and against projections that RELION made."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import rotations
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.simulation.model_density import resample
from scipy.spatial.transform import Rotation

ANGLE = st.floats(-180, 180)


@settings(max_examples=100, deadline=None)
@given(ANGLE, st.floats(0, 180), ANGLE)
def test_matrix_is_scipys_and_angles_come_back(rot: float, tilt: float, psi: float) -> None:
    angles = np.array([rot, tilt, psi])
    matrix = rotations.matrices(angles)
    assert np.allclose(matrix, Rotation.from_euler("ZYZ", angles, degrees=True).as_matrix().T, atol=1e-12)
    again = rotations.euler_angles(matrix)
    assert 0 <= again[1] <= 180
    assert np.allclose(rotations.matrices(again), matrix, atol=1e-7)


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_at_the_poles_rot_is_zero(tilt: float) -> None:
    matrix = rotations.matrices(np.array([20.0, tilt, 30.0]))
    found = rotations.euler_angles(matrix)
    assert found[0] == 0
    assert np.allclose(rotations.matrices(found), matrix, atol=1e-12)


def test_view_direction_is_the_third_row() -> None:
    rot, tilt = np.radians([40.0, 70.0])
    row = rotations.matrices(np.array([40.0, 70.0, -20.0]))[2]
    assert np.allclose(row, [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)])


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-6, 180), st.integers(0, 1000))
def test_angular_distance_is_the_angle_of_the_turn_between(angle: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    axis = draw.normal(size=3)
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    first = Rotation.from_quat(draw.normal(size=4)).as_matrix()
    assert rotations.angular_distance(first, turn @ first) == pytest.approx(angle, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "extra"), [("64_centered", 0), ("64_shifted", 0), ("65_centered", 1), ("65_shifted", 1)]
)
def test_projections_of_relion(shared: Path, name: str, extra: int) -> None:
    """Axes, hand, centre and the sign of shifts, by images that RELION 3.1 projected from a map of 65 voxels.

    RELION's images of odd size have their origin one pixel past n // 2 (its own reconstruction from them is scrambled);
    hence `extra`.
    """
    folder = shared / "data" / "io" / "conventions"
    particles = read_particles(folder / f"rln_proj_{name}.star", needs=("poses",))
    truth = np.array(mrcfile.open(folder / "clean70SRibosome_vol_65p.mrc").data, dtype=np.float32)
    projector = Projector(particles.box)
    density = resample(truth, 1.0, particles.box, 65 / particles.box)
    predicted = projector.forward(density, particles.rotations)
    offsets = particles.origins / particles.pixel_size - extra
    observed = projector.plane.gather(particles.images(), offsets)
    for a, b in zip(predicted, observed, strict=True):
        scale = np.vdot(a, b).real
        assert scale / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.9999
        assert scale / np.vdot(a, a).real == pytest.approx(1.0, abs=2e-3)
