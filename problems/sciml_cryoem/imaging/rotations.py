"""Euler angles (rot, tilt, psi) and rotation matrices, in RELION's convention.

A matrix A takes reference coordinates to the view: a map point c, a column (x, y, z), lands at (A c)[:2] in the
projection, and the central slice at image frequency (kx, ky) samples the map's transform at A^T (kx, ky, 0). The view
direction is the third row of A, (sin tilt cos rot, sin tilt sin rot, cos tilt). Equal to `Rotation.from_euler("ZYZ",
[rot, tilt, psi], degrees=True).as_matrix().T` of scipy. Angles are in degrees here, as in STAR files (hence the
suffix).
"""

import numpy as np
from jaxtyping import Float


def matrices(angles_deg: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices A of (rot, tilt, psi) in degrees, float64."""
    radians = np.radians(np.asarray(angles_deg, np.float64))
    (ca, cb, cg), (sa, sb, sg) = (np.moveaxis(f(radians), -1, 0) for f in (np.cos, np.sin))
    rows = (
        (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
        (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
        (sb * ca, sb * sa, cb),
    )
    return np.stack([np.stack(row, -1) for row in rows], -2)


def euler_angles(rotations: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """(rot, tilt, psi) in degrees of rotation matrices A; tilt in 0 ... 180.

    At the poles, where only rot +- psi is defined, rot is 0.
    """
    a = np.asarray(rotations, np.float64)
    sine = np.hypot(a[..., 2, 0], a[..., 2, 1])
    tilt = np.arctan2(sine, a[..., 2, 2])
    regular = sine > 1e-9
    rot = np.where(regular, np.arctan2(a[..., 2, 1], a[..., 2, 0]), 0.0)
    psi = np.where(regular, np.arctan2(a[..., 1, 2], -a[..., 0, 2]), np.arctan2(a[..., 0, 1], a[..., 1, 1]))
    return np.degrees(np.stack([rot, tilt, psi], -1))


def angular_distance(
    first: Float[np.ndarray, "*batch 3 3"], second: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch"]:
    """Angle in degrees of the turn that takes one rotation to the other."""
    # The Frobenius norm keeps full precision at small angles, where the cosine from the trace does not.
    norm = np.linalg.norm(np.asarray(first, np.float64) - second, axis=(-2, -1))
    return np.asarray(np.degrees(2.0 * np.arcsin(np.clip(norm / np.sqrt(8.0), 0.0, 1.0))))


def slice_axes(rotations: Float[np.ndarray, "batch 3 3"], padding: int = 1) -> Float[np.ndarray, "batch 2 3"]:
    """Directions of an image's kx and ky axes in the map's Fourier space: two rows of A, contiguous float32.

    Args:
        rotations: matrices A.
        padding: of the grid that is read or added to; the compiled loops of `kernels` want axes times their padding.
    """
    return np.ascontiguousarray(padding * rotations[:, :2, :], np.float32)
