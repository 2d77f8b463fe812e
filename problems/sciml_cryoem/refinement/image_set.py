"""What a refinement works on and never changes: images, half sets, noise at the start, grids, limits."""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Int

from sciml.errors import InputError
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.reconstruction.images import ImageSettings, views_of
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import NoiseModel
from sciml_cryoem.refinement.defocus import Focus
from sciml_cryoem.refinement.half_noise import kinds_of, measure_halves

LEAP = (4.0, 0.25)
"""Most shells by which the compared radius grows in a step: so many, or this share of it."""
AHEAD = 2
"""Shells beyond the next radius that the maps of a step hold, so that the FSC can be seen to go on."""


@dataclass(frozen=True)
class RefineOptions:
    """How to refine.

    Attributes:
        seed: of half sets and grids.
        start_resolution: Angstrom to which the start map is filtered; None: 10 shells of a particle that fills the box.
        diameter: of the particle, Angstrom; None: it may fill the box.
        symmetry: point group; the start map must have its axes where RELION has them.
        iterations: passes over all images at most.
        mask: of the final maps and their FSC (`ReconstructOptions.mask`).
        defocus: whether to refine that of every particle, once the resolution tells it.
        settings: how images are read.
    """

    seed: int = 0
    start_resolution: float | None = None
    diameter: float | None = None
    symmetry: str = "C1"
    iterations: int = 15
    mask: str | Float[np.ndarray, "n n n"] = "auto"
    defocus: bool = False
    settings: ImageSettings = field(default_factory=ImageSettings)


@dataclass(frozen=True)
class ImageSet:
    """The images of a refinement.

    Attributes:
        particles: the set.
        settings: how images are read.
        halves: half set of each image, 1 or 2.
        views: CTF and noise kind of each image, by the file.
        noise: measured in the backgrounds; halves share no noise model.
        group: operators of the point group.
        focus: what defoci are refined from; None where they are not.
        mask_radius: of the particle, as a share of the box.
        first_radius: Fourier pixels to which the start map is filtered, and images are compared at first.
        search_radius: Fourier pixels to which the whole grid is searched at most.
    """

    particles: Particles
    settings: ImageSettings
    halves: Int[np.ndarray, " n"]
    views: Views
    noise: NoiseModel
    group: Float[np.ndarray, "order 3 3"]
    focus: Focus | None
    mask_radius: float
    first_radius: float
    search_radius: float

    @classmethod
    def prepare(cls, particles: Particles, options: RefineOptions) -> "ImageSet":
        """Half sets, noise and limits of a particle set.

        Raises:
            InputError: an unusable image, too small a half set, an unknown point group, or defocus without a CTF.
        """
        settings = replace(options.settings, diameter=options.diameter or options.settings.diameter)
        if options.defocus and not settings.use_ctf:
            raise InputError("without a CTF there is no defocus to refine: leave out --defocus, or --no-ctf.")
        group = point_group(options.symmetry)
        halves = particles.half_sets(options.seed)
        views = views_of(particles, settings.use_ctf)
        noise = measure_halves(particles, views.groups, halves, settings)
        box, extent = particles.box, particles.box * particles.pixel_size
        fills = 0.84 if options.diameter is None else min(1.1 * options.diameter / extent, 0.84)
        first, last = 10.0 * 0.84 / fills, box / 2 - 1
        if options.start_resolution is not None:
            first = float(np.clip(extent / options.start_resolution, 3, last))
        return cls(
            particles=particles,
            settings=settings,
            halves=halves,
            views=replace(views, groups=kinds_of(views.groups, halves)),
            noise=noise,
            group=group,
            focus=Focus.of(particles, views.ctf) if options.defocus else None,
            mask_radius=0.5 * fills,
            first_radius=min(first, last),
            search_radius=min(12.0 * 0.84 / fills, last),
        )

    def __len__(self) -> int:
        return len(self.halves)

    @property
    def box(self) -> int:
        """Pixels along the side of an image."""
        return self.particles.box

    @property
    def extent(self) -> float:
        """Side of the box in Angstrom."""
        return self.particles.box * self.particles.pixel_size

    def reach(self, radius: float) -> float:
        """Radius of the shells that a step holds which compares up to `radius`, Fourier pixels; may exceed the box."""
        return radius + max(LEAP[0], LEAP[1] * radius) + AHEAD

    def collected(self, radius: float) -> Disc:
        """The points of an image that a step collects which compares up to `radius`."""
        return Disc(self.box, min(self.reach(radius), self.box / 2))

    def side(self, radius: float) -> int:
        """Side of the real box, spanning that of the images, that holds the shells below a radius."""
        return min(2 * int(np.ceil(min(radius, self.box / 2))) + 4, 2 * (self.box // 2) + 4)
