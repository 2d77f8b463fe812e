"""Gold-standard refinement on small simulated sets: poses, halves apart, junk, contrast, and that noise stays noise."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from problems.cryoem.files.mrc import write_stack
from problems.cryoem.files.particle_set import Particles
from problems.cryoem.files.particles import read_particles
from problems.cryoem.files.star import write_star
from problems.cryoem.imaging import kernels, rotations
from problems.cryoem.maps.fsc import fsc, resolution
from problems.cryoem.maps.masks import low_pass, soft_sphere
from problems.cryoem.poses.image_spectra import Disc, whitened
from problems.cryoem.refinement.checkpoint import restore, state_of
from problems.cryoem.refinement.gold_standard import (
    Iteration,
    Options,
    Poses,
    Refined,
    Refinement,
    refine,
    settled,
    with_poses,
)
from problems.cryoem.simulation.simulate import Simulation, images, scale_to_snr, write_particles
from sciml.errors import InputError

BOX, PIXEL, COUNT = 32, 5.0, 200
START = 25.0  # Angstrom of the low-passed truth that refinements start from: 6.4 shells of 16


def _truth(seed: int = 2, hollow: bool = False) -> np.ndarray:
    """Fine blobs without symmetry, with signal up to the last shells; about the middle, or far from it."""
    draw, line = np.random.default_rng(seed), np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for _ in range(14):
        place = draw.normal(size=3)
        place *= 3.0 / np.linalg.norm(place) if hollow else 1.0
        z, y, x = (np.exp(-np.square(line - c) / 2.0) for c in 0.11 * BOX * place)
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


SIMULATION = Simulation(number=COUNT, box=BOX, pixel_size=PIXEL, snr=2.0, shift=8.0, seed=1)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return scale_to_snr(SIMULATION, _truth())


@pytest.fixture(scope="module")
def particles(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Particles:
    folder = tmp_path_factory.mktemp("refinement")
    return read_particles(write_particles(SIMULATION, truth, folder)["star"])


def _changed(particles: Particles, folder: Path, change) -> Particles:
    """The same set with other images: `change` is given all of them as read."""
    altered = change(particles.images().copy()).astype(np.float32)
    write_stack(folder / "particles.mrcs", iter([altered]), altered.shape, PIXEL, 2)
    star = write_star(folder / "particles.star", [particles.optics, particles.table])
    return read_particles(star)


def _start(truth: np.ndarray) -> np.ndarray:
    return low_pass(truth, PIXEL, START)


@pytest.fixture(scope="module")
def refined(particles: Particles, truth: np.ndarray) -> Refined:
    return refine(particles, _start(truth), Options(iterations=6))


def _errors(found: Refined, particles: Particles) -> tuple[float, float]:
    """Median turn (degrees) and move (pixels) from the true poses; the start map has their axes."""
    turn = rotations.angular_distance(found.poses.rotations, particles.rotations)
    move = np.hypot(*(found.poses.offsets - particles.origins / PIXEL).T)
    return float(np.median(turn)), float(np.median(move))


@pytest.mark.rounding
def test_poses_and_resolution_from_a_low_passed_map(refined: Refined, particles: Particles) -> None:
    turn, move = _errors(refined, particles)
    assert turn < 1.5
    assert move < 0.15
    first, last = refined.iterations[0], refined.iterations[-1]
    assert first.searched and not last.searched
    assert [record.number for record in refined.iterations] == list(range(len(refined.iterations)))
    assert last.resolution < 13.0 < 0.6 * START  # from shell 6 to 13 of 16
    assert last.resolution <= first.resolution
    assert last.radius > first.radius
    assert last.turn_deg < 0.5
    assert last.log_likelihood > 10.0
    assert np.all(refined.poses.weights > 0.5)
    assert len(refined.used) == COUNT


def test_half_maps_agree_with_the_truth_as_far_as_they_say(
    particles: Particles, truth: np.ndarray, refined: Refined
) -> None:
    """The FSC of the halves is honest: against the truth, .5 is reached about where the halves have .143."""
    state = Refinement(particles, _start(truth), Options())
    for _ in range(5):
        record = state.step()
    mask = soft_sphere(BOX, 0.4 * BOX, 0.08 * BOX)
    for volume in state.maps:
        curve = fsc(volume * mask, truth * mask)
        assert resolution(curve, BOX, PIXEL, 0.5) < 1.2 * record.resolution
        # Grey scale: that of the truth, up to the filter.
        low = low_pass(volume, PIXEL, 30.0) * mask
        expected = low_pass(truth, PIXEL, 30.0) * mask
        assert float((low * expected).sum() / np.square(expected).sum()) == pytest.approx(1.0, abs=0.15)
    again = [record.resolution for record in refined.iterations[:5]]
    assert [record.resolution for record in state.iterations] == again  # the same bits


@pytest.mark.parametrize("half", [1, 2])
def test_halves_never_share(half: int, particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """Other images in the other half: this half is what it was, to the bit, with its noise, the scale of its start map
    and its contrasts, over searches and polishing, as long as both compare images up to the same radius."""
    other = np.flatnonzero(particles.half_sets() != half)

    def shuffle(stack: np.ndarray) -> np.ndarray:
        stack[other] = stack[np.roll(other, 7)][:, ::-1] * 1.02
        return stack

    changed = _changed(particles, tmp_path, shuffle)
    states = [Refinement(each, _start(truth), Options(searches=1)) for each in (particles, changed)]
    mine = np.flatnonzero(states[0].halves == half)
    kind = half - 1
    for number in range(4):
        for state in states:
            state.radius, state.jumps = states[0].radius, states[0].jumps
        for state in states:
            state.step()
        for name in ("rotations", "offsets", "evidence", "expected", "contrast", "scale", "weights"):
            first, second = (getattr(state.poses, name) for state in states)
            np.testing.assert_array_equal(first[mine], second[mine], err_msg=f"{name}, iteration {number}")
            alike = name == "weights" or (name == "scale" and number == 0)
            assert alike or not np.array_equal(first[other], second[other]), name
        assert states[0].scales[kind] == states[1].scales[kind]
        assert states[0].scales[1 - kind] != states[1].scales[1 - kind]
        np.testing.assert_array_equal(states[0].noise.power[kind], states[1].noise.power[kind])
        assert not np.array_equal(states[0].noise.power[1 - kind], states[1].noise.power[1 - kind])
        for state in states:  # what halves do share: the filter, which is their FSC
            state.maps[half - 1] = states[0].maps[half - 1]


@pytest.mark.parametrize("half", [1, 2])
def test_the_sums_of_a_half_hold_its_images_alone(
    half: int, particles: Particles, truth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourier sums of a half to the bit, whatever the other shows."""
    other = np.flatnonzero(particles.half_sets() != half)

    def blur(stack: np.ndarray) -> np.ndarray:
        stack[other] = stack[other][:, :, ::-1]
        return stack

    changed = _changed(particles, tmp_path, blur)
    kept: list[list[np.ndarray]] = []
    solve = Refinement._solve

    def spy(self: Refinement, sums: list[np.ndarray], side: int) -> tuple[np.ndarray, float]:
        kept.append([each.copy() for each in sums])
        return solve(self, sums, side)

    monkeypatch.setattr(Refinement, "_solve", spy)
    for each in (particles, changed):
        Refinement(each, _start(truth), Options()).step()
    np.testing.assert_array_equal(kept[0][half - 1], kept[1][half - 1])
    assert not np.array_equal(kept[0][2 - half], kept[1][2 - half])


