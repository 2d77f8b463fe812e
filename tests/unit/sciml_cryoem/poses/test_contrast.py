"""Bright particles and dark ones are told apart, in maps and in images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.poses.contrast import LOWEST, advice, fits_negative, skewness
from sciml_cryoem.reconstruction.accumulation import accumulate
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra, image_spectra
from sciml_cryoem.reconstruction.images import ImageSettings, measure_noise, views_of
from sciml_cryoem.refinement.image_set import ImageSet, RefineOptions
from sciml_cryoem.refinement.start import begin

from sciml.errors import InputError


@pytest.fixture(scope="module")
def particles(root: Path) -> Particles:
    return read_particles(root / "data" / "particles" / "particles.star")


@pytest.fixture(scope="module")
def truth(root: Path) -> np.ndarray:
    return read_map(root / "data" / "particles" / "truth.mrc").array


@pytest.mark.parametrize("size", [64, 51])
def test_a_molecule_is_bright_and_its_negative_dark(truth: np.ndarray, size: int) -> None:
    volume = fourier.resample(truth, size)
    assert skewness(volume) > 1.2
    assert skewness(-3.0 * volume + 7.0) == pytest.approx(-skewness(volume), abs=0.05)
    assert advice(volume) == ""
    assert "--invert-contrast" in advice(-volume)


def test_noise_is_neither() -> None:
    draw = np.random.default_rng(0)
    found = [skewness(draw.normal(size=(48, 48, 48)).astype(np.float32)) for _ in range(10)]
    assert max(np.abs(found)) < 0.2 < -LOWEST
    assert skewness(np.zeros((16, 16, 16), np.float32)) == 0.0


def test_inverted_particles_give_the_negative_map(particles: Particles) -> None:
    inverted = replace(particles, inverted=True)
    np.testing.assert_array_equal(inverted.images(np.array([5, 3])), -particles.images(np.array([5, 3])))
    maps = [accumulate(part.select(np.arange(200))).half_maps()[0] for part in (particles, inverted)]
    np.testing.assert_allclose(maps[1], -maps[0], atol=1e-5 * np.abs(maps[0]).max())


def _spectra(particles: Particles) -> ImageSpectra:
    settings = ImageSettings()
    views = views_of(particles)
    noise = measure_noise(particles, views.groups, settings)
    return image_spectra(particles, views, noise, 7.0, settings, np.arange(150))


def test_images_tell_the_sign_of_the_reference(particles: Particles, truth: np.ndarray) -> None:
    images = _spectra(particles)
    spectrum = Projector(particles.box, 2).spectrum(truth).astype(np.complex64)
    assert not fits_negative(spectrum, images)
    assert fits_negative(-spectrum, images)
    noise = np.random.default_rng(0).normal(size=images.values.shape) * np.sqrt(0.5)
    assert not fits_negative(spectrum, replace(images, values=(noise + 1j * noise[::-1]).astype(np.complex64)))


def test_refine_refuses_a_reference_of_the_other_sign(particles: Particles, truth: np.ndarray) -> None:
    with pytest.raises(InputError, match="--invert-contrast"):
        begin(ImageSet.prepare(particles, RefineOptions()), -truth)
    begin(ImageSet.prepare(replace(particles, inverted=True), RefineOptions()), -truth)
