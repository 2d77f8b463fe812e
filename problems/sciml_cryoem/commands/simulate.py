"""`sciml cryoem simulate`: particles from a model."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from sciml.command_line.console import conclude
from sciml.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Options:
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


def run(options: Options) -> int:
    """Run `sciml cryoem simulate`."""
    from sciml.runs.beginning import Files
    from sciml.runs.run import Run
    from sciml_cryoem.figures.maps import draw_images, draw_slices
    from sciml_cryoem.files.particles import read_particles
    from sciml_cryoem.simulation.flaws import Flaws
    from sciml_cryoem.simulation.model_density import read_density
    from sciml_cryoem.simulation.simulate import OUTPUTS, Simulation, scale_to_snr, write_particles

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
    files = Files([options.model, *([options.junk_model] if options.junk_model else [])], OUTPUTS)
    run = Run.create(options.out, options=options, files=files)
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
