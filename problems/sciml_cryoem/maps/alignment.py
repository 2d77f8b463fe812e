"""Bring one map onto another: rotation, shift and hand, as a map reconstructed without poses needs before any FSC.

A map known up to these is the same map, so the correlation is maximized over them. All of it happens in Fourier space,
where both maps are a few shells: the transform of the moved map at k is that of the moving one at Q^T k, times
exp(-2 pi i k.t / n), with Q a rotation, or a rotation after the mirror z -> -z where the hand is flipped. A grid of
rotations is tried with all shifts at once (one small FFT each); the best are refined by Gauss-Newton steps, fewer
candidates at more shells, up to the low-pass asked for.

Geometry is that of the package: columns (x, y, z), origin at sample n // 2 (README.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.alignment_search import ROTATIONS, Search, masked, rotation_grid

MIRROR = np.diag([1.0, 1.0, -1.0])
"""The mirror that changes the hand: z -> -z about the origin n // 2."""


def flip_hand(volume: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
    """The mirror image z -> -z of a map, origin n // 2 kept for even and odd n: V'(x, y, z) = V(x, y, -z).

    The plane z = -n / 2 of an even box stays in place, as its mirror image is itself in a periodic box.
    """
    flipped = volume[::-1]
    return np.ascontiguousarray(flipped if len(volume) % 2 else np.roll(flipped, 1, axis=0))


def flip_hand_poses(rotations: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The poses M A M, M = diag(1, 1, -1), under which the flipped map has the very same projections.

    A point c of the map is at M c in the flipped one, and (M A M) M c = M (A c) lands where A c did: the mirror turns
    only the depth over. So images, CTFs and origin offsets stay as they are. In angles: (rot + 180, tilt, psi + 180).
    """
    return MIRROR @ rotations @ MIRROR


@dataclass(frozen=True)
class Alignment:
    """How one map was brought onto another.

    A point c (x, y, z from the origin) of the moving map comes to R M c + t, M the mirror if `flipped`, else 1.

    Attributes:
        rotation: R, proper.
        shift: t (x, y, z), Angstrom.
        flipped: whether the hand was changed first (`flip_hand`).
        correlation: of the fixed and the aligned map, both low-passed, inside a soft sphere of 0.40 box.
        other_hand: the best correlation with the other hand; None if only one was tried.
        aligned: the moving map in its new place, not filtered.
        pixel_size: Angstrom.
        resolution: of the low-pass, Angstrom.
    """

    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, " 3"]
    flipped: bool
    correlation: float
    other_hand: float | None
    aligned: Float[np.ndarray, "n n n"]
    pixel_size: float
    resolution: float

    @property
    def summary(self) -> dict[str, Any]:
        """The figures, as lists of plain numbers."""
        return {
            "flipped": self.flipped,
            "rotation": self.rotation.tolist(),
            "shift": self.shift.tolist(),
            "correlation": self.correlation,
            "correlation_other_hand": self.other_hand,
        }

    def move_map(self, volume: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
        """Another map (a half map, a mask) moved in the same way, float32."""
        matrix = self.rotation @ MIRROR if self.flipped else self.rotation
        return _turn(volume, matrix, self.shift / self.pixel_size)

    def move_poses(
        self, rotations: Float[np.ndarray, "batch 3 3"], offsets: Float[np.ndarray, "batch 2"]
    ) -> tuple[Float[np.ndarray, "batch 3 3"], Float[np.ndarray, "batch 2"]]:
        """Poses (matrices A; origin offsets in Angstrom) under which the aligned map has the same projections."""
        moved = (flip_hand_poses(rotations) if self.flipped else rotations) @ self.rotation.T
        return moved, offsets + moved[:, :2] @ self.shift


def align(
    moving: Float[np.ndarray, "_ _ _"],
    fixed: Float[np.ndarray, "_ _ _"],
    pixel_size: float,
    resolution: float = 20.0,
    hands: bool = True,
    seed: int = 0,
) -> Alignment:
    """Find the rotation, shift and hand that bring a map onto another.

    Args:
        moving: the map to move.
        fixed: the map to bring it onto; a cube of the same size.
        pixel_size: Angstrom.
        resolution: Angstrom to which both are low-passed; at least 4 pixels are used.
        hands: whether the mirror image is tried too.
        seed: of the turn of the grid of rotations.

    Raises:
        InputError: the maps are not cubes of one size, not finite, or constant; the resolution leaves under two shells.
    """
    _check(moving, fixed)
    n = len(fixed)
    radius = min(n * pixel_size / max(resolution, 4 * pixel_size), (n - 1) / 2 - 1)
    if not radius >= 2:
        raise InputError(
            f"A low-pass of {resolution:g} Angstrom leaves {radius:.1f} shells of a box of {n * pixel_size:g} "
            f"Angstrom; at least 2 are needed: up to {n * pixel_size / 2:g} Angstrom."
        )
    search = Search(masked(fixed), moving, radius)
    grid = rotation_grid(ROTATIONS, seed)
    best = [search.run(grid @ hand) for hand in ((np.eye(3), MIRROR) if hands else (np.eye(3),))]
    scores = [_correlation(moving, fixed, matrix, shift, radius) for matrix, shift in best]
    flipped = bool(hands and scores[1] > scores[0])
    matrix, shift = best[flipped]
    other = scores[1 - flipped] if hands else None
    rotation = matrix @ MIRROR if flipped else matrix
    aligned = _turn(moving, matrix, shift)
    return Alignment(
        rotation, shift * pixel_size, flipped, scores[flipped], other, aligned, pixel_size, n * pixel_size / radius
    )


def _check(*volumes: np.ndarray) -> None:
    shapes = {volume.shape for volume in volumes}
    if len(shapes) != 1 or len(set(volumes[0].shape)) != 1 or len(volumes[0]) < 8:
        listed = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise InputError(f"Maps to align must be cubes of one size of at least 8 voxels, not {listed}; resample one.")
    for name, volume in zip(("moving", "fixed"), volumes, strict=True):
        if not np.isfinite(volume).all():
            raise InputError(f"The {name} map holds values that are not finite; it cannot be aligned.")
        if np.ptp(volume) == 0:
            raise InputError(f"The {name} map is constant; any rotation fits it.")


def _turn(volume: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> Float[np.ndarray, "n n n"]:
    """The map whose value at Q c + t (voxels) is that of the map at c, by cubic splines; 0 beyond the box."""
    from scipy import ndimage

    # In index order (z, y, x) the matrix has both axes reversed.
    back: Any = matrix.T[::-1, ::-1]
    center = np.full(3, len(volume) // 2)
    offset: Any = center - back @ (center + shift[::-1])
    moved = ndimage.affine_transform(np.asarray(volume, np.float32), back, offset, order=3, output=np.float32)
    return np.asarray(moved)


def _low_passed(volume: np.ndarray, radius: float) -> Float[np.ndarray, "n n n"]:
    """The map's Fourier components |k| < radius."""
    spectrum = np.asarray(scipy.fft.rfftn(np.asarray(volume, np.float32)))
    spectrum[fourier.squared_radii(len(volume), 3) >= radius**2] = 0
    return np.asarray(scipy.fft.irfftn(spectrum, volume.shape))


def _correlation(moving: np.ndarray, fixed: np.ndarray, matrix: np.ndarray, shift: np.ndarray, radius: float) -> float:
    """Correlation of two low-passed maps inside the sphere of 0.40 box, the first moved."""
    moved = _turn(_low_passed(moving, radius), matrix, shift)
    first, second = masked(moved).ravel(), masked(_low_passed(fixed, radius)).ravel()
    return float(np.corrcoef(first, second)[0, 1])
