"""Figures of trust: view directions on a sphere, FSC by direction, local resolution. No global matplotlib state.

Each function writes one picture to a path (`run.figure(name, caption)` gives one) and returns it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciml_cryoem.figures.maps import _figure, _resolution_axis, _save
from sciml_cryoem.validation.directional_fsc import ConicalFSC
from sciml_cryoem.validation.local_resolution import LocalResolution
from sciml_cryoem.validation.orientation_diagnostics import CFAR_THRESHOLD, SCF_THRESHOLD, OrientationDiagnostics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_orientation_sphere(path: str | Path, found: OrientationDiagnostics) -> Path:
    """Draw view directions and Fourier sampling as two spheres in equal-area (Mollweide) projection.

    Left the views relative to an even spread, right the slices through each direction of Fourier space relative to
    their mean; rot runs along the equator from -180 to 180 degrees, the pole at the top is tilt 0.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(9.6, 2.9)
    titles = (f"view directions of {found.views:,} particles", "slices through Fourier directions")
    for place, (values, title) in enumerate(zip((found.density, found.sampling), titles, strict=True)):
        _sphere(figure, 0.035 + 0.5 * place, values)
        figure.text(0.225 + 0.5 * place, 0.94, title, ha="center", fontsize=9)
    words = f"SCF* {found.scf_star:.2f} (threshold {SCF_THRESHOLD}),  efficiency {found.efficiency:.2f}"
    figure.text(0.5, 0.02, f"{words},  {found.kind}", ha="center", fontsize=9, color="#444444")
    return _save(figure, path)


def _sphere(figure: Figure, left: float, values: Float[np.ndarray, " pixels"]) -> None:
    """One Mollweide map with its color bar, drawn pixel by pixel from a HEALPix array in ring order."""
    import healpix

    axes = figure.add_axes((left, 0.1, 0.38, 0.8), projection="mollweide")
    nside = round((len(values) / 12) ** 0.5)
    rot, tilt = np.radians(np.arange(-180.0, 180.01, 1.5)), np.radians(np.arange(0.0, 180.01, 1.5))
    middle_rot, middle_tilt = (0.5 * (line[1:] + line[:-1]) for line in (rot, tilt))
    pixels = healpix.ang2pix(nside, *np.meshgrid(middle_tilt, middle_rot % (2 * np.pi), indexing="ij"))
    # Latitude is 90 degrees minus tilt: the picture's top is tilt 0.
    image = axes.pcolormesh(
        rot, 0.5 * np.pi - tilt, values[pixels], cmap="viridis", vmin=0.0, vmax=max(2.0, float(values.max()))
    )
    axes.set_xticks(np.radians([-120, -60, 0, 60, 120]), ["-120", "-60", "0", "60", "120"], fontsize=7, color="white")
    axes.set_yticks(np.radians([60, 30, 0, -30, -60]), ["30", "60", "90", "120", "150"], fontsize=7)
    axes.grid(color="white", alpha=0.25, linewidth=0.5)
    bar = figure.add_axes((left + 0.395, 0.17, 0.012, 0.64))
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    bar.set_title("1 = even", fontsize=7)


def draw_conical_fsc(path: str | Path, found: ConicalFSC) -> Path:
    """Draw the FSC of all cones as a fan: every curve, the band of their middle 90 %, and the whole shells' curve.

    Raises:
        OSError: the file cannot be written.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_axes((0.11, 0.13, 0.86, 0.73))
    frequencies = np.arange(len(found.whole)) / (found.box * found.pixel_size)
    nyquist = 0.5 / found.pixel_size
    order = np.argsort(found.areas)
    axes.plot(frequencies, found.curves.T, color="#1b6ca8", linewidth=0.4, alpha=0.18)
    low, high = np.percentile(found.curves, (5, 95), axis=0)
    axes.fill_between(frequencies, low, high, color="#1b6ca8", alpha=0.22, linewidth=0, label="5 to 95 % of directions")
    axes.plot(frequencies, found.curves[order[-1]], color="#3a7d44", linewidth=1.3, label="largest area")
    rot, tilt = found.worst_axis_deg()
    worst = f"smallest area (tilt {tilt:.0f}, rot {rot:.0f})"
    axes.plot(frequencies, found.curves[order[0]], color="#d1495b", linewidth=1.3, label=worst)
    axes.plot(frequencies, found.whole, color="black", linewidth=1.6, label="whole shells")
    for threshold in (0.5, 0.143):
        axes.axhline(threshold, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(nyquist, threshold + 0.012, f"{threshold:g}", ha="right", fontsize=8, color="#666666")
    axes.axhline(0.0, color="#cccccc", linewidth=0.8)
    best, middle, last = found.resolution_range()
    title = f"cFAR {found.cfar:.2f} (threshold {CFAR_THRESHOLD})\n0.143: {best:.3g}, {middle:.3g}, {last:.3g} Å"
    title = f"{title}\n(best, median, worst)"
    axes.legend(loc="upper right", fontsize=8, framealpha=0.85, edgecolor="none", title=title, title_fontsize=8)
    axes.set_xlim(0.0, nyquist)
    axes.set_ylim(-0.25, 1.03)
    axes.set_xlabel("spatial frequency (1/Å)")
    axes.set_ylabel(f"FSC in cones of {found.half_angle_deg:g} degrees")
    _resolution_axis(axes, nyquist)
    return _save(figure, path)


def draw_local_resolution(
    path: str | Path,
    found: LocalResolution,
    volume: Float[np.ndarray, "n n n"],
    mask: Float[np.ndarray, "n n n"],
) -> Path:
    """Draw the three central slices of the local resolution inside a mask, over the map in grey.

    Args:
        path: of the picture.
        found: local resolution.
        volume: the map, for the grey background.
        mask: 0 ... 1; colors are shown where it is at least one half.

    Raises:
        InputError: the mask is below one half everywhere.
        OSError: the file cannot be written.
    """
    low, _, high = found.quantiles(mask)
    if high - low < 0.02 * low:
        low, high = 0.97 * low, 1.03 * high
    middle = len(volume) // 2
    grey = np.percentile(volume, (0.5, 99.7))
    figure = _figure(9.6, 3.2)
    image = None
    for place, name in enumerate(("xy", "xz", "yz")):
        cut = (middle, slice(None), slice(None)) if name == "xy" else (slice(None), middle, slice(None))
        cut = cut if name != "yz" else (slice(None), slice(None), middle)
        axes = figure.add_axes((0.005 + 0.305 * place, 0.01, 0.297, 0.9))
        axes.imshow(volume[cut], cmap="gray", vmin=grey[0], vmax=grey[1], origin="lower", interpolation="bilinear")
        inside = np.ma.masked_where(mask[cut] < 0.5, found.resolution[cut])
        image = axes.imshow(inside, cmap="turbo", vmin=low, vmax=high, origin="lower", alpha=0.75)
        axes.set_title(f"{name[0]} right, {name[1]} up", fontsize=9)
        axes.set_axis_off()
    bar = figure.add_axes((0.925, 0.08, 0.014, 0.78))
    assert image is not None
    figure.colorbar(image, cax=bar, extend="both").ax.tick_params(labelsize=8)
    bar.set_title("Å", fontsize=9)
    return _save(figure, path)
