"""`sciml cryoem check`: every fault of a particle set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from sciml.command_line.console import BAD_INPUT, DONE, print_json, say

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Options:
    """Find every fault of a particle set at once: STAR file, stacks, pixels. Computes nothing."""

    particles: tyro.conf.Positional[Path]
    """STAR file of particles (RELION 3.0 or 3.1)."""
    datadir: Path | None = None
    """Folder that the stack paths start from, if not the STAR file's, the working folder or the RELION project."""
    mode0: Literal["signed", "unsigned"] = "signed"
    """How the bytes of 8-bit stacks are read: signed (RELION) or unsigned (cryoSPARC, cryoDRGN)."""
    poses: bool = True
    """Demand angles; off for ab initio work."""
    ctf: bool = True
    """Demand defocus and optics values."""
    pixels: bool = True
    """Read every image; off to look at the STAR file and the headers only."""
    out: Path | None = None
    """Folder for check.json."""
    seed: int = 0
    """Not used: nothing here is random."""
    device: Device = "auto"
    """Not used: this command reads files."""
    json: bool = False
    """Print one JSON object as the last line."""


def run(options: Options) -> int:
    """Run `sciml cryoem check`."""
    from sciml.runs.files import to_json, write_atomic
    from sciml_cryoem.files.check import check_particles
    from sciml_cryoem.files.particles import Need

    wanted: dict[Need, bool] = {"poses": options.poses, "ctf": options.ctf, "halves": True}
    needs: list[Need] = [need for need, on in wanted.items() if on]
    report = check_particles(options.particles, options.datadir, options.mode0, needs, options.pixels)
    for fault in report.faults:
        say(f"{'FAULT' if fault.fatal else 'warning'}: {fault}")
    warnings = len(report.faults) - report.fatal
    say(f"{report.particles} particles, {report.fatal} fault(s), {warnings} warning(s).")
    for folder in report.folders:
        say(f"Stacks in {folder}")
    result = {"particles": report.particles, "faults": [vars(fault) for fault in report.faults]}
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out / "check.json", to_json(result, indent=1) + "\n")
    if options.json:
        print_json(result)
    return BAD_INPUT if report.fatal else DONE
