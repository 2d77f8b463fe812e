"""One pass over the images: weighted Fourier sums of two half sets, from which every map of the set follows."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, Int

from sciml import distributed
from sciml.errors import InputError
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, rotations
from sciml_cryoem.reconstruction.insertion import FourierSums, Views
from sciml_cryoem.reconstruction.noise import Background, NoiseModel, Normalize, measure, sample_indices

HALF_FLOOR = 1e-3
"""Prior precision of the half maps as a fraction of the mean weight of the shell (RELION's stabilising floor)."""
_TOGETHER = 16  # images that products and transforms work on together at most, a multiple


@dataclass(frozen=True)
class Settings:
    """How to reconstruct.

    Attributes:
        seed: draws the half sets when the particles have none, and the random phases of the corrected FSC.
        device: "cpu" for the compiled loop; "torch" for torch on the CPU; "cuda".
        use_ctf: False for images without a CTF (clean projections).
        diameter: of the particle, Angstrom, beyond which an image is background; None: the circle that touches the box.
        normalize: whether each image is scaled to one noise level; auto: when theirs differ by more than 10 %.
        mask: for full map and corrected FSC: "auto" (found in the map), "sphere", "none", or an array in 0 ... 1.
        batch_mb: megabytes of images in memory at once.
    """

    seed: int = 0
    device: str = "cpu"
    use_ctf: bool = True
    diameter: float | None = None
    normalize: Normalize = "auto"
    mask: str | Float[np.ndarray, "n n n"] = "auto"
    batch_mb: float = 16.0


@dataclass(frozen=True)
class Accumulated:
    """What one pass over the images leaves.

    Attributes:
        box: in pixels.
        pixel_size: Angstrom.
        halves: (particles,) half set 1 or 2.
        noise: of the images.
        sums: of half set 1 and of half set 2.
    """

    box: int
    pixel_size: float
    halves: Int[np.ndarray, " particles"]
    noise: NoiseModel
    sums: tuple[FourierSums, FourierSums]

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


def views_of(particles: Particles, use_ctf: bool = True) -> Views:
    """Poses, offsets and CTFs of a particle set in the units of the insertion: pixels and Fourier pixels."""
    if use_ctf:
        coefficients = particles.ctf.coefficients(particles.box, particles.pixel_size)
    else:
        coefficients = ctf.no_ctf(len(particles))
    _, groups = np.unique(particles.optics_group, return_inverse=True)
    return Views(
        axes=rotations.slice_axes(particles.rotations),
        offsets=particles.origins / particles.pixel_size,
        ctf=np.broadcast_to(coefficients, (len(particles), ctf.COEFFICIENTS)).astype(np.float32),
        groups=groups.reshape(-1),
    )


def batches(
    particles: Particles, settings: Settings, rows: Int[np.ndarray, " some"] | None = None
) -> Iterator[tuple[slice, Float[np.ndarray, "batch n n"]]]:
    """The images, a bounded number at a time, checked to be finite; the next are read while these are worked on.

    Args:
        particles: the set. settings: how many megabytes at a time.
        rows: which images, in this order; None: all, in the order of the file.

    Yields:
        Where the block lies (among `rows`), and its images.

    Raises:
        InputError: a pixel is not finite; the message names the image.
    """
    count = len(particles) if rows is None else len(rows)
    step = max(1, int(settings.batch_mb * 2**20 / (4 * particles.box**2)))
    parts = [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def read(part: slice) -> np.ndarray:
        which = part if rows is None else rows[part]
        images = particles.images(which)
        particles.check_finite(images, which)
        return images

    with ThreadPoolExecutor(1) as reader:
        pending = [reader.submit(read, part) for part in parts[:1]]
        for part, following in zip_longest(parts, parts[1:]):
            images = pending.pop().result()
            if following is not None:
                pending.append(reader.submit(read, following))
            yield part, images


def measure_noise(particles: Particles, groups: Int[np.ndarray, " particles"], settings: Settings) -> NoiseModel:
    """Noise of a particle set from up to 1,000 of its images."""
    which = sample_indices(groups)
    blocks = (images for _, images in batches(particles, settings, which))
    diameter = None if settings.diameter is None else settings.diameter / particles.pixel_size
    return measure(blocks, groups[which], Background.outside(particles.box, diameter), settings.normalize)


def own_images(count: int) -> slice:
    """Which of `count` images, in the order of the file, this process reads."""
    return distributed.share(count, _TOGETHER)


def own_batches(
    particles: Particles, settings: Settings, rows: Int[np.ndarray, " some"] | None = None
) -> Iterator[tuple[slice, Float[np.ndarray, "batch n n"]]]:
    """`batches` of the images that are this process's, `own_images`, where several share a run.

    An unusable image is seen by one process only: loop over them in `distributed.together`.
    """
    if distributed.size() == 1:
        yield from batches(particles, settings, rows)
        return
    mine = own_images(len(particles) if rows is None else len(rows))
    of_mine = np.arange(mine.start, mine.stop) if rows is None else rows[mine]
    for part, images in batches(particles, settings, of_mine):
        yield slice(mine.start + part.start, mine.start + part.stop), images


def accumulate(
    particles: Particles,
    settings: Settings | None = None,
    watch: Callable[[int], None] | None = None,
) -> Accumulated:
    """One pass over the images: insert every one into the sums of its half set.

    The two half sets run in two threads where there are two cores; the result does not depend on it. Several processes
    that share a run pass over a part of the images each, and all have the whole result.

    Args:
        particles: with poses.
        settings: how.
        watch: called with the number of images done after every batch.

    Raises:
        InputError: no poses, an unusable image, or a half set with fewer than two particles.
    """
    settings = settings or Settings()
    if not particles.has_poses:
        raise InputError(f"{particles.path}: no angles (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run abinitio first.")
    halves = particles.half_sets(settings.seed)
    if min((halves == half).sum() for half in (1, 2)) < 2:
        raise InputError(f"{particles.path}: each half set needs at least two particles.")
    views = views_of(particles, settings.use_ctf)
    noise = measure_noise(particles, views.groups, settings)
    first, second = (FourierSums(particles.box, noise.weights, device=settings.device) for _ in (1, 2))
    with ThreadPoolExecutor(2) as threads, distributed.together():
        for part, images in own_batches(particles, settings):
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
    first.finish()
    second.finish()
    return Accumulated(particles.box, particles.pixel_size, halves, noise, (first, second))


def positive(precision: np.ndarray) -> np.ndarray:
    """A prior precision without zeros: a voxel without data must divide by something."""
    return np.maximum(precision, 1e-6 * precision.max() + 1e-30)
