"""Point groups, maps and sums made symmetric, and the asymmetric unit of view directions."""

import numpy as np
import pytest
from sciml_cryoem.imaging import ctf, rotations, symmetry
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.reconstruction.insertion import FourierSums, Views
from scipy.spatial.transform import Rotation

from sciml.errors import InputError

ORDERS = {"C1": 1, "C2": 2, "C7": 7, "D2": 4, "D5": 10, "T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def _same_set(first: np.ndarray, second: np.ndarray, tolerance: float = 1e-9) -> bool:
    distance = np.abs(first[:, None] - second[None]).max((2, 3))
    return len(first) == len(second) and bool(
        (distance.min(1) < tolerance).all() and (distance.min(0) < tolerance).all()
    )


def _has_axis(group: np.ndarray, axis: tuple[float, ...], fold: int) -> bool:
    turn = symmetry.rotation_about(np.array(axis, float), 360.0 / fold)
    return bool((np.abs(group - turn).max((1, 2)) < 1e-9).any())


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_group_axioms(name: str, order: int) -> None:
    group = symmetry.point_group(name)
    assert len(group) == order
    np.testing.assert_array_equal(group[0], np.eye(3))
    np.testing.assert_allclose(np.linalg.det(group), 1.0, atol=1e-12)
    np.testing.assert_allclose(group @ group.transpose(0, 2, 1), np.broadcast_to(np.eye(3), group.shape), atol=1e-12)
    assert _same_set(group, group.transpose(0, 2, 1))
    for element in group:
        assert _same_set(element @ group, group)
    distance = np.abs(group[:, None] - group[None]).max((2, 3)) + np.eye(order)
    assert distance.min() > 0.05


def test_settings() -> None:
    """Where the axes are, in RELION's settings."""
    golden = (1 + 5**0.5) / 2
    axes = {
        "C3": [((0, 0, 1), 3)],
        "D3": [((0, 0, 1), 3), ((1, 0, 0), 2)],
        "T": [((0, 0, 1), 3), ((0, 2**0.5, 1), 2)],
        "O": [((1, 0, 0), 4), ((0, 1, 0), 4), ((0, 0, 1), 4), ((1, 1, 1), 3), ((1, 1, 0), 2)],
        "I1": [((1, 0, 0), 2), ((0, 1, 0), 2), ((0, 0, 1), 2), ((golden, 0, 1), 5), ((1, 1, 1), 3)],
        "I2": [((1, 0, 0), 2), ((0, 1, 0), 2), ((0, 0, 1), 2), ((0, golden, 1), 5), ((1, 1, 1), 3)],
        "I3": [((0, 0, 1), 5), ((-2, 0, 1), 5), ((0, 1, 0), 2)],
        "I4": [((0, 0, 1), 5), ((2, 0, 1), 5), ((0, 1, 0), 2)],
    }
    for name, wanted in axes.items():
        group = symmetry.point_group(name)
        for axis, fold in wanted:
            assert _has_axis(group, axis, fold), (name, axis, fold)
    assert not _has_axis(symmetry.point_group("I2"), (golden, 0, 1), 5)
    assert not _has_axis(symmetry.point_group("I3"), (2, 0, 1), 5)
    assert not _has_axis(symmetry.point_group("D3"), (0, 1, 0), 2)


@pytest.mark.parametrize("name", ["", "I", "I5", "D1", "C0", "C", "D2V", "OH", "C1I", "X3", "C-3", "T4"])
def test_refused_names(name: str) -> None:
    with pytest.raises(InputError) as caught:
        symmetry.point_group(name)
    message = str(caught.value)
    if name == "I":
        assert all(setting in message for setting in ("I1", "I2", "I3", "I4"))
    elif name in ("D2V", "OH"):
        assert "mirror" in message
    elif name == "D1":
        assert "C2" in message
    else:
        assert "allowed" in message


def test_names_are_read_loosely_and_the_table_cannot_be_changed() -> None:
    np.testing.assert_array_equal(symmetry.point_group(" c04 "), symmetry.point_group("C4"))
    symmetry.point_group("i1")[:] = 0
    assert len(np.unique(symmetry.point_group("I1").round(6), axis=0)) == 60


def _blob(box: int, places: np.ndarray, width: float) -> np.ndarray:
    """Gaussian blobs at places (x, y, z) from the origin."""
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    squares = (
        (x[..., None] - places[:, 0]) ** 2,
        (y[..., None] - places[:, 1]) ** 2,
        (z[..., None] - places[:, 2]) ** 2,
    )
    return np.exp(-sum(squares) / (2 * width**2)).sum(-1).astype(np.float32)


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I3"])
def test_symmetric_map_is_the_closed_form(name: str, box: int) -> None:
    """One blob off every axis becomes `order` blobs, each at the mate of its place, a fraction 1 / order as high."""
    group = symmetry.point_group(name)
    place = np.array([3.1, 1.3, 4.2])
    wanted = _blob(box, group @ place, 1.5) / len(group)
    found = symmetry.symmetrize_map(_blob(box, place[None], 1.5), group)
    error = np.abs(found - wanted).max() / wanted.max()
    assert error < (1e-5 if name in ("D2", "O") else 0.01)
    linear = symmetry.symmetrize_map(_blob(box, place[None], 1.5), group, order=1)
    assert error <= np.abs(linear - wanted).max() / wanted.max()


def test_symmetrizing_refuses_and_repeats() -> None:
    volume = np.random.default_rng(0).standard_normal((17, 17, 17)).astype(np.float32)
    group = symmetry.point_group("C4")
    once = symmetry.symmetrize_map(volume, group)
    np.testing.assert_allclose(symmetry.symmetrize_map(once, group), once, atol=1e-6)
    np.testing.assert_array_equal(symmetry.symmetrize_map(volume, symmetry.point_group("C1")), volume)
    with pytest.raises(InputError, match="order"):
        symmetry.symmetrize_map(volume, group, order=2)
    with pytest.raises(InputError, match="cubic"):
        symmetry.symmetrize_map(volume[:5], group)


def _inserted(size: int, images: np.ndarray, turns: np.ndarray) -> FourierSums:
    """Images in views of these rotations, without CTF."""
    views = Views(
        axes=rotations.slice_axes(turns),
        offsets=np.zeros((len(images), 2)),
        ctf=np.broadcast_to(ctf.no_ctf(1), (len(images), ctf.COEFFICIENTS)).astype(np.float32),
        groups=np.zeros(len(images), np.int64),
    )
    sums = FourierSums(size, np.ones((1, size // 2 + 1)))
    sums.add(images.astype(np.float32), views)
    sums.finish()
    return sums


def _both(name: str, size: int, count: int) -> tuple[FourierSums, FourierSums, np.ndarray]:
    """Sums with all symmetry copies inserted; the same symmetrized afterwards; the truth."""
    group = symmetry.point_group(name)
    draw = np.random.default_rng(3)
    places = draw.uniform(-0.22, 0.22, (6, 3)) * size
    truth = _blob(size, np.concatenate([places @ operator.T for operator in group]), 1.6)
    turns = Rotation.from_quat(draw.normal(size=(count, 4))).as_matrix()
    images = Projector(size).images(truth, turns)
    copies = np.concatenate([turns @ operator for operator in group])
    inserted = _inserted(size, np.tile(images, (len(group), 1, 1)), copies)
    after = _inserted(size, images, turns)
    after.grid = symmetry.symmetrize_sums(after.grid, group)
    return inserted, after, truth


@pytest.mark.parametrize("name", ["C2", "C4", "D2", "O"])
def test_grid_symmetries_are_exact(name: str) -> None:
    """Inserting every copy of the views, or symmetrizing the sums: the same numbers up to the Nyquist frequency."""
    inserted, after, _ = _both(name, 12, 40)
    scale = np.abs(inserted.grid).max((0, 1, 2))
    radius = np.fft.fftfreq(24) * 24
    inside = radius[:, None, None] ** 2 + radius[:, None] ** 2 + np.arange(13.0) ** 2 < 11.5**2
    difference = np.abs(inserted.grid - after.grid)[inside]
    assert (difference / scale).max() < 1e-5


@pytest.mark.parametrize(("name", "count"), [("C3", 400), ("D5", 150), ("T", 150), ("I1", 60)])
def test_symmetrized_sums_give_the_map_of_inserted_copies(name: str, count: int) -> None:
    """Up to interpolation: they differ by less than either does from the truth, and are equally far from it."""
    inserted, after, truth = _both(name, 24, count)
    floor = 1e-3 * inserted.shell_weights()
    np.testing.assert_allclose(after.shell_weights()[1:11], inserted.shell_weights()[1:11], rtol=0.06)
    mask = soft_sphere(24, 9.0)
    direct, found = inserted.solve(floor) * mask, after.solve(floor) * mask
    size, error = np.linalg.norm(truth * mask), np.linalg.norm(direct - truth * mask)
    assert np.linalg.norm(found - direct) < 0.045 * size
    assert error < 0.07 * size
    assert np.linalg.norm(found - truth * mask) < 1.1 * error


def test_one_operator_changes_nothing() -> None:
    grid = np.random.default_rng(0).standard_normal((8, 8, 5, 3)).astype(np.float32)
    before = grid.copy()
    np.testing.assert_array_equal(symmetry.symmetrize_sums(grid, symmetry.point_group("C1")), grid)
    symmetry.symmetrize_sums(grid, symmetry.point_group("D2"))
    np.testing.assert_array_equal(grid, before)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_asymmetric_unit(name: str, order: int) -> None:
    """It holds one direction of each orbit: 1 / order of the sphere, and exactly one mate of each direction."""
    group = symmetry.point_group(name)
    directions = np.random.default_rng(1).normal(size=(4000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    inside = symmetry.asymmetric_unit(directions, group)
    share = 1.0 / order
    assert abs(inside.mean() - share) < 5 * np.sqrt(share * (1 - share) / 4000) + 1e-12
    mates = np.einsum("sji,vj->vsi", group, directions[:500])
    of_mates = symmetry.asymmetric_unit(mates.reshape(-1, 3), group).reshape(500, order)
    np.testing.assert_array_equal(of_mates.sum(1), 1)


def test_asymmetric_unit_is_compact_and_its_center_a_choice() -> None:
    group = symmetry.point_group("D3")
    directions = Rotation.from_quat(np.random.default_rng(0).normal(size=(3000, 4))).as_matrix()[:, 2]
    center = np.array([0.3, 0.5, 0.8])
    inside = symmetry.asymmetric_unit(directions, group, center)
    assert symmetry.asymmetric_unit(center[None], group, center).all()
    nearest = (directions @ center)[inside].min()
    mates = np.einsum("sji,vj->vsi", group, directions)
    assert ((directions @ center)[inside] >= (mates[inside] @ center).max(1) - 1e-9).all()
    assert nearest < (directions @ center).max()
    with pytest.raises(InputError, match="axis"):
        symmetry.asymmetric_unit(directions, group, np.array([0.0, 0.0, 2.0]))
    for name in ORDERS:
        other = symmetry.point_group(name)
        middle = symmetry.unit_center(other)
        assert len(other) == 1 or (other[1:] @ middle @ middle).max() < 0.98


def test_mates_are_at_no_distance() -> None:
    group = symmetry.point_group("D3")
    poses = Rotation.from_quat(np.random.default_rng(0).standard_normal((20, 4))).as_matrix()
    turned = Rotation.from_rotvec([0.0, 0.0, np.radians(4.0)]).as_matrix() @ poses @ group[4]
    assert symmetry.symmetric_distance(poses, turned, group) == pytest.approx(np.full(20, 4.0), abs=1e-6)
    assert symmetry.symmetric_distance(poses, turned, group[:1]).min() > 10.0
