"""`sciml cryoem check`: every fault of a particle set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
    mode0: Literal["auto", "signed", "unsigned"] = "auto"
    """How the bytes of 8-bit stacks are read: signed (RELION) or unsigned (cryoSPARC, cryoDRGN); auto: as IMOD's flag
    in the header says, else signed."""
    class_number: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """Look only at the images of this class (rlnClassNumber)."""
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
    from sciml.runs.beginning import Files, claim
    from sciml.runs.files import to_json, write_atomic
    from sciml_cryoem.files.check import check_particles
    from sciml_cryoem.files.particles import Need, Source

    wanted: dict[Need, bool] = {"poses": options.poses, "ctf": options.ctf, "halves": True}
    needs: list[Need] = [need for need, on in wanted.items() if on]
    source = Source(options.particles, options.datadir, options.mode0, options.class_number)
    report = check_particles(source, needs, options.pixels)
    findings = [fault.finding() for fault in report.faults if not fault.fatal]
    for fault in report.faults:
        say(f"FAULT: {fault}" if fault.fatal else str(fault.finding()))
    say(f"{report.particles} particles, {report.fatal} fault(s), {len(findings)} finding(s).")
    for folder in report.folders:
        say(f"Stacks in {folder}")
    result = {
        "particles": report.particles,
        "faults": [fault.record() for fault in report.faults],
        "findings": [finding.record() for finding in findings],
    }
    if options.out:
        claim(options.out, Files([options.particles], ("check.json",)))
        write_atomic(options.out / "check.json", to_json(result, indent=1) + "\n")
    if options.json:
        print_json(result)
    return BAD_INPUT if report.fatal else DONE
