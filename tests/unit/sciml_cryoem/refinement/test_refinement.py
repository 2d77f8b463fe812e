"""Gold-standard refinement on small simulated sets: poses, halves apart, junk, contrast, and that noise stays noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sciml_cryoem.files.mrc import write_stack
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.files.star import write_star
from sciml_cryoem.imaging import kernels, rotations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import low_pass, soft_sphere
from sciml_cryoem.reconstruction.image_spectra import whitened
from sciml_cryoem.refinement.gold_standard import ImageBatch, Refinement
from sciml_cryoem.refinement.half_agreement import molecule
from sciml_cryoem.refinement.half_maps import HalfMaps, Iteration
from sciml_cryoem.refinement.image_pass import ImagePass
from sciml_cryoem.refinement.image_set import ImageSet, RefineOptions
from sciml_cryoem.refinement.refine import Refined, refine
from sciml_cryoem.refinement.refined_poses import Poses, with_poses
from sciml_cryoem.refinement.rest import RefinementSwitch, settled
from sciml_cryoem.refinement.start import begin
from sciml_cryoem.simulation.simulate import Simulation, images, scale_to_snr, write_particles

import sciml
from sciml.errors import InputError
from sciml.loop.gradients import evaluate
from sciml.parameters import FlatParameters
from sciml.watching.noise import NoiseEstimate

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
    return refine(particles, _start(truth), RefineOptions(iterations=6))


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


def _problem(particles: Particles, start: np.ndarray, options: RefineOptions | None = None) -> Refinement:
    images = ImageSet.prepare(particles, options or RefineOptions())
    return Refinement(images, begin(images, start))


def _steps(problem: Refinement, model: HalfMaps, count: int) -> None:
    """Full steps on all images, as the core takes them."""
    phase = sciml.SGD(lr=1.0, batch=problem.size, steps=count)
    sciml.solve(problem, model, [phase])


def _whole(problem: Refinement, seed: int = 0) -> ImageBatch:
    return problem.sample(None, torch.Generator().manual_seed(seed))


def test_half_maps_agree_with_the_truth_as_far_as_they_say(particles: Particles, truth: np.ndarray) -> None:
    """The FSC of the halves is honest: against the truth, .5 is reached about where the halves have .143."""
    problem = _problem(particles, _start(truth))
    model = problem.model(5)
    _steps(problem, model, 5)
    record = model.iterations[-1]
    mask = soft_sphere(BOX, 0.4 * BOX, 0.08 * BOX)
    for volume in model.voxels.detach().numpy():
        curve = fsc(volume * mask, truth * mask)
        assert resolution(curve, BOX, PIXEL, 0.5) < 1.2 * record.resolution
        # Grey scale: that of the truth, up to the filter.
        low = low_pass(volume, PIXEL, 30.0) * mask
        expected = low_pass(truth, PIXEL, 30.0) * mask
        assert float((low * expected).sum() / np.square(expected).sum()) == pytest.approx(1.0, abs=0.15)
    again = problem.model(5)
    _steps(problem, again, 5)
    assert torch.equal(again.voxels, model.voxels)  # the same bits


@pytest.mark.parametrize("half", [1, 2])
def test_halves_never_share(half: int, particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """Other images in the other half: gradient, weight, noise and poses of this half are what they were, to the bit,
    at the start and later on; so is the scale of its start map."""
    other = np.flatnonzero(particles.half_sets() != half)

    def shuffle(stack: np.ndarray) -> np.ndarray:
        stack[other] = stack[np.roll(other, 7)][:, ::-1] * 1.02
        return stack

    problems = [_problem(each, _start(truth)) for each in (particles, _changed(particles, tmp_path, shuffle))]
    mine, kind = np.flatnonzero(problems[0].images.halves == half), half - 1
    np.testing.assert_array_equal(*(problem.start.maps[kind] for problem in problems))
    assert not np.array_equal(*(problem.start.maps[1 - kind] for problem in problems))
    model = problems[0].model(4)
    for steps in (0, 1, 2):
        if steps:
            _steps(problems[0], model, 1)
        maps = model.voxels.detach().clone()
        found = []
        for problem in problems:
            with torch.no_grad():
                model.voxels.copy_(maps)
            model.noise_power[kind] = torch.from_numpy(problems[0].images.noise.power[kind])
            model.noise_power[1 - kind] = torch.from_numpy(problem.images.noise.power[1 - kind])
            found.append(problem.gradient(model, _whole(problem)))
        (_, first, told), (_, second, retold) = found
        shape = model.voxels.shape
        assert torch.equal(first.reshape(shape)[kind], second.reshape(shape)[kind])
        assert not torch.equal(first.reshape(shape)[1 - kind], second.reshape(shape)[1 - kind])
        for name in ("weight", "residual_power", "residual_points"):
            assert torch.equal(told.mean[name][kind], retold.mean[name][kind]), name
        for name in ("rotations", "offsets", "evidence", "expected", "contrast", "covariance"):
            assert torch.equal(told.each[name][mine], retold.each[name][mine]), name
            assert not torch.equal(told.each[name][other], retold.each[name][other]), name


def test_loss_and_gradient_leave_everything_as_it_was(particles: Particles, truth: np.ndarray) -> None:
    problem = _problem(particles, _start(truth))
    model = problem.model(3)
    _steps(problem, model, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = problem.sample(60, torch.Generator().manual_seed(3))
    terms, gradient, statistics = problem.gradient(model, batch)
    problem.gradient(model, _whole(problem))
    again, repeated, restated = problem.gradient(model, batch)
    assert torch.equal(gradient, repeated)
    assert all(torch.equal(value, restated.each[name]) for name, value in statistics.each.items())
    assert {name: float(v) for name, v in terms.items()} == {name: float(v) for name, v in again.items()}
    alone = problem.loss(model, batch)
    assert {name: float(v) for name, v in terms.items()} == {name: float(v) for name, v in alone.items()}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_gradient_of_a_batch_is_the_mean_of_its_parts(particles: Particles, truth: np.ndarray) -> None:
    problem = _problem(particles, _start(truth))
    model = problem.model(3)
    _steps(problem, model, 2)
    batch = problem.sample(60, torch.Generator().manual_seed(3))
    parts = [ImageBatch(batch.rows[part], batch.turn[part]) for part in (slice(0, 30), slice(30, 60))]
    whole = problem.gradient(model, batch)[1]
    mean = torch.stack([problem.gradient(model, part)[1] for part in parts]).mean(0)
    assert float((whole - mean).norm()) < 1e-5 * float(whole.norm())


def test_the_gradient_is_the_derivative_of_the_loss(particles: Particles, truth: np.ndarray) -> None:
    """Along directions within the mask, at poses that are at their best: they need not be followed."""
    problem = _problem(particles, _start(truth))
    model = problem.model(6)
    _steps(problem, model, 5)
    batch = problem.sample(80, torch.Generator().manual_seed(1))
    gradient = problem.gradient(model, batch)[1].reshape(model.voxels.shape)
    origin = model.voxels.detach().clone()
    smooth = torch.from_numpy(np.stack([_start(truth), low_pass(truth, PIXEL, 15.0)]))
    for direction in (smooth, origin):
        length = 0.02 * float(origin.norm() / direction.norm())
        values = []
        for sign in (-1, 1):
            with torch.no_grad():
                model.voxels.copy_(origin + sign * length * direction)
            values.append(float(sum(problem.loss(model, batch).values())))
        slope = (values[1] - values[0]) / (2 * length)
        scale = float(gradient.norm() * direction.norm())
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.05, abs=0.02 * scale)


def test_evidence_is_the_log_likelihood_at_the_pose(particles: Particles, truth: np.ndarray) -> None:
    """2 Re <CTF y, P> - |CTF P|^2 at the poses that came out, each half against its map."""
    problem = _problem(particles, _start(truth))
    model = problem.model(1)
    with torch.no_grad():
        model.voxels[1] *= 0.9
    images, state = problem.images, model.state
    one = ImagePass(images, state, model.voxels.detach().numpy(), np.eye(3), BOX / 16)
    each = problem.gradient(model, _whole(problem))[2].each
    disc = Disc(BOX, state.radius)
    noise = replace(images.noise, power=state.noise_power)
    seen = whitened(particles.images(), disc, noise, images.views)
    predicted = np.empty(seen.values.shape, np.complex64)
    for half in (1, 2):
        rows = np.flatnonzero(images.halves == half)
        out = np.empty((len(rows), len(disc)), np.complex64)
        axes = rotations.slice_axes(each["rotations"].numpy()[rows], 2)
        kernels.gather(one.references[half - 1].spectrum, axes, disc.kx, disc.ky, out)
        predicted[rows] = out
    predicted *= seen.transfer * disc.phases(each["offsets"].numpy()).conj()
    expected = np.square(np.abs(predicted)).sum(1)
    direct = 2.0 * np.real(np.conj(predicted) * seen.values).sum(1) - expected
    np.testing.assert_allclose(each["expected"].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(each["evidence"].numpy(), direct, rtol=1e-4, atol=0.02)


def test_junk_is_down_weighted_and_counted(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """A fifth of noise alone: their weights fall, those of the others stay, and the resolution hardly suffers."""
    draw = np.random.default_rng(8)
    junk = np.sort(draw.permutation(COUNT)[: COUNT // 5])

    def replace_some(stack: np.ndarray) -> np.ndarray:
        stack[junk] = draw.normal(size=(len(junk), BOX, BOX))
        return stack

    found = refine(_changed(particles, tmp_path, replace_some), _start(truth), RefineOptions(iterations=5))
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

    found = refine(_changed(particles, tmp_path, replace_some), _start(truth), RefineOptions(iterations=6))
    good = np.setdiff1d(np.arange(COUNT), junk)
    assert np.mean(found.poses.weights[junk] < 0.5) > 0.9
    assert np.mean(found.poses.weights[good] > 0.5) > 0.97


@pytest.mark.rounding
def test_the_grey_scale_of_the_start_map_does_not_matter(particles: Particles, truth: np.ndarray) -> None:
    plain, scaled = (
        refine(particles, np.float32(factor) * _start(truth), RefineOptions(iterations=2)) for factor in (1.0, 7.0)
    )
    apart = rotations.angular_distance(plain.poses.rotations, scaled.poses.rotations)
    assert np.percentile(apart, 95) < 0.05
    assert plain.iterations[-1].resolution == pytest.approx(scaled.iterations[-1].resolution, rel=1e-3)
    np.testing.assert_allclose(scaled.poses.evidence, plain.poses.evidence, rtol=0.02, atol=0.5)


def test_scale_of_the_start_map_is_that_of_the_images(particles: Particles, truth: np.ndarray) -> None:
    plain = _problem(particles, _start(truth)).start
    scaled = _problem(particles, 7.0 * _start(truth)).start
    np.testing.assert_allclose(scaled.maps, plain.maps, rtol=1e-3, atol=1e-4)
    mask = soft_sphere(BOX, 0.4 * BOX, 0.08 * BOX)
    expected = _start(truth) * mask
    for volume in plain.maps:
        assert float((volume * expected).sum() / np.square(expected).sum()) == pytest.approx(1.0, rel=0.25)
    assert not np.array_equal(plain.maps[0], plain.maps[1])  # each from the images of its half


def test_the_images_that_a_first_batch_needs_are_foretold(particles: Particles, truth: np.ndarray) -> None:
    """Half maps of so many images do agree about as they were said to."""
    problem = _problem(particles, _start(truth), RefineOptions(start_resolution=START))
    asked = problem.start.images_for(0.8, problem.images.first_radius)
    assert 4 < asked < COUNT
    count = int(2 * np.ceil(asked / 2))
    found = []
    for seed in range(6):
        model = problem.model(1)
        batch = problem.sample(count, torch.Generator().manual_seed(seed))
        sciml.solve(_Only(problem, batch), model, [sciml.SGD(lr=1.0, batch=problem.size, steps=1)])
        shell = int(problem.images.first_radius)
        found.append(model.iterations[0].fsc[shell - 2 : shell].mean())
    assert 0.55 < np.median(found) < 0.95


class _Only(sciml.Problem):
    """A refinement that only ever sees one batch."""

    def __init__(self, problem: Refinement, batch: ImageBatch) -> None:
        self.problem, self.batch, self.size = problem, batch, problem.size

    def sample(self, size, generator):
        return self.problem.sample(None, generator)

    def gradient(self, model, batch):
        return self.problem.gradient(model, self.batch)

    def learn(self, model, batch, evaluation):
        return self.problem.learn(model, self.batch, evaluation)

    def preconditioner(self, model):
        return self.problem.preconditioner(model)


@pytest.mark.rounding
def test_contrast_of_each_image_is_found(particles: Particles, truth: np.ndarray, tmp_path: Path) -> None:
    """The signal of each image times .7 to 1.4; the noise of all is one, so that none is brought to another level."""
    gain = np.random.default_rng(4).uniform(0.7, 1.4, COUNT)
    shown, empty = (np.concatenate(list(images(SIMULATION, density))) for density in (truth, np.zeros_like(truth)))

    def dim(stack: np.ndarray) -> np.ndarray:
        return stack + (gain - 1.0)[:, None, None] * (shown - empty)

    found = refine(_changed(particles, tmp_path, dim), _start(truth), RefineOptions(iterations=6))
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
    found = refine(noise, _start(truth), RefineOptions(iterations=5, start_resolution=START))
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


def test_it_goes_on_from_its_checkpoint_to_the_same_bits(
    particles: Particles, truth: np.ndarray, tmp_path: Path
) -> None:
    """Stopped after its second step and begun anew in another process' place."""
    whole = refine(particles, _start(truth), RefineOptions(iterations=4))

    def stop(record: Iteration) -> None:
        if record.number == 2:
            raise ConnectionError

    run = sciml.Run.create(tmp_path / "run")
    with pytest.raises(ConnectionError):
        refine(particles, _start(truth), RefineOptions(iterations=4), stop, run.stage("refine"))
    resumed = refine(particles, _start(truth), RefineOptions(iterations=4), stage=run.stage("refine"))
    np.testing.assert_array_equal(resumed.poses.rotations, whole.poses.rotations)
    np.testing.assert_array_equal(resumed.iterations[-1].fsc, whole.iterations[-1].fsc)
    assert [vars(a).keys() for a in resumed.iterations] == [vars(a).keys() for a in whole.iterations]
    assert torch.equal(resumed.solution.model.voxels, whole.solution.model.voxels)  # type: ignore[arg-type]


