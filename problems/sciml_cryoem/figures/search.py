"""Figures of a search for poses: the map as it emerges, the course of a refinement, junk, errors of poses.

Each function writes one picture to a path (`run.figure(name, caption)` gives one) and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciml_cryoem.figures.maps import _figure, _save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sciml_cryoem.poses.pose_error import PoseError
    from sciml_cryoem.refinement.half_maps import Iteration

_BLUE, _RED, _GREY, _GREEN = "#1b6ca8", "#d1495b", "#7d8491", "#3a7d44"


@dataclass(frozen=True)
class MapSnapshot:
    """A map at some moment of a solve.

    Attributes:
        label: the moment in words.
        volume: the map, on any grid that spans the box.
        resolution: Angstrom that was used.
    """

    label: str
    volume: Float[np.ndarray, "m m m"]
    resolution: float


def draw_emergence(path: str | Path, moments: Sequence[MapSnapshot]) -> Path:
    """Draw a map at several moments, a column each: its middle slice and its projection along z, each on its own scale.

    Raises:
        OSError: the file cannot be written.
    """
    count, side = len(moments), max(len(moment.volume) for moment in moments)
    figure = _figure(2.3 * count, 5.3)
    rows = ([moment.volume[len(moment.volume) // 2] for moment in moments], [m.volume.sum(0) for m in moments])
    # One picture for all: an axes of its own for each costs ten times as much as what it shows.
    axes = figure.add_axes((0.0, 0.0, 1.0, 0.88))
    tiles = np.block([[_tile(picture, side) for picture in row] for row in reversed(rows)])
    axes.imshow(tiles, cmap="gray", vmin=0.0, vmax=1.0, origin="lower", interpolation="bicubic", aspect="auto")
    axes.set_axis_off()
    for row, name in enumerate(("projection", "slice")):
        axes.text(0.02 * side, (row + 0.02) * side, name, color="white", fontsize=8, va="bottom")
    for column, moment in enumerate(moments):
        words = moment.label.replace(": ", ":\n").replace(" to ", "\nto ")
        place = (column + 0.5) / count
        figure.text(place, 0.885, f"{words}\n{moment.resolution:.1f} Å", ha="center", va="bottom", fontsize=9)
    return _save(figure, path)


def _tile(picture: Float[np.ndarray, "m m"], side: int) -> Float[np.ndarray, "n n"]:
    """A picture between 0 and 1 on its own scale, on a grid of a common side, in a black frame."""
    low, high = np.percentile(picture, (2.0, 99.8))
    place = np.rint(np.linspace(0, len(picture) - 1, side)).astype(np.int64)
    tile = np.clip((picture - low) / max(float(high - low), 1e-30), 0.0, 1.0)[np.ix_(place, place)]
    tile[0], tile[-1], tile[:, 0], tile[:, -1] = 0.0, 0.0, 0.0, 0.0
    return tile


def draw_refinement(path: str | Path, iterations: Sequence[Iteration], extent: float) -> Path:
    """Draw the course of a refinement: resolution reached and used, how far poses still moved, junk.

    Args:
        path: the picture.
        iterations: the record.
        extent: of the box, Angstrom.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(6.4, 5.6)
    at = np.array([record.number + 1 for record in iterations])
    top = figure.add_axes((0.17, 0.55, 0.8, 0.41))
    reached = [record.resolution for record in iterations]
    used = [extent / record.radius for record in iterations]
    top.plot(at, reached, "o-", color=_BLUE, markersize=4, label="reached: FSC 0.143 of the half maps")
    top.plot(at, used, "s--", color=_RED, markersize=4, label="images compared with the map up to here")
    top.invert_yaxis()
    top.set_ylabel("resolution (Å)")
    bottom = figure.add_axes((0.17, 0.1, 0.8, 0.38))  # room for labels such as 2 x 10^-1
    turns = np.array([record.turn_deg for record in iterations])
    moves = np.array([record.move for record in iterations])
    # Poses of the first iteration have nothing to be compared with.
    bottom.plot(at[1:], np.maximum(turns[1:], 1e-4), "o-", color=_GREEN, markersize=4, label="median turn (degrees)")
    bottom.plot(at[1:], np.maximum(moves[1:], 1e-4), "s-", color=_GREY, markersize=4, label="median move (pixels)")
    bottom.set_yscale("log")
    bottom.set_xlabel("iteration")
    bottom.set_ylabel("change of the poses")
    for axes in (top, bottom):
        axes.set_xticks(at)
        axes.set_xlim(0.7, max(at) + 0.3)
        _shade_searches(axes, iterations)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper right" if axes is bottom else "lower right", fontsize=8, framealpha=0.9)
    return _save(figure, path)


def _shade_searches(axes: Axes, iterations: Sequence[Iteration]) -> None:
    label: str | None = "whole grid searched"
    for record in iterations:
        if record.searched:
            axes.axvspan(record.number + 0.5, record.number + 1.5, color="#fdecd2", linewidth=0, zorder=0, label=label)
            label = None


def draw_junk(path: str | Path, weights: Float[np.ndarray, " n"], below: float) -> Path:
    """Draw how many images have which weight; those below a limit are counted as junk.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(6.4, 3.0)
    axes = figure.add_axes((0.11, 0.18, 0.86, 0.72))
    bins = np.linspace(0.0, 1.0, 41).tolist()
    axes.hist(weights[weights >= below], bins, color=_BLUE, label=f"used: {int((weights >= below).sum()):,}")
    axes.hist(weights[weights < below], bins, color=_RED, label=f"left out: {int((weights < below).sum()):,}")
    axes.axvline(below, color="#444444", linewidth=0.9, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("weight: how probable it is that the image shows the particle")
    axes.set_ylabel("images")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    return _save(figure, path)


def draw_pose_errors(path: str | Path, error: PoseError, pixel_size: float) -> Path:
    """Draw the distribution of the angles and of the distances between two sets of poses (offsets in Angstrom).

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(8.6, 3.0)
    panels = (
        (error.angles_deg, "turn between the poses (degrees)", "°", 180.0),
        (error.shifts / pixel_size, "distance of the offsets (pixels)", " px", np.inf),
    )
    for place, (values, label, unit, most) in enumerate(panels):
        axes = figure.add_axes((0.075 + 0.5 * place, 0.19, 0.41, 0.7))
        middle = float(np.median(values))
        end = min(most, max(4.0 * middle, float(np.percentile(values, 98)), 1e-3))
        axes.hist(np.minimum(values, end), np.linspace(0.0, end, 41).tolist(), color=_BLUE)
        axes.axvline(middle, color=_RED, linewidth=1.4, label=f"median {middle:.2f}{unit}")
        beyond = float((values > end).mean())
        if beyond:
            axes.plot([], [], " ", label=f"{beyond:.1%} beyond, in the last bar")
        axes.set_xlim(0.0, end)
        axes.set_xlabel(label)
        axes.set_ylabel("images")
        axes.legend(loc="upper right", fontsize=8, frameon=False)
    return _save(figure, path)
