"""Local resolution: calibrated on halves with two levels of noise, and what it says where there is nothing to say."""

import time

import numpy as np
import pytest
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import cosine_edge
from sciml_cryoem.validation.local_resolution import local_resolution

from sciml.errors import InputError

PIXEL = 2.0


def _noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def _signal(box: int) -> np.ndarray:
    """Everywhere alike, power falling off with frequency, variance 1."""
    fall = np.exp(-np.sqrt(fourier.squared_radii(box, 3)) / (box / 12))
    volume = fourier.inverse_transform(fourier.transform(_noise(box, 0), 3) * fall, box, 3)
    return (volume / volume.std()).astype(np.float32)


def _two_regions(box: int, quiet: float, loud: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A signal and two halves of it with little noise at x < 0 and much at x > 0, soft between."""
    left = cosine_edge((np.arange(box) - box // 2 + 4).astype(np.float32), 8.0)
    level = quiet * left + loud * (1 - left)
    signal = _signal(box)
    return signal, *(signal + level * _noise(box, seed) for seed in (1, 2))  # type: ignore[return-value]


def _region(box: int, side: int) -> np.ndarray:
    """A soft mask over the middle of one half of the box."""
    line = np.arange(box) - box // 2
    ends = np.clip(0.44 * box - np.abs(line), 0, 4) / 4
    return (ends[:, None, None] * ends[:, None] * ends * np.clip(side * line - 6, 0, 4) / 4).astype(np.float32)


def _closed_form(signal: np.ndarray, level: float, threshold: float) -> float:
    box, shells = len(signal), fourier.shells(len(signal), 3)
    power = np.abs(fourier.transform(signal, 3)) ** 2 / box**3
    spectrum = np.array([power[shells == shell].mean() for shell in range(box // 2 + 1)])
    return resolution(spectrum / (spectrum + level**2), box, PIXEL, threshold)


@pytest.mark.parametrize(("box", "threshold"), [(64, 0.5), (65, 0.5), (64, 0.3)])
def test_two_regions_agree_with_their_fsc(box: int, threshold: float) -> None:
    """Median within 4 % of the region's own FSC and of the closed form, 90 % of the voxels within 12 %."""
    signal, first, second = _two_regions(box, 0.4, 1.2)
    found = local_resolution(first, second, PIXEL, threshold)
    medians = []
    for side, level in ((-1, 0.4), (1, 1.2)):
        mask = _region(box, side)
        inside = found.resolution[mask == 1]
        regional = resolution(fsc(first * mask, second * mask), box, PIXEL, threshold)
        exact = _closed_form(signal, level, threshold)
        medians.append(float(np.median(inside)))
        assert abs(medians[-1] - regional) < 0.04 * regional
        assert abs(medians[-1] - exact) < 0.04 * exact
        far = inside[np.abs(np.argwhere(mask == 1)[:, 2] - box // 2) > 14]
        assert np.mean(np.abs(far - exact) < 0.12 * exact) > 0.9
        assert found.quantiles(mask)[1] == pytest.approx(medians[-1], rel=0.02)
    assert medians[1] > 1.25 * medians[0]


def test_even_noise_gives_an_even_map() -> None:
    signal, first, second = _two_regions(64, 1.0, 1.0)
    exact = _closed_form(signal, 1.0, 0.5)
    low, middle, high = local_resolution(first, second, PIXEL).quantiles(np.ones((64, 64, 64), np.float32))
    assert abs(middle - exact) < 0.03 * exact
    assert low > 0.92 * exact
    assert high < 1.08 * exact


def test_extremes() -> None:
    """Pure noise has the coarsest value nearly everywhere, equal halves the finest; empty space is no agreement."""
    noise = local_resolution(_noise(48, 0), _noise(48, 1), PIXEL, 0.5)
    assert noise.coarsest == pytest.approx(48 * PIXEL / 3)
    assert np.mean(noise.resolution > 0.7 * noise.coarsest) > 0.99
    same = local_resolution(_noise(48, 0), _noise(48, 0), PIXEL)
    np.testing.assert_allclose(same.resolution, same.finest, rtol=1e-5)
    assert 2 * PIXEL < same.finest < 2.3 * PIXEL
    empty = local_resolution(np.zeros((16, 16, 16)), np.zeros((16, 16, 16)), PIXEL)
    np.testing.assert_allclose(empty.resolution, empty.coarsest, rtol=1e-5)


def test_scale_and_units_do_not_matter_but_the_pixel_does() -> None:
    _, first, second = _two_regions(32, 0.3, 1.0)
    once = local_resolution(first, second, 1.0)
    np.testing.assert_allclose(
        local_resolution(50 * first, 50 * second, 3.0).resolution, 3 * once.resolution, rtol=1e-3
    )


def test_refusals() -> None:
    volume = _noise(16, 0)
    with pytest.raises(InputError, match="one size"):
        local_resolution(volume, volume[:8], PIXEL)
    with pytest.raises(InputError, match="finite"):
        local_resolution(volume, np.full_like(volume, np.inf), PIXEL)
    with pytest.raises(InputError, match="threshold"):
        local_resolution(volume, volume, PIXEL, 1.5)
    with pytest.raises(InputError, match="window"):
        local_resolution(volume, volume, PIXEL, window=0.1)
    with pytest.raises(InputError, match="region"):
        local_resolution(volume, volume, PIXEL).quantiles(np.zeros_like(volume))


def test_cost() -> None:
    first, second = _noise(64, 0), _noise(64, 1)
    same = first + 0.01 * second  # no voxel stops early
    local_resolution(first, same, PIXEL)
    began = time.process_time()
    local_resolution(first, same, PIXEL)
    assert time.process_time() - began < 3.0
