"""Discrete Fourier transforms of images and volumes whose origin is the sample n // 2, for even and odd n.

Every shift between "origin in the middle" and "origin in the corner" happens here; nothing else calls an fftshift.

Conventions:

* real space: arrays are z y x (volumes) or y x (images), x the fastest axis, origin at index n // 2 of every axis;
* Fourier space: half spectra of real data, kernel exp(-2 pi i k.r / n), unnormalized forward. All axes but the last are
  in FFT order (0, 1, ..., -1), the last axis x holds the frequencies 0 ... n // 2. Frequencies are integers, in units
  of 1 / (n * pixel size).

The functions on arrays take numpy arrays and torch tensors alike (the same calls exist in both), and never import torch
themselves.
"""

from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float, Int


def _backend(array: Any) -> ModuleType:
    """The module whose `rfftn`, `irfftn`, `fftshift` and `ifftshift` accept this array (positional arguments agree)."""
    if isinstance(array, np.ndarray):
        return scipy.fft
    import torch

    return torch.fft


def _axes(dimensions: int) -> tuple[int, ...]:
    return tuple(range(-dimensions, 0))


def frequencies(size: int) -> Int[np.ndarray, " size"]:
    """Integer frequencies of a full axis in FFT order: 0, 1, ..., -1 (Nyquist, of an even axis, is -size/2)."""
    return np.rint(np.fft.fftfreq(size) * size).astype(np.int64)


