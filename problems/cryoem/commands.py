"""Single-particle cryo-EM: check particles, reconstruct a density, simulate particles, compare maps."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from sciml.cli import BAD_INPUT, DONE, conclude, dispatch, print_json, say
from sciml.errors import InputError

if TYPE_CHECKING:
    from problems.cryoem.alignment import Alignment

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class CheckOptions:
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


@dataclass(frozen=True)
class FscOptions:
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


@dataclass(frozen=True)
class SimulateOptions:
    """Make particles with CTF, shifts, noise and known poses from an atomic model or a map."""

    model: tyro.conf.Positional[Path]
    """Atomic model (.cif, .pdb) or map (.mrc)."""
    out: Path
    """Folder for particles.star, particles.mrcs and truth.mrc."""
    number: int = 1000
    """Particles."""
    box: int = 64
    """Pixels along the side."""
    pixel: float = 4.0
    """Angstrom."""
    snr: float = 0.1
    """Variance of the CTF-applied signal over the image / variance of the noise (which is 1)."""
    bfactor: float = 100.0
    """Added to the atoms of a model, Angstrom^2."""
    defocus: tuple[float, float] = (10000.0, 25000.0)
    """Lowest and highest, Angstrom."""
    astigmatism: float = 500.0
    """Largest difference between the two defoci, Angstrom."""
    shift: float = 10.0
    """Largest offset along x and y, Angstrom (standard deviation with --normal-shifts)."""
    voltage: float = 300.0
    """Microscope, kV."""
    cs: float = 2.7
    """Spherical aberration, mm."""
    amplitude_contrast: float = 0.1
    """Fraction."""
    noise: tuple[float, ...] = (1.0,)
    """Standard deviation of the noise in each optics group; two numbers make two groups."""
    noise_color: tuple[float, ...] = (1.0,)
    """Power of the noise at frequency 0 over that at Nyquist, for all groups or for each; 1 is white."""
    junk: float = 0.0
    """Fraction of images that do not show the model (rlnClassNumber 2): noise only; 1 makes a stack of pure noise."""
    junk_model: Path | None = None
    """Atomic model or map that the junk shows."""
    preferred: float = 0.0
    """Fraction of views within the cone about the z axis; the others are uniform."""
    cone: float = 30.0
    """Half opening angle of the preferred cone, degrees."""
    normal_shifts: bool = False
    """Normal offsets with standard deviation --shift, instead of uniform ones up to it."""
    float16: bool = False
    """Store the stack as float16 (MRC mode 12; RELION reads it from version 4)."""
    seed: int = 0
    """The same seed gives the same bytes."""
    device: Device = "auto"
    """Not used: this command runs on the CPU."""
    json: bool = False
    """Print one JSON object as the last line."""


def check(options: CheckOptions) -> int:
    """Run `sciml cryoem check`."""
    from problems.cryoem.check import check_particles
    from problems.cryoem.particles import Need
    from sciml.files import to_json, write_atomic

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


def fsc(options: FscOptions) -> int:
    """Run `sciml cryoem fsc`."""
    from problems.cryoem.compare import compare_maps, write_comparison
    from problems.cryoem.mrc import write_volume

    if not options.lowpass > 0:
        raise InputError(f"--lowpass is {options.lowpass:g}, not a resolution in Angstrom.")
    align_at = options.lowpass if options.align or options.aligned else None
    comparison = compare_maps(options.first, options.second, options.mask, options.pixel, options.seed, align_at)
    if options.out:
        write_comparison(comparison, options.out, f"{options.first.name} against {options.second.name}")
    if options.aligned and comparison.alignment:
        write_volume(options.aligned, comparison.alignment.aligned, comparison.pixel_size)
    result = comparison.summary
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


def simulate(options: SimulateOptions) -> int:
    """Run `sciml cryoem simulate`."""
    import time

    from problems.cryoem.figures import draw_images, draw_slices
    from problems.cryoem.flaws import Flaws
    from problems.cryoem.model_density import read_density
    from problems.cryoem.particles import read_particles
    from problems.cryoem.simulate import Simulation, scale_to_snr, write_particles
    from sciml.run import Run

    began = time.monotonic()
    simulation = Simulation(
        number=options.number,
        box=options.box,
        pixel_size=options.pixel,
        snr=options.snr,
        seed=options.seed,
        defocus=options.defocus,
        astigmatism=options.astigmatism,
        shift=options.shift,
        voltage_kv=options.voltage,
        cs_mm=options.cs,
        amplitude_contrast=options.amplitude_contrast,
        flaws=Flaws(
            noise=options.noise,
            noise_color=options.noise_color,
            junk=options.junk,
            preferred=options.preferred,
            cone_deg=options.cone,
            normal_shifts=options.normal_shifts,
        ),
    )
    density = read_density(options.model, options.box, options.pixel, options.bfactor)
    truth = scale_to_snr(simulation, density)
    intruder = None
    if options.junk_model:
        if not options.junk:
            raise InputError("--junk-model is given, but --junk is 0: say which fraction of the images shows it.")
        other = read_density(options.junk_model, options.box, options.pixel, options.bfactor)
        intruder = scale_to_snr(simulation, other)
    run = Run.create(options.out, command=["cryoem", "simulate"], options=options)
    outputs = write_particles(simulation, truth, run.path, options.float16, intruder)
    draw_slices(run.figure("truth", "Central slices of the density that was projected."), truth, options.pixel)
    first = read_particles(outputs["star"], needs=()).images(slice(0, 8))
    draw_images(run.figure("particles", "The first particles, as stored."), first)
    summary = {
        "particles": options.number,
        "box": options.box,
        "pixel_size": options.pixel,
        "snr": options.snr,
        "seconds": time.monotonic() - began,
        "outputs": outputs,
    }
    return conclude(run, summary, json=options.json)


_HERE = {"check": (CheckOptions, check), "fsc": (FscOptions, fsc), "simulate": (SimulateOptions, simulate)}
_ELSEWHERE = {
    "reconstruct": "problems.cryoem.reconstruct_command",
    "abinitio": "problems.cryoem.abinitio_command",
    "refine": "problems.cryoem.refine_command",
    "postprocess": "problems.cryoem.postprocess_command",
}


def main(arguments: list[str]) -> int:
    """Serve the words after `sciml cryoem`.

    Raises:
        InputError: an unknown word, or a fault in what was given.
        SystemExit: wrong options (2) or `--help` (0).
    """
    commands: dict[str, tuple[type, Callable[[Any], int]]] = dict(_HERE)
    for word, module in _ELSEWHERE.items():
        if not arguments or arguments[0] == word or arguments[0] not in _HERE:
            found = importlib.import_module(module)
            commands[word] = (found.Options, found.run)
    return dispatch("sciml cryoem", commands, arguments)
