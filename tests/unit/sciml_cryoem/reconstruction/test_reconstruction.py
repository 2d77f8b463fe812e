"""Reconstruction from known poses finds the density that was projected, whatever the box, the noise and the file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem import ImageSettings, ReconstructOptions, read_particles, reconstruct
from sciml_cryoem.files.mrc import read_map, write_stack
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging.symmetry import point_group, symmetrize_map
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.reconstruction import accumulation
from sciml_cryoem.reconstruction.accumulation import accumulate
from sciml_cryoem.reconstruction.prior import fsc_error, mean_if_positive, prior_precision, shrink_fsc
from sciml_cryoem.reconstruction.stochastic import reconstruct_stochastic
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles

from sciml.errors import InputError


def _density(box: int) -> np.ndarray:
    """Fifteen blobs without symmetry, within .3 of the box."""
    draw = np.random.default_rng(2)
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    volume = np.zeros((box,) * 3)
    for _ in range(15):
        center = draw.normal(size=3)
        center *= 0.28 * box * draw.random() ** (1 / 3) / np.linalg.norm(center)
        width = draw.uniform(0.03, 0.06) * box
        a, b, c = center
        volume += draw.uniform(0.5, 1.5) * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * width**2))
    return volume.astype(np.float32)


@pytest.fixture(scope="module")
def make_set(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a simulated set of this box; the same call gives the same folder."""
    made: dict[int, Path] = {}

    def make(box: int) -> Path:
        if box not in made:
            made[box] = tmp_path_factory.mktemp(f"box{box}")
            simulation = Simulation(number=400, box=box, pixel_size=4.0, snr=0.2, shift=6.0)
            write_particles(simulation, scale_to_snr(simulation, _density(box)), made[box])
        return made[box]

    return make


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    inside = soft_sphere(len(first)) > 0.5
    return float(np.corrcoef(first[inside], second[inside])[0, 1])


def _truth(folder: Path) -> np.ndarray:
    return read_map(folder / "truth.mrc").array


@pytest.mark.parametrize("box", [32, 33])
def test_finds_the_density_in_place_hand_and_scale(box: int, make_set: Callable[..., Path]) -> None:
    folder = make_set(box)
    result = reconstruct(read_particles(folder / "particles.star"))
    truth = _truth(folder)
    assert _correlation(result.full, truth) > 0.985
    inside = soft_sphere(box) > 0.5
    scale = np.vdot(result.full[inside], truth[inside]) / np.vdot(truth[inside], truth[inside])
    assert 0.93 < scale < 1.01, "the prior shrinks, but not by much"
    moved = (np.roll(truth, 1, axis) for axis in range(3))
    mirrored = (np.roll(np.flip(truth, axis), 1 - box % 2, axis) for axis in range(3))
    assert max(_correlation(result.full, other) for other in (*moved, *mirrored)) < 0.97
    assert result.prior.curves.resolution(0.143) < 20.0


def test_half_maps_are_independent_and_unfiltered(make_set: Callable[..., Path]) -> None:
    particles = read_particles(make_set(32) / "particles.star")
    result = reconstruct(particles)
    other = particles.images().copy()
    first = np.flatnonzero(particles.half_sets() == 1)
    only = replace(particles.select(first), random_subset=np.r_[np.ones(len(first) - 2, int), 2, 2])
    alone = reconstruct(only)
    # Without its last two images half map 1 changes little; nothing of half 2 is in it.
    assert _correlation(alone.half1, result.half1) > 0.98
    assert fsc(result.half1, result.half2)[-4:].max() < 0.4
    assert np.abs(result.half1[0]).max() > 0, "half maps are not masked"
    assert result.full[0, 0, 0] == 0, "the full map is"
    assert np.array_equal(other, particles.images())


def test_the_prior_beats_no_prior_and_any_other_strength(make_set: Callable[..., Path]) -> None:
    folder = make_set(32)
    particles, truth = read_particles(folder / "particles.star"), _truth(folder)
    result = reconstruct(particles, ReconstructOptions(mask="none"))

    def score(factor: float) -> float:
        return _correlation(result.half_sums.full_map(result.prior.precision * factor), truth)

    assert score(1.0) > score(1e-3) + 0.01
    assert score(1.0) > max(score(0.2), score(5.0)) - 0.001


