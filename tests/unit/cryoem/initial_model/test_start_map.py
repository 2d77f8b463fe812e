"""The search for a start map as a whole, on the bundled set; its end, where every image is given a pose."""

from pathlib import Path

import numpy as np
import pytest
import torch

from problems.cryoem.files.mrc import read_volume
from problems.cryoem.files.particle_set import Particles
from problems.cryoem.files.particles import read_particles
from problems.cryoem.imaging import fourier
from problems.cryoem.initial_model import start_map
from problems.cryoem.initial_model.final_poses import Block, FinalPoses
from problems.cryoem.initial_model.marginal import Marginal, MarginalDensity, Poses
from problems.cryoem.initial_model.search_plan import Plan
from problems.cryoem.maps.fsc import fsc
from problems.cryoem.maps.masks import soft_sphere
from problems.cryoem.poses.image_spectra import Disc, ImageSpectra, image_spectra
from problems.cryoem.poses.pose_error import pose_error
from problems.cryoem.reconstruction.accumulation import Settings, measure_noise, views_of


@pytest.fixture(scope="module")
def particles(root: Path) -> Particles:
    return read_particles(root / "data" / "particles" / "particles.star")


@pytest.fixture(scope="module")
def truth(root: Path) -> np.ndarray:
    return read_volume(root / "data" / "particles" / "truth.mrc").array


@pytest.mark.slow
def test_images_that_took_no_part_are_read_once_and_get_poses_as_good(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_map, "MOST", 400)
    seen: list[int] = []
    options = start_map.Options(seed=1, settings=Settings(batch_mb=1.0))
    found = start_map.abinitio(particles, options, watch=seen.append)
    assert seen == sorted(seen)
    assert 400 in seen
    assert seen[-1] == len(particles) == len(found.rotations) == len(found.log_likelihood)
    chosen = np.sort(np.random.default_rng(1).permutation(len(particles))[:400])
    others = np.setdiff1d(np.arange(len(particles)), chosen)
    error = pose_error(particles.rotations, particles.origins, found.rotations, found.offsets)
    of_both = [float(np.median(error.angles_deg[rows])) for rows in (chosen, others)]
    assert max(of_both) < 5.0, of_both
    assert of_both[1] < 1.5 * of_both[0], of_both
    likelihoods = [float(found.log_likelihood[rows].mean()) for rows in (chosen, others)]
    assert 0.75 < likelihoods[1] / likelihoods[0] < 1.02  # the map is made of the noise of the chosen, too


def test_the_final_map_is_that_of_all_blocks_at_their_poses(particles: Particles, truth: np.ndarray) -> None:
    """In every shell collected, beyond the first zeros of the CTF as well, however the images are cut into blocks."""
    settings, views = Settings(), views_of(particles)
    noise = measure_noise(particles, views.groups, settings)
    images = image_spectra(particles, views, noise, 18.0, settings)
    problem = Marginal(images, Plan.fit(particles.box))
    model = MarginalDensity(problem.plan, fourier.resample(truth, problem.plan.side)[None])
    model.radius.fill_(10.0)
    nothing = np.zeros(len(particles))
    poses = Poses(particles.rotations, particles.origins / particles.pixel_size, nothing.astype(int), nothing)
    with torch.no_grad():
        at_once, in_parts, wrong = (FinalPoses(problem, model, noise) for _ in range(3))
        found = at_once.add(Block(images, views, poses))
        for rows in np.array_split(np.arange(len(particles)), 3):
            in_parts.add(Block(images, views, poses).take(rows))
        wrong.insert(0, images, np.roll(poses.rotations, 1, 0), poses.offsets)
        whole, parts, other = (each.maps()[0] for each in (at_once, in_parts, wrong))
    assert np.linalg.norm(parts - whole) < 1e-5 * np.linalg.norm(whole)
    placed = fourier.resample(truth, len(whole)) * soft_sphere(len(whole), 0.4 * len(whole))
    assert fsc(whole, placed)[1:16].min() > 0.7
    assert fsc(other, placed)[6:16].max() < 0.5
    error = pose_error(poses.rotations, poses.offsets, found.rotations, found.offsets)
    assert np.median(error.angles_deg) < 4.0


@pytest.mark.parametrize(("fall", "over"), [(0.02, False), (0.0, True)])
def test_the_hand_over_waits_for_the_likelihood(particles: Particles, fall: float, over: bool) -> None:
    """Resolution alone at rest does not end the stochastic phase while images still gain in likelihood."""
    options = start_map.Options()
    images = ImageSpectra(Disc(particles.box, 14.0), np.zeros((4, 0), np.complex64), np.zeros((4, 0), np.float32))
    problem = start_map.AbInitio(particles, images, Plan.fit(particles.box), options)
    model = MarginalDensity(problem.plan, problem.blob(1, np.random.default_rng(0)))
    model.radius.fill_(problem.plan.stop)
    model.predicted[-1] = 1e4
    switch = start_map.ResolutionSwitch(problem, model)
    for step in range(2 * start_map.SPAN):
        assert switch.decide(step, None) is None  # too few steps to say
        switch.observe(0.1, -10.0 * (1.0 + fall * step))
    decision = switch.decide(2 * start_map.SPAN, None)
    assert (decision is not None) == over
    assert decision is None or "rose by 0.0%" in decision.reason
