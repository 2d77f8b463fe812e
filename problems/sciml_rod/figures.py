"""The figures of the rod. No global matplotlib state; files are written whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from sciml.runs.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORK, REFERENCE, ERROR, MARK = "#c2410c", "#1f4e8c", "#2f6f4f", "#9a9a9a"
CHECKS = {
    "relative_l2": ("displacement, relative L² error", "#1f4e8c"),
    "relative_force": ("normal force, relative L² error", "#c2410c"),
    "held_out_balance": ("largest unbalanced force (no reference needed)", "#2f6f4f"),
}


def draw_solution(path: Path, columns: Mapping[str, Float[np.ndarray, "points"]], interfaces: Sequence[float]) -> Path:
    """Displacement, normal force, and their errors along the bar.

    Args:
        path: the PNG to write.
        columns: x_m, displacement_m, reference_displacement_m, force_n, reference_force_n.
        interfaces: positions to mark [m].
    """
    figure = blank(8.6, 7.2)
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    x = columns["x_m"]
    _compare(top, x, columns["reference_displacement_m"], columns["displacement_m"], "displacement u (m)")
    _compare(middle, x, columns["reference_force_n"], columns["force_n"], "normal force N = EA u′ (N)")
    pairs = (("displacement", "m", REFERENCE), ("force", "n", NETWORK))
    for name, unit, color in pairs:
        reference = columns[f"reference_{name}_{unit}"]
        error = np.abs(columns[f"{name}_{unit}"] - reference) / np.abs(reference).max()
        bottom.semilogy(x, np.maximum(error, 1e-17), color=color, linewidth=1.2, label=name)
    bottom.set_ylabel("error / largest value")
    bottom.set_xlabel("position x (m)")
    bottom.legend(frameon=False, fontsize=9, ncols=2, loc="upper right")
    low, high = bottom.get_ylim()
    bottom.set_ylim(low, high * 30)  # room for the legend
    for axes in (top, middle, bottom):
        for place in interfaces:
            axes.axvline(place, color=MARK, linestyle=":", linewidth=1)
        axes.margins(x=0)
        plain(axes)
    return save(figure, path)


def draw_checks(path: Path, history: Sequence[Mapping[str, Any]]) -> Path:
    """The held-out checks against cost.

    Args:
        path: the PNG to write.
        history: `evaluate` records of a solve.
    """
    figure = blank(8.6, 3.6)
    axes = figure.add_subplot()
    for key, (label, color) in CHECKS.items():
        points = [(record["evaluations"], record["values"].get(key)) for record in history]
        points = [(cost, value) for cost, value in points if value is not None and value > 0]
        if points:
            axes.semilogy(*zip(*points, strict=True), color=color, linewidth=1.4, label=label)
    axes.set_xlabel("loss-and-gradient evaluations per item")
    axes.set_ylabel("relative to the reference")
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9)
    plain(axes)
    return save(figure, path)


def _compare(axes: "Axes", x: np.ndarray, reference: np.ndarray, network: np.ndarray, label: str) -> None:
    axes.plot(x, reference, color=REFERENCE, linewidth=4, alpha=0.35, label="reference")
    axes.plot(x, network, color=NETWORK, linewidth=1.3, label="network")
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=9)


def blank(width: float, height: float) -> "Figure":
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plain(axes: "Axes") -> None:
    """The look that all figures share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: "Figure", path: Path) -> Path:
    """Write it whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})  # the same numbers give the same bytes
    return path
