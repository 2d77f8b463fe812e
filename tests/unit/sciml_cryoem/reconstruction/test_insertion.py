"""Insertion: against loops written out, against the adjoint of the projector, and torch against the compiled loop."""

import numpy as np
import pytest
from sciml_cryoem.imaging import ctf, fourier, rotations
from sciml_cryoem.imaging.half_plane import HalfPlane
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.reconstruction.insertion import FourierSums, Views
from scipy.spatial.transform import Rotation


def _views(count: int, size: int, groups: int = 1, seed: int = 0) -> Views:
    draw = np.random.default_rng(seed)
    defocus = draw.uniform(8000, 20000, count)
    lens = ctf.CTF(defocus, defocus - 400, draw.uniform(0, 3, count), 300e3, 2.7e7, 0.1, b_factor=20.0)
    return Views(
        axes=rotations.slice_axes(Rotation.from_quat(draw.normal(size=(count, 4))).as_matrix()),
        offsets=draw.uniform(-2, 2, (count, 2)),
        ctf=lens.coefficients(size, 3.0).astype(np.float32),
        groups=np.arange(count) % groups,
    )


def _weights(groups: int, size: int) -> np.ndarray:
    return np.random.default_rng(5).uniform(0.5, 2.0, (groups, size // 2 + 1))


def _independent(weights: np.ndarray) -> np.ndarray:
    """Weights of a half plane, whose origin is its own Friedel mate."""
    return weights * np.where(np.arange(weights.shape[1]) == 0, 0.5, 1.0)


def _grid(size: int, images: np.ndarray, views: Views, weights: np.ndarray, device: str = "cpu") -> FourierSums:
    sums = FourierSums(size, _independent(weights), device=device)
    half = len(images) // 2
    for part in (slice(0, half), slice(half, None)):
        sums.add(images[part], views.take(part))
    sums.finish()
    return sums


def _written_out(size: int, images: np.ndarray, views: Views, weights: np.ndarray) -> np.ndarray:
    """The whole grid (not half), every point and its Friedel mate, corner by corner."""
    padded, plane = 2 * size, HalfPlane(size)
    values = plane.gather(images, views.offsets)
    transfer = ctf.evaluate(views.ctf.astype(np.float64), plane.kx.astype(np.float64), plane.ky.astype(np.float64))
    grid = np.zeros((padded, padded, padded, 3))
    for i in range(len(images)):
        for p in range(len(plane)):
            weight = weights[views.groups[i], plane.shell[p]] * transfer[i, p] ** 2
            value = weights[views.groups[i], plane.shell[p]] * transfer[i, p] * values[i, p]
            point = 2 * (views.axes[i, 0] * plane.kx[p] + views.axes[i, 1] * plane.ky[p])
            mates = [(point, value)] if plane.multiplicity[p] == 1 else [(point, value), (-point, np.conj(value))]
            for place, number in mates:
                low = np.floor(place).astype(int)
                for corner in np.ndindex(2, 2, 2):
                    share = np.prod([f if c else 1 - f for f, c in zip(place - low, corner, strict=True)])
                    x, y, z = (low + corner) % padded
                    grid[z, y, x] += share * np.array([number.real, number.imag, weight])
    return grid


@pytest.mark.parametrize("size", [8, 9])
def test_against_a_loop_written_out(size: int) -> None:
    images = np.random.default_rng(0).normal(size=(4, size, size)).astype(np.float32)
    views, weights = _views(4, size, groups=2), _weights(2, size)
    found = _grid(size, images, views, weights).grid
    expected = _written_out(size, images, views, weights)[:, :, : size + 1]
    assert np.allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("size", [12, 13])
def test_is_the_adjoint_of_the_weighted_projection(size: int) -> None:
    """Sums of values, transformed, are P' CTF y / sigma^2: the right-hand side of the normal equations."""
    images = np.random.default_rng(1).normal(size=(6, size, size)).astype(np.float32)
    views, weights = _views(6, size, groups=2), _weights(2, size)
    grid = _grid(size, images, views, weights).grid
    projector = Projector(size)
    plane = projector.plane
    slices = plane.gather(images, views.offsets) * ctf.evaluate(views.ctf, plane.kx, plane.ky)
    slices = slices * weights[views.groups][:, plane.shell] * plane.multiplicity
    expected = projector.volume(projector.add_slices(slices.astype(np.complex64), views.axes))
    spectrum = grid[..., 0] + 1j * grid[..., 1]
    found = fourier.crop(fourier.inverse_transform(spectrum, 2 * size, 3), size, 3) * (2.0 * size) ** 3
    correction = np.sinc((np.arange(size) - size // 2) / (2 * size)) ** -2.0
    corrected = found * correction[:, None, None] * correction[:, None] * correction
    assert np.allclose(corrected, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("size", [16, 17])
def test_torch_adds_the_same_numbers(size: int) -> None:
    images = np.random.default_rng(0).normal(size=(30, size, size)).astype(np.float32)
    views, weights = _views(30, size, groups=3), _weights(3, size)
    first = _grid(size, images, views, weights).grid
    second = _grid(size, images, views, weights, device="torch").grid
    assert np.abs(first - second).max() < 1e-5 * np.abs(first).max()


def test_batches_do_not_matter_and_weights_add_up() -> None:
    size = 16
    images = np.random.default_rng(0).normal(size=(10, size, size)).astype(np.float32)
    views, weights = _views(10, size), np.ones((1, size // 2 + 1))
    whole = FourierSums(size, _independent(weights))
    whole.add(images, views)
    whole.finish()
    parts = _grid(size, images, views, weights)
    assert np.array_equal(whole.grid, parts.grid)
    plane = HalfPlane(size)
    total = (np.square(ctf.evaluate(views.ctf, plane.kx, plane.ky)) * plane.multiplicity).sum()
    half = whole.grid[..., 2].astype(np.float64)
    found = 2 * half.sum() - half[..., 0].sum() - half[..., -1].sum()
    assert found == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("size", [24, 25])
def test_a_clean_set_gives_back_its_density(size: int) -> None:
    draw = np.random.default_rng(0)
    line = np.arange(size) - size // 2
    radius = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    smooth = fourier.transform(draw.normal(size=(size,) * 3) * (radius < 0.3 * size), 3)
    smooth[np.sqrt(fourier.squared_radii(size, 3)) > 0.3 * size] = 0
    truth = fourier.inverse_transform(smooth, size, 3)
    views = _views(400, size)
    projector = Projector(size, padding=4)
    plane = projector.plane
    values = projector.slices(projector.spectrum(truth), views.axes.astype(np.float64))
    values *= ctf.evaluate(views.ctf.astype(np.float64), plane.kx.astype(np.float64), plane.ky.astype(np.float64))
    phase = views.offsets[:, :1] * plane.kx + views.offsets[:, 1:] * plane.ky
    images = plane.scatter(values * np.exp(2j * np.pi / size * phase)).astype(np.float32)
    sums = FourierSums(size, np.ones((1, size // 2 + 1)))
    sums.add(images, views)
    sums.finish()
    found = sums.solve(1e-4 * sums.shell_weights() + 1e-6)
    inside = radius < 0.35 * size
    assert np.corrcoef(found[inside], truth[inside])[0, 1] > 0.998
    assert np.vdot(found[inside], truth[inside]) / np.vdot(truth[inside], truth[inside]) == pytest.approx(1.0, abs=0.02)


def test_images_that_do_not_fit_are_refused() -> None:
    sums = FourierSums(8, np.ones((1, 5)))
    with pytest.raises(ValueError, match="do not fit"):
        sums.add(np.zeros((2, 9, 9), np.float32), _views(2, 8))
    with pytest.raises(ValueError, match="even"):
        FourierSums(9, np.ones((1, 5)), padding=1)
