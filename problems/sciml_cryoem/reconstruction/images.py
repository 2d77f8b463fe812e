"""How every engine reads particle images: settings, blocks of a bounded size, CTFs and poses, noise."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from jaxtyping import Float, Int

from sciml import distributed
from sciml.findings import Finding
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import ctf, rotations
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import Background, NoiseModel, Normalize, measure, sample_indices

FEW = 50
"""Images below which a resolution is not to be believed."""
SMALL = 0.15
"""Share of the box below which a diameter is hardly that of a particle."""
_TOGETHER = 16  # images that products and transforms work on together at most, a multiple


@dataclass(frozen=True)
class ImageSettings:
    """How particle images are read and prepared.

    Attributes:
        device: "cpu" for the compiled loops; "torch" for torch on the CPU; "cuda".
        use_ctf: False for images without a CTF (clean projections).
        diameter: of the particle, Angstrom, beyond which an image is background; None: the circle that touches the box.
        normalize: whether each image is scaled to one noise level; auto: when theirs differ by more than 10 %.
        batch_mb: megabytes of images in memory at once.
    """

    device: str = "cpu"
    use_ctf: bool = True
    diameter: float | None = None
    normalize: Normalize = "auto"
    batch_mb: float = 16.0


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


def image_findings(particles: Particles, settings: ImageSettings) -> tuple[Finding, ...]:
    """What to know about the images that something is computed from: of their files, their number, their diameter."""
    found, extent = list(particles.findings), particles.box * particles.pixel_size
    if len(particles) < FEW:
        what = f"There are {len(particles)} images: the FSC of their halves is no measure of a resolution."
        found.append(Finding(what, str(particles.path), "severe", f"Take {FEW} or more, better thousands."))
    if settings.diameter is not None and settings.diameter < max(SMALL * extent, 4 * particles.pixel_size):
        pixels = settings.diameter / particles.pixel_size
        what = (
            f"A diameter of {settings.diameter:g} Angstrom is {pixels:.1f} pixels of a box of {particles.box}: what "
            f"lies beyond it is taken for noise."
        )
        found.append(Finding(what, "diameter", "severe", "Give the diameter of the particle in Angstrom."))
    return tuple(found)


def batches(
    particles: Particles, settings: ImageSettings, rows: Int[np.ndarray, " some"] | None = None
) -> Iterator[tuple[slice, Float[np.ndarray, "batch n n"]]]:
    """Read the images in blocks and check that they are finite; reads one block ahead of the caller.

    Args:
        particles: the set.
        settings: how many megabytes at a time.
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


def block_bytes(particles: Particles, settings: ImageSettings) -> float:
    """Memory of a block on its way to Fourier values: images as read, prepared, their transform, and the phases."""
    return 4.0 * min(settings.batch_mb * 2**20, 4.0 * particles.box**2 * len(particles))


def stack_bytes(particles: Particles, images: int | None = None) -> float:
    """Bytes of so many images on disk; None: of all."""
    count = len(particles) if images is None else images
    return float(count) * particles.box**2 * particles.stacks[0].dtype.itemsize


def measure_noise(particles: Particles, groups: Int[np.ndarray, " particles"], settings: ImageSettings) -> NoiseModel:
    """Noise of a particle set from up to 1,000 of its images."""
    which = sample_indices(groups)
    blocks = (images for _, images in batches(particles, settings, which))
    diameter = None if settings.diameter is None else settings.diameter / particles.pixel_size
    return measure(blocks, groups[which], Background.outside(particles.box, diameter), settings.normalize)


def own_images(count: int) -> slice:
    """The share of `count` images, in the order of the file, that this process reads."""
    return distributed.share(count, _TOGETHER)


def own_batches(
    particles: Particles, settings: ImageSettings, rows: Int[np.ndarray, " some"] | None = None
) -> Iterator[tuple[slice, Float[np.ndarray, "batch n n"]]]:
    """`batches` of this process's share of the images (`own_images`) where several processes share a run.

    Only one process sees an unusable image, so loop inside `distributed.together`.
    """
    if distributed.size() == 1:
        yield from batches(particles, settings, rows)
        return
    mine = own_images(len(particles) if rows is None else len(rows))
    of_mine = np.arange(mine.start, mine.stop) if rows is None else rows[mine]
    for part, images in batches(particles, settings, of_mine):
        yield slice(mine.start + part.start, mine.start + part.stop), images
