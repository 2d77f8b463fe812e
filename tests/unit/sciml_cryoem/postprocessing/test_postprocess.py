"""Postprocessing of half maps whose truth, noise and B-factor are known."""

import numpy as np
import pytest
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.postprocessing.postprocess import PostprocessOptions, postprocess

from sciml.errors import InputError

BOX, PIXEL, BFACTOR = 72, 2.0, -120.0


def _truth(bfactor: float = BFACTOR, box: int = BOX, radius: float = 16.0) -> np.ndarray:
    """A ball of random values, blurred: like the atoms of a molecule its spectrum is flat before the decay."""
    line = np.arange(box) - box // 2
    inside = line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2 < radius**2
    volume = np.where(inside, np.random.default_rng(5).exponential(1.0, inside.shape), 0.0)
    s = np.fft.fftfreq(box, PIXEL)
    square = s[:, None, None] ** 2 + s[None, :, None] ** 2 + s[None, None] ** 2
    return np.fft.ifftn(np.fft.fftn(volume) * np.exp(0.25 * bfactor * square)).real.astype(np.float32)


def _halves(truth: np.ndarray, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    first, second = (truth + noise * draw.standard_normal(truth.shape).astype(np.float32) for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return _truth()


def test_fit_and_resolution_are_those_that_were_put_in(truth: np.ndarray) -> None:
    result = postprocess(*_halves(truth, 0.3), PIXEL, PostprocessOptions(bfactor="masked"))
    assert result.chosen == "corrected"
    assert result.findings == ()
    fit = result.guinier_masked.fit
    assert fit is not None
    assert result.filter.bfactor == fit.bfactor == pytest.approx(BFACTOR, rel=0.2)
    assert f"B-factor {fit.bfactor:.0f}" in result.sharpening
    assert result.filter.resolution == result.final_resolution == result.curves.final_resolution < 6.0
    # Half maps at FSC 0.143 and map against truth at 0.5 are two measures of one resolution.
    against = fsc(truth * result.mask, result.map * result.mask)
    assert result.resolution() == pytest.approx(resolution(against, BOX, PIXEL, 0.5), rel=0.1)
    # Solvent noise flattens the plot of the map without mask, whose weights are those inside it.
    plain = postprocess(*_halves(truth, 0.3), PIXEL)
    assert 0.9 * BFACTOR < plain.filter.bfactor < 0.5 * BFACTOR
    assert plain.guinier.fit is not None
    assert plain.filter.bfactor == plain.guinier.fit.bfactor


def test_sharpening_brings_the_amplitudes_of_the_atoms_back(truth: np.ndarray) -> None:
    """Without mask, plot and weights are of one map: the B-factor is found, and the map has the unblurred spectrum."""
    result = postprocess(*_halves(truth, 0.1), PIXEL, PostprocessOptions(mask="none"))
    assert result.chosen == "unmasked"
    assert result.findings == ()
    assert result.filter.bfactor == pytest.approx(BFACTOR, rel=0.12)
    spectra = [np.abs(np.fft.rfftn(volume)) for volume in (result.map, _truth(0.0))]
    shells = np.rint(np.sqrt(fourier.squared_radii(BOX, 3))).astype(int)
    means = [np.bincount(shells.ravel(), s.ravel())[14:33] / np.bincount(shells.ravel())[14:33] for s in spectra]
    assert np.std(np.log(means[0] / means[1])) < 0.1


@pytest.mark.parametrize("box", [71, 72])
def test_odd_and_even_boxes(box: int) -> None:
    result = postprocess(*_halves(_truth(box=box), 0.1), PIXEL, PostprocessOptions(mask="none"))
    assert result.map.shape == (box, box, box)
    assert result.filter.bfactor == pytest.approx(BFACTOR, rel=0.12)


def test_automatic_mask_holds_the_molecule(truth: np.ndarray) -> None:
    result = postprocess(*_halves(truth, 0.15), PIXEL)
    assert (truth**2 * result.mask**2).sum() > 0.99 * (truth**2).sum()
    assert 0.05 < result.mask.mean() < 0.3
    coarse, fine = (AutomaticMask.for_resolution(value, 1.0) for value in (25.0, 4.0))
    assert (coarse.lowpass, coarse.extend, coarse.edge) == (32.5, 20.0, 30.0)
    assert (fine.lowpass, fine.extend, fine.edge) == (15.0, 5.0, 8.0)
    assert AutomaticMask.for_resolution(4.0, 2.0).edge == 10.0


def test_given_bfactor_and_lowpass(truth: np.ndarray) -> None:
    halves = _halves(truth, 0.15)
    plain = postprocess(*halves, PIXEL, PostprocessOptions(bfactor="none", lowpass=9.0))
    assert plain.filter.bfactor == 0.0
    assert plain.sharpening == "not sharpened, as asked"
    given = postprocess(*halves, PIXEL, PostprocessOptions(bfactor=-60.0, lowpass=9.0))
    shells = np.arange(2, 15)
    ratio = np.abs(np.fft.rfftn(given.map)[shells, 0, 0] / np.fft.rfftn(plain.map)[shells, 0, 0])
    np.testing.assert_allclose(ratio, np.exp(15.0 * (shells / (BOX * PIXEL)) ** 2), rtol=1e-3)
    assert postprocess(*halves, PIXEL, PostprocessOptions(bfactor=40.0)).sharpening.endswith("blurs the map")


def test_no_sharpening_where_the_guinier_fit_is_not_valid() -> None:
    coarse = postprocess(*_halves(_truth(-2500.0), 0.05), PIXEL)
    assert coarse.curves.final_resolution > 10.0
    assert coarse.filter.bfactor == 0.0
    assert "worse than 10 Å" in coarse.sharpening
    few = postprocess(*_halves(_truth(-1000.0), 0.05), PIXEL)
    assert 8.0 < few.curves.final_resolution < 10.0
    assert few.filter.bfactor == 0.0
    assert "fewer than the 5" in few.sharpening
    rising = postprocess(*_halves(_truth(100.0), 0.1), PIXEL)
    assert rising.filter.bfactor == 0.0
    assert "does not fall" in rising.sharpening


def test_tight_masks_are_named(truth: np.ndarray) -> None:
    halves = _halves(_truth(-600.0), 0.05)
    tight = postprocess(*halves, PIXEL, PostprocessOptions(mask=soft_sphere(BOX, 5.0, 0.0)))
    assert any("too tight" in finding.what for finding in tight.findings)
    assert any("hard edge" in finding.what for finding in tight.findings)
    assert any("leaves out" in finding.what for finding in tight.findings)
    soft = postprocess(*halves, PIXEL, PostprocessOptions(mask="sphere"))
    assert soft.findings == ()


def test_a_mask_beside_the_molecule_is_worse_than_none(truth: np.ndarray) -> None:
    beside = np.roll(soft_sphere(BOX, 8.0, 5.0), 36, axis=0)
    result = postprocess(*_halves(truth, 0.15), PIXEL, PostprocessOptions(mask=beside))
    assert result.chosen == "unmasked"
    assert any("worse than none" in finding.what for finding in result.findings)
    assert result.resolution() == result.curves.resolution(curve="unmasked")


def test_noise_has_no_resolution_and_a_copy_too_much() -> None:
    noise = _halves(np.zeros((40, 40, 40), np.float32), 1.0)
    result = postprocess(*noise, PIXEL, PostprocessOptions(mask="sphere"))
    assert any("do not correlate" in finding.what for finding in result.findings)
    assert result.resolution() > 20.0
    nearly = postprocess(noise[0], noise[0] + 0.01 * noise[1], PIXEL, PostprocessOptions(mask="none"))
    assert any("up to Nyquist" in finding.what for finding in nearly.findings)


def test_same_seed_same_bits(truth: np.ndarray) -> None:
    halves = _halves(truth, 0.15)
    first, again = (postprocess(*halves, PIXEL, PostprocessOptions(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(first.map, again.map)
    np.testing.assert_array_equal(first.curves.randomized, again.curves.randomized)


def test_settings_that_make_no_sense(truth: np.ndarray) -> None:
    halves = _halves(truth, 0.15)
    for options, message in (
        (PostprocessOptions(lowpass=3.0), "Nyquist"),
        (PostprocessOptions(bfactor=float("nan")), "-2000 to 2000"),
        (PostprocessOptions(bfactor=-1e5), "negative sharpens"),
        (PostprocessOptions(mask=np.ones((8, 8, 8), np.float32)), "cubes of one size"),
    ):
        with pytest.raises(InputError, match=message):
            postprocess(*halves, PIXEL, options)
