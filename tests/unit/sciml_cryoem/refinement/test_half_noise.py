"""Noise of half sets: from their own backgrounds, and from what projections leave."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import write_stack
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.files.star import write_star
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.reconstruction.image_spectra import whitened
from sciml_cryoem.reconstruction.images import ImageSettings
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import Background, measure
from sciml_cryoem.refinement.half_noise import Residuals, kinds_of, measure_halves
from sciml_cryoem.simulation.flaws import Flaws
from sciml_cryoem.simulation.simulate import Simulation, write_particles

from sciml.errors import InputError

BOX = 32


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Particles:
    """Noise of two levels in two optics groups, no molecule."""
    simulation = Simulation(number=300, box=BOX, pixel_size=4.0, snr=1.0, flaws=Flaws(noise=(1.0, 2.0)), seed=4)
    nothing = np.zeros((BOX,) * 3, np.float32)
    return read_particles(write_particles(simulation, nothing, tmp_path_factory.mktemp("noise"))["star"])


def test_each_half_and_group_has_its_own_noise(particles: Particles) -> None:
    groups, halves = particles.optics_group - 1, particles.half_sets()
    kinds = kinds_of(groups, halves)
    np.testing.assert_array_equal(kinds, groups + 2 * (halves - 1))
    model = measure_halves(particles, groups, halves, ImageSettings(normalize="no"))
    level = model.power[:, 2:].mean(1) / BOX**2
    np.testing.assert_allclose(level, [1.0, 4.0, 1.0, 4.0], rtol=0.06)
    assert level[0] != level[2]
    whole = np.flatnonzero(halves == 1)
    alone = measure(
        [particles.images(whole)], groups[whole], Background.outside(BOX), "no"
    )  # fewer than the sample: all of them
    np.testing.assert_array_equal(model.power[:2], alone.power)


def test_a_group_that_a_half_lacks_and_a_half_without_images(particles: Particles) -> None:
    groups = particles.optics_group - 1
    halves = np.where(groups == 0, 1, 1 + np.arange(len(groups)) % 2)
    model = measure_halves(particles, groups, halves, ImageSettings(normalize="no"))
    assert model.power.shape == (4, BOX // 2 + 1)
    np.testing.assert_array_equal(model.power[2], model.power[3])  # half 2 has only the second group
    with pytest.raises(InputError, match="half 2"):
        measure_halves(particles, groups, np.ones(len(groups), np.int64), ImageSettings())


def test_images_are_scaled_in_both_halves_or_in_none(particles: Particles, tmp_path: Path) -> None:
    """The images of half 2 have levels of their own, those of half 1 one."""
    groups, halves = np.zeros(len(particles), np.int64), 1 + np.arange(len(particles)) % 2
    gain = np.where(halves == 2, np.linspace(0.5, 2.0, len(groups)), 1.0) / particles.optics_group
    stack = (particles.images() * gain[:, None, None]).astype(np.float32)
    write_stack(tmp_path / "particles.mrcs", iter([stack]), stack.shape, 4.0, 2)
    uneven = read_particles(write_star(tmp_path / "particles.star", [particles.optics, particles.table]))
    model = measure_halves(uneven, groups, halves, ImageSettings())
    assert model.reference is not None
    assert model.reference.shape == model.power.shape == (2, BOX // 2 + 1)
    assert measure_halves(uneven, groups, halves, ImageSettings(normalize="no")).reference is None


def test_noise_is_found_from_what_projections_leave() -> None:
    """The model starts three times too small, as if measured where there is little; the signal is taken off."""
    draw = np.random.default_rng(0)
    count, disc = 400, Disc(BOX, 11.0)
    kinds = np.arange(count) % 2
    images = np.array([1.0, 1.5])[kinds, None, None] * draw.normal(size=(count, BOX, BOX))
    signal = np.exp(-np.square(np.arange(BOX) - BOX // 2) / 8.0)
    images += 4.0 * signal[:, None] * signal
    model = measure([images.astype(np.float32)], kinds, Background.outside(BOX), "no")
    model = replace(model, power=model.power / 3.0)
    views = Views(np.zeros((count, 2, 3)), np.zeros((count, 2)), np.zeros((count, 10), np.float32), kinds)
    seen = whitened(images.astype(np.float32), disc, model, views).values
    shown = np.zeros_like(seen)
    for kind in (0, 1):
        shown[kinds == kind] = seen[kinds == kind].mean(0)
    weights = np.ones(count)
    weights[::8] = 0.0
    seen[::8] *= 10.0  # junk does not count
    residuals = Residuals(model, disc)
    squares = np.square(np.abs(seen - shown)) * weights[:, None]
    for part in (slice(0, 100), slice(100, 400)):
        left = np.zeros(model.power.shape)
        for kind in (0, 1):
            of_kind = squares[part][kinds[part] == kind].sum(0)
            left[kind] = np.bincount(disc.shell, of_kind, BOX // 2 + 1)[: BOX // 2 + 1]
        residuals.add(left, kinds[part], weights[part])
    found = residuals.noise_found()
    level = found.power[:, 2:12] / BOX**2
    # Drawn to the old model by 20 images of 175 and 200, whose noise is a third.
    share = np.array([150.0, 200.0]) / np.array([170.0, 220.0])
    expected = np.array([1.0, 2.25]) * (share + (1.0 - share) / 3.0)
    np.testing.assert_allclose(level.mean(1), expected, rtol=0.03)
    assert np.all(np.abs(level / expected[:, None] - 1.0) < 0.15)
    np.testing.assert_allclose(
        found.power[:, 14:] / model.power[:, 14:], (share * 2.0 + 1.0)[:, None] + np.zeros(3), rtol=0.1
    )