def test_evidence_is_the_log_likelihood_at_the_pose(particles: Particles, truth: np.ndarray) -> None:
    """2 Re <CTF y, P> - |CTF P|^2 at the poses that came out, each half against its map, the origin by half."""
    state = Refinement(particles, _start(truth), Options())
    state.scale_start()
    state.scale_start = lambda: None
    state.maps[1] = 0.9 * state.maps[1]
    side = state._side(state.reach())
    spectra, noise = [state.spectrum(half, side) for half in (1, 2)], state.noise
    record = state.step()
    disc = Disc(BOX, record.radius)
    seen = whitened(particles.images(), disc, noise, state.views)
    predicted = np.empty(seen.values.shape, np.complex64)
    for half in (1, 2):
        rows = np.flatnonzero(state.halves == half)
        out = np.empty((len(rows), len(disc)), np.complex64)
        axes = np.ascontiguousarray(2.0 * state.poses.rotations[rows, :2], np.float32)
        kernels.gather(spectra[half - 1], axes, disc.kx, disc.ky, out)
        predicted[rows] = out
    predicted *= seen.transfer * disc.phases(state.poses.offsets).conj()
    expected = np.square(np.abs(predicted)).sum(1)
    direct = 2.0 * np.real(np.conj(predicted) * seen.values).sum(1) - expected
    np.testing.assert_allclose(state.poses.expected, expected, rtol=1e-4)
    np.testing.assert_allclose(state.poses.evidence, direct, rtol=1e-4, atol=0.02)


