"""What `refine` takes, from the arrays that a step and the final maps hold at their peak."""

import numpy as np

from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import orientations
from sciml_cryoem.poses.polish import polish_seconds
from sciml_cryoem.poses.search import search_seconds
from sciml_cryoem.reconstruction.accumulation import sums_memory
from sciml_cryoem.reconstruction.images import block_bytes, stack_bytes
from sciml_cryoem.reconstruction.resources import Memory, Resources, disc_points, total
from sciml_cryoem.refinement.image_set import AHEAD, LEAP, RefineOptions

SEARCHES = 2
"""Passes that search the whole grid for an image, as a rule."""
TYPICAL_ITERATIONS, TYPICAL_RADIUS = 8, 0.36
"""Of a refinement: iterations where at most 15 are allowed; and the radius up to which images are compared in the end,
Fourier pixels a pixel of the box (FSC 0.143 at two thirds of Nyquist, and a margin)."""


def resources(particles: Particles, options: RefineOptions) -> Resources:
    """Memory, reading and time of `refine`, where the data reach two thirds of Nyquist; the limit is at Nyquist."""
    box, count = particles.box, len(particles)
    shared = [
        ("poses and their covariances", count * 8.0 * (9 + 2 + 4 + 25) * 2),
        ("a block of images", block_bytes(particles, options.settings)),
    ]
    memory, limit = ([*_volumes(box, radius), *shared] for radius in (TYPICAL_RADIUS * box, 0.5 * box))
    iterations = min(options.iterations, TYPICAL_ITERATIONS)
    passes = iterations + 1
    notes = [
        f"Taken to need {iterations} iterations (at most {options.iterations}), and to reach "
        f"{particles.pixel_size / TYPICAL_RADIUS:.1f} Angstrom."
    ]
    seconds = _seconds(particles, options, iterations)
    return Resources(memory, limit, passes * stack_bytes(particles), passes, seconds, notes)


def _seconds(particles: Particles, options: RefineOptions, iterations: int) -> float:
    box, count = particles.box, len(particles)
    searches = min(SEARCHES, iterations)
    views = len(orientations.half_turn_grid(2))
    shifts = len(orientations.shift_disc(box / 16, box / 32))
    fills = 0.84 if options.diameter is None else min(1.1 * options.diameter / (box * particles.pixel_size), 0.84)
    radius = min(12.0 * 0.84 / fills, box / 2)
    searched = search_seconds(count * searches, views, shifts, disc_points(radius))
    evaluations = count * (8.0 * (iterations - searches) + 20.0 * searches)
    polished = polish_seconds(evaluations, disc_points(TYPICAL_RADIUS * box))
    return searched + polished + 1e-8 * (2.0 * box) ** 3 * iterations


def _volumes(box: int, radius: float) -> Memory:
    """Volumes at the peak of a refinement that compares images up to a radius, in Fourier pixels.

    A step holds the half maps with gradient, weights and copies of these at the box of the images, and its pass
    (`ImagePass`) sums and spectra of both halves on padded grids no larger than the radius needs. The final maps are on
    grids of twice the box.
    """
    reach = radius + max(LEAP[0], LEAP[1] * radius) + AHEAD
    side = min(2.0 * np.ceil(reach) + 4, 2.0 * (box // 2) + 4)
    grid, touched = (2.0 * side) ** 3, (4.0 * radius + 4) ** 3
    step = [
        ("half maps, their gradient, weights and copies", 85.0 * box**3),
        ("sums of the two halves (half grids, 12 bytes a voxel)", 2 * 6.0 * grid),
        (
            "spectra of the two maps, masked and not (8 bytes), and the part that slices touch",
            4.0 * (4 * grid + 2 * touched),
        ),
        ("transforms of the gradient", 6.0 * grid),
    ]
    return max(step, sums_memory(box), key=total)
