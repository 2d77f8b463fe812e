"""Preflight of a particle set: every fault of its STAR file, stacks and pixels at once, nothing computed."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciml_cryoem.files.faults import Fault, FaultError, Faults
from sciml_cryoem.files.particle_set import Particles, unusable
from sciml_cryoem.files.particles import Need, Source, load
from sciml_cryoem.files.star import read_star

_BATCH_BYTES = 2**25
_HOT = 20.0  # median absolute deviations, scaled to standard deviations of Gaussian noise


@dataclass(frozen=True)
class CheckReport:
    """What the preflight found.

    Attributes:
        particles: rows of the particle table; 0 if the file could not be read at all.
        faults: fatal ones and findings, one of each kind, in the order of discovery.
        folders: where the stacks were found.
    """

    particles: int
    faults: tuple[Fault, ...]
    folders: tuple[Path, ...] = ()

    @property
    def fatal(self) -> int:
        """Number of faults that make the set unusable."""
        return sum(fault.fatal for fault in self.faults)


def check_particles(source: Source, needs: Collection[Need], pixels: bool = True) -> CheckReport:
    """Find every fault of a particle set.

    Args:
        source: the STAR file, and how its images are read.
        needs: what the set is wanted for; see `read_particles`.
        pixels: read every image, too.
    """
    faults = Faults()
    particles = load(source, needs, faults)
    if particles is None:
        return CheckReport(_rows(source.path), tuple(faults.grouped))
    if pixels:
        _check_pixels(particles, faults)
    folders = dict.fromkeys(header.path.absolute().parent for header in particles.stacks)
    return CheckReport(particles.n, tuple(faults.grouped), tuple(folders))


def _rows(path: Path) -> int:
    """Rows of the particle table of a file that has other faults."""
    try:
        tables = read_star(path)
    except FaultError:
        return 0
    return max((len(table) for table in tables.values() if "rlnImageName" in table), default=0)


def _check_pixels(particles: Particles, faults: Faults) -> None:
    """Report unusable images as faults, and hot pixels and odd normalization as warnings with a count."""
    line = np.arange(particles.box) - particles.box // 2
    background = line[:, None] ** 2 + line[None, :] ** 2 > (particles.box / 2) ** 2
    size = max(1, _BATCH_BYTES // (4 * particles.box**2))
    hot, odd = [], []
    for start in range(0, particles.n, size):
        images = particles.images(slice(start, start + size))
        bad = unusable(images)
        for row in np.flatnonzero(bad):
            faults.found.append(particles.image_fault(start + int(row), images[row]))
        images[bad] = 0
        rows = np.arange(start, start + len(images))
        edge = images[:, background].astype(np.float64)
        mean, deviation = edge.mean(axis=1), edge.std(axis=1)
        center = np.median(images, axis=(1, 2))
        # The standard deviation of the background serves as well as a median absolute deviation, and costs less.
        extreme = np.maximum(images.max(axis=(1, 2)) - center, center - images.min(axis=(1, 2)))
        hot += rows[~bad & (extreme > _HOT * np.maximum(deviation, 1e-30))].tolist()
        odd += rows[~bad & ((np.abs(mean) > 0.5 * deviation) | (deviation < 0.5) | (deviation > 2.0))].tolist()
    for add, rows, what, remedy in (
        (faults.warning, hot, f"pixels more than {_HOT:g} deviations off the median", "Look for X-rays or dust."),
        (faults.note, odd, "background not of mean 0 and deviation 1", "Normalize them in Extract, or go on."),
    ):
        if rows:
            place = particles.table.place(rows[0])
            add(particles.path, place, f"{len(rows)} image(s) with {what}, this the first.", remedy)
