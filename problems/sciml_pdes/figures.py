"""The figure of a PDE: field, reference, error. No global matplotlib state; the file is written whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciml.runs.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK, REFERENCE = "#c2410c", "#1f4e8c"


@dataclass(frozen=True)
class Frame:
    """Names and bounds of the coordinates."""

    axes: tuple[str, ...]
    sides: tuple[tuple[float, float], ...]


def draw_field(path: Path, field: Float[np.ndarray, "*grid"], truth: Float[np.ndarray, "*grid"], frame: Frame) -> Path:
    """Network, reference and error over a line or a rectangle.

    Args:
        path: the PNG to write.
        field: values on the uniform grid with both ends, one axis per coordinate; NaN outside the domain.
        truth: the reference at the same places.
        frame: the coordinates.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 5.2) if field.ndim == 1 else (11.5, 3.6), dpi=120, layout="constrained")
    (_draw_line if field.ndim == 1 else _draw_plane)(figure, field, truth, frame)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, metadata={"Software": None})  # the same numbers give the same bytes
    return path


def _draw_line(figure: "Figure", field: np.ndarray, truth: np.ndarray, frame: Frame) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = np.linspace(*frame.sides[0], len(field))
    top.plot(x, truth, color=REFERENCE, linewidth=3.5, alpha=0.5, label="reference")
    top.plot(x, field, color=NETWORK, linewidth=1.2, label="network")
    top.set_ylabel("u")
    top.legend(frameon=False)
    bottom.semilogy(x, np.maximum(np.abs(field - truth), 1e-17), color=NETWORK, linewidth=1.2)
    bottom.set_ylabel("|error|")
    bottom.set_xlabel(frame.axes[0])
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)


def _draw_plane(figure: "Figure", field: np.ndarray, truth: np.ndarray, frame: Frame) -> None:
    # Time, the last coordinate, runs to the right, as in the literature; a second place runs upwards.
    time = frame.axes[1] == "t"
    across, up = (1, 0) if time else (0, 1)
    turn = (lambda values: values) if time else np.transpose
    extent = (*frame.sides[across], *frame.sides[up])
    largest, error = float(np.nanmax(np.abs(truth))), field - truth
    bound = float(np.nanmax(np.abs(error))) or 1.0
    panels = (("network", field, largest), ("reference", truth, largest), ("network - reference", error, bound))
    for axes, (title, values, limit) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        image = axes.imshow(
            turn(values), origin="lower", extent=extent, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(frame.axes[across])
        figure.colorbar(image, ax=axes)
    figure.axes[0].set_ylabel(frame.axes[up])
