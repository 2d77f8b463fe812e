"""What a search for poses will take before it starts: memory by its parts, reading, and a rough time.

The formulas count the arrays that the code holds at its peak, in bytes; each names where they are made. What they leave
out is small or fixed: the interpreter with its libraries and the compiled kernels, measured once. Times are operation
counts over a rate measured on one core of a 2020s server; they are good to a factor of two or three.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.initial_model.start_map import Options as AbInitioOptions
    from sciml_cryoem.refinement.gold_standard import Options as RefineOptions

WITH_TORCH, WITHOUT_TORCH = 400e6, 200e6
"""Resident bytes of the process with its libraries and kernels, before any image is read (measured, CPU build)."""
TORCH_FOR_CUDA = 330e6
"""What a build of torch for CUDA takes more, on a machine without a GPU (measured)."""
RATE = 4e10
"""Floating-point operations of the pose search a second and core, exponentials included (measured)."""
POLISH = 25e-9
"""Seconds that one Fourier point of one image costs in one evaluation of a pose by `polish` (measured)."""
TYPICAL_ITERATIONS, TYPICAL_RADIUS = 8, 0.36
"""Of a refinement: where at most 15 are allowed; and the radius up to which images are compared in the end, Fourier
pixels a pixel of the box (FSC 0.143 at two thirds of Nyquist, and a margin)."""


@dataclass(frozen=True)
class Plan:
    """What a command will take.

    Attributes:
        command: its name.
        parts: (what, bytes) held at the same time at the peak.
        read: bytes read from the stacks, all passes together.
        passes: over the images.
        seconds: on one core, roughly.
        limit: peak resident bytes at worst; the same as `memory` where nothing depends on the data.
        notes: assumptions, a sentence each.
    """

    command: str
    parts: Sequence[tuple[str, float]]
    read: float
    passes: float
    seconds: float
    limit: float
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def memory(self) -> float:
        """Peak resident bytes."""
        return sum(size for _, size in self.parts)

    @property
    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "plan": self.command,
            "memory_mb": self.memory / 2**20,
            "memory_limit_mb": self.limit / 2**20,
            "parts": [{"part": name, "mb": size / 2**20} for name, size in self.parts],
            "read_mb": self.read / 2**20,
            "passes": self.passes,
            "cpu_seconds": self.seconds,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """For a terminal."""
        rows = [*self.parts, ("peak memory", self.memory)]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {size / 2**20:10,.0f} MB" for name, size in rows]
        lines += [
            f"Reads {self.read / 2**20:,.0f} MB ({self.passes:g} passes over the images).",
            f"Roughly {_duration(self.seconds)} on one core.",
            *self.notes,
        ]
        return "\n".join([f"{self.command}:", *lines])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def show_plan(plan: Plan, json: bool) -> None:
    """Print a plan: words, or one JSON object."""
    from sciml.command_line.main import print_json

    if json:
        print_json(plan.summary)
    else:
        print(plan.text())


def _points(radius: float) -> float:
    """Independent Fourier points |k| < radius of an image."""
    return 0.5 * np.pi * radius**2


def _blocks(particles: "Particles", batch_mb: float) -> float:
    """A block of images on its way to Fourier values (`accumulation.batches`, `image_spectra.whitened`): the images as
    read, prepared, their transform and the phases."""
    return 4.0 * min(batch_mb * 2**20, 4.0 * particles.box**2 * len(particles))


def _torch_is_for_cuda() -> bool:
    """Which build of torch is installed, without importing it."""
    found = find_spec("torch")
    return found is not None and any((Path(str(found.origin)).parent / "lib").glob("libtorch_cuda*"))


def _stack_bytes(particles: "Particles") -> float:
    return float(len(particles)) * particles.box**2 * particles.stacks[0].dtype.itemsize


def plan_abinitio(particles: "Particles", options: "AbInitioOptions") -> Plan:
    """What `abinitio` takes."""
    from sciml_cryoem.imaging import orientations
    from sciml_cryoem.initial_model import search_plan, start_map

    box, count = particles.box, len(particles)
    diameter = None if options.diameter is None else options.diameter / (box * particles.pixel_size)
    plan = search_plan.SearchPlan.fit(box, diameter)
    used = min(count, start_map.MOST)
    points = _points(plan.stop + search_plan.FRONTIER)
    views = len(orientations.half_turn_grid(2)) * options.classes
    shifts = len(orientations.shift_disc(plan.shift_range, plan.shift_step))
    held = 12.0 * _points(min(plan.stop + start_map.AHEAD, box / 2))  # complex64 and float32 (`ImageSpectra`)
    padded = (2.0 * plan.side) ** 3
    parts = [
        ("interpreter and libraries", WITH_TORCH + (TORCH_FOR_CUDA if _torch_is_for_cuda() else 0.0)),
        ("Fourier values of the images that take part", used * held),
        ("all of them in one gradient: CTF squared, norms", used * (4 * points + 4 * views)),
        ("slices of the map and their sums", views * points * 28.0),
        ("padded volumes", options.classes * padded * 16.0),
        ("a block of images", _blocks(particles, options.settings.batch_mb)),
        ("the map on the grid of the images, as it is written", 24.0 * options.classes * box**3),
    ]
    steps = [(rounds[0], options.starts / 2**place) for place, rounds in enumerate(start_map.ROUNDS)]
    batch = float(np.clip(used / 4, 32, 192))
    raced = sum(number * starts for number, starts in steps) * batch if options.starts > 1 else 0.0
    whole = (start_map.FINISH.steps or 3) + 1.5
    scored = 0.5 * raced + 35 * batch + whole * used + count  # the first steps are coarser
    seconds = 4.0 * scored * views * shifts * _points(plan.stop) / RATE + 6.0
    notes = [f"Images are compared up to {box * particles.pixel_size / plan.stop:.1f} Angstrom at most."]
    if count > used:
        notes.append(
            f"{used:,} of the {count:,} images take part in the search; the others are read and given poses at its end."
        )
    one = particles.box**2 * particles.stacks[0].dtype.itemsize
    memory = sum(size for _, size in parts)
    return Plan("abinitio", parts, _stack_bytes(particles) + 1000.0 * one, 1, seconds, memory, notes)


def plan_refine(particles: "Particles", options: "RefineOptions") -> Plan:
    """What `refine` takes where the data reach two thirds of Nyquist, and at most."""
    from sciml_cryoem.imaging import orientations

    box, count = particles.box, len(particles)
    shared = [
        ("interpreter and libraries", WITHOUT_TORCH),
        ("poses and their covariances", count * 8.0 * (9 + 2 + 4 + 25) * 2),
        ("a block of images", _blocks(particles, options.settings.batch_mb)),
    ]
    typical, worst = _volumes(box, TYPICAL_RADIUS * box), _volumes(box, 0.5 * box)
    parts = [shared[0], *typical, *shared[1:]]
    limit = sum(size for _, size in [*shared, *worst])
    iterations = min(options.iterations, TYPICAL_ITERATIONS)
    searches = min(options.searches, iterations)
    views = len(orientations.half_turn_grid(2))
    shifts = len(orientations.shift_disc(box / 16, box / 32))
    fills = 0.84 if options.diameter is None else min(1.1 * options.diameter / (box * particles.pixel_size), 0.84)
    radius = TYPICAL_RADIUS * box
    searched = 4.0 * count * views * shifts * _points(min(12.0 * 0.84 / fills, box / 2)) * searches / RATE
    polished = count * POLISH * _points(radius) * (8.0 * (iterations - searches) + 20.0 * searches)
    seconds = searched + polished + 1e-8 * (2.0 * box) ** 3 * iterations + 6.0
    passes = iterations + 1
    notes = [
        f"Taken to need {iterations} iterations (at most {options.iterations}), and to reach "
        f"{particles.pixel_size / TYPICAL_RADIUS:.1f} Angstrom; at Nyquist, {2 * particles.pixel_size:g} Angstrom, it "
        f"would take {limit / 2**20:,.0f} MB."
    ]
    return Plan("refine", parts, passes * _stack_bytes(particles), passes, seconds, limit, notes)


def _volumes(box: int, radius: float) -> list[tuple[str, float]]:
    """Padded volumes at the peak of a refinement that compares images up to a radius, in Fourier pixels.

    An iteration (`Refinement.step`) holds the sums of both halves and their maps' spectra, with the part that slices
    touch, on grids no larger than its radius needs, and solves one half while all of these are there. The final maps
    (`accumulate`, `regularize`, `uncertainty`) are on grids of twice the box.
    """
    from sciml_cryoem.refinement.gold_standard import AHEAD

    side = min(2.0 * np.ceil(radius + AHEAD) + 4, 2.0 * (box // 2) + 4)
    grid, own, touched = (2.0 * side) ** 3, (2.0 * box) ** 3, (4.0 * radius + 4) ** 3
    iteration = [
        ("sums of the two halves (half grids, 12 bytes a voxel)", 2 * 6.0 * grid),
        ("spectra of the two maps (8 bytes), and the part that slices touch", 2 * 4.0 * (grid + touched)),
        ("transforms of the solve", 6.0 * grid),
    ]
    final = [
        ("sums of the two halves (half grids, 12 bytes a voxel)", 2 * 6.0 * own),
        ("transforms of the solves, uncertainty", 12.0 * own),
    ]
    return max(iteration, final, key=lambda parts: sum(size for _, size in parts))