def _record(number: int, resolution: float, **other) -> Iteration:
    values = {
        "radius": 8.0, "searched": False, "turn_deg": 0.01, "pose_error_deg": 1.0, "move": 0.0, "junk": 0,
        "log_likelihood": 1.0, "refocused": False, "images": 100, "next_radius": 8.0, "fsc": np.zeros(3),
    }  # fmt: skip
    return Iteration(number=number, resolution=resolution, **{**values, **other})


def test_when_a_refinement_is_settled() -> None:
    gains = [_record(i, r) for i, r in enumerate((20.0, 15.0, 12.0))]
    assert not settled([])
    assert not settled(gains[:1])
    assert not settled(gains)
    assert settled([*gains, _record(3, 12.0)])
    assert settled([*gains, _record(3, 11.99)])
    assert not settled([*gains, _record(3, 11.5)])
    assert not settled([*gains, _record(3, 12.0, searched=True)])
    assert not settled([*gains, _record(3, 12.0, turn_deg=0.5)])
    assert not settled([*gains, _record(3, 12.0, next_radius=10.0)])


def test_all_images_come_in_when_a_batch_is_not_worth_it(particles: Particles, truth: np.ndarray) -> None:
    """N / B = 20 steps for the price of one, worth rho / (1 + rho) each."""
    problem = _problem(particles, _start(truth))
    model = problem.model(4)
    rule = RefinementSwitch(model, 20_000)
    batch = problem.sample(100, torch.Generator().manual_seed(0))
    problem.learn(model, batch, evaluate(problem, model, FlatParameters(model.parameters()), batch))

    def noise(snr: float) -> NoiseEstimate:
        return NoiseEstimate(snr, None, None, None, snr, 1.0, 100, 1)

    rule._size = 2000
    assert rule.decide(1, noise(3.0)) is None  # worth 15
    decision = rule.decide(1, noise(0.5))  # worth 6.7
    assert decision is not None
    assert decision.details["worth"] == pytest.approx(20 * 0.5 / 1.5)
    assert "SNR of the gradient of 100 images" in decision.reason
    assert rule.next_batch(100, 2000, noise(0.5), 1.0) == 200
    assert rule.next_batch(100, 2000, noise(2.0), 1.0) == 100
    assert rule.limit(0) == 1


def test_a_start_map_of_another_box_is_refused(particles: Particles) -> None:
    with pytest.raises(InputError, match="resample"):
        refine(particles, np.zeros((16, 16, 16), np.float32))


def test_the_mask_follows_a_slim_molecule_and_no_noise() -> None:
    line = 5.0 * (np.arange(64) - 32)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    noise = np.random.default_rng(0).standard_normal((64,) * 3).astype(np.float32)
    rod = 3.0 * np.exp(-(np.square(z / 90.0) ** 4) - (y**2 + x**2) / 200.0)
    mask = molecule((rod + noise).astype(np.float32), 320.0, 32.0)
    axis = np.hypot(y, x)
    assert (mask[(np.abs(z) < 80) & (axis < 20)] == 1).all()
    assert (mask[axis > 110] == 0).all()
    assert (molecule(noise, 320.0, 32.0) == 1).all()
