"""The density as a stochastic problem: its gradient, its preconditioner, and that it ends at the direct solve."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from problem_contract import ProblemContract
from sciml_cryoem import ReconstructOptions, read_particles, reconstruct
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, fourier
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.reconstruction import density as density_module
from sciml_cryoem.reconstruction.accumulation import accumulate
from sciml_cryoem.reconstruction.density import Density, DensityProblem, ImageBatch
from sciml_cryoem.reconstruction.prior import prior_precision
from sciml_cryoem.reconstruction.stochastic import agreement, reconstruct_stochastic
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles

import sciml

BOX, IMAGES = 32, 600


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """A set of fine blobs, in two optics groups."""
    draw = np.random.default_rng(4)
    line = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    truth = np.zeros((BOX,) * 3)
    for _ in range(10):
        a, b, c = 0.12 * BOX * draw.normal(size=3)
        truth += draw.uniform(0.5, 1.5) * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / 3.0)
    simulation = Simulation(number=IMAGES, box=BOX, pixel_size=5.0, snr=0.3, shift=8.0)
    folder = tmp_path_factory.mktemp("density")
    write_particles(simulation, scale_to_snr(simulation, truth.astype(np.float32)), folder)
    found = read_particles(folder / "particles.star")
    return replace(found, optics_group=1 + np.arange(IMAGES) % 2)


@pytest.fixture(scope="module")
def problem(particles: Particles) -> DensityProblem:
    half_sums = accumulate(particles)
    precision = prior_precision(half_sums.shell_weights(), np.linspace(0.95, 0.05, BOX // 2 + 1))
    return DensityProblem(particles, half_sums, precision=precision)


def _model(seed: int = 0) -> Density:
    draw = np.random.default_rng(seed)
    return Density(BOX, 0.1 * draw.normal(size=(BOX,) * 3)).double()


@pytest.mark.filterwarnings("ignore:Casting complex:UserWarning")  # rows are compared by their real parts
class TestContract(ProblemContract):
    """What every Problem must keep to."""

    @pytest.fixture
    def pair(self, problem: DensityProblem) -> tuple[DensityProblem, Density]:
        return problem, _model()


def _batch(problem: DensityProblem, size: int | None = 20, seed: int = 0) -> ImageBatch:
    return problem.sample(size, torch.Generator().manual_seed(seed))


def _loss_written_out(problem: DensityProblem, model: Density, batch: ImageBatch) -> torch.Tensor:
    """The formula of the module in plain torch operations, differentiable by autograd."""
    plane, pixels = problem.plane, float(BOX**2)
    kx, ky = (torch.from_numpy(k.astype(np.float64)) for k in (plane.kx, plane.ky))
    predicted = model(batch.axes.double()) * ctf.evaluate(batch.ctf.double(), kx, ky)
    whitening = torch.from_numpy(problem.noise.whitening[:, plane.shell])[batch.groups]
    data = (whitening * predicted - batch.values).abs().square().sum(1).mean() / pixels
    radius = torch.from_numpy(np.sqrt(fourier.squared_radii(BOX, 3)))
    shells = torch.from_numpy(np.append(problem.precision, problem.precision[-1]))
    low = radius.long().clamp(max=BOX // 2)
    precision = torch.lerp(shells[low], shells[low + 1], (radius - low).clamp(0, 1))
    twice = torch.full((BOX // 2 + 1,), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0
    power = fourier.transform(model.voxels, 3).abs().square()
    # 8 voxels of the padded grid for each of the box
    return data + 8 * (precision * power * twice).sum() / (2 * problem.size * pixels)


def test_gradient_by_hand_is_autograds(problem: DensityProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_module, "CHUNK", 3000)  # several pieces
    model, batch = _model(), _batch(problem)
    terms, gradient = problem.gradient(model, batch)
    expected = _loss_written_out(problem, model, batch)
    assert float(terms["data"] + terms["prior"]) == pytest.approx(float(expected.detach()), rel=1e-9)
    (by_autograd,) = torch.autograd.grad(expected, model.voxels)
    assert torch.linalg.norm(gradient - by_autograd.reshape(-1)) < 1e-9 * torch.linalg.norm(gradient)
    loss = problem.loss(model, batch)
    (through,) = torch.autograd.grad(loss["data"] + 2 * loss["prior"], model.voxels)
    (prior,) = torch.autograd.grad(problem.loss(model, batch)["prior"], model.voxels)
    assert torch.allclose(through - prior, by_autograd, rtol=1e-9, atol=1e-12)


def test_gradient_by_finite_differences(problem: DensityProblem) -> None:
    model, batch = _model(), _batch(problem)
    _, gradient = problem.gradient(model, batch)
    direction = torch.from_numpy(np.random.default_rng(1).normal(size=(BOX,) * 3))
    start, values = model.voxels.detach().clone(), []
    for sign in (1, -1):
        model.voxels.data = start + sign * 1e-4 * direction
        values.append(sum(float(term.detach()) for term in problem.loss(model, batch).values()))
    slope = (values[0] - values[1]) / 2e-4
    assert slope == pytest.approx(float(gradient @ direction.reshape(-1)), rel=1e-7)


def test_terms_and_gradient_are_means_over_images(problem: DensityProblem) -> None:
    model, whole = _model(), _batch(problem, 20)
    parts = [whole.take(cut) for cut in (slice(0, 10), slice(10, 20))]
    terms, gradient = problem.gradient(model, whole)
    halves = [problem.gradient(model, part) for part in parts]
    for name in terms:
        assert float(terms[name]) == pytest.approx(np.mean([float(found[name]) for found, _ in halves]), rel=1e-12)
    mean = 0.5 * (halves[0][1] + halves[1][1])
    assert torch.linalg.norm(gradient - mean) < 1e-12 * torch.linalg.norm(gradient)


def test_noise_alone_has_half_the_disc_for_its_loss(problem: DensityProblem) -> None:
    """At V = 0 each point of the disc contributes 1/2 per pixel, and the signal a little more."""
    terms, _ = problem.gradient(Density(BOX), _batch(problem, None))
    disc = float(problem.plane.multiplicity.sum()) / BOX**2
    assert 0.5 * disc < float(terms["data"]) < 0.75 * disc
    assert float(terms["prior"]) == 0.0


def test_batches_are_drawn_without_replacement_and_by_the_generator(problem: DensityProblem) -> None:
    first, again, other = (_batch(problem, 50, seed) for seed in (3, 3, 4))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)
    assert len(torch.unique(first.axes.reshape(50, -1), dim=0)) == 50
    assert len(_batch(problem, None).groups) == problem.size == IMAGES


def test_images_are_read_from_disk_when_memory_is_short(
    particles: Particles, problem: DensityProblem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(density_module, "MEMORY_MB", 0.0)
    lazy = DensityProblem(particles, accumulate(particles))
    first, second = _batch(problem, 30, 7), _batch(lazy, 30, 7)
    assert torch.allclose(first.values, second.values, atol=1e-4)
    assert torch.equal(first.groups, second.groups)


def test_preconditioner_is_symmetric_positive_and_bounds_the_hessian(problem: DensityProblem) -> None:
    model = Density(BOX).double()
    apply = problem.preconditioner(model)
    draw = np.random.default_rng(0)
    u, v = (torch.from_numpy(draw.normal(size=BOX**3)) for _ in range(2))
    assert float(u @ apply(v)) == pytest.approx(float(apply(u) @ v), rel=1e-10)
    assert float(v @ apply(v)) > 0
    batch = _batch(problem, None)
    _, constant = problem.gradient(model, batch)
    for _ in range(30):
        model.voxels.data = v.reshape((BOX,) * 3)
        moved = apply(problem.gradient(model, batch)[1] - constant)
        largest = float(torch.linalg.norm(moved) / torch.linalg.norm(v))
        v = moved / torch.linalg.norm(moved)
    assert 0.8 < largest < 1.6, "a full step of preconditioned descent must be stable, and not timid"


def test_preconditioned_descent_ends_at_the_direct_solve(particles: Particles) -> None:
    direct = reconstruct(particles, ReconstructOptions(mask="none"))
    problem = DensityProblem(particles, direct.half_sums, precision=direct.prior.precision)
    model, batch = Density(BOX), _batch(problem, None)
    apply = problem.preconditioner(model)
    losses = []
    for _ in range(12):
        terms, gradient = problem.gradient(model, batch)
        losses.append(float(sum(terms.values())))
        model.voxels.data -= apply(gradient).reshape((BOX,) * 3)
    assert all(later <= earlier + 1e-8 for earlier, later in itertools.pairwise(losses))
    sphere = soft_sphere(BOX)
    curve = fsc(model.voxels.detach().numpy() * sphere, direct.full * sphere)
    # Up to where half the signal is noise; beyond, both maps hold next to nothing.
    shells = int(BOX * particles.pixel_size / direct.prior.curves.resolution())
    assert shells > 8
    assert curve[: shells + 1].min() > 0.99


@pytest.mark.rounding
def test_the_watched_solve_agrees_with_the_direct_one(particles: Particles, tmp_path: Path) -> None:
    run = sciml.Run.create(tmp_path / "run", command=["test"])
    found = reconstruct_stochastic(particles, ReconstructOptions(seed=1), run)
    assert found.result is sciml.Result.CONVERGED
    assert agreement(found.reconstruction) > 0.99
    assert [record["stage"] for record in found.switch if record["phase"] == "LBFGS"] == ["half1", "half2", "full"]
    assert all(record["reason"] for record in found.switch)
    assert (tmp_path / "run" / "stages" / "full" / "metrics.jsonl").stat().st_size > 0
    direct = reconstruct(particles)
    sphere, shells = soft_sphere(BOX), int(BOX * particles.pixel_size / direct.prior.curves.resolution())
    assert fsc(found.reconstruction.half1 * sphere, direct.half1 * sphere)[: shells + 1].min() > 0.93


def test_an_interrupted_half_map_is_no_basis_for_the_full_one(
    particles: Particles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the full map, with a prior from half of a solve, would be kept as finished, and be the answer after a
    resumption."""
    monkeypatch.setattr("sciml.loop.interrupts.Interrupts.asked", True, raising=False)
    monkeypatch.setattr(
        "sciml.loop.interrupts.Interrupts.__init__", lambda self, at_once: setattr(self, "previous", {})
    )
    run = sciml.Run.create(tmp_path / "run", command=["test"])
    with pytest.raises(KeyboardInterrupt):
        reconstruct_stochastic(particles, ReconstructOptions(seed=1), run)
    assert [path.name for path in run.stage_paths() if list(path.rglob("*.safetensors"))] == ["half1"]


def test_start_map_is_copied() -> None:
    start = np.ones((4, 4, 4), np.float32)
    model = Density(4, start)
    model.voxels.data += 1
    assert start.max() == 1
