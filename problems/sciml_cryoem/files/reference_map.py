"""Bring a reference map of any box and pixel size onto the grid of the images.

The density stays, its grid changes: the map is padded with zeros (or cut) to a box that holds a whole number of both
pixels, resampled in Fourier space, and padded or cut to the box of the images. Origins n // 2 coincide.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.run_tables import pixel_size_beside
from sciml_cryoem.imaging import fourier

_CLOSE = 1e-3  # pixel sizes that differ by less are the same: headers round
_MOST = 12.0  # ratio of the pixels: a map of 0.5 Angstrom fits images of 6, and beyond it is a unit mixed up


def read_reference(path: str | Path, box: int, pixel_size: float) -> tuple[Float[np.ndarray, "n n n"], str | None]:
    """Read a map and bring it onto the grid of the images.

    Args:
        path: the map (MRC).
        box: pixels along the side of the images.
        pixel_size: of the images, Angstrom.

    Returns:
        The map, and what was done to it in words (None: nothing).

    Raises:
        InputError: a faulty file, a map that is no cube, is constant, or whose pixel size is not known, or so far from
            that of the images that one of them is wrong.
    """
    volume = read_map(path)
    array, own = volume.array, volume.pixel_size
    sizes = " x ".join(map(str, array.shape[::-1]))
    if len(set(array.shape)) != 1:
        raise InputError(f"{path}: {sizes} voxels; a reference is a cube. Pad or crop it.")
    if np.ptp(array) == 0:
        raise InputError(f"{path}: all values are {array.flat[0]:g}; there is nothing in this map.")
    own = own or pixel_size_beside(volume.header.path)
    if own is None and len(array) != box:
        raise InputError(
            f"{path}, header field cella: the pixel size is not set, and the box is {len(array)}, not {box}; set it."
        )
    own = own or pixel_size
    if not 1 / _MOST <= own / pixel_size <= _MOST:
        raise InputError(
            f"{path}, header field cella: a pixel of {own:g} Angstrom, and {pixel_size:g} in the images; the ratio may "
            f"be {_MOST:g}. Correct the header of the map."
        )
    if abs(own / pixel_size - 1.0) < _CLOSE:
        own = pixel_size
    if own == pixel_size and len(array) == box:
        return array, None
    return resampled(array, own, box, pixel_size), (
        f"the reference, {sizes} voxels of {own:g} Angstrom, is resampled to {box} x {box} x {box} of {pixel_size:g}"
    )


def resampled(
    volume: Float[np.ndarray, "m m m"], own: float, box: int, pixel_size: float
) -> Float[np.ndarray, "n n n"]:
    """The same field on a grid of another box and pixel size (see the module); values per voxel are kept.

    Args:
        volume: the map.
        own: its pixel size, Angstrom.
        box: voxels wanted along the side.
        pixel_size: wanted, Angstrom.
    """
    if own != pixel_size:
        before, after = _common(len(volume), own, pixel_size)
        volume = fourier.resample(_fitted(volume, before), after) * np.float32((after / before) ** 3)
    return np.ascontiguousarray(_fitted(volume, box), np.float32)


def _common(size: int, own: float, pixel_size: float) -> tuple[int, int]:
    """Sides, in old and in new pixels, of the smallest box that holds the map and is nearly a whole number of both."""
    sides = np.arange(size, size + size // 3 + 8)
    others = sides * (own / pixel_size)
    misfit = np.abs(others - np.rint(others)) / others
    place = int(np.argmax(misfit <= max(3e-4, float(misfit.min()))))
    return int(sides[place]), int(np.rint(others[place]))


def _fitted(volume: np.ndarray, size: int) -> np.ndarray:
    """A map padded with zeros or cut to a side; the origin stays at half the side."""
    if size >= len(volume):
        return fourier.pad(volume, size, 3)
    return fourier.crop(volume, size, 3)
