"""Transforms with the origin at n // 2: against sums written out, for odd and even sizes, numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.half_plane import HalfPlane

SIZES = (4, 5, 8, 9, 12, 15)


def _written_out(array: np.ndarray, frequency: tuple[int, ...]) -> complex:
    """The transform at one frequency (z y x order) by its definition."""
    size = array.shape[0]
    positions = np.meshgrid(*[np.arange(size) - size // 2] * array.ndim, indexing="ij")
    phase = sum(k * r for k, r in zip(frequency, positions, strict=True))
    return complex((array * np.exp(-2j * np.pi * phase / size)).sum())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_transform_is_the_sum_about_the_middle(size: int, dimensions: int) -> None:
    array = np.random.default_rng(size).normal(size=(size,) * dimensions)
    spectrum = fourier.transform(array, dimensions)
    full, half = fourier.frequencies(size), fourier.half_frequencies(size)
    for seed in range(5):
        draw = np.random.default_rng(seed)
        place = tuple(int(i) for i in (*draw.integers(size, size=dimensions - 1), draw.integers(len(half))))
        frequency = (*(int(full[i]) for i in place[:-1]), int(half[place[-1]]))
        assert spectrum[place] == pytest.approx(_written_out(array, frequency), abs=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from([2, 3]), st.integers(0, 1000))
def test_round_trip_and_adjoint(size: int, dimensions: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    array = draw.normal(size=(size,) * dimensions)
    spectrum = fourier.transform(array, dimensions)
    assert np.allclose(fourier.inverse_transform(spectrum, size, dimensions), array, atol=1e-12)
    other = draw.normal(size=spectrum.shape) + 1j * draw.normal(size=spectrum.shape)
    there = np.vdot(spectrum, other).real
    back = np.vdot(array, fourier.adjoint_transform(other, size, dimensions))
    assert there == pytest.approx(back, rel=1e-11, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 1000))
def test_padded_transforms_equal_padding_then_transforming(size: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    volume, padded = draw.normal(size=(size,) * 3), 2 * size
    spectrum = fourier.transform_padded(volume, padded)
    assert np.allclose(spectrum, fourier.transform(fourier.pad(volume, padded, 3), 3), atol=1e-10)
    other = draw.normal(size=spectrum.shape) + 1j * draw.normal(size=spectrum.shape)
    expected = fourier.crop(fourier.adjoint_transform(other, padded, 3), size, 3)
    assert np.allclose(fourier.adjoint_transform_padded(other, size), expected, atol=1e-8)
    inverse = fourier.crop(fourier.inverse_transform(spectrum, padded, 3), size, 3)
    assert np.allclose(fourier.inverse_transform_cropped(spectrum, size), inverse, atol=1e-12)
    assert np.allclose(inverse, volume, atol=1e-12)


@pytest.mark.parametrize("size", [8, 9])
def test_torch_tensors_give_the_numbers_of_numpy_arrays(size: int) -> None:
    draw = np.random.default_rng(1)
    volume = draw.normal(size=(size,) * 3)
    spectrum = fourier.transform_padded(volume, 2 * size)
    found = fourier.transform_padded(torch.from_numpy(volume), 2 * size)
    assert np.allclose(found.numpy(), spectrum, atol=1e-11)
    other = draw.normal(size=spectrum.shape) + 1j * draw.normal(size=spectrum.shape)
    back = fourier.adjoint_transform_padded(torch.from_numpy(other), size)
    assert np.allclose(back.numpy(), fourier.adjoint_transform_padded(other, size), atol=1e-9)
    small = fourier.inverse_transform(fourier.transform(torch.from_numpy(volume), 3), size, 3)
    assert np.allclose(small.numpy(), volume, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 12), st.integers(0, 9))
def test_padding_keeps_the_origin_and_cropping_undoes_it(small: int, more: int) -> None:
    point = np.zeros((small, small))
    point[small // 2, small // 2] = 1.0
    large = small + more
    padded = fourier.pad(point, large, 2)
    assert padded[large // 2, large // 2] == 1.0
    assert np.array_equal(fourier.crop(padded, small, 2), point)


def test_shells_are_rounded_radii() -> None:
    shells = fourier.shells(6, 2)
    assert shells[0].tolist() == [0, 1, 2, 3]
    assert shells[1].tolist() == [1, 1, 2, 3]
    assert shells[3].tolist() == [3, 3, 4, 4]
    assert fourier.squared_radii(6, 3)[1, 5, 2] == 6


@pytest.mark.parametrize("size", SIZES)
def test_half_plane_holds_every_frequency_pair_of_the_disc_once(size: int) -> None:
    plane = HalfPlane(size)
    points = set(zip(plane.kx.tolist(), plane.ky.tolist(), strict=True))
    mates = {(-x, -y) for x, y in points}
    assert points & mates == {(0.0, 0.0)}
    axis = fourier.frequencies(size)
    disc = {(float(x), float(y)) for x in axis for y in axis if x * x + y * y < size**2 / 4}
    assert points | mates == disc
    assert plane.multiplicity.sum() == len(disc)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8, 9, 16, 17]), st.integers(-3, 3), st.integers(-3, 3))
def test_offsets_move_the_image_back(size: int, x: int, y: int) -> None:
    """An observation is its projection moved by minus its offset."""
    plane = HalfPlane(size)
    image = plane.scatter(plane.gather(np.random.default_rng(0).normal(size=(1, size, size))))
    observed = np.roll(image, (-y, -x), (1, 2))
    found = plane.gather(observed, np.array([[x, y]], dtype=float))
    assert np.allclose(found, plane.gather(image), atol=1e-4)


@pytest.mark.parametrize("size", [8, 9])
def test_half_plane_agrees_with_the_centred_transform(size: int) -> None:
    images = np.random.default_rng(0).normal(size=(3, size, size))
    plane = HalfPlane(size)
    expected = fourier.transform(images, 2)[:, plane.rows, plane.columns]
    assert np.allclose(plane.gather(images), expected, atol=1e-4)


@pytest.mark.parametrize("size", [4, 5])
def test_optimal_circulant_is_nearest_to_the_cut_convolution(size: int) -> None:
    """Chan's circulant minimises the Frobenius distance: its eigenvalues are F T F^-1 on the diagonal."""
    padded = 2 * size
    draw = np.random.default_rng(0)
    weights = fourier.transform(fourier.pad(draw.random((size,) * 3), padded, 3), 3)
    weights = np.abs(weights) ** 2  # real, and even by the symmetry of a real map
    table = fourier.optimal_circulant(weights, size)
    basis = np.eye(size**3).reshape(-1, size, size, size)
    columns = []
    for unit in basis:
        spectrum = fourier.transform(fourier.pad(unit, padded, 3), 3) * weights
        columns.append(fourier.crop(fourier.inverse_transform(spectrum, padded, 3), size, 3).ravel())
    toeplitz = np.stack(columns, 1)
    waves = np.fft.fftn(basis, axes=(1, 2, 3)).reshape(size**3, -1).T / np.sqrt(size**3)
    eigenvalues = np.real(np.diag(waves @ toeplitz @ waves.conj().T)).reshape((size,) * 3)
    assert np.allclose(table, eigenvalues[..., : size // 2 + 1], rtol=1e-4)
    assert table.min() > 0


def test_a_disc_beyond_nyquist_is_refused() -> None:
    with pytest.raises(ValueError, match="radius 5"):
        HalfPlane(8, 5.0)
    with pytest.raises(ValueError, match="even multiple"):
        fourier.optimal_circulant(np.ones((6, 6, 4)), 5)


@pytest.mark.parametrize("box", [16, 17])
def test_a_map_is_moved_by_whole_and_by_parts_of_voxels(box: int) -> None:
    volume = np.random.default_rng(0).standard_normal((box,) * 3).astype(np.float32)
    np.testing.assert_allclose(
        fourier.moved(volume, np.array([3.0, -1.0, 2.0])), np.roll(volume, (2, -1, 3), (0, 1, 2)), atol=1e-5
    )
    smooth = fourier.resample(volume, box, 5.0).astype(np.float32)
    there = fourier.moved(smooth, np.array([0.4, 1.3, -0.7]))
    np.testing.assert_allclose(fourier.moved(there, np.array([-0.4, -1.3, 0.7])), smooth, atol=1e-5)
    assert np.abs(there - smooth).max() > 0.1
