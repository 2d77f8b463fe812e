"""The pose search against its formula written out pose by pose in complex numbers: compiled and by torch."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sciml_cryoem.imaging import kernels, orientations, rotations, threads
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.orientations import HALF_TURN
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.poses import search as pose_search
from sciml_cryoem.poses import torch_search
from sciml_cryoem.poses.search import search
from sciml_cryoem.poses.search_result import APART_DEG, PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

SIZE, RADIUS = 16, 6.0
SHIFTS = orientations.shift_disc(2.0, 1.0)


@pytest.fixture(params=["cpu", "torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where to search."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def _blobs(seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    line = np.arange(SIZE) - SIZE // 2
    volume = np.zeros((SIZE,) * 3)
    for _ in range(8):
        z, y, x = (np.exp(-np.square(line - c) / 4.0) for c in 0.13 * SIZE * draw.normal(size=3))
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


@dataclass
class Case:
    """Images of a molecule, whitened, at poses of the grid and offsets among those tried."""

    images: ImageSpectra
    slices: np.ndarray
    grid: PoseGrid
    truth: np.ndarray


def _slices(volume: np.ndarray, grid: np.ndarray, disc: Disc) -> np.ndarray:
    """Slices read at the points of the disc, written out: the sum over voxels."""
    line = np.arange(SIZE) - SIZE // 2
    z, y, x = (axis.ravel() for axis in np.meshgrid(line, line, line, indexing="ij"))
    points = np.einsum("rij,ik->rkj", grid[:, :2], np.stack([disc.kx, disc.ky]))  # A^T (kx, ky, 0)
    return (np.exp((-2j * np.pi / SIZE) * (points @ np.stack([x, y, z]))) @ volume.ravel()).astype(np.complex64)


def _noise(shape: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """Of power 1; the origin, which is real, of 1/2."""
    noise = np.sqrt(0.5) * (draw.normal(size=shape) + 1j * draw.normal(size=shape))
    noise[:, 0] = noise[:, 0].real
    return noise


def _case(count: int = 12, orders: int = 24, power: float = 12.0, seed: int = 0) -> Case:
    """`power`: mean of |CTF P|^2 over an image, which decides how sharp the posterior is."""
    draw = np.random.default_rng(seed)
    disc = Disc(SIZE, RADIUS)
    turns = orientations.turned(orientations.half_turn_grid(0), orientations.random_turns(1, draw)[0])[:orders]
    slices = _slices(_blobs(3), turns, disc)
    transfer = draw.uniform(-1.0, 1.0, (count, len(disc))).astype(np.float32)
    slices *= np.sqrt(power / np.square(np.abs(slices[0] * transfer[0])).sum()).astype(np.float32)
    truth = np.stack([draw.integers(n, size=count) for n in (len(SHIFTS), len(turns), 2)], 1)
    shift, view, half = truth.T
    ideal = np.where(half[:, None] == 1, slices[view].conj(), slices[view])
    values = transfer * ideal * disc.phases(SHIFTS)[shift].conj() + _noise(transfer.shape, draw)
    return Case(ImageSpectra(disc, values.astype(np.complex64), transfer), slices, PoseGrid(turns, SHIFTS), truth)


def _written_out(case: Case, radius: float, slices: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The docstring of the module in double precision, one pose at a time."""
    slices = case.slices if slices is None else slices
    disc, images = case.images.disc, case.images
    near = disc.kx**2 + disc.ky**2 < radius**2
    shape = (len(images), len(case.grid.shifts), len(slices), 2)
    scores = np.empty(shape)
    numerator = np.zeros(slices.shape, np.complex128)
    denominator = np.zeros(slices.shape)
    moved = np.empty((*shape[:2], len(disc)), np.complex128)
    for i, (values, transfer) in enumerate(zip(images.values, images.transfer, strict=True)):
        for s, (x, y) in enumerate(case.grid.shifts):
            moved[i, s] = np.exp(-2j * np.pi * (disc.kx * x + disc.ky * y) / SIZE) * transfer * values
            for r, view in enumerate(slices.astype(np.complex128)):
                norm = np.sum(np.square(transfer[near] * np.abs(view[near])))
                for half, values_there in enumerate((view, view.conj())):
                    inner = np.sum(np.conj(values_there[near]) * moved[i, s, near])
                    scores[i, s, r, half] = 2.0 * inner.real - norm
    top = scores.max((1, 2, 3), keepdims=True)
    likelihood = np.exp(scores - top)
    weights = likelihood / likelihood.sum((1, 2, 3), keepdims=True)
    for i, transfer in enumerate(images.transfer):
        for s in range(shape[1]):
            # What an image gives the view at psi + 180 degrees, seen from the one at psi, is conjugate.
            numerator += weights[i, s, :, 0, None] * moved[i, s] + weights[i, s, :, 1, None] * moved[i, s].conj()
            denominator += weights[i, s].sum(1)[:, None] * np.square(transfer)
    return {
        "numerator": numerator,
        "denominator": denominator,
        "log_likelihood": np.log(likelihood.mean((1, 2, 3))) + top[:, 0, 0, 0],
        "scores": scores,
    }