@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_order_batches_and_threads_do_not_change_the_map(device: str, make_set: Callable[..., Path]) -> None:
    particles = read_particles(make_set(32) / "particles.star")
    whole = reconstruct(particles, ReconstructOptions(settings=ImageSettings(device=device)))
    parts = reconstruct(particles, ReconstructOptions(settings=ImageSettings(device=device, batch_mb=0.05)))
    assert np.abs(whole.full - parts.full).max() < 1e-4 * np.abs(whole.full).max()
    again = reconstruct(particles, ReconstructOptions(settings=ImageSettings(device=device)))
    assert np.array_equal(whole.full, again.full)


def test_torch_gives_the_map_of_the_compiled_loop(make_set: Callable[..., Path]) -> None:
    particles = read_particles(make_set(33) / "particles.star")
    first, second = (
        reconstruct(particles, ReconstructOptions(settings=ImageSettings(device=device))).full
        for device in ("cpu", "torch")
    )
    assert np.abs(first - second).max() < 1e-3 * np.abs(first).max()


def _rewritten(folder: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Particles:
    """The set with changed images."""
    particles = read_particles(folder / "particles.star")
    images = change(particles.images()).astype(np.float32)
    write_stack(target / "particles.mrcs", [images], images.shape, particles.pixel_size)
    (target / "particles.star").write_text((folder / "particles.star").read_text(encoding="utf-8"))
    return read_particles(target / "particles.star")


def test_units_offsets_and_gains_do_not_matter(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(32)
    draw = np.random.default_rng(0)
    gains = draw.uniform(0.5, 2.0, (400, 1, 1))
    offsets = draw.normal(900, 80, (400, 1, 1))
    result = reconstruct(_rewritten(folder, tmp_path, lambda images: 30 * gains * images + offsets))
    assert result.half_sums.noise.reference is not None
    assert _correlation(result.full, _truth(folder)) > 0.98


def test_two_optics_groups_of_unequal_noise_are_weighted(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_set(32)
    noise = 4 * np.random.default_rng(0).normal(size=(200, 32, 32))

    def worse(images: np.ndarray) -> np.ndarray:
        images[200:] += noise
        return images

    particles = _rewritten(folder, tmp_path, worse)
    known = replace(particles, optics_group=np.r_[np.ones(200, int), np.full(200, 2)])
    truth = _truth(folder)
    weighted, blind = (
        _correlation(reconstruct(p, ReconstructOptions(settings=ImageSettings(normalize="no"))).full, truth)
        for p in (known, particles)
    )
    assert weighted > blind + 0.01


def test_half_sets_are_drawn_when_the_file_has_none(make_set: Callable[..., Path]) -> None:
    particles = replace(read_particles(make_set(32) / "particles.star"), random_subset=None)
    first, again, other = (accumulate(particles, ReconstructOptions(seed=seed)).halves for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (first != other).any()
    assert np.bincount(first).tolist() == [0, 200, 200]


def test_masks(make_set: Callable[..., Path]) -> None:
    folder = make_set(32)
    particles, truth = read_particles(folder / "particles.star"), _truth(folder)
    half_sums = accumulate(particles)
    from sciml_cryoem.reconstruction.direct import regularize

    found = regularize(half_sums, ReconstructOptions(mask="auto"))
    given = regularize(half_sums, ReconstructOptions(mask=soft_sphere(32, 11.0, 3.0)))
    bare = regularize(half_sums, ReconstructOptions(mask="none"))
    assert bare.prior.mask is None
    assert np.array_equal(bare.prior.curves.masked, bare.prior.curves.unmasked)
    assert found.prior.mask is not None
    assert given.full[0].max() == 0
    assert min(_correlation(result.full, truth) for result in (found, given, bare)) > 0.98
    assert accumulate(particles, ReconstructOptions(settings=ImageSettings(diameter=60.0))).noise.background.radius < 16


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # from the statistics of the spoiled stack
def test_an_unusable_image_is_named(make_set: Callable[..., Path], tmp_path: Path) -> None:
    def spoil(images: np.ndarray) -> np.ndarray:
        images[7, 3, 4] = np.inf
        return images

    with pytest.raises(InputError, match="image 8"):
        reconstruct(_rewritten(make_set(32), tmp_path, spoil))


def test_no_poses_and_tiny_halves_are_refused(make_set: Callable[..., Path]) -> None:
    particles = read_particles(make_set(32) / "particles.star")
    with pytest.raises(InputError, match="no angles"):
        reconstruct(replace(particles, has_poses=False))
    with pytest.raises(InputError, match="at least two"):
        reconstruct(replace(particles, random_subset=np.r_[2, np.ones(399, int)]))


def test_images_without_a_ctf(make_set: Callable[..., Path]) -> None:
    views = accumulation.views_of(read_particles(make_set(32) / "particles.star"), use_ctf=False)
    from sciml_cryoem.imaging.ctf import evaluate

    assert np.allclose(evaluate(views.ctf[:2], np.arange(5.0), np.arange(5.0)), 1.0)


def test_truncated_mean_and_fsc_error() -> None:
    value, error = np.array([0.0, 1.0, -0.02, 0.5]), np.array([0.01, 0.01, 0.01, 1.0])
    found = mean_if_positive(value, error)
    samples = np.random.default_rng(0).normal(0.5, 1.0, 200_000)
    assert found[0] == pytest.approx(0.01 * np.sqrt(2 / np.pi))
    assert found[1] == pytest.approx(1.0)
    assert 0 < found[2] < 0.006
    assert found[3] == pytest.approx(samples[samples > 0].mean(), rel=0.01)
    draw = np.random.default_rng(1)
    mask = soft_sphere(24, 8.0, 3.0)
    curves = [fsc(mask * draw.normal(size=mask.shape), mask * draw.normal(size=mask.shape)) for _ in range(60)]
    measured = np.std(curves, axis=0)[3:-1]
    ratio = measured / fsc_error(np.zeros(13), mask)[3:-1]
    assert ratio.mean() == pytest.approx(1.0, abs=0.15)
    assert ratio == pytest.approx(np.ones(9), abs=0.4)


def test_shrinkage_leaves_signal_and_lifts_noise() -> None:
    mask = soft_sphere(64)
    shells = np.arange(33)
    truth = 1 / (1 + np.exp((shells - 12) / 1.5))
    draw = np.random.default_rng(0)
    curve = truth + draw.normal(size=33) * fsc_error(truth, mask)
    found = shrink_fsc(curve, mask)
    assert np.allclose(found[:10], curve[:10], atol=1e-3)
    assert (found > 0).all()
    assert found[20:].max() < 0.05
    assert np.square(found - truth).sum() < np.square(curve - truth).sum()


def test_prior_is_the_wiener_filter_of_the_full_map() -> None:
    """Gain <W> / (<W> + 1 / tau^2) must be F = 2 FSC / (1 + FSC)."""
    weights, half = np.array([4.0, 2.0, 1.0]), np.array([0.9, 0.5, 0.1])
    precision = prior_precision(weights, half)
    assert weights / (weights + precision) == pytest.approx(2 * half / (1 + half))


def test_a_symmetry_is_imposed(make_set: Callable[..., Path]) -> None:
    """The map is the same under its operators, half maps agree further, and the stochastic solver refuses."""
    particles, group = read_particles(make_set(32) / "particles.star"), point_group("C2")
    plain, twofold = (reconstruct(particles, ReconstructOptions(symmetry=s, mask="none")) for s in ("C1", "C2"))
    error = [np.linalg.norm(symmetrize_map(r.full, group) - r.full) / np.linalg.norm(r.full) for r in (plain, twofold)]
    assert error[1] < 0.05 < 0.2 < error[0]
    assert twofold.half_sums.shell_weights()[5] == pytest.approx(2 * plain.half_sums.shell_weights()[5], rel=0.02)
    with pytest.raises(InputError, match="no symmetry"):
        reconstruct_stochastic(particles, ReconstructOptions(symmetry="C2"))
    with pytest.raises(InputError, match="point group"):
        reconstruct(particles, ReconstructOptions(symmetry="Q7"))
