"""Particle images with known poses, made from a density: CTF, shifts and white noise, deterministic from the seed.

    image = projection moved by minus the origin, convolved with the CTF, + noise of standard deviation 1

The **signal-to-noise ratio** is the variance of the CTF-applied signal over the pixels of an image, averaged over
orientations and defoci, over the variance of the noise, which is 1; the density is scaled to it, and `truth.mrc` is
that scaled density. Particle i depends on (seed, i) alone, so a larger set begins with the smaller one, bit for bit.
Colored noise, optics groups of different noise, junk and preferred views are `Flaws`; by default there are none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sciml.errors import InputError
from sciml_cryoem.files.mrc import write_map, write_stack
from sciml_cryoem.files.star import write_star
from sciml_cryoem.files.table import Table, make_table
from sciml_cryoem.imaging import ctf, rotations
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.simulation.flaws import Flaws

BATCH = 32  # always computed in full: the last digit of a batched FFT may depend on the length of the batch
_PROBES = 64
_POSE, _NOISE, _PROBE, _CHOICE, _PROBE_CHOICE = range(5)  # streams of random numbers
_PARTICLES_A_MICROGRAPH = 50


@dataclass(frozen=True)
class Simulation:
    """Parameters of a simulated particle set.

    Attributes:
        number: particles.
        box: pixels along the side.
        pixel_size: Angstrom.
        snr: variance of the signal in an image over that of the noise.
        seed: of everything random.
        defocus: lowest and highest mean defocus, Angstrom.
        astigmatism: largest difference of the two defoci, Angstrom.
        shift: largest offset along x and y, Angstrom.
        voltage_kv: of the microscope.
        cs_mm: spherical aberration.
        amplitude_contrast: fraction.
        flaws: colored noise, optics groups, junk, preferred views.
    """

    number: int
    box: int
    pixel_size: float
    snr: float
    seed: int = 0
    defocus: tuple[float, float] = (10000.0, 25000.0)
    astigmatism: float = 500.0
    shift: float = 10.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    flaws: Flaws = field(default_factory=Flaws)

    def __post_init__(self) -> None:
        limits = {
            "number": (self.number, 1, 10_000_000),
            "box": (self.box, 8, 4096),
            "pixel size": (self.pixel_size, 0.05, 100.0),
            "SNR": (self.snr, 1e-6, 1e6),
            "shift": (self.shift, 0.0, 0.25 * self.box * self.pixel_size),
            "voltage": (self.voltage_kv, 1.0, 3000.0),
            "amplitude contrast": (self.amplitude_contrast, 0.0, 1.0),
        }
        for name, (value, low, high) in limits.items():
            if not low <= value <= high:
                raise InputError(f"{name} is {value:g}; allowed is {low:g} to {high:g}.")
        if self.defocus[0] > self.defocus[1]:
            raise InputError(f"The lowest defocus {self.defocus[0]:g} is above the highest {self.defocus[1]:g}.")

    def _draw(self, stream: int, index: int) -> np.random.Generator:
        """The random numbers of one particle in one stream; they do not depend on what was drawn before."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, index, stream]))

    def poses(self, indices: range, stream: int = _POSE) -> Float[np.ndarray, "batch 8"]:
        """Rot, tilt, psi (degrees), origin x, y (Angstrom), defocus U, V (Angstrom), defocus angle (degrees)."""
        rows = np.stack([self._draw(stream, index).random(8) for index in indices])
        half = 0.5 * self.astigmatism * (2 * rows[:, 6] - 1)
        mean = self.defocus[0] + (self.defocus[1] - self.defocus[0]) * rows[:, 5]
        choices = self._choices(indices, _CHOICE if stream == _POSE else _PROBE_CHOICE)
        tilt = np.degrees(np.arccos(self.flaws.cosine_of_tilt(rows[:, 1], choices[:, 0])))
        origins = self.flaws.offsets(rows[:, 3:5], self.shift, 0.25 * self.box * self.pixel_size)
        columns = [360 * rows[:, 0] - 180, tilt, 360 * rows[:, 2] - 180, *origins.T, mean + half, mean - half]
        return np.round(np.stack([*columns, 180 * rows[:, 7]], axis=1), 6)  # as the STAR file will have them

    def _choices(self, indices: range, stream: int = _CHOICE) -> Float[np.ndarray, "batch 2"]:
        """Uniform numbers that decide whether a view is a preferred one, and whether an image is junk."""
        return np.stack([self._draw(stream, index).random(2) for index in indices])

    def junk(self, indices: range) -> Bool[np.ndarray, " batch"]:
        """Which images do not show the molecule."""
        return self._choices(indices)[:, 1] < self.flaws.junk

    def groups(self, indices: range) -> Int[np.ndarray, " batch"]:
        """Optics group of each particle, 0, 1, ...: micrographs take turns."""
        return np.array(indices) // _PARTICLES_A_MICROGRAPH % self.flaws.groups

    def noise(self, indices: range) -> Float[np.ndarray, "batch n n"]:
        """Noise of standard deviation 1, or of the particles' optics groups."""
        shape = (self.box, self.box)
        white = np.stack([self._draw(_NOISE, index).standard_normal(shape, dtype=np.float32) for index in indices])
        return self.flaws.color(white, self.groups(indices))


