"""The bundle for EMDB: what a deposition asks for, in one folder, with a manifest.

EMDB takes a primary map, both half maps as they left the refinement (no mask, filter or sharpening), the mask, the FSC
as XML, a picture of 500 x 500 pixels, the voxel size and a contour level. All maps lie on one grid with one origin.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sciml.runs.files import make_folder, to_json, write_atomic
from sciml_cryoem.files.mrc import write_map
from sciml_cryoem.maps.fsc_files import write_fsc_xml
from sciml_cryoem.postprocessing.halves import HalfMaps
from sciml_cryoem.postprocessing.postprocess import PostprocessResult
from sciml_cryoem.postprocessing.surface import draw_surface

VOLUME_PER_DALTON = 1.21
"""Cubic Angstrom: the partial specific volume of protein, 0.73 cm^3 / g (Harpaz et al., Structure 2, 1994)."""

IMAGE_SIZE = 500


@dataclass(frozen=True)
class Contour:
    """A contour level for the primary map.

    Attributes:
        level: in the units of the map.
        rms: the same, in root mean squares of the map about its mean, as many viewers count.
        volume: cubic Angstrom above it.
        reason: in words, where it comes from.
    """

    level: float
    rms: float
    volume: float
    reason: str


def suggest_contour(
    volume: Float[np.ndarray, "n n n"],
    mask: Float[np.ndarray, "n n n"],
    pixel_size: float,
    mass_kda: float | None = None,
) -> Contour:
    """A level at which a surface shows the molecule.

    With a mass it encloses the volume of that much protein inside the mask. Without one it is the level that parts the
    values inside the mask best into two classes (Otsu, IEEE Trans. SMC 9, 1979), molecule and rim.

    Args:
        volume: the map.
        mask: where the molecule is.
        pixel_size: Angstrom.
        mass_kda: of the molecule, if known.
    """
    inside = np.sort(volume[mask > 0.5].astype(np.float64))
    if len(inside) < 2:
        inside = np.sort(volume.ravel().astype(np.float64))
    if mass_kda is not None:
        count = round(mass_kda * 1e3 * VOLUME_PER_DALTON / pixel_size**3)
        level = float(inside[-min(max(count, 1), len(inside))])
        reason = f"encloses the volume of {mass_kda:g} kDa of protein"
    else:
        level, reason = _between_classes(inside), "parts molecule and rim inside the mask (Otsu); no mass was given"
    enclosed = float((volume[mask > 0.5] >= level).sum() * pixel_size**3)
    return Contour(level, (level - float(volume.mean())) / float(max(volume.std(), 1e-30)), enclosed, reason)


def _between_classes(values: Float[np.ndarray, " sorted"]) -> float:
    """The threshold with the largest variance between the classes below and above it."""
    count = len(values)
    below = np.arange(1, count)
    sums = np.cumsum(values)[:-1]
    difference = sums / below - (values.sum() - sums) / (count - below)
    best = int(np.argmax(below * (count - below) * np.square(difference)))
    return float(0.5 * (values[best] + values[best + 1]))


def write_deposition(folder: Path, halves: HalfMaps, result: PostprocessResult, contour: Contour) -> dict[str, Any]:
    """Write the bundle into a folder, which is made if missing.

    The half maps are written anew, their values untouched: many programs leave headers without pixel size, or with the
    space group of a stack. The manifest names the files they came from with their checksums.

    Returns:
        What manifest.json holds.

    Raises:
        OSError: a file cannot be written.
    """
    make_folder(folder)
    pixel_size = halves.pixel_size
    primary = "primary map: FSC-weighted, sharpened, low-passed, not masked"
    maps = {"primary_map.mrc": (primary, result.map)}
    if not result.filter.bfactor:
        maps = {"primary_map.mrc": (primary.replace(" sharpened,", " not sharpened,"), result.map)}
    for number, half in enumerate((halves.first, halves.second), 1):
        maps[f"half_map_{number}.mrc"] = (f"half map {number}: no mask, filter or sharpening", half)
    maps["mask.mrc"] = ("mask of the FSC", result.mask)
    roles = {}
    for name, (role, volume) in maps.items():
        write_map(folder / name, volume, pixel_size)
        roles[name] = role
    title = f"FSC of the half maps, {'masked, corrected' if result.chosen == 'corrected' else 'unmasked'}"
    write_fsc_xml(folder / "fsc.xml", result.curve, halves.box, pixel_size, title)
    draw_surface(folder / "image.png", result.map * result.mask, contour.level, IMAGE_SIZE)
    roles |= {"fsc.xml": title, "image.png": f"surface of the primary map at {contour.level:.4g}"}
    files = [_entry(folder / name, role) for name, role in roles.items()]
    manifest = _manifest(halves, result, contour) | {"files": files}
    write_atomic(folder / "manifest.json", to_json(manifest, indent=1) + "\n")
    # In the form that `sha256sum -c manifest.sha256` takes.
    lines = (f"{entry['sha256']}  {entry['file']}\n" for entry in files)
    write_atomic(folder / "manifest.sha256", "".join(lines))
    return manifest


def _manifest(halves: HalfMaps, result: PostprocessResult, contour: Contour) -> dict[str, Any]:
    return {
        "voxel_size_angstrom": halves.pixel_size,
        "box": halves.box,
        "resolution_angstrom": result.final_resolution,
        "resolution_criterion": "FSC 0.143 of independent half maps",
        "resolution_fsc": "masked, corrected by phase randomization" if result.chosen == "corrected" else "unmasked",
        "bfactor_angstrom2": result.filter.bfactor,
        "lowpass_angstrom": result.filter.resolution,
        "contour": contour,
        "half_map_sources": [{"file": str(path), "sha256": _sha256(path)} for path in halves.paths],
    }


def _entry(path: Path, role: str) -> dict[str, Any]:
    return {"file": path.name, "what": role, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
