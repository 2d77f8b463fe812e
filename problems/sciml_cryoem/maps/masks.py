"""Soft masks: a sphere, and the region of a molecule found in a map.

A mask with a hard edge correlates the high frequencies of both halves; a cosine edge does so much less, and what is
left is measured (`fsc.corrected_fsc`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Bool, Float

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier


def _radii(box: int) -> Float[np.ndarray, "n n n"]:
    """Distance of every voxel from the origin box // 2, in voxels."""
    line = np.arange(box, dtype=np.float32) - box // 2
    return np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2)


def cosine_edge(distance: Float[np.ndarray, "*shape"], edge: float) -> Float[np.ndarray, "*shape"]:
    """1 where the distance is not positive, 0 from `edge` on, half a cosine between, float32."""
    if edge <= 0:
        return (distance <= 0).astype(np.float32)
    return (0.5 + 0.5 * np.cos(np.pi * np.clip(distance / edge, 0.0, 1.0))).astype(np.float32)


def soft_sphere(box: int, radius: float | None = None, edge: float = 5.0) -> Float[np.ndarray, "n n n"]:
    """A sphere about the origin box // 2.

    Args:
        box: voxels along the side.
        radius: voxels within which the mask is 1; 0.40 of the box if not given.
        edge: voxels over which it falls to 0, outside the radius.

    Raises:
        InputError: the radius is not positive.
    """
    radius = 0.4 * box if radius is None else radius
    if radius <= 0:
        raise InputError(f"A mask radius of {radius:g} voxels is not positive.")
    return cosine_edge(_radii(box) - np.float32(radius), edge)


def low_pass(
    volume: Float[np.ndarray, "n n n"], pixel_size: float, resolution: float, edge: float = 2.0
) -> Float[np.ndarray, "n n n"]:
    """The map up to a resolution (Angstrom), with a cosine edge of `edge` Fourier pixels about it; float32."""
    box = len(volume)
    spectrum = np.asarray(scipy.fft.rfftn(np.asarray(volume, dtype=np.float32)))
    radius = np.sqrt(fourier.squared_radii(box, 3)).astype(np.float32)
    spectrum *= cosine_edge(radius - (box * pixel_size / resolution - edge / 2), edge)
    return np.asarray(scipy.fft.irfftn(spectrum, volume.shape))


def read_mask(path: str | Path, box: int) -> Float[np.ndarray, "n n n"]:
    """A mask from a file, for maps of `box` voxels along the side; float32 in 0 ... 1.

    Raises:
        InputError: a faulty file, another box, values outside 0 ... 1 (by more than a thousandth), or nothing but 0.
    """
    from sciml_cryoem.files.mrc import read_map

    mask = read_map(path).array
    if mask.shape != (box,) * 3:
        sizes = " x ".join(map(str, mask.shape[::-1]))
        raise InputError(f"{path}: a mask of {sizes} voxels for maps of {box} x {box} x {box}; make it on their grid.")
    low, high = float(mask.min()), float(mask.max())
    if low < -1e-3 or high > 1 + 1e-3:
        raise InputError(f"{path}: a mask has values from 0 to 1, not {low:g} to {high:g}; make one with a soft edge.")
    if high < 0.5:
        raise InputError(f"{path}: the mask is empty, its largest value is {high:g}; make one that is 1 inside.")
    return np.clip(mask, 0.0, 1.0)


_SPECK = 0.05  # of the largest component's voxels: a smaller one is taken for noise, a larger one for a domain


@dataclass(frozen=True)
class AutomaticMask:
    """How a mask is found in a map.

    Attributes:
        lowpass: Angstrom to which the map is filtered first; about 1.3 times its FSC-0.5 resolution serves well.
        deviations: threshold in standard deviations of the solvent.
        extend: Angstrom by which the region is grown before the edge begins.
        edge: Angstrom of the cosine edge.
    """

    lowpass: float
    deviations: float = 5.0
    extend: float = 20.0
    edge: float = 30.0

    @classmethod
    def for_resolution(cls, resolution: float, pixel_size: float) -> "AutomaticMask":
        """Settings for half maps whose FSC falls to 0.5 at a resolution (Angstrom).

        The finer the detail, the closer the mask may follow the molecule and still not correlate the halves at their
        resolution: grown by 1.25 times the resolution, an edge of twice the resolution, up to the defaults, but
        never below two and five voxels. The shape comes from 1.3 times the resolution, but no finer than 15 Angstrom,
        where weak parts of a molecule still stand out of the noise.
        """
        extend = max(min(1.25 * resolution, cls.extend), 2.0 * pixel_size)
        return cls(
            max(1.3 * resolution, 15.0), extend=extend, edge=max(min(2.0 * resolution, cls.edge), 5.0 * pixel_size)
        )

    def find(self, volume: Float[np.ndarray, "n n n"], pixel_size: float) -> Float[np.ndarray, "n n n"]:
        """The mask of a map: its `region`, grown, with a soft edge; float32 in 0 ... 1.

        Raises:
            InputError: nothing rises above the threshold.
        """
        from scipy import ndimage

        voxels: Any = ndimage.distance_transform_edt(~self.region(volume, pixel_size))
        return cosine_edge((voxels * pixel_size - self.extend).astype(np.float32), self.edge)

    def region(self, volume: Float[np.ndarray, "n n n"], pixel_size: float) -> Bool[np.ndarray, "n n n"]:
        """Where the molecule is: low-pass, threshold, connected components, but no specks of noise.

        The solvent is what lies outside the sphere that touches the box; its mean and deviation, by median and median
        absolute deviation, set the threshold. Where it is flat (a map that was masked before), the threshold is 5 % of
        the maximum.

        Raises:
            InputError: nothing rises above the threshold.
        """
        from scipy import ndimage

        box = len(volume)
        smooth = low_pass(volume, pixel_size, max(self.lowpass, 2.2 * pixel_size))
        outside = smooth[_radii(box) > box / 2 - 1]
        center = float(np.median(outside))
        deviation = 1.4826 * float(np.median(np.abs(outside - center)))
        threshold = center + max(self.deviations * deviation, 0.05 * (float(smooth.max()) - center))
        found: Any = ndimage.label(smooth > threshold)
        labels, count = found
        if not count:
            raise InputError(f"No part of the map rises {self.deviations:g} deviations above its solvent; give a mask.")
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0  # below the threshold
        return (sizes >= _SPECK * sizes.max())[labels]
