"""One pass over the images: weighted Fourier sums of two half sets, from which every map of the set follows."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from sciml import distributed
from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging.symmetry import point_group, symmetrize_sums
from sciml_cryoem.reconstruction.coverage import Coverage
from sciml_cryoem.reconstruction.images import (
    ImageSettings,
    image_findings,
    measure_noise,
    own_batches,
    own_images,
    views_of,
)
from sciml_cryoem.reconstruction.insertion import FourierSums
from sciml_cryoem.reconstruction.noise import NoiseModel
from sciml_cryoem.reconstruction.resources import Memory

HALF_FLOOR = 1e-3
"""Prior precision of the half maps as a fraction of the mean weight of the shell (RELION's stabilising floor)."""


@dataclass(frozen=True)
class ReconstructOptions:
    """How to reconstruct.

    Attributes:
        seed: draws the half sets when the particles have none, and the random phases of the corrected FSC.
        symmetry: point group (RELION's settings); every image counts in all its symmetric views.
        mask: for full map and corrected FSC: "auto" (found in the map), "sphere", "none", or an array in 0 ... 1.
        settings: how images are read.
    """

    seed: int = 0
    symmetry: str = "C1"
    mask: str | Float[np.ndarray, "n n n"] = "auto"
    settings: ImageSettings = field(default_factory=ImageSettings)


@dataclass(frozen=True)
class HalfSetSums:
    """Sums over the images of both half sets, from which every map of the set follows.

    Attributes:
        box: in pixels.
        pixel_size: Angstrom.
        halves: (particles,) half set 1 or 2.
        noise: of the images.
        sums: of half set 1 and of half set 2.
        coverage: how the images fill Fourier space.
        findings: what to know about the images: of their files, their number, their diameter and coverage.
    """

    box: int
    pixel_size: float
    halves: Int[np.ndarray, " particles"]
    noise: NoiseModel
    sums: tuple[FourierSums, FourierSums]
    coverage: Coverage
    findings: tuple[Finding, ...] = ()

    def half_maps(self) -> tuple[Float[np.ndarray, "n n n"], Float[np.ndarray, "n n n"]]:
        """Unmasked, unfiltered, with only a floor that keeps empty voxels finite."""
        first, second = (part.solve(positive(HALF_FLOOR * part.shell_weights())) for part in self.sums)
        return first, second

    def full_map(self, precision: Float[np.ndarray, " shells"]) -> Float[np.ndarray, "n n n"]:
        """The map of all particles under a prior of this precision (1 / tau^2) in each shell."""
        return self.sums[0].solve(precision, self.sums[1])

    def shell_weights(self) -> Float[np.ndarray, " shells"]:
        """Mean weight of a Fourier voxel of both half sets together, per shell."""
        return self.sums[0].shell_weights() + self.sums[1].shell_weights()


def accumulate(
    particles: Particles,
    options: ReconstructOptions | None = None,
    watch: Callable[[int], None] | None = None,
) -> HalfSetSums:
    """One pass over the images: insert every one into the sums of its half set.

    On the CPU the two half sets run in two threads; the result does not depend on it. Where several processes share a
    run, each passes over a part of the images, and all have the whole result.

    Args:
        particles: with poses.
        options: seed, symmetry and how images are read.
        watch: called with the number of images done after every batch.

    Raises:
        InputError: no poses, an unusable image, a half set with fewer than two particles, or an unknown point group.
    """
    options = options or ReconstructOptions()
    settings, group = options.settings, point_group(options.symmetry)
    if not particles.has_poses:
        raise InputError(f"{particles.path}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run abinitio first.")
    halves = particles.half_sets(options.seed)
    if min((halves == half).sum() for half in (1, 2)) < 2:
        raise InputError(f"{particles.path}: each half set needs at least two particles.")
    views = views_of(particles, settings.use_ctf)
    noise = measure_noise(particles, views.groups, settings)
    first, second = (FourierSums(particles.box, noise.weights, device=settings.device) for _ in (1, 2))
    marks: list[bytes] = []
    with ThreadPoolExecutor(2) as threads, distributed.together():
        for part, images in own_batches(particles, settings):
            marks += _marks(images)
            prepared = noise.prepare(images, views.groups[part])
            of_part, here = halves[part], views.take(part)

            def add(half: int, images=prepared, views=here, of_part=of_part) -> None:
                members = np.flatnonzero(of_part == half)
                if len(members):
                    (first, second)[half - 1].add(images[members], views.take(members))

            # One after the other on a GPU, whose memory they would share.
            list((threads.map if settings.device == "cpu" else map)(add, (1, 2)))
            if watch:
                watch(part.stop)
    counts = np.array([first.images, second.images])
    distributed.add(first.grid, second.grid, counts)
    first.images, second.images = counts.tolist()
    for part in (first, second):
        part.finish()
        if len(group) > 1:
            part.grid = symmetrize_sums(part.grid, group)
    coverage = Coverage.of(first.grid[..., 2] + second.grid[..., 2], particles.rotations[:, 2], group)
    copies = _copies(marks, halves[own_images(len(halves))])
    findings = (*image_findings(particles, settings), *copies, *coverage.findings())
    return HalfSetSums(particles.box, particles.pixel_size, halves, noise, (first, second), coverage, findings)


def _marks(images: Float[np.ndarray, "batch n n"]) -> list[bytes]:
    """A mark of every image, by which copies are known: a hash of its middle rows, whose noise no two images share."""
    middle = images.shape[1] // 2
    rows = np.ascontiguousarray(images[:, middle - 2 : middle + 2])
    return [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in rows]


def _copies(marks: list[bytes], halves: Int[np.ndarray, " own"]) -> list[Finding]:
    """A finding if images are copies of others of the other half set, under names that do not tell."""
    seen: dict[bytes, set[int]] = {}
    for mark, half in zip(marks, halves.tolist(), strict=True):
        seen.setdefault(mark, set()).add(half)
    shared = sum(len(seen[mark]) > 1 for mark in marks)
    if not shared:
        return []
    what = f"{shared:,} images have a copy of themselves in the other half set."
    return [Finding(what, "half sets", "severe", "Remove the copies: with them the FSC measures their noise.")]


def positive(precision: np.ndarray) -> np.ndarray:
    """A prior precision without zeros, so that a voxel without data does not divide by zero."""
    return np.maximum(precision, 1e-6 * precision.max() + 1e-30)


def sums_memory(box: int) -> Memory:
    """Memory of the sums of the half sets, and of the solves and the uncertainty from them."""
    padded = (2.0 * box) ** 3
    return [
        ("sums of the two halves (half grids, 12 bytes a voxel)", 2 * 6.0 * padded),
        ("transforms of the solves, uncertainty", 12.0 * padded),
    ]
