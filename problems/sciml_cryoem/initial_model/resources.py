"""What `abinitio` takes, from the arrays that `Marginal`, `FinalPoses` and `abinitio` hold at their peak."""

import numpy as np

from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import orientations
from sciml_cryoem.initial_model import start_map
from sciml_cryoem.initial_model.search_plan import SearchPlan
from sciml_cryoem.initial_model.start_map import AbInitioOptions
from sciml_cryoem.poses.search import search_memory, search_seconds
from sciml_cryoem.reconstruction.image_spectra import spectra_bytes
from sciml_cryoem.reconstruction.images import block_bytes, stack_bytes
from sciml_cryoem.reconstruction.resources import Resources, disc_points


def resources(particles: Particles, options: AbInitioOptions) -> Resources:
    """Memory, reading and time of `abinitio`."""
    box, count = particles.box, len(particles)
    diameter = None if options.diameter is None else options.diameter / (box * particles.pixel_size)
    plan = SearchPlan.fit(box, diameter)
    used = min(count, start_map.MOST)
    points = disc_points(plan.stop + plan.frontier)
    slices = len(orientations.half_turn_grid(2)) * options.classes
    memory = [
        (
            "Fourier values of the images that take part",
            spectra_bytes(used, min(plan.stop + start_map.AHEAD, box / 2)),
        ),
        *search_memory(used, slices, points),
        ("padded volumes", options.classes * (2.0 * plan.side) ** 3 * 16.0),
        ("a block of images", block_bytes(particles, options.settings)),
        ("the map on the grid of the images, as it is written", 24.0 * options.classes * box**3),
    ]
    shifts = len(orientations.shift_disc(plan.shift_range, plan.shift_step))
    seconds = search_seconds(_scored(options, used, count), slices, shifts, disc_points(plan.stop))
    notes = [f"Images are compared up to {box * particles.pixel_size / plan.stop:.1f} Angstrom at most."]
    if count > used:
        notes.append(
            f"{used:,} of the {count:,} images take part in the search; the others are read and given poses at its end."
        )
    return Resources(memory, memory, stack_bytes(particles) + stack_bytes(particles, 1000), 1, seconds, notes)


def _scored(options: AbInitioOptions, used: int, count: int) -> float:
    """How many times an image is scored on the whole grid: race, stochastic phase, finish, and the final poses."""
    steps = [(rounds[0], options.starts / 2**place) for place, rounds in enumerate(start_map.ROUNDS)]
    batch = float(np.clip(used / 4, 32, 192))
    raced = sum(number * starts for number, starts in steps) * batch if options.starts > 1 else 0.0
    whole = (start_map.FINISH.steps or 3) + 1.5
    return 0.5 * raced + 35 * batch + whole * used + count  # the first steps are coarser
