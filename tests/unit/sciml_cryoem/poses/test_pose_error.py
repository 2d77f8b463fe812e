"""Two sets of poses are compared over one rotation, shift and hand, whatever part of them is wrong."""

import numpy as np
import pytest
from sciml_cryoem.imaging import rotations
from sciml_cryoem.imaging.orientations import random_turns
from sciml_cryoem.imaging.symmetry import point_group, rotation_about
from sciml_cryoem.maps.alignment import flip_hand_poses
from sciml_cryoem.poses.pose_error import pose_error


def _poses(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return random_turns(count, draw), draw.normal(0.0, 3.0, (count, 2))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("wrong", [0.0, 0.4])
def test_a_turned_and_moved_set_has_no_error_but_its_own(flip: bool, wrong: float) -> None:
    poses, offsets = _poses(800, 0)
    draw = np.random.default_rng(1)
    turn, shift = random_turns(1, draw)[0], np.array([3.0, -5.0, 2.0])
    angles = draw.exponential(1.5, 800)
    axes = draw.standard_normal((800, 3))
    errors = np.stack([rotation_about(axis, angle) for axis, angle in zip(axes, angles, strict=True)])
    found = errors @ (flip_hand_poses(poses) if flip else poses) @ turn
    moved = offsets + found[:, :2] @ shift
    lost = draw.random(800) < wrong
    found[lost] = random_turns(int(lost.sum()), draw)
    error = pose_error(poses, offsets, found, moved)
    assert error.flipped == flip
    assert error.angles_deg[~lost] == pytest.approx(angles[~lost], abs=0.35)
    assert np.median(error.shifts[~lost]) < 0.05
    assert error.shift == pytest.approx(shift, abs=0.1)
    assert error.other_hand_deg > 90.0
    assert error.summary["beyond_10_deg"] == pytest.approx(lost.mean(), abs=0.03)


@pytest.mark.parametrize("name", ["C4", "D2", "I1"])
def test_symmetry_mates_are_the_same_pose(name: str) -> None:
    group = point_group(name)
    poses, offsets = _poses(400, 5)
    draw = np.random.default_rng(6)
    turn = rotation_about(np.array([1.0, 2.0, 0.5]), 33.0)
    noise = np.stack([rotation_about(axis, 2.0) for axis in draw.standard_normal((400, 3))])
    found = noise @ flip_hand_poses(poses) @ turn @ group[draw.integers(len(group), size=400)]
    error = pose_error(poses, offsets, found, offsets, group=group)
    assert error.flipped
    assert error.angles_deg == pytest.approx(np.full(400, 2.0), abs=0.3)
    assert np.median(pose_error(poses, offsets, found, offsets).angles_deg) > 20.0


def test_images_left_out_do_not_decide() -> None:
    poses, offsets = _poses(300, 2)
    found = poses @ rotation_about(np.array([0.0, 0.0, 1.0]), 70.0)
    found[:200] = poses[:200]  # two thirds say "not turned"
    used = np.arange(300) >= 200
    error = pose_error(poses, offsets, found, offsets, used)
    assert error.angles_deg[used] == pytest.approx(np.zeros(100), abs=1e-5)
    assert error.angles_deg[~used] == pytest.approx(np.full(200, 70.0), abs=1e-4)


def test_unrelated_poses_have_the_error_of_chance() -> None:
    first, second = _poses(500, 3)[0], _poses(500, 4)[0]
    nothing = np.zeros((500, 2))
    error = pose_error(first, nothing, second, nothing)
    assert np.median(error.angles_deg) > 90.0
    assert abs(np.median(error.angles_deg) - error.other_hand_deg) < 15.0
    chance = np.median(rotations.angular_distance(first, second))
    assert np.median(error.angles_deg) == pytest.approx(chance, abs=15.0)
