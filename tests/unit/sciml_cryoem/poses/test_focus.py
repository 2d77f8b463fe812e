"""Refinement of defocus: clean images give it back, noise is calibrated, no signal leaves the prior."""

from dataclasses import replace

import numpy as np
import pytest
from sciml_cryoem.imaging.ctf import CTF, evaluate, wavelength
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.poses.focus import DefocusResult, refocus
from sciml_cryoem.poses.polish import polish
from sciml_cryoem.poses.polish_values import Observed, PolishOptions, ReferenceSpectrum
from scipy.spatial.transform import Rotation

SIZE, PIXEL, COUNT = 48, 2.0, 300
LENGTH = float(wavelength(np.array(3e5)))


def _volume() -> np.ndarray:
    draw, line = np.random.default_rng(0), np.arange(SIZE) - SIZE // 2
    volume = np.zeros((SIZE,) * 3)
    for _ in range(60):
        x, y, z = (np.exp(-((line - c) ** 2) / 2.0) for c in draw.normal(size=3) * SIZE * 0.09)
        volume += z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


def _case(
    noise: float, deviation: float = 250.0
) -> tuple[ReferenceSpectrum, Observed, np.ndarray, np.ndarray, np.ndarray]:
    """Reference, images with the wrong defoci, rotations, offsets, and what is to be added to the defoci."""
    draw = np.random.default_rng(1)
    u = draw.uniform(9000.0, 20000.0, COUNT)
    optics = (draw.uniform(0, np.pi, COUNT), 3e5, 2.7e7, 0.1)
    off = draw.normal(size=COUNT) * deviation
    wrong, right = (CTF(u + d, u + d - 400.0, *optics).coefficients(SIZE, PIXEL) for d in (0.0, off))
    projector = Projector(SIZE, 2, 20.0)
    plane, whitening = projector.plane, np.full((1, SIZE // 2 + 1), 0.05)
    turns = Rotation.from_quat(draw.normal(size=(COUNT, 4))).as_matrix()
    moves = draw.uniform(-2, 2, (COUNT, 2))
    spectrum = projector.spectrum(_volume())
    values = projector.slices(spectrum, slice_axes(turns)) * evaluate(right, plane.kx, plane.ky) * 0.05
    values = values * np.exp(2j * np.pi / SIZE * (moves @ np.stack([plane.kx, plane.ky])))
    scatter = draw.normal(size=(2, *values.shape)) * noise * np.sqrt(0.5)
    values = (values + scatter[0] + 1j * scatter[1]).astype(np.complex64)
    images = Observed(values, wrong, np.zeros(COUNT, np.int64), whitening)
    return ReferenceSpectrum(spectrum, plane), images, turns, moves, off


def _refocus(noise: float) -> tuple[DefocusResult, np.ndarray]:
    reference, images, turns, moves, off = _case(noise)
    poses = polish(reference, images, turns, moves, PolishOptions(evaluations=1))
    return refocus(reference, images, poses, LENGTH, 250.0), off


def test_clean_images_give_the_defocus_back() -> None:
    found, off = _refocus(0.0)
    # The prior pulls towards zero by what little an image leaves open.
    assert np.median(np.abs(found.offset - off)) < 5.0
    assert np.corrcoef(found.offset, off)[0, 1] > 0.99
    assert np.all(found.gain > -0.5)


def test_deviation_is_calibrated() -> None:
    found, off = _refocus(1.0)
    scores = (found.offset - off) / found.deviation
    assert abs(scores.std() - 1.0) < 0.15
    assert np.median(found.deviation) < 200.0  # less than the prior: the images tell something
    assert np.median(found.deviation) > 10.0


def test_coefficients_are_brought_up_to_date() -> None:
    """The images that come back have the misfit that was reported, and polishing goes on from there."""
    reference, images, turns, moves, _ = _case(1.0)
    once = PolishOptions(evaluations=1)
    poses = polish(reference, images, turns, moves, once)
    found = refocus(reference, images, poses, np.full(COUNT, LENGTH), 250.0)
    after = polish(reference, found.images, turns, moves, once)
    np.testing.assert_allclose(0.5 * (poses.misfit - after.misfit), found.gain, atol=0.05)
    assert found.gain.mean() > 0.3


def test_no_signal_leaves_the_prior() -> None:
    reference, images, turns, moves, _ = _case(1.0)
    blind = replace(images, whitening=np.zeros_like(images.whitening))
    poses = polish(reference, blind, turns, moves, PolishOptions(evaluations=1))
    found = refocus(reference, blind, poses, LENGTH, 250.0)
    np.testing.assert_array_equal(found.offset, 0.0)
    np.testing.assert_allclose(found.deviation, 250.0)


def test_refuses_what_does_not_fit() -> None:
    reference, images, turns, moves, _ = _case(0.0)
    poses = polish(reference, images, turns, moves, PolishOptions(evaluations=1))
    with pytest.raises(ValueError, match="positive"):
        refocus(reference, images, poses, LENGTH, 0.0)
    with pytest.raises(ValueError, match="do not fit"):
        refocus(reference.within(5.0), images, poses, LENGTH)
