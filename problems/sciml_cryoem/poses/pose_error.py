"""How far two sets of poses of the same images are apart, once what no image can tell is taken out.

Poses found without a reference hold for a map that may be turned, moved and of the other hand. Given A_i of one set and
B_i of the other, that is one rotation Q and one shift t for all images:

    B_i = A_i Q,    or with the other hand    B_i = H A_i Q,    H = diag(-1, -1, 1)

(a map inverted about its origin has, seen by H A, the projections of the map seen by A), and offsets differ by B_i t. Q
is found robustly: the turn A_i^T B_i of some image to which those of most others are near, then the mean of these.
The hand with the smaller median is kept. No map is looked at, so nothing is fitted but Q, t and the hand. Of a
symmetric map, poses B_i S with S of its point group show the same: the one nearest to A_i Q counts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from sciml_cryoem.imaging import rotations
from sciml_cryoem.imaging.orientations import HALF_TURN

_TRIED = 200
"""Images whose turns are candidates, and whom they are compared with tenfold."""


@dataclass(frozen=True)
class PoseError:
    """Distances between two sets of poses, and the transformation between their maps.

    Attributes:
        angles_deg: turn between the two poses of each image.
        shifts: distance between its two offsets, in their units.
        flipped: whether the sets belong to maps of opposite hands.
        rotation: Q.
        shift: t (x, y, z).
        other_hand_deg: median turn with the other hand.
    """

    angles_deg: Float[np.ndarray, " n"]
    shifts: Float[np.ndarray, " n"]
    flipped: bool
    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "3"]
    other_hand_deg: float

    @property
    def summary(self) -> dict[str, float | bool]:
        """Medians and shares, ready for JSON."""
        return {
            "median_deg": float(np.median(self.angles_deg)),
            "p90_deg": float(np.percentile(self.angles_deg, 90)),
            "beyond_10_deg": float((self.angles_deg > 10).mean()),
            "median_shift": float(np.median(self.shifts)),
            "flipped": self.flipped,
            "other_hand_median_deg": self.other_hand_deg,
        }


def pose_error(
    reference: Float[np.ndarray, "n 3 3"],
    reference_offsets: Float[np.ndarray, "n 2"],
    found: Float[np.ndarray, "n 3 3"],
    offsets: Float[np.ndarray, "n 2"],
    used: Bool[np.ndarray, " n"] | None = None,
    group: Float[np.ndarray, "order 3 3"] | None = None,
) -> PoseError:
    """Compare poses found with others, over rotation, shift and hand.

    Args:
        reference: rotations A of one set.
        reference_offsets: its origin offsets (x, y).
        found: rotations of the other.
        offsets: likewise, in the same units.
        used: images that decide the alignment (errors are given for all); default: all.
        group: operators of the point group of the map of `found` (`symmetry.point_group`); default: no symmetry.
    """
    used = np.ones(len(found), bool) if used is None or not used.any() else used
    group = np.eye(3)[None] if group is None else group
    fits = []
    for hand in (np.eye(3), HALF_TURN):
        turned = hand @ reference
        rotation = _common_turn(np.swapaxes(turned, -1, -2)[used] @ found[used], group)
        mates = _nearest(turned @ rotation, found, group)
        fits.append((rotations.angular_distance(turned @ rotation, mates), rotation, mates))
    medians = [float(np.median(angles[used])) for angles, _, _ in fits]
    flipped = medians[1] < medians[0]
    angles, rotation, found = fits[flipped]
    shift = common_shift(found[used], (offsets - reference_offsets)[used])
    shifts = np.hypot(*(offsets - reference_offsets - found[:, :2] @ shift).T)
    return PoseError(angles, shifts, flipped, rotation, shift, medians[1 - flipped])


def _nearest(poses: np.ndarray, found: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Of the poses found and their symmetry mates those nearest to the given ones."""
    if len(group) == 1:
        return found
    apart = np.swapaxes(found, -1, -2) @ poses  # the trace of its product with an operator grows as the turn shrinks
    which = np.argmax(apart.reshape(-1, 9) @ group.reshape(-1, 9).T, axis=1)
    return found @ group[which]


def _common_turn(turns: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The rotation that most of them, or symmetry mates of theirs, are near."""
    draw = np.random.default_rng(0)
    order = draw.permutation(len(turns))
    some, others = turns[order[:_TRIED]], turns[order[: 10 * _TRIED]]
    near = lambda one: _distances(one, _nearest(np.broadcast_to(one, others.shape), others, group))
    distances = np.stack([near(candidate) for candidate in some])
    # A low quantile: with half of the poses wrong the right turn still has the nearest neighbors.
    best = some[int(np.percentile(distances, 30, axis=1).argmin())]
    for _ in range(20):
        turns = _nearest(np.broadcast_to(best, turns.shape), turns, group)
        away = _distances(best, turns)
        near = away <= max(3.0 * float(np.percentile(away, 30)), 1e-6)
        left, _, right = np.linalg.svd(turns[near].sum(0))
        best = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return best


def _distances(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    return rotations.angular_distance(np.broadcast_to(one, many.shape), many)


def common_shift(poses: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """t for which most offsets differ by (A t)[:2]: least squares, repeated over those that fit."""
    near = np.ones(len(poses), bool)
    shift = np.zeros(3)
    for _ in range(10):
        shift = np.linalg.lstsq(poses[near, :2].reshape(-1, 3), moves[near].reshape(-1), rcond=None)[0]
        away = np.hypot(*(moves - poses[:, :2] @ shift).T)
        near = away <= max(3.0 * float(np.median(away)), 1e-9)
    return shift
