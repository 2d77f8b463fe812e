"""Refinement of defocus: clean images give it back, noise is calibrated, no signal leaves the prior."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sciml_cryoem.imaging.ctf import CTF, evaluate, wavelength
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import Projector, central_slices
from sciml_cryoem.poses.focus import DefocusPrior, DefocusResult, refocus
from sciml_cryoem.poses.polish import polish
from sciml_cryoem.poses.polish_values import PolishOptions, PolishResult, ReferenceSpectrum
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra
from scipy.spatial.transform import Rotation

SIZE, PIXEL, COUNT = 48, 2.0, 300
LENGTH = float(wavelength(np.array(3e5)))
ONCE = PolishOptions(evaluations=1)


def _volume() -> np.ndarray:
    draw, line = np.random.default_rng(0), np.arange(SIZE) - SIZE // 2
    volume = np.zeros((SIZE,) * 3)
    for _ in range(60):
        x, y, z = (np.exp(-((line - c) ** 2) / 2.0) for c in draw.normal(size=3) * SIZE * 0.09)
        volume += z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


@dataclass
class Case:
    """Images with the wrong defoci at known poses, and what is to be added to the defoci."""

    reference: ReferenceSpectrum
    images: ImageSpectra
    prior: DefocusPrior
    poses: PolishResult
    off: np.ndarray


def _transfer(disc: Disc, table: np.ndarray) -> np.ndarray:
    return (evaluate(table, disc.kx, disc.ky) * _whitening()[0, disc.shell]).astype(np.float32)


def _whitening() -> np.ndarray:
    table = np.full((1, SIZE // 2 + 1), 0.05)
    table[:, 0] *= np.sqrt(0.5)
    return table


def _case(noise: float, deviation: float = 250.0) -> Case:
    draw = np.random.default_rng(1)
    u = draw.uniform(9000.0, 20000.0, COUNT)
    optics = (draw.uniform(0, np.pi, COUNT), 3e5, 2.7e7, 0.1)
    off = draw.normal(size=COUNT) * deviation
    wrong, right = (CTF(u + d, u + d - 400.0, *optics).coefficients(SIZE, PIXEL) for d in (0.0, off))
    disc, spectrum = Disc(SIZE, 20.0), Projector(SIZE, 2).spectrum(_volume())
    turns = Rotation.from_quat(draw.normal(size=(COUNT, 4))).as_matrix()
    moves = draw.uniform(-2, 2, (COUNT, 2))
    values = central_slices(spectrum, turns, disc) * _transfer(disc, right) * disc.phases(moves).conj()
    scatter = draw.normal(size=(2, *values.shape)) * noise * np.sqrt(0.5)
    values = (values + scatter[0] + 1j * scatter[1]).astype(np.complex64)
    images, reference = ImageSpectra(disc, values, _transfer(disc, wrong)), ReferenceSpectrum(spectrum, disc)
    prior = DefocusPrior(wrong, np.zeros(COUNT, np.int64), _whitening(), LENGTH, 250.0)
    return Case(reference, images, prior, polish(reference, images, turns, moves, ONCE), off)


def _refocus(noise: float) -> tuple[DefocusResult, np.ndarray]:
    case = _case(noise)
    return refocus(case.reference, case.images, case.poses, case.prior), case.off


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
    """Images under the new coefficients have the misfit that was reported, and polishing goes on from there."""
    case = _case(1.0)
    found = refocus(case.reference, case.images, case.poses, replace(case.prior, wavelength=np.full(COUNT, LENGTH)))
    images = replace(case.images, transfer=_transfer(case.images.disc, found.ctf))
    after = polish(case.reference, images, case.poses.rotations, case.poses.offsets, ONCE)
    np.testing.assert_allclose(0.5 * (case.poses.misfit - after.misfit), found.gain, atol=0.05)
    assert found.gain.mean() > 0.3


def test_no_signal_leaves_the_prior() -> None:
    case = _case(1.0)
    blind = replace(case.prior, whitening=np.zeros_like(case.prior.whitening))
    found = refocus(case.reference, case.images, case.poses, blind)
    np.testing.assert_array_equal(found.offset, 0.0)
    np.testing.assert_allclose(found.deviation, 250.0)


def test_refuses_what_does_not_fit() -> None:
    case = _case(0.0)
    with pytest.raises(ValueError, match="positive"):
        refocus(case.reference, case.images, case.poses, replace(case.prior, deviation=0.0))
    with pytest.raises(ValueError, match="do not fit"):
        refocus(case.reference.within(5.0), case.images, case.poses, case.prior)
