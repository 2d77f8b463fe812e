"""Point groups in RELION's settings, and what they do to maps, Fourier sums and view directions.

An operator S of a group acts on reference coordinates, columns (x, y, z): the map is the same at r and at S r. A view
with rotation A and the views A S show the same image, so its view direction d has the mates S^T d. Groups contain the
inverse of each operator, so S and S^T run through the same set.

Settings (those of `relion_refine --sym NAME --print_symmetry_ops`):

| name | axes |
| --- | --- |
| C1, C2, ... | n-fold on Z |
| D2, D3, ... | n-fold on Z, 2-fold on X |
| T | 3-fold on Z, a 2-fold in the plane YZ at (0, sqrt 2, 1) |
| O | 4-folds on X, Y and Z |
| I1 | 2-folds on X, Y and Z, a 5-fold in the plane XZ at (g, 0, 1), g the golden ratio |
| I2 | the same with a 5-fold in the plane YZ at (0, g, 1): I1 turned by 90 degrees about Z |
| I3 | 5-fold on Z, the next in the plane XZ at (-2, 0, 1) |
| I4 | 5-fold on Z, the next at (2, 0, 1): I3 turned by 180 degrees about Z |

Groups with mirrors or inversion are refused: no protein has them.
"""

import re
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

from sciml.errors import InputError
from sciml_cryoem.imaging.rotations import angular_distance

_GOLDEN = (1.0 + 5.0**0.5) / 2.0
_X, _Y, _Z = np.eye(3)

_GENERATORS: dict[str, tuple[tuple[tuple[float, ...], int], ...]] = {
    "T": (((0, 0, 1), 3), ((0, 2**0.5, 1), 2)),
    "O": (((0, 0, 1), 4), ((1, 1, 1), 3)),
    "I1": (((0, 0, 1), 2), ((_GOLDEN, 0, 1), 5)),
    "I2": (((0, 0, 1), 2), ((0, _GOLDEN, 1), 5)),
    "I3": (((0, 0, 1), 5), ((-2, 0, 1), 5)),
    "I4": (((0, 0, 1), 5), ((2, 0, 1), 5)),
}

_ALLOWED = "C1, C2, ..., D2, D3, ..., T, O, I1, I2, I3 or I4"


