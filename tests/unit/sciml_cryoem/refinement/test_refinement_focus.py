"""Defocus of particles within a refinement: found where the resolution tells it, left alone where it does not."""

from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.files.star import write_star
from sciml_cryoem.imaging import rotations
from sciml_cryoem.maps.masks import low_pass
from sciml_cryoem.reconstruction.images import ImageSettings, views_of
from sciml_cryoem.refinement.defocus import PRIOR, Focus, prior_spread, with_defocus
from sciml_cryoem.refinement.half_maps import Iteration
from sciml_cryoem.refinement.image_set import ImageSet, RefineOptions
from sciml_cryoem.refinement.refine import refine
from sciml_cryoem.refinement.refined_poses import Poses
from sciml_cryoem.refinement.rest import settled
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles

from sciml.errors import InputError

BOX, PIXEL, COUNT, SPREAD = 32, 2.5, 160, 250.0
SIMULATION = Simulation(number=COUNT, box=BOX, pixel_size=PIXEL, snr=2.0, shift=3.0, seed=1)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    draw, line = np.random.default_rng(2), np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for _ in range(14):
        z, y, x = (np.exp(-np.square(line - c) / 2.0) for c in 0.11 * BOX * draw.normal(size=3))
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    return scale_to_snr(SIMULATION, volume.astype(np.float32))


@pytest.fixture(scope="module")
def right(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Particles:
    return read_particles(write_particles(SIMULATION, truth, tmp_path_factory.mktemp("focus"))["star"])


@pytest.fixture(scope="module")
def off() -> np.ndarray:
    return SPREAD * np.random.default_rng(3).normal(size=COUNT)


def test_wrong_defoci_are_found(right: Particles, off: np.ndarray, truth: np.ndarray) -> None:
    wrong = with_defocus(right, -off)
    start = low_pass(truth, PIXEL, 12.5)
    with_, without = (refine(wrong, start, RefineOptions(iterations=8, defocus=on)) for on in (True, False))
    assert not any(record.refocused for record in without.iterations)
    assert with_.iterations[-1].refocused and not with_.iterations[0].refocused
    found = with_.poses.defocus
    assert np.corrcoef(found, off)[0, 1] > 0.9
    assert np.sqrt(np.mean(np.square(found - off))) < 0.45 * SPREAD
    scores = (found - off) / with_.poses.defocus_deviation
    assert 0.7 < scores.std() < 1.8
    # What is handed on: the set, and its table.
    np.testing.assert_allclose(with_.particles.defocus_u, wrong.defocus_u + found)
    columns = [each.table.numbers("rlnDefocusV") for each in (with_.particles, wrong)]
    np.testing.assert_allclose(columns[0], columns[1] + found, atol=0.006)
    np.testing.assert_array_equal(without.particles.defocus_u, wrong.defocus_u)
    turns = [np.median(rotations.angular_distance(each.poses.rotations, right.rotations)) for each in (with_, without)]
    assert turns[0] <= turns[1] + 0.02
    assert with_.iterations[-1].log_likelihood > without.iterations[-1].log_likelihood + 3.0


def test_right_defoci_stay(right: Particles, truth: np.ndarray) -> None:
    """The prior narrows, although it began with 300 Angstrom."""
    found = refine(right, low_pass(truth, PIXEL, 12.5), RefineOptions(iterations=9, defocus=True))
    assert found.iterations[-1].refocused
    assert np.sqrt(np.mean(np.square(found.poses.defocus))) < 0.25 * PRIOR


def test_a_coarse_map_tells_no_defocus(right: Particles) -> None:
    focus = Focus.of(right, views_of(right).ctf)
    assert focus.can_tell(6.0) and focus.can_tell(11.0)
    assert not focus.can_tell(12.0)


def test_coefficients_are_those_of_the_new_defocus(right: Particles, off: np.ndarray) -> None:
    focus, poses = Focus.of(right, views_of(right).ctf), Poses.unknown(COUNT)
    halves = 1 + np.arange(COUNT) % 2
    everyone, first = np.arange(COUNT), np.full(2, PRIOR)
    np.testing.assert_array_equal(focus.coefficients(everyone, poses.defocus), views_of(right).ctf)
    np.testing.assert_array_equal(prior_spread(poses, halves, first), PRIOR)
    poses.defocus[:], poses.defocus_deviation[:] = off, 50.0
    poses.defocus[halves == 2] *= 0.2
    table, spread = focus.coefficients(everyone, poses.defocus), prior_spread(poses, halves, first)
    moved = views_of(with_defocus(right, poses.defocus)).ctf
    np.testing.assert_allclose(table, moved, rtol=2e-5, atol=1e-6)
    expected = [np.sqrt(np.mean(np.square(poses.defocus[halves == half])) + 2500.0) for half in (1, 2)]
    np.testing.assert_allclose(spread, expected)
    assert spread[1] < 0.5 * spread[0]


def test_the_columns_of_the_file_move_as_they_stand(right: Particles, tmp_path: Path) -> None:
    """U below V is legal; the angle belongs to the column."""
    u, v = (right.table.numbers(label) for label in ("rlnDefocusU", "rlnDefocusV"))
    table = right.table.with_column("rlnDefocusU", [f"{x:.2f}" for x in np.minimum(u, v) - 100.0])
    table = table.with_column("rlnDefocusV", [f"{x:.2f}" for x in np.maximum(u, v)])
    table = table.with_column("rlnImageName", [f"{i + 1}@{right.path.parent / 'particles.mrcs'}" for i in range(COUNT)])
    swapped = read_particles(write_star(tmp_path / "swapped.star", [right.optics, table]))
    assert np.all(swapped.defocus_u > swapped.defocus_v)
    moved = with_defocus(swapped, np.full(COUNT, 50.0))
    for label in ("rlnDefocusU", "rlnDefocusV"):
        np.testing.assert_allclose(moved.table.numbers(label), table.numbers(label) + 50.0, atol=0.006)
    again = read_particles(write_star(tmp_path / "moved.star", [moved.optics, moved.table]))
    np.testing.assert_allclose(again.defocus_u, moved.defocus_u, atol=0.006)
    np.testing.assert_array_equal(again.defocus_angle_deg, moved.defocus_angle_deg)


def test_nothing_to_add_leaves_the_set(right: Particles) -> None:
    assert with_defocus(right, np.zeros(COUNT)) is right


def test_the_first_refinement_of_defocus_is_a_new_beginning() -> None:
    def record(number: int, refocused: bool) -> Iteration:
        return Iteration(number, 8.0, False, 10.0, 0.01, 1.0, 0.0, 0, 1.0, refocused, 100, 8.0, np.zeros(3))

    before = [record(number, False) for number in range(2)]
    assert not settled([*before, record(2, True)])
    assert settled([*before, record(2, True), record(3, True)])
    assert settled([*before, record(2, False)])


def test_without_a_ctf_there_is_no_defocus(right: Particles, truth: np.ndarray) -> None:
    with pytest.raises(InputError, match="defocus"):
        ImageSet.prepare(right, RefineOptions(defocus=True, settings=ImageSettings(use_ctf=False)))
