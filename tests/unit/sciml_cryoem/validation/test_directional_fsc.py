"""Conical FSC: against sums written out, isotropic and anisotropic noise, and its cost."""

import time

import numpy as np
import pytest
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.validation.directional_fsc import conical_fsc

from sciml.errors import InputError


def _noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def _directional_noise(box: int, seed: int, level: np.ndarray) -> np.ndarray:
    """White noise whose half spectrum was multiplied by a level."""
    return fourier.inverse_transform(fourier.transform(_noise(box, seed), 3) * level, box, 3).astype(np.float32)


def _halves(box: int, tilt_power: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A signal that falls off with frequency, in two halves with more noise towards the z axis of Fourier space.

    Returns them and the noise-to-signal ratio at each point of the half spectrum.
    """
    signed = fourier.frequencies(box)
    square = fourier.squared_radii(box, 3)
    cosine = np.abs(signed)[:, None, None] / np.sqrt(np.maximum(square, 1))
    fall = np.exp(-square / (2 * (box / 6) ** 2))
    level = 0.15 * (1.0 + tilt_power * cosine**4)
    signal = _directional_noise(box, 100 + seed, fall)
    halves = [signal + _directional_noise(box, 200 + 2 * seed + half, level) for half in (0, 1)]
    return halves[0], halves[1], np.square(level / fall)


@pytest.mark.parametrize("box", [12, 13])
def test_against_sums_over_the_whole_spectrum(box: int) -> None:
    """Every voxel of the full spectrum, cone by cone and shell by shell."""
    first, second = _noise(box, 0), _noise(box, 0) + _noise(box, 1)
    found = conical_fsc(first, second, 2.0, half_angle_deg=35.0)
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    signed = fourier.frequencies(box)
    kz, ky, kx = np.meshgrid(signed, signed, signed, indexing="ij")
    radius = np.sqrt(kx**2 + ky**2 + kz**2)
    for index in (0, 17, 60):
        x, y, z = found.directions[index]
        inside = np.abs(kx * x + ky * y + kz * z) >= np.cos(np.radians(35.0)) * radius
        for shell in range(2, (box - 1) // 2 + 1):  # the Nyquist column is one voxel of the full spectrum, and one here
            some = inside & (np.rint(radius) == shell)
            power = (np.abs(a[some]) ** 2).sum() * (np.abs(b[some]) ** 2).sum()
            wanted = (a[some] * b[some].conj()).real.sum() / np.sqrt(power)
            assert found.curves[index, shell] == pytest.approx(wanted, abs=1e-5)
    np.testing.assert_allclose(found.whole[: (box + 1) // 2], fsc(first, second)[: (box + 1) // 2], atol=1e-5)


def test_even_noise_has_one_resolution() -> None:
    first, second, ratio = _halves(64, 0.0)
    found = conical_fsc(first, second, 2.0)
    assert found.cfar > 0.8
    best, middle, worst = found.resolution_range(0.5)
    assert worst < 1.3 * best
    shells = fourier.shells(64, 3)
    expected = np.array([np.mean(1 / (1 + ratio[shells == shell])) for shell in range(33)])
    crossing = 128.0 / np.interp(-0.5, -expected, np.arange(33))
    assert abs(middle - crossing) < 0.08 * crossing


def test_uneven_noise_is_seen_in_its_direction() -> None:
    """Cones about z must cross 0.5 where the noise there says, and the ratio of areas be that of the closed curves."""
    first, second, ratio = _halves(64, 8.0)
    found = conical_fsc(first, second, 2.0)
    assert found.cfar < 0.5
    assert found.worst_axis_deg()[1] < 25.0
    best, _, worst = found.resolution_range(0.5)
    assert worst > 1.8 * best
    resolutions = found.resolutions(0.5)
    tilts = np.degrees(np.arccos(found.directions[:, 2]))
    assert resolutions[tilts < 15].mean() > 1.8 * resolutions[tilts > 75].mean()
    signed = fourier.frequencies(64)
    cosine = np.abs(signed)[:, None, None] / np.sqrt(np.maximum(fourier.squared_radii(64, 3), 1))
    shells, areas = fourier.shells(64, 3), []
    for axis in (found.directions[tilts < 15], found.directions[tilts > 85]):
        inside = cosine > np.cos(np.radians(20 + 6)) if axis[0, 2] > 0.9 else cosine < np.sin(np.radians(10))
        fall = [1 / (1 + np.mean(ratio[inside & (shells == shell)])) for shell in range(1, 33)]
        areas.append(sum(fall))
    assert found.cfar == pytest.approx(areas[0] / areas[1], abs=0.12)


def test_pure_noise_has_no_area() -> None:
    found = conical_fsc(_noise(32, 0), _noise(32, 1), 2.0)
    assert abs(found.areas).max() < 3.5
    assert found.resolution_range()[0] > 10.0


def test_mask_and_refusals() -> None:
    first, second = _noise(16, 0), _noise(16, 1)
    mask = np.ones((16, 16, 16), np.float32)
    np.testing.assert_array_equal(conical_fsc(first, second, 2.0, mask).curves, conical_fsc(first, second, 2.0).curves)
    with pytest.raises(InputError, match="one size"):
        conical_fsc(first, second[:8], 2.0)
    with pytest.raises(InputError, match="half angle"):
        conical_fsc(first, second, 2.0, half_angle_deg=0.0)
    second[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="finite"):
        conical_fsc(first, second, 2.0)


def test_cost() -> None:
    first, second = _noise(64, 0), _noise(64, 1)
    conical_fsc(first, second, 2.0)
    began = time.process_time()
    conical_fsc(first, second, 2.0)
    assert time.process_time() - began < 1.5
