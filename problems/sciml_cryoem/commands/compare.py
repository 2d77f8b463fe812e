"""Two maps on one grid: their FSC, with or without a mask, for `sciml cryoem fsc`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.files.mrc import Volume, read_map
from sciml_cryoem.files.run_tables import check_given_pixel, findings_beside, pixel_size_beside
from sciml_cryoem.maps.alignment import Alignment, align
from sciml_cryoem.maps.fsc import GOLD_STANDARD, HALF_BIT, FSCCurves, corrected_fsc, fsc, resolution
from sciml_cryoem.maps.fsc_files import write_fsc_star, write_fsc_xml
from sciml_cryoem.maps.fsc_findings import stays_high
from sciml_cryoem.maps.masks import soft_sphere


@dataclass(frozen=True)
class Comparison:
    """The FSC of two maps.

    Attributes:
        curve: masked if there is a mask, else of the maps as they are; not corrected.
        box: voxels along the side.
        pixel_size: Angstrom.
        curves: all curves, when there is a mask.
        alignment: how the second map was brought onto the first, where that was asked for.
        about_maps: findings of the runs that wrote the maps, and about the pixel size that was given.
    """

    curve: Float[np.ndarray, " shells"]
    box: int
    pixel_size: float
    curves: FSCCurves | None
    alignment: Alignment | None = None
    about_maps: tuple[Finding, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """What `--json` prints. The corrected values take out what the mask alone correlates: those of half maps."""
        result = self._resolutions(self.curve)
        if self.curves is not None:
            result["unmasked"] = self._resolutions(self.curves.unmasked)
            result["corrected"] = self._resolutions(self.curves.corrected)
        if self.alignment is not None:
            result |= self.alignment.summary
        return {**result, "box": self.box, "pixel_size": self.pixel_size}

    @property
    def findings(self) -> list[Finding]:
        """What to know about the maps and the curve: that it never falls, so that its resolution is only Nyquist."""
        finding = stays_high(self.curve, 2 * self.pixel_size)
        return [*self.about_maps, *([finding] if finding else [])]

    def _resolutions(self, curve: np.ndarray) -> dict[str, Any]:
        return {
            "resolution_05": resolution(curve, self.box, self.pixel_size, HALF_BIT),
            "resolution_0143": resolution(curve, self.box, self.pixel_size, GOLD_STANDARD),
            "curve": curve.tolist(),
        }


def compare_maps(
    first: Path, second: Path, mask: str, pixel_size: float | None, seed: int, align_at: float | None = None
) -> Comparison:
    """Read two maps and correlate them, after bringing the second onto the first if that is wanted.

    Args:
        first: a map.
        second: another, of the same box and pixel size.
        mask: "none", "sphere", or the path of a mask map.
        pixel_size: Angstrom; None takes it from the headers.
        seed: of the random phases, and of the search for the alignment.
        align_at: Angstrom to which both maps are low-passed to find rotation, shift and hand; None leaves the second
            map where it is.

    Raises:
        InputError: a faulty file, different boxes or pixel sizes, no pixel size anywhere.
    """
    volumes = [read_map(first), read_map(second)]
    if volumes[0].array.shape != volumes[1].array.shape:
        sizes = " and ".join(" x ".join(map(str, volume.array.shape[::-1])) for volume in volumes)
        raise InputError(f"{first} and {second} have {sizes} voxels; bring them to one grid first.")
    sizes = [volume.pixel_size or pixel_size_beside(volume.header.path) for volume in volumes]
    findings = [] if pixel_size is None else check_given_pixel(pixel_size, sizes)
    about_maps = (*findings_beside((first, second)), *findings)
    pixel_size = pixel_size or _pixel_size(volumes, sizes)
    a, b = (volume.array for volume in volumes)
    box = len(a)
    alignment = None if align_at is None else align(b, a, pixel_size, align_at, seed=seed)
    if alignment is not None:
        b = alignment.aligned
    if mask == "none":
        return Comparison(fsc(a, b), box, pixel_size, None, alignment, about_maps)
    weights = soft_sphere(box) if mask == "sphere" else _read_mask(Path(mask), box)
    curves = corrected_fsc(a, b, weights, pixel_size, seed)
    return Comparison(curves.masked, box, pixel_size, curves, alignment, about_maps)


def _pixel_size(volumes: list[Volume], sizes: list[float | None]) -> float:
    known = [size for size in sizes if size is not None]
    if not known:
        path = volumes[0].header.path
        raise InputError(f"{path}, header field cella: the pixel size is not set in either map; give it with --pixel.")
    if max(known) > 1.01 * min(known):
        names = " and ".join(str(volume.header.path) for volume in volumes)
        raise InputError(
            f"{names} have pixel sizes {known[0]:.4f} and {known[1]:.4f} Angstrom; resample one, or say --pixel."
        )
    return known[0]


def _read_mask(path: Path, box: int) -> Float[np.ndarray, "n n n"]:
    mask = read_map(path).array
    if mask.shape != (box,) * 3:
        raise InputError(
            f"{path}: a mask of {' x '.join(map(str, mask.shape[::-1]))} voxels for maps of {box} x {box} x {box}."
        )
    if mask.min() < -1e-3 or mask.max() > 1 + 1e-3 or mask.max() <= 0:
        raise InputError(f"{path}: a mask has values from 0 to 1, not {mask.min():g} to {mask.max():g}.")
    return mask


def write_comparison(comparison: Comparison, folder: Path, title: str) -> None:
    """Write fsc.xml and fsc.png, and fsc.star when there is a mask, into a folder that is made if missing.

    Raises:
        OSError: a file cannot be written.
    """
    from sciml_cryoem.figures.maps import draw_fsc

    box, pixel_size, curves = comparison.box, comparison.pixel_size, comparison.curves
    write_fsc_xml(folder / "fsc.xml", comparison.curve, box, pixel_size, title)
    drawn = {"FSC": comparison.curve}
    if curves is not None:
        write_fsc_star(folder / "fsc.star", curves)
        drawn = {"corrected": curves.corrected, "masked": curves.masked, "unmasked": curves.unmasked}
        drawn["random phases"] = curves.randomized
    draw_fsc(folder / "fsc.png", drawn, box, pixel_size)