class Camera:
    """Takes noiseless images of a density.

    Padding the density fourfold makes the error of the linear interpolation smaller than any noise worth simulating.
    """

    def __init__(self, simulation: Simulation, density: Float[np.ndarray, "n n n"]) -> None:
        self.simulation = simulation
        self._projector = Projector(simulation.box, padding=4 if simulation.box <= 128 else 2)
        self._spectrum = self._projector.spectrum(np.asarray(density, dtype=np.float32))

    def expose(self, poses: Float[np.ndarray, "batch 8"]) -> Float[np.ndarray, "batch n n"]:
        """Images of these poses (`Simulation.poses`), CTF applied."""
        simulation, plane = self.simulation, self._projector.plane
        axes = rotations.slice_axes(rotations.matrices(poses[:, :3]))
        values = self._projector.slices(self._spectrum, axes)
        lens = ctf.CTF(
            poses[:, 5],
            poses[:, 6],
            np.radians(poses[:, 7]),
            simulation.voltage_kv * 1e3,
            simulation.cs_mm * 1e7,
            simulation.amplitude_contrast,
        )
        coefficients = lens.coefficients(simulation.box, simulation.pixel_size)
        kx, ky = plane.kx.astype(np.float64), plane.ky.astype(np.float64)
        offset = poses[:, 3:5] * (2 * np.pi / (simulation.box * simulation.pixel_size))
        ramp = np.exp(1j * (offset[:, :1] * kx + offset[:, 1:] * ky))
        return plane.scatter((values * ctf.evaluate(coefficients, kx, ky) * ramp).astype(np.complex64))


def scale_to_snr(simulation: Simulation, density: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
    """The density times the number that gives its images the wanted SNR, measured on probe views of their own.

    Raises:
        InputError: the density is constant.
    """
    camera = Camera(simulation, density)
    batches = [range(start, start + BATCH) for start in range(0, _PROBES, BATCH)]
    variances = [camera.expose(simulation.poses(batch, _PROBE)).var(axis=(1, 2), dtype=np.float64) for batch in batches]
    variance = float(np.mean(variances))
    if not variance > 0:
        raise InputError("The density has no contrast: its projections are constant.")
    return density * np.float32(np.sqrt(simulation.snr / variance))


def images(
    simulation: Simulation, truth: Float[np.ndarray, "n n n"], intruder: Float[np.ndarray, "n n n"] | None = None
) -> Iterator[Float[np.ndarray, "batch n n"]]:
    """All images with noise, batch by batch; the last batch may be shorter. Junk shows the intruder, or nothing."""
    camera = Camera(simulation, truth)
    other = None if intruder is None else Camera(simulation, intruder)
    for start in range(0, simulation.number, BATCH):
        batch = range(start, start + BATCH)
        stop = min(BATCH, simulation.number - start)
        poses, junk = simulation.poses(batch), simulation.junk(batch)
        seen = camera.expose(poses)
        if junk.any():
            seen[junk] = 0.0 if other is None else other.expose(poses)[junk]
        yield (seen + simulation.noise(batch))[:stop]


def star_tables(simulation: Simulation, stack: str) -> tuple[Table, Table]:
    """The optics and particle tables, RELION 3.1, of images in `stack`; odd and even images form the half sets.

    Where there is junk, rlnClassNumber is 1 for images of the molecule and 2 for junk.
    """
    optics = {
        "rlnVoltage": f"{simulation.voltage_kv:.6f}",
        "rlnSphericalAberration": f"{simulation.cs_mm:.6f}",
        "rlnAmplitudeContrast": f"{simulation.amplitude_contrast:.6f}",
        "rlnImagePixelSize": f"{simulation.pixel_size:.6f}",
        "rlnImageSize": str(simulation.box),
        "rlnImageDimensionality": "2",
    }
    count = range(simulation.number)
    labels = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
    labels += ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    poses = simulation.poses(count)
    particles = {
        "rlnImageName": [f"{index + 1:06d}@{stack}" for index in count],
        "rlnOpticsGroup": [str(group + 1) for group in simulation.groups(count)],
        "rlnMicrographName": [f"mic{index // _PARTICLES_A_MICROGRAPH + 1:04d}.mrc" for index in count],
        **{label: [f"{value:.6f}" for value in column] for label, column in zip(labels, poses.T, strict=True)},
        "rlnRandomSubset": [str(1 + index % 2) for index in count],
    }
    if simulation.flaws.junk:
        particles["rlnClassNumber"] = [str(1 + int(junk)) for junk in simulation.junk(count)]
    names = [str(group + 1) for group in range(simulation.flaws.groups)]
    rows = {"rlnOpticsGroup": names, "rlnOpticsGroupName": [f"opticsGroup{name}" for name in names]}
    rows |= {label: [value] * len(names) for label, value in optics.items()}
    return make_table("optics", rows), make_table("particles", particles)


OUTPUTS = ("particles.star", "particles.mrcs", "truth.mrc")
"""Names of all that `write_particles` writes."""


def write_particles(
    simulation: Simulation,
    truth: Float[np.ndarray, "n n n"],
    folder: Path,
    half_precision: bool = False,
    intruder: Float[np.ndarray, "n n n"] | None = None,
) -> dict[str, Path]:
    """Write particles.star, particles.mrcs and truth.mrc into a folder.

    Args:
        simulation: what to simulate.
        truth: the density, already scaled (`scale_to_snr`).
        folder: it must exist.
        half_precision: store float16, which halves the stack (RELION reads it from version 4 on).
        intruder: the other molecule that junk images show, scaled like the truth; None leaves them noise.

    Raises:
        OSError: a file cannot be written.
    """
    shape = (simulation.number, simulation.box, simulation.box)
    mode = 12 if half_precision else 2
    return {
        "truth": write_map(folder / "truth.mrc", truth, simulation.pixel_size),
        "stack": write_stack(
            folder / "particles.mrcs", images(simulation, truth, intruder), shape, simulation.pixel_size, mode
        ),
        "star": write_star(folder / "particles.star", star_tables(simulation, "particles.mrcs")),
    }