def rotation_about(axis: Float[np.ndarray, "3"], angle_deg: float) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns columns (x, y, z) about an axis, counter-clockwise seen from its tip (Rodrigues)."""
    unit = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), unit).T  # cross @ v = unit x v
    angle = np.radians(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)


def point_group(name: str) -> Float[np.ndarray, "order 3 3"]:
    """Rotation operators of a point group in RELION's setting (see the module), the identity first, float64.

    Args:
        name: C1, C2, ..., D2, D3, ..., T, O, I1, I2, I3, I4; upper or lower case.

    Raises:
        InputError: no such group, or one of several settings of the icosahedron without its number.
    """
    return _operators(_canonical(name)).copy()


def _canonical(name: str) -> str:
    plain = name.strip().upper()
    if plain == "I":
        raise InputError(
            f"Symmetry {name!r} does not say which setting: I1 (2-folds on X, Y, Z; 5-folds in the plane XZ), "
            "I2 (5-folds in the plane YZ; RELION reads plain I so), I3 or I4 (5-fold on Z). Name one of them."
        )
    match = re.fullmatch(r"([CD])0*([1-9]\d{0,2})", plain)
    if match:
        family, fold = match.group(1), int(match.group(2))
        if family == "D" and fold == 1:
            raise InputError("Symmetry D1 is a single 2-fold axis on X; turn the map so that it is on Z and use C2.")
        return f"{family}{fold}"
    if plain in _GENERATORS:
        return plain
    if plain[:1] in tuple("CDTOI") and plain[-1:] in tuple("HVSI"):
        raise InputError(f"Symmetry {name!r} has mirrors or inversion, which no protein has; allowed: {_ALLOWED}.")
    raise InputError(f"Unknown point group {name!r}; allowed: {_ALLOWED}.")


@lru_cache(maxsize=32)
def _operators(name: str) -> Float[np.ndarray, "order 3 3"]:
    if name in _GENERATORS:
        return _close([rotation_about(np.array(axis, float), 360.0 / fold) for axis, fold in _GENERATORS[name]])
    fold = int(name[1:])
    turns = [rotation_about(_Z, 360.0 * step / fold) for step in range(fold)]
    if name[0] == "D":
        turns += [np.diag([1.0, -1.0, -1.0]) @ turn for turn in turns]
    return _clean(np.stack(turns))


def _close(generators: list[np.ndarray]) -> Float[np.ndarray, "order 3 3"]:
    """All products of the generators; the identity first."""
    found = [np.eye(3)]
    for element in found:  # the list grows while it is walked
        for generator in generators:
            product = generator @ element
            if min(np.abs(product - known).max() for known in found) > 1e-6:
                found.append(product)
        if len(found) > 60:
            raise AssertionError("the generators do not close")
    return _clean(np.stack(found))


def _clean(operators: np.ndarray) -> np.ndarray:
    """Exact 0 and +-1 where rounding left something else, so that turns onto the grid need no interpolation."""
    whole = np.rint(operators)
    return np.where(np.abs(operators - whole) < 1e-12, whole, operators) + 0.0


def symmetrize_map(
    volume: Float[np.ndarray, "_ _ _"], group: Float[np.ndarray, "order 3 3"], order: int = 3
) -> Float[np.ndarray, "n n n"]:
    """The mean of a map over a group: out(r) = mean over S of volume(S r), r from the origin n // 2.

    Operators that take the grid to itself (multiples of 90 degrees about X, Y, Z) are exact; others interpolate by
    splines. What is turned in from outside the box is 0.

    Args:
        volume: the map, z y x.
        group: from `point_group`.
        order: of the spline: 1 linear, 3 cubic.

    Returns:
        float32.

    Raises:
        InputError: the map is not a cube, or the order is neither 1 nor 3.
    """
    from scipy import ndimage

    if len(set(volume.shape)) != 1:
        raise InputError(f"Only a cubic map can be symmetrized, not {' x '.join(map(str, volume.shape))}.")
    if order not in (1, 3):
        raise InputError(f"The interpolation order is 1 or 3, not {order}.")
    source = np.asarray(volume, np.float64)
    knots = ndimage.spline_filter(source, 3, mode="mirror") if order == 3 else source
    center = np.full(3, len(volume) // 2, np.float64)
    total = np.zeros_like(source)
    for operator in group:
        matrix = operator[::-1, ::-1]  # x y z to z y x
        # Whole-number turns need no spline and stay exact.
        exact = bool((matrix == np.rint(matrix)).all())
        total += ndimage.affine_transform(
            source if exact else knots,
            matrix,
            offset=center - matrix @ center,
            order=1 if exact else order,
            prefilter=False,
            mode="constant",
        )
    return (total / len(group)).astype(np.float32)


def symmetrize_sums(
    grid: Float[np.ndarray, "P P half 3"], group: Float[np.ndarray, "order 3 3"]
) -> Float[np.ndarray, "P P half 3"]:
    """Fourier sums as if every image had been inserted in all its symmetric views as well: out(q) = sum of grid(S q).

    The grid is that of `insertion.FourierSums` after `finish` (P, P, P/2 + 1; real part, imaginary part, weight). A sum
    and not a mean, because each image stands for `order` views. Operators that take the grid to itself are exact. The
    others read the sums by trilinear interpolation, as RELION does, which spreads values over one more cell. The maps
    of symmetrized sums and of inserted copies differ by 3 to 4 % (root mean square, within 3/8 of the box) and are
    equally far from the truth, 5 %. Inserting copies costs `order` times the slices, this a pass over the grid.

    Args:
        grid: complete sums; not changed.
        group: from `point_group`.

    Returns:
        float32, a new grid; points further than P / 2 + 2 from the origin, which no solve reads, stay as they were.
    """
    from sciml_cryoem.imaging import symmetry_kernels

    if len(group) == 1:
        return grid.astype(np.float32)
    out = np.array(grid, np.float32)
    symmetry_kernels.symmetrize(np.ascontiguousarray(grid, np.float32), group.astype(np.float32), out)
    return out


def asymmetric_unit(
    directions: Float[np.ndarray, "views 3"],
    group: Float[np.ndarray, "order 3 3"],
    center: Float[np.ndarray, "3"] | None = None,
) -> Bool[np.ndarray, " views"]:
    """Which view directions lie in one asymmetric unit: nearer to its center than all their symmetry mates.

    Every direction has a mate in the unit, and only directions on its border have two, which both count. A search over
    these directions with all in-plane angles is complete.

    Args:
        directions: unit vectors (x, y, z), third rows of A.
        group: from `point_group`.
        center: of the unit, on no symmetry axis; by default `unit_center(group)`.

    Raises:
        InputError: the center lies on a symmetry axis, so that it is no nearer to itself than to a mate.
    """
    middle = unit_center(group) if center is None else np.asarray(center, np.float64) / np.linalg.norm(center)
    mates = group @ middle
    if len(group) > 1 and (mates[1:] @ middle).max() > 1.0 - 1e-6:
        raise InputError(f"The center {np.round(middle, 4).tolist()} of an asymmetric unit lies on a symmetry axis.")
    # d.(S c) = (S^T d).c: the mates of the center stand for those of the direction.
    nearness = np.asarray(directions, np.float64) @ mates.T
    return nearness[:, 0] >= nearness.max(1) - 1e-9


def symmetric_distance(
    first: Float[np.ndarray, "n 3 3"], second: Float[np.ndarray, "n 3 3"], group: Float[np.ndarray, "order 3 3"]
) -> Float[np.ndarray, " n"]:
    """Angle in degrees of the turn between two poses of a symmetric map: the least over all mates A S of the second."""
    return np.min([angular_distance(first, second @ operator) for operator in group], axis=0)


def unit_center(group: Float[np.ndarray, "order 3 3"]) -> Float[np.ndarray, "3"]:
    """A direction far from its symmetry mates, where an asymmetric unit is round; for C groups on the equator."""
    count = 4001
    step = np.arange(count)
    height = 1.0 - 2.0 * step / (count - 1)
    turn = np.pi * (3.0 - 5.0**0.5) * step
    radius = np.sqrt(np.maximum(1.0 - height**2, 0.0))
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)
    if len(group) == 1:
        return _Z.copy()
    nearest = np.einsum("pi,sij,pj->ps", points, group[1:], points).max(1)
    return points[int(np.argmin(np.round(nearest, 6)))]
