"""The contrast transfer function: known values, invariances, a scalar implementation, and torch-ctf as an oracle."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml_cryoem.imaging import ctf
from sciml_cryoem.imaging.half_plane import HalfPlane

LENS = {"voltage": 300e3, "spherical_aberration": 2.7e7, "amplitude_contrast": 0.1}
SIZE, PIXEL = 64, 2.0


def _points() -> tuple[np.ndarray, np.ndarray]:
    plane = HalfPlane(SIZE)
    return plane.kx.astype(np.float64), plane.ky.astype(np.float64)


def _evaluate(**fields: float | np.ndarray) -> np.ndarray:
    return ctf.evaluate(ctf.CTF(**(LENS | fields)).coefficients(SIZE, PIXEL), *_points())


def _scalar(kx: float, ky: float, u: float, v: float, angle: float, phase: float, b: float, scale: float) -> float:
    """The formula of the module, one number at a time, in polar form."""
    s = math.hypot(kx, ky) / (SIZE * PIXEL)
    alpha = math.atan2(ky, kx)
    defocus = (u + v) / 2 + (u - v) / 2 * math.cos(2 * (alpha - angle))
    length = 12.2643247 / math.sqrt(300e3 * (1 + 0.978466e-6 * 300e3))
    gamma = -math.pi * length * defocus * s**2 + math.pi / 2 * 2.7e7 * length**3 * s**4
    gamma -= phase + math.atan(0.1 / math.sqrt(1 - 0.01))
    return -math.sin(gamma) * scale * math.exp(-b * s**2 / 4)


def test_wavelengths() -> None:
    assert ctf.wavelength(np.array([100e3, 200e3, 300e3])) == pytest.approx([0.0370, 0.0251, 0.0197], abs=5e-5)


def test_value_at_the_origin_is_the_amplitude_contrast() -> None:
    value = ctf.evaluate(ctf.CTF(15000.0, 14000.0, 0.3, **LENS).coefficients(SIZE, PIXEL), *(np.zeros(1),) * 2)
    assert value[0, 0] == pytest.approx(0.1, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-5000, 40000),
    st.floats(-2000, 2000),
    st.floats(-4, 4),
    st.floats(0, 3),
    st.floats(-50, 200),
    st.floats(0.1, 2),
)
def test_against_the_scalar_formula(
    u: float, difference: float, angle: float, phase: float, b: float, scale: float
) -> None:
    found = _evaluate(
        defocus_u=u, defocus_v=u + difference, defocus_angle=angle, phase_shift=phase, b_factor=b, scale=scale
    )[0]
    kx, ky = _points()
    for place in range(0, len(kx), 97):
        expected = _scalar(kx[place], ky[place], u, u + difference, angle, phase, b, scale)
        assert found[place] == pytest.approx(expected, abs=1e-9)


def test_exchanging_the_axes_and_turning_by_a_right_angle_changes_nothing() -> None:
    first = _evaluate(defocus_u=16000.0, defocus_v=14500.0, defocus_angle=0.4)
    second = _evaluate(defocus_u=14500.0, defocus_v=16000.0, defocus_angle=0.4 + np.pi / 2)
    assert np.allclose(first, second, atol=1e-12)


def test_without_astigmatism_it_is_radial_and_blind_to_the_angle() -> None:
    values = _evaluate(defocus_u=15000.0, defocus_v=15000.0, defocus_angle=1.1)[0]
    assert np.allclose(values, _evaluate(defocus_u=15000.0, defocus_v=15000.0, defocus_angle=0.0)[0], atol=1e-12)
    kx, ky = _points()
    square = kx**2 + ky**2
    assert np.allclose(values[square == 25], values[square == 25][0], atol=1e-12)


def test_magnification_acts_on_the_frequencies() -> None:
    matrix = np.array([[1.02, 0.01], [-0.015, 0.97]])
    lens = ctf.CTF(16000.0, 14500.0, 0.4, **LENS, b_factor=30.0)
    kx, ky = _points()
    found = ctf.evaluate(lens.coefficients(SIZE, PIXEL, matrix), kx, ky)
    moved = matrix @ np.stack([kx, ky])
    assert np.allclose(found, ctf.evaluate(lens.coefficients(SIZE, PIXEL), *moved), atol=1e-10)


def test_torch_and_single_precision_agree() -> None:
    table = ctf.CTF(np.array([20000.0, 9000.0]), np.array([19000.0, 9500.0]), 0.4, **LENS).coefficients(SIZE, PIXEL)
    kx, ky = _points()
    expected = ctf.evaluate(table, kx, ky)
    found = ctf.evaluate(torch.from_numpy(table), torch.from_numpy(kx), torch.from_numpy(ky))
    assert np.allclose(found.numpy(), expected, atol=1e-13)
    single = ctf.evaluate(table.astype(np.float32), kx.astype(np.float32), ky.astype(np.float32))
    assert np.abs(single - expected).max() < 2e-5


def test_no_ctf_is_one_everywhere() -> None:
    assert np.allclose(ctf.evaluate(ctf.no_ctf(3), *_points()), 1.0)


def test_torch_ctf_agrees_within_its_constants() -> None:
    """Largest difference known: 1.5e-3 at 2 A and 1.5 um, from other constants of the wavelength."""
    oracle = pytest.importorskip("torch_ctf")
    u, v, angle = 16000.0, 14000.0, 35.0
    image = oracle.calculate_ctf_2d(
        defocus=(u + v) / 2e4,
        astigmatism=(u - v) / 2e4,
        astigmatism_angle=angle,
        voltage=300.0,
        spherical_aberration=2.7,
        amplitude_contrast=0.1,
        phase_shift=0.0,
        pixel_size=PIXEL,
        image_shape=(SIZE, SIZE),
        rfft=True,
        fftshift=False,
    )
    plane = HalfPlane(SIZE)
    expected = np.asarray(image).squeeze()[plane.rows, plane.columns]
    found = _evaluate(defocus_u=u, defocus_v=v, defocus_angle=np.radians(angle))[0]
    assert np.abs(found - expected).max() < 3e-3
