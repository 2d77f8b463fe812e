"""What the view directions of a particle set say about its map: the numbers of `view_sampling`, and a verdict in words.

The thresholds are those of cryoSPARC's guide: SCF* below 0.81 (what views all around one axis have) or cFAR below 0.5
is a preferred orientation.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.validation.view_sampling import (
    SAMPLING_RADIUS,
    efficiency,
    fourier_sampling,
    largest_gap,
    relative_density,
    sampling_compensation,
    sphere_grid,
)

SCF_THRESHOLD = 0.81
"""SCF* below this is a preferred orientation (the value of side views all around one axis)."""

CFAR_THRESHOLD = 0.5
"""Conical FSC area ratio below this is a preferred orientation (cryoSPARC's rule)."""

CAP_DEG = 30.0
"""Half angle of the cap about an axis in which views are counted."""

BELT_DEG = 15.0
"""Half width of the belt about a great circle in which views are counted."""

_BELT_SHARE = 0.8  # of the views; 0.26 of evenly spread views lie within 15 degrees of a great circle
_SLICES = 50.0  # at least so many through a Fourier direction on average, if need be on a smaller shell
_MOST = 100_000  # directions that are looked at; of more, so many are drawn


@dataclass(frozen=True)
class OrientationDiagnostics:
    """What the view directions of a particle set say about its map.

    Attributes:
        views: number of views, symmetry mates not counted.
        density: views on each pixel of a HEALPix sphere (ring order) relative to an even spread; symmetry included.
        sampling: slices through each Fourier direction (HEALPix ring order, nside 16) relative to their mean.
        scf: sampling compensation factor over the directions that have slices.
        scf_star: the same, lowered for the directions that have none.
        unsampled: share of the Fourier directions without a slice.
        efficiency: of the orientation distribution, 1 - 2 sigma / mean of the point spread function's width.
        cap_share: largest share of the views within 30 degrees of one axis (0.13 of evenly spread views are).
        cap_axis_deg: (rot, tilt) of that axis, tilt at most 90.
        belt_share: largest share of the views within 15 degrees of one great circle (0.26 of evenly spread views are).
        belt_axis_deg: (rot, tilt) of the axis across that great circle.
        gap_deg: angular radius of the largest cap without a view along d or -d.
        gap_axis_deg: (rot, tilt) of its center.
    """

    views: int
    density: Float[np.ndarray, " pixels"]
    sampling: Float[np.ndarray, " directions"]
    scf: float
    scf_star: float
    unsampled: float
    efficiency: float
    cap_share: float
    cap_axis_deg: tuple[float, float]
    belt_share: float
    belt_axis_deg: tuple[float, float]
    gap_deg: float
    gap_axis_deg: tuple[float, float]

    @property
    def kind(self) -> str:
        """even, belt (side views all around an axis), or preferred (SCF* below 0.81)."""
        if self.belt_share >= _BELT_SHARE and self.unsampled < 0.01 and self.scf_star > 0.5:
            return "belt"
        return "preferred" if self.scf_star < SCF_THRESHOLD else "even"

    @property
    def flagged(self) -> bool:
        """Whether the user should be warned."""
        return self.kind != "even"

    def verdict(self, cfar: float | None = None) -> str:
        """One sentence for the report, with the numbers behind it.

        Args:
            cfar: conical FSC area ratio of the half maps (`directional_fsc`), if known.
        """
        numbers = f"SCF* {self.scf_star:.2f} (threshold {SCF_THRESHOLD}), efficiency {self.efficiency:.2f}"
        if cfar is not None:
            numbers += f", cFAR {cfar:.2f} (threshold {CFAR_THRESHOLD})"
        if self.unsampled > 0:
            numbers += f", {_percent(self.unsampled)} of Fourier directions without data"
        if self.kind == "belt":
            around = f"within {BELT_DEG:g} degrees of the plane across the axis {_place(self.belt_axis_deg)}"
            return f"side views: {_percent(self.belt_share)} of views {around}; {numbers}"
        if self.kind == "preferred":
            around = f"within {CAP_DEG:g} degrees of one axis {_place(self.cap_axis_deg)}"
            return f"preferred orientation: {_percent(self.cap_share)} of views {around}; {numbers}"
        if cfar is not None and cfar < CFAR_THRESHOLD:
            return f"views spread over all directions, but the half maps agree unevenly: {numbers}"
        gap = f"largest gap {self.gap_deg:.0f} degrees about {_place(self.gap_axis_deg)}"
        return f"views spread over all directions: {numbers}, {gap}"

    def summary(self) -> dict[str, float | str | bool | list[float]]:
        """The numbers without the arrays, ready for JSON."""
        names = ("scf", "scf_star", "unsampled", "efficiency", "cap_share", "belt_share", "gap_deg")
        numbers: dict[str, float | str | bool | list[float]] = {name: float(getattr(self, name)) for name in names}
        axes = ("cap_axis_deg", "belt_axis_deg", "gap_axis_deg")
        places = {name: [float(angle) for angle in getattr(self, name)] for name in axes}
        return {"views": self.views, "kind": self.kind, "flagged": self.flagged, **numbers, **places}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1f} %"


