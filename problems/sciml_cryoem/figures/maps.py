"""The figures of a reconstruction: FSC curves, Guinier plot, slices, orientations. No global matplotlib state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciml.runs.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sciml_cryoem.postprocessing.sharpening import Guinier

_COLORS = ("#1b6ca8", "#d1495b", "#7d8491", "#3a7d44", "#8f5ea2")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout=None)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> Path:
    with atomic_path(path) as temporary:
        # No software and date in the file: the same numbers give the same bytes.
        figure.savefig(temporary, metadata={"Software": None})
    return Path(path)


def draw_fsc(path: str | Path, curves: Mapping[str, Float[np.ndarray, " shells"]], box: int, pixel_size: float) -> Path:
    """Draw FSC curves (name -> curve) over frequency, with the lines 0.5 and 0.143 and a resolution axis in Angstrom.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.73))
    extent = box * pixel_size
    for color, (name, curve) in zip(_COLORS * len(curves), curves.items(), strict=False):
        axes.plot(np.arange(len(curve)) / extent, curve, color=color, linewidth=1.6, label=name)
    nyquist = 0.5 / pixel_size
    for threshold in (0.5, 0.143):
        axes.axhline(threshold, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(nyquist, threshold + 0.012, f"{threshold:g}", ha="right", fontsize=8, color="#666666")
    axes.axhline(0.0, color="#cccccc", linewidth=0.8)
    axes.set_xlim(0.0, nyquist)
    axes.set_ylim(min(-0.1, *(float(np.min(curve)) for curve in curves.values())), 1.03)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel("Fourier shell correlation")
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    _resolution_axis(axes, nyquist)
    return _save(figure, path)


def _resolution_axis(axes: Axes, nyquist: float) -> None:
    """Angstrom along the top, at round values."""
    top = axes.twiny()
    top.set_xlim(0.0, nyquist)
    ticks = nyquist * np.linspace(0.2, 1.0, 5)
    top.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    top.set_xlabel("resolution (Å)")


def draw_guinier(path: str | Path, guinier: Guinier, bfactor: float, resolution: float) -> Path:
    """Draw a Guinier plot: ln of the mean amplitude over 1 / d^2, before and after weights and B-factor, and the line.

    Args:
        path: the picture.
        guinier: the plot.
        bfactor: Angstrom^2 that was applied; 0 for none.
        resolution: Angstrom; shells beyond it are shaded, for what is there is removed.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.73))
    curves = {"mean of the half maps": guinier.original, "weighted by FSC": guinier.weighted}
    if bfactor:
        curves[f"sharpened, B = {bfactor:.0f} Å²"] = guinier.sharpened(bfactor)
    for color, (name, curve) in zip((_COLORS[2], _COLORS[0], _COLORS[1]), curves.items(), strict=False):
        shown = np.where(curve > -90.0, curve, np.nan)
        axes.plot(guinier.inverse_square, shown, color=color, linewidth=1.6, label=name)
    if guinier.fit is not None:
        ends = guinier.inverse_square[guinier.fitted][[0, -1]]
        label = (
            f"line through {guinier.fit.shells} shells: B = {guinier.fit.bfactor:.0f} ± {4 * guinier.fit.error:.0f} Å²"
        )
        line = guinier.fit.intercept + guinier.fit.slope * ends
        axes.plot(ends, line, color="black", linewidth=1.2, linestyle="--", label=label)
    last = float(guinier.inverse_square[-1])
    axes.axvspan(1 / resolution**2, last, color="#e3e9ef", label=f"beyond {resolution:.2f} Å: removed")
    axes.set_xlim(0.0, last)
    axes.set_xlabel("1 / d² (1/Å²)")
    axes.set_ylabel("ln of the mean amplitude")
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    top = axes.twiny()
    top.set_xlim(0.0, last)
    ticks = last * np.linspace(0.2, 1.0, 5)
    top.set_xticks(ticks, [f"{tick**-0.5:.3g}" for tick in ticks])
    top.set_xlabel("resolution (Å)")
    return _save(figure, path)


def draw_slices(
    path: str | Path,
    volume: Float[np.ndarray, "n n n"],
    pixel_size: float,
    mask: Float[np.ndarray, "n n n"] | None = None,
) -> Path:
    """Draw the three central slices of a map (through n // 2 of each axis) with a scale bar.

    Args:
        path: the picture.
        volume: the map.
        pixel_size: Angstrom.
        mask: drawn as its outline at 0.5.

    Raises:
        OSError: the file cannot be written.
    """
    box = len(volume)
    middle = box // 2
    cuts = {"xy": volume[middle], "xz": volume[:, middle], "yz": volume[:, :, middle]}
    values = np.stack(list(cuts.values()))
    low, high = np.percentile(values, (0.5, 99.7))
    if low == high:  # almost everything is one value
        low, high = values.min(), values.max()
    figure = _figure(9.0, 3.2)
    length = _round_length(0.3 * box * pixel_size)
    for place, (name, cut) in enumerate(cuts.items()):
        axes = figure.add_axes((0.005 + place / 3, 0.01, 0.323, 0.9))
        axes.imshow(cut, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bilinear")
        if mask is not None:
            outline = {"xy": mask[middle], "xz": mask[:, middle], "yz": mask[:, :, middle]}[name]
            axes.contour(outline, levels=[0.5], colors=["#f2a541"], linewidths=1.0)
        axes.set_title(f"{name[0]} right, {name[1]} up", fontsize=9)
        axes.set_axis_off()
        bar = (0.05 * box, 0.05 * box + length / pixel_size)
        axes.plot(bar, [0.06 * box] * 2, color="white", linewidth=3, solid_capstyle="butt")
        axes.text(bar[0], 0.08 * box, f"{length:g} Å", color="white", fontsize=8)
    return _save(figure, path)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer."""
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(factor * power for factor in (1, 2, 5) if factor * power <= length))


def draw_images(path: str | Path, images: Float[np.ndarray, "count n n"], columns: int = 4) -> Path:
    """Draw particle images side by side, each on its own grey scale.

    Raises:
        OSError: the file cannot be written.
    """
    rows = -(-len(images) // columns)
    figure = _figure(1.6 * columns, 1.6 * rows)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        axes = figure.add_axes((column / columns, 1 - (row + 1) / rows, 0.985 / columns, 0.985 / rows))
        axes.imshow(image, cmap="gray", origin="lower")
        axes.set_axis_off()
    return _save(figure, path)


def draw_orientations(path: str | Path, angles_deg: Float[np.ndarray, "n 3"]) -> Path:
    """Draw how many particles look along each direction: rot against cos(tilt), in bins of equal solid angle.

    Raises:
        OSError: the file cannot be written.
    """
    rot = (angles_deg[:, 0] + 180.0) % 360.0 - 180.0
    tilt = np.cos(np.radians(angles_deg[:, 1]))
    counts, _, _ = np.histogram2d(tilt, rot, bins=(18, 36), range=((-1, 1), (-180, 180)))
    figure = _figure(6.4, 3.4)
    axes = figure.add_axes((0.13, 0.16, 0.74, 0.74))
    image = axes.imshow(counts, extent=(-180, 180, -1, 1), origin="lower", aspect="auto", cmap="viridis", vmin=0)
    axes.set_xlabel("rot (degrees)")
    axes.set_ylabel("cos(tilt)")
    axes.set_title(f"view directions of {len(angles_deg)} particles", fontsize=9)
    bar = figure.add_axes((0.89, 0.16, 0.025, 0.74))
    figure.colorbar(image, cax=bar, label="particles in a bin")
    return _save(figure, path)
