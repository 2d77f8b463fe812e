"""The search for a start map as a whole, on the bundled set; its end, where every image is given a pose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.initial_model import resolution_switch, start_map
from sciml_cryoem.initial_model.final_poses import Block, FinalPoses, centered
from sciml_cryoem.initial_model.likeliest_poses import LikeliestPoses
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import SearchPlan
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.poses.pose_error import pose_error
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra, image_spectra
from sciml_cryoem.reconstruction.images import ImageSettings, measure_noise, views_of

from sciml.loop.gradients import evaluate
from sciml.parameters import FlatParameters


@pytest.fixture(scope="module")
def particles(root: Path) -> Particles:
    return read_particles(root / "data" / "particles" / "particles.star")


@pytest.fixture(scope="module")
def truth(root: Path) -> np.ndarray:
    return read_map(root / "data" / "particles" / "truth.mrc").array


@pytest.mark.slow
def test_images_that_took_no_part_are_read_once_and_get_poses_as_good(
    particles: Particles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_map, "MOST", 400)
    seen: list[int] = []
    options = start_map.AbInitioOptions(seed=1, settings=ImageSettings(batch_mb=1.0))
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
    settings, views = ImageSettings(), views_of(particles)
    noise = measure_noise(particles, views.groups, settings)
    images = image_spectra(particles, views, noise, 18.0, settings)
    problem = Marginal(images, SearchPlan.fit(particles.box))
    model = problem.density(fourier.resample(truth, problem.plan.side)[None])
    model.radius.fill_(10.0)
    nothing = np.zeros(len(particles))
    poses = LikeliestPoses(particles.rotations, particles.origins / particles.pixel_size, nothing.astype(int), nothing)
    with torch.no_grad():
        at_once, in_parts, wrong = (FinalPoses(problem, model) for _ in range(3))
        found = at_once.add(Block(images, poses))
        for rows in np.array_split(np.arange(len(particles)), 3):
            in_parts.add(Block(images, poses).take(rows))
        wrong.insert(0, images, np.roll(poses.rotations, 1, 0), poses.offsets)
        whole, parts, other = (each.maps()[0] for each in (at_once, in_parts, wrong))
    assert np.linalg.norm(parts - whole) < 1e-5 * np.linalg.norm(whole)
    placed = fourier.resample(truth, len(whole)) * soft_sphere(len(whole), 0.4 * len(whole))
    assert fsc(whole, placed)[1:16].min() > 0.7
    assert fsc(other, placed)[6:16].max() < 0.5
    error = pose_error(poses.rotations, poses.offsets, found.rotations, found.offsets)
    assert np.median(error.angles_deg) < 4.0


def _resting(particles: Particles, signal: float) -> tuple[MarginalDensity, resolution_switch.ResolutionSwitch]:
    """A model whose resolution is at rest, in images that hold this power of signal, and its switch."""
    disc = Disc(particles.box, 14.0)
    values = np.full((4, len(disc)), np.sqrt((signal + len(disc) - 0.5) / len(disc)), np.complex64)
    images = ImageSpectra(disc, values, np.zeros(values.shape, np.float32))
    plan = replace(SearchPlan.fit(particles.box), start=14.0, stop=14.0)
    problem = resolution_switch.AbInitio(particles, images, plan, start_map.AbInitioOptions())
    model = problem.blob(1, np.random.default_rng(0))
    model.frontier[-1] = 1e4
    return model, resolution_switch.ResolutionSwitch(problem, model)


@pytest.mark.parametrize(("fall", "over"), [(0.02, False), (0.0, True)])
def test_the_hand_over_waits_for_the_likelihood(particles: Particles, fall: float, over: bool) -> None:
    """Resolution alone at rest does not end the stochastic phase while images still gain in likelihood."""
    _, switch = _resting(particles, 20.0)
    for step in range(2 * resolution_switch.SPAN):
        assert switch.decide(step, None) is None  # too few steps to say
        switch.observe(0.1, -10.0 * (1.0 + fall * step))
    decision = switch.decide(2 * resolution_switch.SPAN, None)
    assert (decision is not None) == over
    assert decision is None or "rose by 0.0% in 8 steps and is 50% of the images' signal" in decision.reason


def test_the_hand_over_waits_out_a_plateau_on_which_the_map_explains_little(particles: Particles) -> None:
    """Until the likelihood has broken out of it, or for so many steps."""
    _, switch = _resting(particles, 100.0)
    decided = []
    for step in range(resolution_switch.PATIENCE + 1):
        decided.append(switch.decide(step, None) is not None)
        switch.observe(0.1, -10.0)
    assert decided.index(True) == resolution_switch.PATIENCE
    _, switch = _resting(particles, 100.0)
    out = 40  # the step at which it breaks out
    decided = []
    for step in range(resolution_switch.PATIENCE):
        decided.append(switch.decide(step, None) is not None)
        switch.observe(0.1, -10.0 if step < out else -20.0)
    assert out + resolution_switch.SPAN < decided.index(True) <= out + 2 * resolution_switch.SPAN


def test_a_wider_range_of_offsets_is_tried_before_the_hand_over(particles: Particles) -> None:
    model, switch = _resting(particles, 20.0)
    box = particles.box
    for _ in range(2 * resolution_switch.SPAN):
        switch.observe(0.1, -10.0)
    steps, ranges = 2 * resolution_switch.SPAN, []
    for _ in range(4):
        model.outermost.copy_(torch.tensor([60.0, 100.0]))
        model.frontier[-1] = 1e4
        decision = switch.decide(steps, None)
        ranges.append(float(model.shift_range) / box)
        if decision is not None:
            break
        assert model.frontier[-1] == 0 and not model.outermost.any()
        model.frontier[-1] = 1e4
        assert (
            switch.decide(steps + resolution_switch.SPAN, None) is None
        )  # the likelihood before is not that of this range
        steps += 2 * resolution_switch.SPAN
    assert ranges == pytest.approx([0.1, 0.16, 0.2, 0.2])
    assert decision is not None and "offsets to 12.8 pixels were tried" in decision.reason


@pytest.mark.parametrize(("offset", "cut"), [(0.0, False), (7.0, True)])
def test_offsets_beyond_the_range_are_noticed(
    particles: Particles, truth: np.ndarray, offset: float, cut: bool
) -> None:
    """Images all moved by 7 pixels, where 4 are tried, against the true map."""
    settings, views = ImageSettings(), views_of(particles)
    images = image_spectra(particles, views, measure_noise(particles, views.groups, settings), 14.0, settings)
    moved = images.values * images.disc.phases(np.array([[offset, 0.0]]))
    problem = Marginal(replace(images, values=moved.astype(np.complex64)), SearchPlan.fit(particles.box))
    model = problem.density(fourier.resample(truth, problem.plan.side)[None])
    model.radius.fill_(10.0)
    batch = problem.sample(300, torch.Generator().manual_seed(0))
    problem.learn(model, batch, evaluate(problem, model, FlatParameters(model.parameters()), batch))
    assert float(model.outermost[1]) == 300
    assert problem.offsets.cut_short(model) == cut


def test_the_map_is_moved_to_where_its_images_were_centered(particles: Particles, truth: np.ndarray) -> None:
    away, nothing = np.array([3.0, -2.0, 1.0]), np.zeros(len(particles))
    own = particles.origins / particles.pixel_size
    offsets = own + particles.rotations[:, :2] @ away
    poses = LikeliestPoses(particles.rotations, offsets, nothing.astype(int), nothing)
    maps = np.roll(truth, (1, -2, 3), (0, 1, 2))[None]
    found, offsets = centered(maps, poses, np.eye(3)[None])
    np.testing.assert_allclose(offsets, own, atol=0.3)
    assert np.corrcoef(found[0].ravel(), truth.ravel())[0, 1] > 0.98
    assert np.corrcoef(maps[0].ravel(), truth.ravel())[0, 1] < 0.7
    _, along = centered(maps, poses, point_group("C4"))  # a symmetric map may only move along its axis
    np.testing.assert_allclose(along, offsets + particles.rotations[:, :2] @ [3.0, -2.0, 0.0], atol=0.3)
