"""The two half maps of a refinement: found by their names, read, and checked for what would falsify their FSC."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from jaxtyping import Float

from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.files.mrc import Volume, read_map
from sciml_cryoem.files.run_tables import check_given_pixel, findings_beside, pixel_size_beside
from sciml_cryoem.maps.fsc import shell_sums

HALF_MAPS = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
"""Names of the half maps as they leave a refinement: unmasked, unfiltered, not sharpened."""

_UNTOUCHED = "Give the half maps as they left the refinement (`_unfil.mrc`)."
_PAIRS = (("half1", "half2"), ("half_1", "half_2"), ("half_map_1", "half_map_2"), ("half_A", "half_B"))


@dataclass(frozen=True)
class HalfMaps:
    """Two half maps on one grid.

    Attributes:
        paths: their files.
        first: one map.
        second: the other.
        pixel_size: Angstrom.
        findings: of the run that wrote them, and about the pixel size that was given.
    """

    paths: tuple[Path, Path]
    first: Float[np.ndarray, "n n n"]
    second: Float[np.ndarray, "n n n"]
    pixel_size: float
    findings: tuple[Finding, ...] = ()

    @property
    def box(self) -> int:
        """Voxels along the side."""
        return len(self.first)


def find_halves(source: Path, second: Path | None = None) -> tuple[Path, Path]:
    """The files of the two half maps.

    Args:
        source: a run folder (ours or RELION's), or one half map, whose name tells the other's.
        second: the other half map, where its name does not follow.

    Raises:
        InputError: nothing there, several candidates, or the other half is missing.
    """
    if not source.exists():
        raise InputError(f"{source}: no such file or folder. Name a run folder or the first half map.")
    first = _in_folder(source) if source.is_dir() else source
    if second is None:
        first, second = _mate(first)
    if not second.is_file():
        raise InputError(f"{second}: no such file. It is the other half of {first}; name it with --half2.")
    if first.resolve() == second.resolve():
        raise InputError(f"{first}: one file cannot be both half maps.")
    return first, second


def _in_folder(folder: Path) -> Path:
    usual = folder / HALF_MAPS[0]
    if usual.is_file():
        return usual
    found = sorted(folder.glob("*half1*_unfil.mrc"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found[:4])
        raise InputError(f"{folder} holds several first half maps ({names}); name one of them instead of the folder.")
    filtered = sorted(folder.glob("*half1*.mrc"))
    hint = f" {filtered[-1].name} is filtered by the refinement: finish it first." if filtered else ""
    raise InputError(f"{folder} holds no {HALF_MAPS[0]}; name the file of the first half map.{hint}")


def _mate(path: Path) -> tuple[Path, Path]:
    """First and second half from the name of either."""
    for one, two in _PAIRS:
        if one in path.name:
            return path, path.with_name(path.name.replace(one, two))
        if two in path.name:
            return path.with_name(path.name.replace(two, one)), path
    raise InputError(f"{path}: the name does not say which half it is (`half1`); name the other one with --half2.")


def read_halves(paths: tuple[Path, Path], pixel_size: float | None = None) -> HalfMaps:
    """Read both half maps.

    Args:
        paths: the files.
        pixel_size: Angstrom; None takes it from the headers, or from the tables of the run beside the maps.

    Raises:
        InputError: a faulty file, maps that are no cubes of one size, different or unknown pixel sizes, equal maps.
    """
    volumes = [read_map(path) for path in paths]
    for path, volume in zip(paths, volumes, strict=True):
        if len({*volume.array.shape, *volumes[0].array.shape}) != 1:
            sizes = " x ".join(map(str, volume.array.shape[::-1]))
            other = " x ".join(map(str, volumes[0].array.shape[::-1]))
            raise InputError(f"{path}: {sizes} voxels; half maps are cubes of one size ({paths[0].name}: {other}).")
        if np.ptp(volume.array) == 0:
            raise InputError(f"{path}: all values are {volume.array.flat[0]:g}; there is nothing in this map.")
    if np.array_equal(volumes[0].array, volumes[1].array):
        raise InputError(f"{paths[0]} and {paths[1]} hold the same map; half maps come from separate halves of data.")
    sizes = [volume.pixel_size or pixel_size_beside(volume.header.path) for volume in volumes]
    findings = [] if pixel_size is None else check_given_pixel(pixel_size, sizes)
    found = pixel_size or _pixel_size(volumes, sizes)
    return HalfMaps(paths, volumes[0].array, volumes[1].array, found, (*findings_beside(paths), *findings))


def _pixel_size(volumes: list[Volume], sizes: list[float | None]) -> float:
    known = [size for size in sizes if size is not None]
    if not known:
        path = volumes[0].header.path
        raise InputError(f"{path}, header field cella: the pixel size is not set; give it with --pixel.")
    if max(known) > 1.001 * min(known):
        paths = " and ".join(str(volume.header.path) for volume in volumes)
        raise InputError(f"{paths} have pixel sizes {known[0]:g} and {known[1]:g} Angstrom; say which with --pixel.")
    return known[0]


def doubts(halves: HalfMaps) -> list[Finding]:
    """Reasons to doubt the FSC of the half maps; empty if there are none."""
    found = list(halves.findings)
    for path, volume in zip(halves.paths, (halves.first, halves.second), strict=True):
        empty = float((volume == 0).mean())
        if empty > 0.05:
            what = f"The map is exactly 0 in {empty:.0%} of its voxels: it was masked before."
            found.append(Finding(what, path.name, "severe", _UNTOUCHED))
        spectrum = np.asarray(scipy.fft.rfftn(volume))
        power = shell_sums(np.real(spectrum) ** 2 + np.imag(spectrum) ** 2, halves.box)[1:]
        # A refinement's own half maps keep their noise up to Nyquist.
        if power[int(0.8 * len(power)) : -1].min() < 1e-9 * power.max():
            what = "The map holds nothing near Nyquist: it was low-pass filtered before."
            found.append(Finding(what, path.name, "severe", _UNTOUCHED))
    return found