def _compare(found: SearchResult, expected: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(found.log_likelihood, expected["log_likelihood"], atol=1e-3)
    for name in ("numerator", "denominator"):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(getattr(found, name), expected[name], atol=3e-4 * scale, err_msg=name)
    scores = expected["scores"]
    best = np.stack([np.unravel_index(image.argmax(), image.shape) for image in scores])
    np.testing.assert_array_equal(found.places[:, 0], best)
    assert found.evaluated == scores.size


def test_search_is_its_formula(device: str) -> None:
    case = _case()
    found = search(case.images, case.slices, case.grid, RADIUS, device=device)
    _compare(found, _written_out(case, RADIUS))
    assert 0.0 < found.denominator.min(1).max() / found.denominator.max() < 1.0


def test_only_points_within_the_radius_decide_and_all_collect(device: str) -> None:
    case = _case()
    found = search(case.images, case.slices, case.grid, 4.0, device=device)
    expected = _written_out(case, 4.0)
    _compare(found, expected)
    far = case.images.disc.within(4.0)
    assert far < len(case.images.disc)
    assert np.abs(found.numerator[:, far:]).max() > 0
    # What lies beyond must not matter to the weights: other slices there, same sums.
    slices = case.slices.copy()
    slices[:, far:] = 7.0
    again = search(case.images, slices, case.grid, 4.0, device=device)
    np.testing.assert_array_equal(again.numerator, found.numerator)
    np.testing.assert_array_equal(again.log_likelihood, found.log_likelihood)


def test_the_slice_at_psi_plus_180_is_the_conjugate() -> None:
    """Of a real density, read by the projector: on which the search relies for half of its poses."""
    disc, projector = Disc(SIZE, RADIUS), Projector(SIZE, 2, RADIUS)
    turns = orientations.random_turns(5, np.random.default_rng(0))
    first, second = (projector.forward(_blobs(3), pose) for pose in (turns, HALF_TURN @ turns))
    np.testing.assert_allclose(second, first.conj(), atol=1e-4 * np.abs(first).max())
    direct = _slices(_blobs(3), HALF_TURN @ turns, disc)
    np.testing.assert_allclose(_slices(_blobs(3), turns, disc).conj(), direct, atol=1e-4 * np.abs(direct).max())


def test_sharp_images_give_back_their_poses(device: str) -> None:
    case = _case(30, power=400.0)
    found = search(case.images, case.slices, case.grid, RADIUS, device=device)
    np.testing.assert_array_equal(found.places[:, 0], case.truth)
    turns, offsets = case.grid.poses(found.places[:, 0])
    shift, view, half = case.truth.T
    np.testing.assert_array_equal(offsets, SHIFTS[shift])
    expected = np.where(half[:, None, None] == 1, HALF_TURN @ case.grid.rotations[view], case.grid.rotations[view])
    np.testing.assert_array_equal(turns, expected)


@pytest.mark.parametrize("power", [3.0, 12.0, 60.0])
def test_loop_and_product_give_the_same_sums(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case, sums = _case(power=power), []
    for share in (0.0, 1.1):  # never the loop, always the loop
        monkeypatch.setattr(pose_search, "SPARSE", share)
        sums.append(search(case.images, case.slices, case.grid, 5.0))
    dense, sparse = sums
    for name in ("numerator", "denominator"):
        scale = np.abs(getattr(dense, name)).max()
        np.testing.assert_allclose(getattr(sparse, name), getattr(dense, name), atol=1e-5 * scale)
    np.testing.assert_array_equal(sparse.log_likelihood, dense.log_likelihood)


def test_chunks_do_not_matter(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = _case(11)
    whole = search(case.images, case.slices, case.grid, RADIUS, device=device)
    monkeypatch.setattr(pose_search, "_SCORES", 4 * len(SHIFTS) * len(case.slices))  # 4, 4 and 3 images
    for name in ("_BYTES", "_BYTES_CPU"):
        monkeypatch.setattr(torch_search, name, 100_000)  # 25 kB an image: 3, 3, 3 and 2
    parts = search(case.images, case.slices, case.grid, RADIUS, device=device)
    scale = np.abs(whole.numerator).max()
    np.testing.assert_allclose(parts.numerator, whole.numerator, atol=1e-5 * scale)
    np.testing.assert_allclose(parts.log_likelihood, whole.log_likelihood, atol=1e-4)
    np.testing.assert_array_equal(parts.places, whole.places)


def test_several_references_in_turn(device: str) -> None:
    """One posterior over the poses of all; a place beyond the first reference names its pose alike."""
    case, disc = _case(power=80.0), Disc(SIZE, RADIUS)
    count = len(case.grid.rotations)
    other = _slices(_blobs(8), case.grid.rotations, disc)
    other *= np.float32(np.linalg.norm(case.slices) / np.linalg.norm(other))
    both = np.concatenate([other, case.slices])
    found = search(case.images, both, case.grid, RADIUS, device=device)
    _compare(found, _written_out(case, RADIUS, both))
    assert np.mean(found.places[:, 0, 1] >= count) > 0.7  # the images are of the second
    np.testing.assert_array_equal(
        case.grid.poses(found.places[:, 0])[0], case.grid.poses(found.places[:, 0] % [99, count, 2])[0]
    )
    shares = np.array([part.sum() for part in np.split(found.denominator, 2)]) / np.square(case.images.transfer).sum()
    assert shares.sum() == pytest.approx(1.0, abs=1e-3)
    assert shares[1] > 0.8


def test_likeliest_poses_lie_apart_and_are_the_best_that_do(device: str) -> None:
    case = _case(20, 72, power=12.0)
    found = search(case.images, case.slices, case.grid, RADIUS, SearchRequest(sums=False, poses=4), device)
    assert found.numerator.size == found.denominator.size == 0
    scores = _written_out(case, RADIUS)["scores"]
    for image, places in zip(scores, found.places, strict=True):
        turns, _ = case.grid.poses(places)
        left = image.max(0)  # (orientations, half turns): the best shift of each
        left[left < left.max() - pose_search.CUTOFF] = -np.inf
        for number, (shift, view, half) in enumerate(places):
            if not np.isfinite(left).any():
                np.testing.assert_array_equal(places[number], places[number - 1])
                continue
            assert image[shift, view, half] == pytest.approx(left.max(), abs=2e-3)
            for other, mates in enumerate((case.grid.rotations, HALF_TURN @ case.grid.rotations)):
                trace = np.einsum("rij,ij->r", mates, turns[number])
                left[np.arccos(np.clip((trace - 1) / 2, -1, 1)) < np.radians(APART_DEG), other] = -np.inf
    distinct = found.places[:, 0, 1] != found.places[:, 1, 1]
    assert distinct.mean() > 0.5  # there was something to choose


def test_likeliest_poses_of_a_fine_grid_are_not_neighbors(device: str) -> None:
    """15 degrees from view to view: without the rule the second best would be next to the best."""
    disc = Disc(SIZE, RADIUS)
    grid, projector = PoseGrid(orientations.half_turn_grid(2), np.zeros((1, 2))), Projector(SIZE, 2, RADIUS)
    slices = np.empty((len(grid.rotations), len(disc)), np.complex64)
    axes = np.ascontiguousarray(2.0 * grid.rotations[:, :2], np.float32)
    kernels.gather(projector.spectrum(_blobs(3)).astype(np.complex64), axes, disc.kx, disc.ky, slices)
    slices *= np.float32(0.05)
    values = slices[[5, 300, 900]]
    images = ImageSpectra(disc, values, np.ones(values.shape, np.float32))
    found = search(images, slices, grid, RADIUS, SearchRequest(sums=False, poses=3), device)
    np.testing.assert_array_equal(found.places[:, 0, 1], [5, 300, 900])
    for places in found.places:
        turns, _ = grid.poses(places)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            away = float(rotations.angular_distance(turns[a], turns[b]))
            assert away > APART_DEG - 1e-3 or np.array_equal(places[a], places[b])
    assert len({tuple(place) for place in found.places[:, 1]}) > 1


def test_extreme_scores_neither_overflow_nor_vanish(device: str) -> None:
    """Log likelihoods of 10,000 and of -10,000: the weights of an image still add up to 1."""
    case = _case(power=1e4)
    blank = ImageSpectra(case.images.disc, 0.01 * case.images.values, case.images.transfer)
    for images, sign in ((case.images, 1.0), (blank, -1.0)):
        found = search(images, case.slices, case.grid, RADIUS, device=device)
        expected = _written_out(Case(images, case.slices, case.grid, case.truth), RADIUS)
        assert np.all(sign * found.log_likelihood > 1e3)
        np.testing.assert_allclose(found.log_likelihood, expected["log_likelihood"], rtol=1e-5, atol=0.02)
        assert np.isfinite(found.numerator).all()
        total = found.denominator.sum(0)
        np.testing.assert_allclose(total, np.square(images.transfer).sum(0), rtol=1e-4, atol=1e-5)


def test_one_orientation_and_one_shift(device: str) -> None:
    """Two poses are left, half a turn apart, and their shares are those of the two scores."""
    case = _case(6, 1, power=4.0)
    grid = PoseGrid(case.grid.rotations, SHIFTS[:1])
    found = search(case.images, case.slices, grid, RADIUS, SearchRequest(poses=3), device)
    expected = _written_out(Case(case.images, case.slices, grid, case.truth), RADIUS)
    _compare(found, expected)
    np.testing.assert_allclose(found.denominator[0], np.square(case.images.transfer).sum(0), rtol=1e-5)
    # The two are half a turn apart, so both can be given; the third repeats.
    np.testing.assert_array_equal(found.places[:, 1, 2], 1 - found.places[:, 0, 2])
    np.testing.assert_array_equal(found.places[:, 2], found.places[:, 1])


def test_the_likelihood_of_junk_has_mean_one(device: str) -> None:
    """Of noise alone: what makes log likelihoods of different maps, classes and grids comparable."""
    case = _case(4000, 6, power=0.7)
    noise = _noise(case.images.values.shape, np.random.default_rng(7))
    junk = ImageSpectra(case.images.disc, noise.astype(np.complex64), case.images.transfer)
    found = search(junk, case.slices, case.grid, RADIUS, SearchRequest(sums=False), device)
    ratio = np.exp(found.log_likelihood)
    assert ratio.mean() == pytest.approx(1.0, abs=4.0 * ratio.std() / np.sqrt(4000))
    assert ratio.std() / np.sqrt(4000) < 0.02
    assert found.log_likelihood.mean() < -0.05
    good = search(case.images, case.slices, case.grid, RADIUS, SearchRequest(sums=False), device)
    assert good.log_likelihood.mean() > 0.05


@pytest.mark.parametrize("sums", [True, False])
def test_threads_find_the_same(sums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case, wanted = _case(count=100), SearchRequest(sums=sums, poses=2)
    monkeypatch.setattr(threads, "cores", lambda: 1)
    alone = search(case.images, case.slices, case.grid, RADIUS, wanted)
    monkeypatch.setattr(threads, "cores", lambda: 3)
    monkeypatch.setattr(pose_search, "_THREAD", 20)
    started: list[int] = []
    real = pose_search._search
    monkeypatch.setattr(pose_search, "_search", lambda part, *rest: (started.append(len(part)), real(part, *rest))[1])
    shared = search(case.images, case.slices, case.grid, RADIUS, wanted)
    assert sorted(started) == [32, 32, 36]  # from multiples of 16 on
    np.testing.assert_array_equal(shared.log_likelihood, alone.log_likelihood)
    np.testing.assert_array_equal(shared.places, alone.places)
    np.testing.assert_allclose(shared.numerator, alone.numerator, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(shared.denominator, alone.denominator, rtol=1e-12, atol=1e-12)
    assert shared.evaluated == alone.evaluated
