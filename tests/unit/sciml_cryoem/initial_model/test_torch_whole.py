"""`abinitio` and `refine` as wholes with torch in place of the compiled loops: the same maps, in the same place."""

import numpy as np
import pytest
import torch
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import orientations
from sciml_cryoem.imaging.rotations import angular_distance
from sciml_cryoem.initial_model import marginal, start_map
from sciml_cryoem.initial_model.marginal import Marginal, ParticleBatch
from sciml_cryoem.initial_model.search_plan import FRONTIER, SearchPlan
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.maps.masks import low_pass, soft_sphere
from sciml_cryoem.poses import torch_search
from sciml_cryoem.reconstruction.image_spectra import image_spectra
from sciml_cryoem.reconstruction.images import ImageSettings, measure_noise, views_of
from sciml_cryoem.refinement.image_set import RefineOptions
from sciml_cryoem.refinement.refine import refine
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles

BOX, PIXEL = 32, 5.0
SHELL = round(BOX * PIXEL / 20.0)  # of 20 Angstrom
SIMULATION = Simulation(number=160, box=BOX, pixel_size=PIXEL, snr=0.3, shift=8.0, seed=1)


@pytest.fixture(params=["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where torch computes."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Fine blobs without symmetry."""
    draw, line = np.random.default_rng(2), np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for _ in range(14):
        z, y, x = (np.exp(-np.square(line - c) / 2.0) for c in 0.11 * BOX * draw.normal(size=3))
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    return scale_to_snr(SIMULATION, volume.astype(np.float32))


@pytest.fixture(scope="module")
def particles(truth: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Particles:
    folder = tmp_path_factory.mktemp("whole")
    return read_particles(write_particles(SIMULATION, truth, folder)["star"])


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Least FSC up to 20 Angstrom of two maps in a sphere; nothing is aligned."""
    mask = soft_sphere(BOX)
    return float(fsc(first * mask, second * mask)[: SHELL + 1].min())


def test_one_gradient_its_loss_and_poses(particles: Particles, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same map: two classes, some of the images taken for all. Small draws are left to the compiled loops."""
    calls, search = [], torch_search.search
    monkeypatch.setattr(torch_search, "search", lambda *given: calls.append(given[-1]) or search(*given))
    settings, views, plan = ImageSettings(), views_of(particles), SearchPlan.fit(BOX)
    noise = measure_noise(particles, views.groups, settings)
    images = image_spectra(particles, views, noise, plan.stop + FRONTIER, settings)
    few = torch.arange(0, 120, 2)
    turn = torch.from_numpy(orientations.random_turns(1, np.random.default_rng(3))).float()
    batch = ParticleBatch(few, turn.expand(60, 3, 3))
    monkeypatch.setattr(marginal, "LARGE", 60)
    found = []
    for where in ("cpu", device):
        problem = Marginal(images, plan, device=where)
        model = problem.blob(2, np.random.default_rng(0))
        with torch.no_grad():
            model.voxels.mul_(50.0)
        terms, gradient, _ = problem.gradient(model, batch)
        found.append((float(terms["data"]), gradient, problem.poses(model)))
        assert float(problem.loss(model, batch)["data"]) == pytest.approx(found[-1][0], rel=1e-5)
    assert calls == [device] * 3
    monkeypatch.setattr(marginal, "LARGE", 61)
    problem.gradient(model, batch)
    assert len(calls) == 3
    (loss, gradient, poses), (other_loss, other_gradient, other_poses) = found
    assert other_loss == pytest.approx(loss, rel=1e-4)
    assert float((other_gradient - gradient).norm()) < 1e-4 * float(gradient.norm())
    same = angular_distance(poses.rotations, other_poses.rotations) < 1e-6
    assert same.mean() > 0.98
    np.testing.assert_array_equal(poses.classes[same], other_poses.classes[same])
    np.testing.assert_allclose(other_poses.log_likelihood, poses.log_likelihood, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_a_start_map_from_nothing(particles: Particles, device: str) -> None:
    """Small draws, whose course rounding would decide, are left to the compiled loops."""
    first, second = (
        start_map.abinitio(particles, start_map.AbInitioOptions(starts=1, settings=ImageSettings(device=where)))
        for where in ("cpu", device)
    )
    assert _agreement(first.maps[0], second.maps[0]) > 0.999
    assert not np.array_equal(first.maps[0], second.maps[0])  # it was computed elsewhere
    assert np.median(angular_distance(first.rotations, second.rotations)) < 0.1
    shift = np.hypot(*(first.offsets - second.offsets).T)
    assert np.median(shift) < 0.1


def test_refined_half_maps(particles: Particles, truth: np.ndarray, device: str) -> None:
    """Steps that search and one that only polishes, with scales."""
    found = [
        refine(
            particles,
            low_pass(truth, PIXEL, 25.0),
            RefineOptions(iterations=3, settings=ImageSettings(device=where)),
        )
        for where in ("cpu", device)
    ]
    first, second = found
    assert [each.searched for each in second.iterations] == [True, True, False]
    ours, theirs = (each.solution.model.get_parameter("voxels").detach().numpy() for each in found)
    for one, other in zip(ours, theirs, strict=True):
        assert _agreement(one, other) > 0.999
        assert not np.array_equal(one, other)
    assert _agreement(theirs[0], low_pass(truth, PIXEL, 20.0)) > 0.5
    assert second.iterations[-1].resolution < 20.0
    turn = angular_distance(first.poses.rotations, second.poses.rotations)
    assert np.median(turn) < 0.05