def test_junk_is_down_weighted_and_counted(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """A fifth of noise alone: their weights fall, those of the others stay, and the resolution hardly suffers."""
    draw = np.random.default_rng(8)
    junk = np.sort(draw.permutation(COUNT)[: COUNT // 5])

    def replace_some(stack: np.ndarray) -> np.ndarray:
        stack[junk] = draw.normal(size=(len(junk), BOX, BOX))
        return stack

    found = refine(_changed(particles, tmp_path, replace_some), _start(truth), Options(iterations=5))
    good = np.setdiff1d(np.arange(COUNT), junk)
    assert np.mean(found.poses.weights[junk] < 0.5) > 0.95
    assert np.mean(found.poses.weights[good] > 0.9) > 0.97
    assert found.iterations[-1].junk == np.sum(found.poses.weights < 0.5)
    assert len(found.used) == COUNT - found.iterations[-1].junk
    turn = rotations.angular_distance(found.poses.rotations, particles.rotations)[good]
    assert np.median(turn) < 1.5
    assert found.iterations[-1].resolution < 14.0


def test_another_molecule_is_left_out(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """A fifth of the images show a wide, hollow molecule of the same power, made of as many blobs."""
    junk = np.sort(np.random.default_rng(8).permutation(COUNT)[: COUNT // 5])
    other = scale_to_snr(SIMULATION, _truth(3, hollow=True))
    shown = np.concatenate(list(images(SIMULATION, other)))

    def replace_some(stack: np.ndarray) -> np.ndarray:
        stack[junk] = shown[junk]
        return stack

    found = refine(_changed(particles, tmp_path, replace_some), _start(truth), Options(iterations=6))
    good = np.setdiff1d(np.arange(COUNT), junk)
    assert np.mean(found.poses.weights[junk] < 0.5) > 0.9
    assert np.mean(found.poses.weights[good] > 0.5) > 0.97


@pytest.mark.rounding
def test_the_grey_scale_of_the_start_map_does_not_matter(particles: Particles, truth: np.ndarray) -> None:
    plain, scaled = (
        refine(particles, np.float32(factor) * _start(truth), Options(iterations=2)) for factor in (1.0, 7.0)
    )
    apart = rotations.angular_distance(plain.poses.rotations, scaled.poses.rotations)
    assert np.percentile(apart, 95) < 0.05
    assert plain.iterations[-1].resolution == pytest.approx(scaled.iterations[-1].resolution, rel=1e-3)
    np.testing.assert_allclose(scaled.poses.evidence, plain.poses.evidence, rtol=0.02, atol=0.5)


def test_scale_of_the_start_map_is_that_of_the_images(particles: Particles, truth: np.ndarray) -> None:
    state = Refinement(particles, 7.0 * _start(truth), Options())
    state.scale_start()
    assert state.scales == pytest.approx([1.0 / 7.0, 1.0 / 7.0], rel=0.25)
    assert state.scales[0] != state.scales[1]  # each from the images of its half


@pytest.mark.rounding
def test_contrast_of_each_image_is_found(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """The signal of each image times .7 to 1.4; the noise of all is one, so that none is brought to another level."""
    gain = np.random.default_rng(4).uniform(0.7, 1.4, COUNT)
    shown, empty = (np.concatenate(list(images(SIMULATION, density))) for density in (truth, np.zeros_like(truth)))

    def dim(stack: np.ndarray) -> np.ndarray:
        return stack + (gain - 1.0)[:, None, None] * (shown - empty)

    found = refine(_changed(particles, tmp_path, dim), _start(truth), Options(iterations=6, searches=1))
    scale = found.poses.scale
    assert np.corrcoef(scale, gain)[0, 1] > 0.95
    ratio = (scale / np.median(scale)) / (gain / np.median(gain))
    assert ratio.std() < 0.06
    slope = np.polyfit(gain / np.median(gain), scale / np.median(scale), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.15)


def test_noise_gives_no_resolution_beyond_the_start(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """Einstein from noise: the start map is there, in no image. Half maps must not come to agree on more."""
    draw = np.random.default_rng(9)
    noise = _changed(particles, tmp_path, lambda stack: draw.normal(size=stack.shape))
    found = refine(noise, _start(truth), Options(iterations=5, start_resolution=START))
    assert all(record.resolution > 0.9 * START for record in found.iterations)
    assert all(record.radius < BOX * PIXEL / START + 3.0 for record in found.iterations)
    assert found.tells_nothing


def test_images_of_a_particle_tell_something(refined: Refined) -> None:
    assert not refined.tells_nothing


def test_with_poses_keeps_every_column(particles: Particles) -> None:
    table = particles.table.with_column("rlnSomethingElse", [f"word{i}" for i in range(COUNT)])
    source = replace(particles, table=table)
    draw = np.random.default_rng(3)
    poses = replace(
        Poses.unknown(COUNT),
        rotations=rotations.matrices(draw.uniform(0, 170, (COUNT, 3))),
        offsets=draw.normal(size=(COUNT, 2)),
        weights=draw.uniform(size=COUNT),
    )
    halves = 1 + (np.arange(COUNT) // 3) % 2
    posed = with_poses(source, poses, halves)
    changed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset"}
    for label, values in source.table.columns.items():
        assert label in posed.table.columns
        assert (list(posed.table.columns[label]) == list(values)) == (label not in changed), label
    assert set(posed.table.columns) - set(source.table.columns) == {"rlnMaxValueProbDistribution"}
    np.testing.assert_allclose(rotations.angular_distance(posed.rotations, poses.rotations), 0.0, atol=1e-4)
    np.testing.assert_allclose(posed.origins, PIXEL * poses.offsets)
    np.testing.assert_array_equal(posed.half_sets(), halves)
    np.testing.assert_allclose(posed.table.numbers("rlnOriginXAngst"), posed.origins[:, 0], atol=1e-6)
    np.testing.assert_allclose(posed.table.numbers("rlnAngleTilt"), posed.angles_deg[:, 1], atol=1e-6)
    np.testing.assert_array_equal(posed.table.integers("rlnRandomSubset"), halves)


def test_it_goes_on_from_its_state_to_the_same_bits(particles: Particles, truth: np.ndarray) -> None:
    whole = Refinement(particles, _start(truth), Options())
    whole.step()
    kept = state_of(whole)
    kept = type(kept)({name: np.array(value) for name, value in kept.arrays.items()}, dict(kept.numbers))
    record = whole.step()
    other = Refinement(particles, np.zeros_like(truth), Options(seed=5))
    other.halves = whole.halves
    restore(other, kept)
    assert len(other.iterations) == 1
    again = other.step()
    np.testing.assert_array_equal(again.fsc, record.fsc)
    np.testing.assert_array_equal(other.poses.rotations, whole.poses.rotations)
    np.testing.assert_array_equal(other.maps[0], whole.maps[0])
    np.testing.assert_array_equal(other.noise.power, whole.noise.power)
    smaller = Refinement(particles.select(np.arange(50)), truth, Options())
    with pytest.raises(InputError, match="50"):
        restore(smaller, kept)


def test_when_a_refinement_is_settled() -> None:
    def record(number: int, resolution: float, searched: bool = False, turn: float = 0.01) -> Iteration:
        return Iteration(number, 8.0, searched, resolution, np.zeros(3), turn, 0.0, 0, 1.0)

    gains = [record(i, r) for i, r in enumerate((20.0, 15.0, 12.0))]
    assert not settled([])
    assert not settled(gains)
    assert not settled([*gains, record(3, 12.0)])
    assert settled([*gains, record(3, 12.0), record(4, 11.99)])
    assert not settled([*gains, record(3, 12.0), record(4, 12.0, searched=True)])
    assert not settled([*gains, record(3, 12.0), record(4, 12.0, turn=0.5)])
    assert not settled([*gains, record(3, 12.0), record(4, 11.5)])


def test_a_start_map_of_another_box_is_refused(particles: Particles) -> None:
    with pytest.raises(InputError, match="resample"):
        refine(particles, np.zeros((16, 16, 16), np.float32))


def test_the_mask_follows_a_slim_molecule_and_no_noise() -> None:
    one = Refinement.__new__(Refinement)
    one.particles, one.shared = SimpleNamespace(box=64, pixel_size=5.0), 10.0  # type: ignore[assignment]
    line = 5.0 * (np.arange(64) - 32)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    noise = np.random.default_rng(0).standard_normal((64,) * 3).astype(np.float32)
    rod = 3.0 * np.exp(-(np.square(z / 90.0) ** 4) - (y**2 + x**2) / 200.0)
    mask = one._molecule((rod + noise).astype(np.float32))
    axis = np.hypot(y, x)
    assert (mask[(np.abs(z) < 80) & (axis < 20)] == 1).all()
    assert (mask[axis > 110] == 0).all()
    assert (one._molecule(noise) == 1).all()
