"""FSC of two half maps in cones: how the resolution differs by direction.

    FSC(u, s) = Re sum F1 F2* / sqrt(sum |F1|^2 sum |F2|^2)

over the Fourier voxels of shell s = round(|k|) whose k or -k lies within a half angle (20 degrees) of the direction u.
Cones about HEALPix directions of one hemisphere (nside 4: 104 of them, 15 degrees apart), since u and -u are the same.

**cFAR**, the conical FSC area ratio, is the smallest area under such a curve divided by the largest. The area here is
the sum of FSC(u, s) over the shells s = 1 ... n // 2, negative values included, so that shells of noise add scatter but
no bias; a shell in which a cone holds fewer than 3 independent voxels takes the FSC of the whole shell instead. Evenly
sampled maps have values above about 0.8, what is missing being scatter; below 0.5 cryoSPARC's guide calls the
orientations preferred. Tan et al. (Nature Methods 14, 2017, 793) introduced FSC by direction with cones of 20 degrees.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.fsc import GOLD_STANDARD, resolution
from sciml_cryoem.validation.view_sampling import sphere_grid

HALF_ANGLE_DEG = 20.0
"""Half angle of a cone."""

_FEWEST = 3  # independent voxels of a shell in a cone: with fewer, the FSC of the whole shell is taken


@dataclass(frozen=True)
class ConicalFSC:
    """The FSC of two half maps by direction.

    Attributes:
        box: voxels along the side.
        pixel_size: Angstrom.
        half_angle_deg: of the cones.
        directions: axes of the cones, unit vectors (x, y, z) with z >= 0.
        curves: FSC of each cone.
        whole: FSC of whole shells.
    """

    box: int
    pixel_size: float
    half_angle_deg: float
    directions: Float[np.ndarray, "cones 3"]
    curves: Float[np.ndarray, "cones shells"]
    whole: Float[np.ndarray, " shells"]

    @property
    def areas(self) -> Float[np.ndarray, " cones"]:
        """Sum of each curve over the shells from 1 to Nyquist."""
        return self.curves[:, 1:].sum(1)

    @property
    def cfar(self) -> float:
        """Smallest area divided by the largest, 0 ... 1; 0 where no direction has a positive area."""
        smallest, largest = float(self.areas.min()), float(self.areas.max())
        return max(0.0, smallest) / largest if largest > 0 else 0.0

    def resolutions(self, threshold: float = GOLD_STANDARD) -> Float[np.ndarray, " cones"]:
        """Angstrom at which the curve of each cone first falls below a threshold.

        Below 0.5 each curve is taken as the mean of three neighboring shells: a cone holds a sixteenth of its shell
        and scatters four times as much.
        """
        return np.array([resolution(curve, self.box, self.pixel_size, threshold) for curve in _smooth(self.curves)])

    def resolution_range(self, threshold: float = GOLD_STANDARD) -> tuple[float, float, float]:
        """Best, median and worst of `resolutions`, Angstrom."""
        values = self.resolutions(threshold)
        return float(values.min()), float(np.median(values)), float(values.max())

    def worst_axis_deg(self) -> tuple[float, float]:
        """(rot, tilt) in degrees of the direction with the smallest area."""
        x, y, z = self.directions[int(self.areas.argmin())]
        return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arccos(np.clip(z, -1.0, 1.0))))


def _smooth(curves: np.ndarray) -> np.ndarray:
    padded = np.pad(curves, ((0, 0), (1, 1)), mode="edge")
    mean = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3.0
    return np.where(mean < 0.5, mean, curves)


def conical_fsc(
    first: Float[np.ndarray, "_ _ _"],
    second: Float[np.ndarray, "_ _ _"],
    pixel_size: float,
    mask: Float[np.ndarray, "_ _ _"] | None = None,
    half_angle_deg: float = HALF_ANGLE_DEG,
) -> ConicalFSC:
    """FSC of two half maps in cones about evenly spread directions.

    Args:
        first: half map.
        second: the other.
        pixel_size: Angstrom.
        mask: soft, multiplies both; it adds a correlation of its own, to all directions alike if it is round.
        half_angle_deg: of the cones, above 0 and at most 90.

    Raises:
        InputError: the arrays are not cubes of one size or not finite, or the angle is outside its range.
    """
    maps = (first, second) if mask is None else (first, second, mask)
    if len({m.shape for m in maps}) != 1 or len(set(first.shape)) != 1:
        listed = ", ".join(" x ".join(map(str, m.shape)) for m in maps)
        raise InputError(f"The half maps and the mask must be cubes of one size, not {listed}; crop or resample them.")
    if not all(np.isfinite(m).all() for m in maps):
        raise InputError("A map holds values that are not finite; its FSC would mean nothing.")
    if not 0.0 < half_angle_deg <= 90.0:
        raise InputError(f"The half angle of a cone is above 0 and at most 90 degrees, not {half_angle_deg:g}.")
    directions = sphere_grid(4)
    directions = directions[directions[:, 2] >= 0]
    a, b = (_spectrum(volume if mask is None else volume * mask) for volume in (first, second))
    curves, whole = _by_direction(a, b, directions, float(np.cos(np.radians(half_angle_deg))))
    return ConicalFSC(len(first), float(pixel_size), half_angle_deg, directions, curves, whole)


def _spectrum(volume: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.fft.rfftn(np.asarray(volume, np.float32)))


def _by_direction(
    a: np.ndarray, b: np.ndarray, directions: np.ndarray, cosine: float
) -> tuple[Float[np.ndarray, "cones shells"], Float[np.ndarray, " shells"]]:
    """Curves of the cones and of whole shells from two half spectra."""
    box = len(a)
    count = box // 2 + 1
    shells = fourier.shells(box, 3)
    # One of each Friedel pair: x = 0 holds both members, and so does the Nyquist column of an even box.
    keep = (shells < count) & (shells > 0)
    z, y, x = np.nonzero(keep)
    signed = fourier.frequencies(box)
    kz, ky = signed[z], signed[y]
    single = (x > 0) | (ky > 0) | ((ky == 0) & (kz > 0))
    z, y, x, ky, kz = (part[single] for part in (z, y, x, ky, kz))
    points = np.stack([x, ky, kz], 1).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    shell = shells[z, y, x]
    left, right = a[z, y, x], b[z, y, x]
    cross = np.real(left * np.conj(right)).astype(np.float64)
    powers = [np.square(np.abs(values), dtype=np.float64) for values in (left, right)]
    whole = _curve(*(np.bincount(shell, part, count) for part in (cross, *powers)))
    whole[0] = 1.0
    curves = np.empty((len(directions), count))
    for index, direction in enumerate(directions.astype(np.float32)):
        inside = np.flatnonzero(np.abs(points @ direction) >= cosine)
        here = shell[inside]
        curve = _curve(*(np.bincount(here, part[inside], count) for part in (cross, *powers)))
        curves[index] = np.where(np.bincount(here, minlength=count) >= _FEWEST, curve, whole)
    return curves, whole


def _curve(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    power = first * second
    return np.where(power > 0, cross / np.sqrt(np.where(power > 0, power, 1.0)), 0.0)