def _place(axis_deg: tuple[float, float]) -> str:
    return f"(tilt {axis_deg[1]:.0f}, rot {axis_deg[0]:.0f})"


def diagnose(
    directions: Float[np.ndarray, "views 3"],
    weights: Float[np.ndarray, " views"] | None = None,
    group: Float[np.ndarray, "order 3 3"] | None = None,
) -> OrientationDiagnostics:
    """Judge how a set of views fills Fourier space.

    Args:
        directions: view directions, any length but 0.
        weights: of the views, not negative; 1 each if not given.
        group: point group of the map (`symmetry.point_group`); each view then counts in all its symmetric directions.

    Of more than 100,000 directions, a fixed random sample of 100,000 is used.

    Raises:
        InputError: no views, a direction of length 0 or not finite, or weights that are negative or all 0.
    """
    units, weights = _checked(directions, weights)
    views = len(units)
    if group is not None and len(group) > 1:
        units = np.concatenate([units @ operator for operator in group])  # rows: S^T d
        weights = np.tile(weights, len(group))
    if len(units) > _MOST:
        chosen = np.random.default_rng(0).choice(len(units), _MOST, replace=False)
        units, weights = units[chosen], weights[chosen]
    # As many equal views as these weighted ones are worth.
    worth = weights.sum() ** 2 / np.square(weights).sum()
    sampling = fourier_sampling(units, weights, radius=float(np.clip(worth / (2.0 * _SLICES), 1.0, SAMPLING_RADIUS)))
    scf, scf_star = sampling_compensation(sampling)
    cap_share, cap_axis = _densest_cap(units, weights)
    belt_share, belt_axis = _densest_belt(units, weights)
    gap, gap_axis = largest_gap(units[weights > 0])
    return OrientationDiagnostics(
        views=views,
        density=relative_density(units, weights),
        sampling=sampling / sampling.mean(),
        scf=scf,
        scf_star=scf_star,
        unsampled=float((sampling == 0).mean()),
        efficiency=efficiency(units, weights),
        cap_share=cap_share,
        cap_axis_deg=_angles(cap_axis),
        belt_share=belt_share,
        belt_axis_deg=_angles(belt_axis),
        gap_deg=gap,
        gap_axis_deg=_angles(gap_axis),
    )


def _checked(directions: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.asarray(directions, np.float64)
    if len(vectors) == 0:
        raise InputError("There are no view directions to judge.")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        raise InputError(f"View direction {bad[0] + 1} has length {length[bad[0], 0]:g}; give finite vectors, not 0.")
    weight = np.ones(len(vectors)) if weights is None else np.asarray(weights, np.float64)
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise InputError("The weights of the views must be finite, not negative, and not all 0.")
    return vectors / length, weight


def _densest_cap(units: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The axis with the largest share of views within `CAP_DEG`, and that share."""
    cosine = np.cos(np.radians(CAP_DEG))

    def share(axes: np.ndarray) -> np.ndarray:
        return weights @ (np.abs(units @ axes.T) >= cosine) / weights.sum()

    candidates = sphere_grid(4)
    candidates = candidates[candidates[:, 2] >= 0]
    axis = candidates[int(share(candidates).argmax())]
    for _ in range(8):  # to the middle of its views
        near = np.abs(units @ axis) >= cosine
        axis = _principal(units[near], weights[near])
    for step in (0.08, 0.04, 0.02):  # radians: few views do not have their mean in the middle of the best cap
        turn = np.arange(8) * np.pi / 4.0
        frame = np.linalg.svd(axis[None])[2]
        around = axis + step * (np.cos(turn)[:, None] * frame[1] + np.sin(turn)[:, None] * frame[2])
        trial = np.concatenate([axis[None], around / np.linalg.norm(around, axis=1, keepdims=True)])
        axis = trial[int(share(trial).argmax())]
    return float(share(axis[None])[0]), axis


def _densest_belt(units: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The axis across the great circle with the largest share of views within `BELT_DEG`, and that share."""
    second = np.einsum("vi,v,vj->ij", units, weights, units)
    axis = np.linalg.eigh(second)[1][:, 0]
    near = np.abs(units @ axis) <= np.sin(np.radians(BELT_DEG))
    return float(weights[near].sum() / weights.sum()), axis


def _principal(units: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The axis +-a about which directions lie: the eigenvector of the largest eigenvalue of their second moment."""
    return np.linalg.eigh(np.einsum("vi,v,vj->ij", units, weights, units))[1][:, -1]


def _angles(axis: np.ndarray) -> tuple[float, float]:
    """(rot, tilt) in degrees of the axis +-a, tilt at most 90."""
    x, y, z = axis if axis[2] >= 0 else -axis
    tilt = float(np.degrees(np.arccos(np.clip(z, 0.0, 1.0))))
    return (float(np.degrees(np.arctan2(y, x))) if tilt > 0.01 else 0.0), tilt
