"""Grids of orientations: HEALPix view directions times in-plane angles, turned as a whole, and turns about a pose.

A grid of order o has 12 * 4^o view directions (58.6, 29.3, 14.7, 7.3 degrees apart for o = 0, 1, 2, 3; Gorski et al.,
ApJ 622, 2005) and in-plane angles as far apart. In-plane angles run over half a turn only: the slice at psi + 180
degrees is the complex conjugate of that at psi, so that both are scored together (`poses.search`).
"""

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from sciml_cryoem.imaging import rotations

HALF_TURN = np.diag([-1.0, -1.0, 1.0])
"""A(rot, tilt, psi + 180) = HALF_TURN @ A(rot, tilt, psi)."""


def spacing_deg(order: int) -> float:
    """Distance between neighbors of a grid in degrees: the side of a HEALPix pixel."""
    return float(np.degrees(np.sqrt(4.0 * np.pi / (12 * 4**order))))


def view_directions(order: int) -> Float[np.ndarray, "views 2"]:
    """(rot, tilt) in degrees of the HEALPix pixels of order `order`."""
    import healpix

    theta, phi = healpix.pix2ang(2**order, np.arange(12 * 4**order))
    return np.degrees(np.stack([phi, theta], -1))


def half_turn_grid(order: int) -> Float[np.ndarray, "n 3 3"]:
    """Rotation matrices A of all view directions and of in-plane angles in 0 ... 180 degrees, views slowest."""
    views = view_directions(order)
    angles = np.arange(3 * 2**order) * (180.0 / (3 * 2**order))
    table = np.concatenate([np.repeat(views, len(angles), 0), np.tile(angles, len(views))[:, None]], 1)
    return rotations.matrices(table)


def turned(grid: Float[np.ndarray, "n 3 3"], turn: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "n 3 3"]:
    """The same grid about other axes of the reference: A -> A turn. Distances in the grid stay."""
    return grid @ turn


def random_turns(count: int, draw: np.random.Generator) -> Float[np.ndarray, "count 3 3"]:
    """Uniformly distributed rotations."""
    return Rotation.from_quat(draw.standard_normal((count, 4))).as_matrix()


OFFSETS, WIDEST = 1 / 16, 1 / 5
"""Range of the offsets that a search tries, as a share of the box: at first, and at most."""
OFFSET_STEP = 1 / 32
"""Distance of the offsets that a search tries, as a share of the box."""
WIDER = 1.6
"""Factor by which the range is widened where offsets of images lie beyond it."""


def shift_disc(radius: float, step: float) -> Float[np.ndarray, "shifts 2"]:
    """Offsets (x, y) in pixels on a square grid of this step within a disc; the origin first."""
    reach = int(np.floor(radius / step + 1e-9))
    line = step * np.arange(-reach, reach + 1)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    points = points[np.hypot(*points.T) <= radius + 1e-9]
    return points[np.argsort(np.hypot(*points.T), kind="stable")]
