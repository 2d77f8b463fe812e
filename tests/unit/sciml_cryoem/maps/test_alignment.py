"""Alignment of maps: what was turned, moved and mirrored comes back; a hand flip acts on maps and poses together."""

import json
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem import commands
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.imaging.rotations import angular_distance, euler_angles, matrices
from sciml_cryoem.maps.alignment import MIRROR, align, flip_hand, flip_hand_poses
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from sciml.errors import InputError

PIXEL = 4.0
PLACES = np.array([(0, 0, 0), (5, -3, 1), (-4, 2, -4), (1, 5, 4), (-2, -5, 2)], float)
WEIGHTS = (1.0, 0.8, 0.7, 0.6, 0.9)


def balls(box: int, matrix: np.ndarray | None = None, shift: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Gaussians at PLACES (x, y, z of a box of 24), brought by a matrix and a shift (voxels): no interpolation."""
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    places = PLACES * (box / 24) @ (np.eye(3) if matrix is None else matrix).T + shift
    width = 1.4 * box / 24
    squares = [(x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 for a, b, c in places]
    return np.sum([w * np.exp(-s / (2 * width**2)) for w, s in zip(WEIGHTS, squares, strict=True)], axis=0).astype("f4")


def rotation(seed: int) -> np.ndarray:
    return Rotation.from_quat(np.random.default_rng(seed).standard_normal(4)).as_matrix()


@pytest.mark.parametrize("box", [16, 17])
def test_flip_hand_keeps_the_origin_and_mirrors_z_alone(box: int) -> None:
    volume = np.zeros((box, box, box), np.float32)
    middle = box // 2
    volume[middle, middle, middle] = 1.0
    volume[middle + 3, middle + 2, middle - 1] = 2.0
    flipped = flip_hand(volume)
    assert flipped[middle, middle, middle] == 1.0
    assert flipped[middle - 3, middle + 2, middle - 1] == 2.0
    assert np.array_equal(flip_hand(flipped), volume)


@pytest.mark.parametrize("box", [24, 25])
def test_flipped_map_has_the_same_projections_along_flipped_poses(box: int) -> None:
    volume, projector = balls(box), Projector(box)
    poses = np.stack([rotation(seed) for seed in range(5)])
    seen = projector.forward(volume, poses.astype(np.float32))
    flipped = projector.forward(flip_hand(volume), flip_hand_poses(poses).astype(np.float32))
    assert np.linalg.norm(flipped - seen) < 1e-5 * np.linalg.norm(seen)
    unturned = projector.forward(flip_hand(volume), poses.astype(np.float32))
    assert np.linalg.norm(unturned - seen) > 0.1 * np.linalg.norm(seen)


def test_flipped_poses_are_rot_and_psi_plus_180() -> None:
    angles = np.array([(10.0, 40.0, -70.0), (-120.0, 100.0, 33.0)])
    turned = euler_angles(flip_hand_poses(matrices(angles)))
    difference = (turned - angles + [180.0, 0.0, 180.0] + 180.0) % 360.0 - 180.0
    assert np.abs(difference).max() < 1e-9


@pytest.mark.parametrize(("box", "flip", "seed"), [(24, False, 1), (24, True, 2), (25, True, 3), (48, False, 4)])
def test_finds_rotation_shift_and_hand(box: int, flip: bool, seed: int) -> None:
    fixed, turn, shift = balls(box), rotation(seed), (1.3, -0.8, 2.1)
    moving = balls(box, turn @ MIRROR if flip else turn, shift)
    moving += 0.05 * np.random.default_rng(seed).standard_normal(moving.shape).astype(np.float32)
    found = align(moving, fixed, PIXEL)
    assert found.flipped == flip
    # moving = turn (M) c + s, so the way back is R M with R = M turn^T M, or turn^T.
    expected = MIRROR @ turn.T @ MIRROR if flip else turn.T
    assert angular_distance(found.rotation, expected) < 0.6
    place = expected @ (MIRROR @ shift if flip else np.array(shift))
    assert np.abs(found.shift + PIXEL * place).max() < 0.1 * PIXEL
    assert found.correlation > 0.99
    assert found.other_hand is not None and found.other_hand < 0.95


def test_moved_poses_see_the_aligned_map_as_the_old_ones_saw_the_old_map() -> None:
    box, rng = 32, np.random.default_rng(5)
    moving = balls(box, rotation(6) @ MIRROR, (2.0, 1.0, -1.5))
    found = align(moving, balls(box), PIXEL)
    poses, offsets = np.stack([rotation(seed) for seed in range(8)]), rng.uniform(-6, 6, (8, 2))
    moved, new_offsets = found.move_poses(poses, offsets)
    projector = Projector(box)
    plane = projector.plane

    def observed(volume: np.ndarray, rotations: np.ndarray, origins: np.ndarray) -> np.ndarray:
        phase = origins @ np.stack([plane.kx, plane.ky]) * (2 * np.pi / (box * PIXEL))
        return projector.forward(volume, rotations.astype(np.float32)) * np.exp(1j * phase)

    before, after = observed(moving, poses, offsets), observed(found.aligned, moved, new_offsets)
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)
    assert np.linalg.norm(observed(found.aligned, moved, offsets) - before) > 0.2 * np.linalg.norm(before)


def test_move_map_moves_other_maps_alike() -> None:
    moving = balls(24, rotation(7) @ MIRROR, (1.0, 0.0, -1.0))
    found = align(moving, balls(24), PIXEL)
    assert np.array_equal(found.move_map(moving), found.aligned)
    assert np.corrcoef(found.move_map(moving).ravel(), balls(24).ravel())[0, 1] > 0.99


def test_one_hand_only_when_told_so() -> None:
    mirrored = flip_hand(balls(24))
    found = align(mirrored, balls(24), PIXEL, hands=False)
    assert not found.flipped and found.other_hand is None
    assert found.correlation < align(mirrored, balls(24), PIXEL).correlation - 0.05


def test_a_map_of_a_ribosome_in_noise_is_found_to_a_fraction_of_a_degree(shared: Path) -> None:
    truth = read_map(shared / "data" / "p64" / "truth64.mrc").array
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(truth.shape), 1.0).astype(np.float32)
    turned = align(truth, truth, 5.0, hands=False)
    assert angular_distance(turned.rotation, np.eye(3)) < 0.1
    found = align(flip_hand(truth) + 0.5 * noise * truth.std() / noise.std(), truth, 5.0)
    assert found.flipped and found.correlation > 0.95
    assert angular_distance(found.rotation, np.eye(3)) < 0.7
    assert np.abs(found.shift).max() < 1.5


@pytest.mark.parametrize(
    ("moving", "fixed", "words"),
    [
        (balls(24), balls(26), "cubes of one size"),
        (np.zeros((24, 24, 24), "f4"), balls(24), "moving map is constant"),
        (balls(24), np.full((24, 24, 24), np.nan, "f4"), "fixed map holds values that are not finite"),
    ],
)
def test_refuses_maps_that_cannot_be_aligned(moving: np.ndarray, fixed: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        align(moving, fixed, PIXEL)


def test_refuses_a_low_pass_that_leaves_nothing() -> None:
    with pytest.raises(InputError, match=r"0\.5 shells"):
        align(balls(24), balls(24), PIXEL, resolution=192.0)


def test_a_ball_fits_itself_in_any_rotation() -> None:
    line = np.arange(24) - 12
    ball = np.exp(-(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / 18.0).astype("f4")
    found = align(ball, np.roll(ball, 2, axis=2), PIXEL)
    assert found.correlation > 0.999
    assert np.abs(found.shift - [2 * PIXEL, 0.0, 0.0]).max() < 0.1 * PIXEL


def test_command_aligns_and_writes_the_aligned_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(tmp_path / "a.mrc", balls(24), PIXEL)
    write_map(tmp_path / "b.mrc", balls(24, rotation(8) @ MIRROR, (1.0, -1.0, 0.5)), PIXEL)
    paths = [str(tmp_path / name) for name in ("a.mrc", "b.mrc")]
    assert commands.main(["fsc", *paths, "--json"]) == 0
    before = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "flipped" not in before
    assert commands.main(["fsc", *paths, "--json", "--aligned", str(tmp_path / "c.mrc")]) == 0
    after = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert after["flipped"] is True and np.array(after["rotation"]).shape == (3, 3) and len(after["shift"]) == 3
    assert after["correlation"] > 0.99 > after["correlation_other_hand"]
    assert after["resolution_0143"] < before["resolution_0143"]
    written = read_map(tmp_path / "c.mrc")
    assert written.pixel_size == PIXEL and np.corrcoef(written.array.ravel(), balls(24).ravel())[0, 1] > 0.99
    assert commands.main(["fsc", *paths, "--align"]) == 0
    assert "its mirror image turned by" in capsys.readouterr().out
    with pytest.raises(InputError, match="--lowpass"):
        commands.main(["fsc", *paths, "--align", "--lowpass", "-3"])
