"""`sciml cryoem fsc`: two maps compared."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from sciml.command_line.console import DONE, print_json, say
from sciml.errors import InputError

if TYPE_CHECKING:
    from sciml_cryoem.maps.alignment import Alignment

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Options:
    """Fourier shell correlation of two maps: the curve and its resolutions at 0.5 and 0.143."""

    first: tyro.conf.Positional[Path]
    """A map (MRC)."""
    second: tyro.conf.Positional[Path]
    """Another on the same grid."""
    mask: str = "none"
    """none, sphere (radius 0.40 of the box, soft edge of 5 voxels), or a mask (MRC)."""
    pixel: float | None = None
    """Angstrom; needed where the headers do not know it."""
    align: bool = False
    """First bring the second map onto the first: rotation, shift and hand."""
    lowpass: float = 20.0
    """Angstrom (at least 4 pixels) to which both maps are filtered to find the alignment, not for the FSC."""
    aligned: Path | None = None
    """File (MRC) for the second map in its new place; implies --align."""
    out: Path | None = None
    """Folder for fsc.star, fsc.xml (EMDB) and fsc.png."""
    seed: int = 0
    """Of the random phases that measure what a mask correlates."""
    device: Device = "auto"
    """Not used: this command runs on the CPU."""
    json: bool = False
    """Print one JSON object as the last line."""


def run(options: Options) -> int:
    """Run `sciml cryoem fsc`."""
    from sciml.runs.beginning import Files, claim, refuse_to_replace
    from sciml_cryoem.commands.compare import compare_maps, write_comparison
    from sciml_cryoem.commands.parts import mask_file
    from sciml_cryoem.files.mrc import write_map

    if not options.lowpass > 0:
        raise InputError(f"--lowpass is {options.lowpass:g}, not a resolution in Angstrom.")
    align_at = options.lowpass if options.align or options.aligned else None
    read = [options.first, options.second, *mask_file(options.mask)]
    if options.out:
        claim(options.out, Files(read, ("fsc.xml", "fsc.png", "fsc.star")))
    if options.aligned:
        refuse_to_replace(options.aligned, read)
    comparison = compare_maps(options.first, options.second, options.mask, options.pixel, options.seed, align_at)
    if options.out:
        write_comparison(comparison, options.out, f"{options.first.name} against {options.second.name}")
    if options.aligned and comparison.alignment:
        write_map(options.aligned, comparison.alignment.aligned, comparison.pixel_size)
    for finding in comparison.findings:
        say(str(finding))
    result = {**comparison.summary, "findings": [finding.record() for finding in comparison.findings]}
    if options.json:
        print_json(result)
    else:
        print(f"FSC 0.5   {result['resolution_05']:.2f} Angstrom\nFSC 0.143 {result['resolution_0143']:.2f} Angstrom")
        if comparison.alignment:
            print(_describe(comparison.alignment))
    return DONE


def _describe(alignment: "Alignment") -> str:
    """The lines that say how the second map was aligned."""
    angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(alignment.rotation.trace()) - 1) / 2))))
    shift = ", ".join(f"{value:.2f}" for value in alignment.shift)
    hand = "its mirror image" if alignment.flipped else "the second map"
    return (
        f"Aligned   {hand} turned by {angle:.2f} degrees and moved by ({shift}) Angstrom\n"
        f"Correlation {alignment.correlation:.4f} at {alignment.resolution:.1f} Angstrom, "
        f"with the other hand {alignment.other_hand:.4f}"
    )
