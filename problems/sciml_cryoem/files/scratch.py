"""A copy of the images in half precision on a fast disk, which every pass of a refinement then reads.

Half the bytes of float32, and a quarter of the network's time where the stacks lie on a server. Each image less its
mean is rounded to 11 bits: an error of 2e-4 of a pixel's value, nothing beside the noise of a particle image.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sciml import distributed
from sciml.errors import InputError
from sciml_cryoem.files.mrc import write_stack
from sciml_cryoem.files.mrc_header import read_header
from sciml_cryoem.files.particle_set import Particles

_LARGEST = 6.0e4  # of float16 it is 65504
_DEVIATIONS = (1e-2, 1e3)  # of an image, for which half precision is fine enough and wide enough
_BLOCK = 2**24  # bytes that are copied at a time


def scratch_file(folder: Path, owner: Path) -> Path:
    """Path of the copy of a run; it depends on the run alone, so a run that was killed finds and replaces its own.

    Args:
        folder: on the fast disk.
        owner: folder of the run.
    """
    return folder / f"sciml-{hashlib.sha256(str(owner.absolute()).encode()).hexdigest()[:16]}.mrcs"


def copy_images(path: Path, particles: Particles, watch: Callable[[int], None]) -> Particles:
    """The same set with its images in one float16 stack (MRC mode 12).

    Args:
        path: the stack that is written, by process 0; all processes of a run must see it.
        particles: the set.
        watch: called with the number of images done.

    Raises:
        InputError: the folder is missing or too full, an image is unusable, or its grey values do not suit float16.
        OSError: it cannot be written to.
    """
    distributed.led(lambda: _copy(path, particles, watch))
    places = np.arange(len(particles))
    return replace(
        particles, stacks=(read_header(path, "signed"),), stack=np.zeros_like(places), section=places, inverted=False
    )


def _copy(path: Path, particles: Particles, watch: Callable[[int], None]) -> None:
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder for the copy of the images.")
    path.unlink(missing_ok=True)
    needed, free = 2.0 * len(particles) * particles.box**2, shutil.disk_usage(path.parent).free
    if needed > 0.98 * free:
        raise InputError(
            f"{path.parent}: {free / 2**20:,.0f} MB are free, and the copy of the images takes {needed / 2**20:,.0f}. "
            "Name a folder on another disk, or run without the copy."
        )
    step = max(1, _BLOCK // (4 * particles.box**2))
    blocks = _centered(particles, step, watch)
    write_stack(path, blocks, (len(particles), particles.box, particles.box), particles.pixel_size, 12)


def _centered(
    particles: Particles, step: int, watch: Callable[[int], None]
) -> Iterator[Float[np.ndarray, "batch box box"]]:
    """The images less their means, block by block."""
    for start in range(0, len(particles), step):
        part = slice(start, min(start + step, len(particles)))
        images = particles.images(part)
        particles.check_finite(images, part)
        images -= images.mean((1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
        deviation = float(np.median(images.std((1, 2))))
        if not _DEVIATIONS[0] < deviation < _DEVIATIONS[1]:
            raise InputError(
                f"{particles.path}: the images have a standard deviation of {deviation:.3g} (rows {start + 1} to "
                f"{part.stop}); half precision suits {_DEVIATIONS[0]:g} to {_DEVIATIONS[1]:g}. Run without the copy."
            )
        yield np.clip(images, -_LARGEST, _LARGEST)
        watch(part.stop)
