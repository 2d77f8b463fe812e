"""Guinier plot, line fit and filter: closed forms, and a B-factor that was put in and must be found again."""

import numpy as np
import pytest
from sciml_cryoem.postprocessing.sharpening import FEWEST_SHELLS, MapFilter, fit_line, fsc_weights, guinier_plot

PIXEL = 2.0


def _frequencies(box: int) -> np.ndarray:
    """|s| in 1/Angstrom on the full grid, in FFT order."""
    line = np.fft.fftfreq(box, PIXEL)
    return np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2)


def _white(box: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def _decayed(volume: np.ndarray, bfactor: float) -> np.ndarray:
    """The map with its amplitudes multiplied by exp(bfactor s^2 / 4)."""
    gain = np.exp(0.25 * bfactor * _frequencies(len(volume)) ** 2)
    return np.fft.ifftn(np.fft.fftn(volume) * gain).real.astype(np.float32)


def test_weights_in_closed_form() -> None:
    curve = np.array([1.0, 0.5, 0.143, -0.01, 0.3])
    expected = [1.0, np.sqrt(2 / 3), np.sqrt(0.286 / 1.143), 0.0, 0.0]
    np.testing.assert_allclose(fsc_weights(curve), expected)


def test_line() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    exact = fit_line(x, 5.0 - 2.0 * x)
    assert (exact.slope, exact.intercept, exact.correlation, exact.shells) == pytest.approx((-2.0, 5.0, 1.0, 4))
    assert exact.error == pytest.approx(0.0, abs=1e-7)
    assert exact.bfactor == pytest.approx(-8.0)
    # By hand: y = (0, 1, 1, 3), slope 9/10, residual sum 4.75 - 4.05 = .7.
    bent = fit_line(x, np.array([0.0, 1.0, 1.0, 3.0]))
    assert bent.slope == pytest.approx(0.9)
    assert bent.correlation == pytest.approx(4.05 / 4.75)
    assert bent.error == pytest.approx(np.sqrt(0.7 / 2 / 5))
    for bad in (x[:2], np.ones(4)):
        with pytest.raises(ValueError, match="do not make a line"):
            fit_line(bad, bad)


@pytest.mark.parametrize("box", [48, 49])
@pytest.mark.parametrize("bfactor", [-250.0, -80.0])
def test_the_fit_finds_the_decay_of_white_noise(box: int, bfactor: float) -> None:
    spectrum = np.fft.rfftn(_decayed(_white(box), bfactor)).astype(np.complex64)
    weights = np.ones(box // 2 + 1)
    plot = guinier_plot(spectrum, weights, PIXEL, until=4.5)
    assert plot.fit is not None
    # Within a shell the decay is not constant, which a mean of amplitudes over it does not quite see.
    assert plot.fit.bfactor == pytest.approx(bfactor, rel=0.02, abs=4 * 3 * plot.fit.error)
    first, last = np.flatnonzero(plot.fitted)[[0, -1]]
    extent = box * PIXEL
    assert extent / first <= 10.0 + 1e-9 < extent / (first - 1)
    assert extent / last >= 4.5 > extent / (last + 1)
    flat = plot.sharpened(plot.fit.bfactor)[plot.fitted]
    assert np.ptp(flat) < 0.15 < np.ptp(plot.weighted[plot.fitted])
    half_way = plot.sharpened(0.5 * plot.fit.bfactor)[plot.fitted]
    np.testing.assert_allclose(half_way, 0.5 * (flat + plot.weighted[plot.fitted]), atol=1e-9)


def test_plot_is_normalized_and_marks_nothing() -> None:
    box = 16
    x = np.arange(box)
    wave = np.broadcast_to(np.cos(2 * np.pi * 3 * x / box), (box, box, box)).astype(np.float32)
    plot = guinier_plot(np.fft.rfftn(wave).astype(np.complex64), np.ones(9), PIXEL, until=4.0)
    line = np.fft.fftfreq(box) * box
    shell = np.rint(np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2))
    assert plot.original[3] == pytest.approx(np.log(1.0 / (shell == 3).sum()), abs=1e-5)  # two points of amplitude 1/2
    weights = np.ones(9)
    weights[5:] = 0.0
    plot = guinier_plot(np.fft.rfftn(_white(box)).astype(np.complex64), weights, PIXEL, until=4.0)
    np.testing.assert_array_equal(plot.weighted[5:], -99.0)
    np.testing.assert_array_equal(plot.sharpened(-100.0)[5:], -99.0)
    assert plot.fitted.sum() < FEWEST_SHELLS
    assert plot.fit is None


@pytest.mark.parametrize("box", [24, 25])
def test_filter_is_the_definition(box: int) -> None:
    volume, resolution, bfactor = _white(box, 1), 6.0, -120.0
    weights = np.linspace(1.0, 0.2, box // 2 + 1)
    done = MapFilter(weights, bfactor, resolution).apply(np.fft.rfftn(volume).astype(np.complex64), PIXEL)
    s = _frequencies(box)
    shell = np.rint(s * box * PIXEL).astype(int)
    cut = box * PIXEL / resolution
    edge = 0.5 + 0.5 * np.cos(np.pi * np.clip((s * box * PIXEL - cut + 1) / 2, 0, 1))
    gain = np.append(weights, np.zeros(box))[shell] * np.exp(-0.25 * bfactor * s**2) * edge
    expected = np.fft.ifftn(np.fft.fftn(volume.astype(float)) * gain).real
    np.testing.assert_allclose(done, expected, atol=2e-5)
    assert done.dtype == np.float32


def test_a_strong_bfactor_stays_finite_in_the_corners() -> None:
    spectrum = np.fft.rfftn(_white(32)).astype(np.complex64)
    done = MapFilter(np.ones(17), -2000.0, 4.0).apply(spectrum, PIXEL)
    assert np.isfinite(done).all()


def test_sharpening_undoes_blurring() -> None:
    sharp = _white(32, 2)
    blurred = _decayed(sharp, -150.0)
    keep = MapFilter(np.ones(17), 0.0, 5.0).apply(np.fft.rfftn(sharp).astype(np.complex64), PIXEL)
    back = MapFilter(np.ones(17), -150.0, 5.0).apply(np.fft.rfftn(blurred).astype(np.complex64), PIXEL)
    np.testing.assert_allclose(back, keep, atol=1e-4)