def half_frequencies(size: int) -> Int[np.ndarray, " half"]:
    """Integer frequencies 0 ... size // 2 of the last axis of a half spectrum."""
    return np.arange(size // 2 + 1, dtype=np.int64)


def squared_radii(size: int, dimensions: int) -> Int[np.ndarray, "..."]:
    """|k|^2 at each point of the half spectrum of an image (dimensions=2) or volume (dimensions=3), exact integers."""
    axes = [frequencies(size)] * (dimensions - 1) + [half_frequencies(size)]
    total = np.zeros((1,) * dimensions, np.int64)
    for index, axis in enumerate(axes):
        total = total + axis.reshape([-1 if j == index else 1 for j in range(dimensions)]) ** 2
    return total


def shells(size: int, dimensions: int) -> Int[np.ndarray, "..."]:
    """Shell number round(|k|) at each point of the half spectrum; RELION's shells."""
    return np.rint(np.sqrt(squared_radii(size, dimensions))).astype(np.int64)


def transform(array: Any, dimensions: int) -> Any:
    """Half spectrum of real images (..., n, n) or volumes (..., n, n, n) whose origin is at n // 2.

    Returns:
        Complex array of the same precision, last axis n // 2 + 1; see the module for the order of frequencies.
    """
    module, axes = _backend(array), _axes(dimensions)
    return module.rfftn(module.ifftshift(array, axes), None, axes)


def inverse_transform(spectrum: Any, size: int, dimensions: int) -> Any:
    """Inverse of `transform`, including the factor size**-dimensions; origin of the result at size // 2.

    The spectrum must be that of a real array (hermitian on its first and, for even size, last column); a part that is
    not is treated differently by different FFT libraries. `adjoint_transform` takes any spectrum.
    """
    module, axes = _backend(spectrum), _axes(dimensions)
    return module.fftshift(module.irfftn(spectrum, (size,) * dimensions, axes), axes)


def adjoint_transform(spectrum: Any, size: int, dimensions: int) -> Any:
    """Exact transpose of `transform` as a real-linear map: <transform(x), y> = <x, adjoint_transform(y)>.

    The inner product of half spectra is Re sum conj(a) b with every stored point counted once, so the points of the
    inner columns, which stand for two frequencies of the full spectrum, enter here with weight 1/2, and the columns x =
    0 and (even size) x = size / 2 with their hermitian part.
    """
    return inverse_transform(_halved(spectrum, size, dimensions), size, dimensions) * float(size) ** dimensions


def _halved(spectrum: Any, size: int, dimensions: int) -> Any:
    """Half the spectrum, but the hermitian part of the columns that are their own mates."""
    halved = spectrum * 0.5
    edges = (0, size // 2) if size % 2 == 0 else (0,)
    for column in edges:
        halved[..., column] = hermitian_part(spectrum[..., column], dimensions - 1)
    return halved


def hermitian_part(plane: Any, dimensions: int) -> Any:
    """(F(k) + conj F(-k)) / 2 over the last `dimensions` axes, which are full and in FFT order."""
    axes = _axes(dimensions)
    if isinstance(plane, np.ndarray):
        mirrored = np.roll(np.flip(plane, axes), (1,) * dimensions, axes)
    else:
        mirrored = plane.flip(axes).roll((1,) * dimensions, axes)
    return 0.5 * (plane + mirrored.conj())


def _placement(small: int, large: int, dimensions: int) -> tuple[Any, ...]:
    start = large // 2 - small // 2
    return (..., *(slice(start, start + small),) * dimensions)


def pad(array: Any, size: int, dimensions: int) -> Any:
    """Embed the last axes in zeros so that each has `size` samples and the origin stays at n // 2."""
    small = array.shape[-1]
    shape = (*array.shape[:-dimensions], *(size,) * dimensions)
    padded = np.zeros(shape, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(shape)
    padded[_placement(small, size, dimensions)] = array
    return padded


def crop(array: Any, size: int, dimensions: int) -> Any:
    """Cut the middle `size` samples out of the last axes, origin to origin; the transpose of `pad`. A view."""
    return array[_placement(size, array.shape[-1], dimensions)]


def _move_axis_part(array: Any, axis: int, size: int) -> Any:
    """Make an axis in corner order (0, 1, ..., -1) longer by zeros in its middle, or cut its middle out."""
    old = array.shape[axis]
    small = min(old, size)
    positive, negative = small - small // 2, small // 2
    shape = [*array.shape]
    shape[axis] = size
    out = np.zeros(shape, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(shape)
    for part in (slice(0, positive), slice(-negative, None)):
        place = [slice(None)] * len(shape)
        place[axis] = part
        out[tuple(place)] = array[tuple(place)]
    return out


def resize_half(table: Any, size: int) -> Any:
    """A half spectrum in FFT order, (m, m, m // 2 + 1), on another side: zeros beyond the smaller one, not scaled."""
    columns = size // 2 + 1
    kept = np.zeros((*table.shape[:2], columns), table.dtype)
    kept[..., : min(columns, table.shape[2])] = table[..., :columns]
    for axis in (0, 1):
        kept = _move_axis_part(kept, axis, size)
    return kept


def resample(volume: Float[np.ndarray, "m m m"], size: int, radius: float | None = None) -> Float[np.ndarray, "n n n"]:
    """The same field on another grid over the same box, its transform unchanged up to a radius (Fourier pixels).

    Args:
        volume: origin at m // 2.
        size: voxels along the new side, n.
        radius: frequencies from it on are cut off; at most half of the smaller side, which is the default.
    """
    limit = min(len(volume), size) / 2
    spectrum = transform(volume, 3)
    spectrum = spectrum * (squared_radii(len(volume), 3) < min(limit, radius or limit) ** 2)
    return np.asarray(inverse_transform(resize_half(spectrum, size), size, 3))


def moved(volume: Float[np.ndarray, "n n n"], shift: Float[np.ndarray, "3"]) -> Float[np.ndarray, "n n n"]:
    """A periodic map moved by a shift (x, y, z) in voxels, exact for what its grid holds; float32."""
    from scipy.ndimage import fourier_shift

    spectrum = np.asarray(scipy.fft.rfftn(volume))
    fourier_shift(spectrum, shift[::-1], n=volume.shape[-1], output=spectrum)
    return np.asarray(scipy.fft.irfftn(spectrum, volume.shape), np.float32)


def transform_padded(volume: Any, size: int) -> Any:
    """`transform(pad(volume, size, 3), 3)` in about half the time: lines that are all zero are not transformed."""
    module = _backend(volume)
    spectrum = _move_axis_part(module.ifftshift(volume, (0, 1, 2)), 2, size)
    spectrum = module.rfft(spectrum, None, 2)
    for axis in (1, 0):
        spectrum = module.fft(_move_axis_part(spectrum, axis, size), None, axis)
    return spectrum


def inverse_transform_cropped(spectrum: Any, size: int) -> Any:
    """`crop(inverse_transform(spectrum, P, 3), size, 3)` in about half the time and memory; the side P is even."""
    module, padded = _backend(spectrum), spectrum.shape[0]
    for axis in (0, 1):
        spectrum = _move_axis_part(module.ifft(spectrum, None, axis), axis, size)
    volume = _move_axis_part(module.irfft(spectrum, padded, 2), 2, size)
    return module.fftshift(volume, (0, 1, 2))


def adjoint_transform_padded(spectrum: Any, size: int) -> Any:
    """Exact transpose of `transform_padded`: `crop(adjoint_transform(spectrum, P, 3), size, 3)`."""
    padded = spectrum.shape[0]
    return inverse_transform_cropped(_halved(spectrum, padded, 3), size) * float(padded) ** 3


def corner_transform(images: Float[np.ndarray, "batch n n"]) -> Complex[np.ndarray, "batch n half"]:
    """Half spectra of images with the origin left at sample 0, as `HalfPlane.ramps` expects them; needs no copy."""
    return np.asarray(scipy.fft.rfftn(images, axes=(-2, -1)))


def optimal_circulant(weights: Float[np.ndarray, "P P half"], size: int) -> Float[np.ndarray, "size size half2"]:
    """Weights of a padded grid averaged to the grid of the box itself; positive where the weights are.

    Multiplying the padded spectrum of a map that lives in a box of `size` by `weights` is a convolution cut to the box,
    a Toeplitz matrix. This is the eigenvalue table of the circulant matrix nearest to it (T. Chan, SIAM J. Sci. Stat.
    Comput. 9, 1988): the convolution kernel times a triangle, wrapped. In Fourier space: a Fejer average.

    Args:
        weights: half grid of side P, an even multiple of `size`, of a real and even function.
        size: of the box.
    """
    padded = weights.shape[0]
    if padded % (2 * size):
        raise ValueError(f"a grid of {padded} is not an even multiple of the box {size}")
    kernel = inverse_transform(weights.astype(np.complex64), padded, 3)
    line = np.maximum(1.0 - np.abs(np.arange(padded) - padded // 2) / size, 0.0).astype(kernel.dtype)
    kernel *= line[:, None, None] * line[None, :, None] * line[None, None, :]
    # Position r = j - P/2 wraps to r mod size = j mod size: the origin comes to sample 0.
    parts = padded // size
    wrapped = kernel.reshape(parts, size, parts, size, parts, size).sum((0, 2, 4))
    return np.real(np.asarray(scipy.fft.rfftn(wrapped)))
