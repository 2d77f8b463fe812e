"""Gold-standard refinement: poses and two half maps from a start map, halves apart from the first iteration.

Each half set of the images is refined against the map of its own half only. What the halves share is the start map
below a stated resolution. An iteration passes once over the images, a block at a time:

* in the first iterations every image is searched on the whole grid at low resolution (`poses.search`), and the
  likeliest pose found, or the one it had, is polished; later its pose is polished only (`polish`: continuous, by
  Gauss-Newton);
* the image goes, with the share of it that is not explained by junk, into the Fourier sums of its half.

The FSC of the halves then filters each (Wiener) and sets the radius up to which images are compared in the next
iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from sciml import distributed
from sciml.errors import InputError
from sciml.runs.stage import Stage
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import fourier, kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import point_group, symmetric_distance, symmetrize_sums
from sciml_cryoem.maps.fsc import fsc, last_shell_before
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.poses.contrast import fits_negative
from sciml_cryoem.reconstruction.accumulation import positive
from sciml_cryoem.reconstruction.image_spectra import image_spectra
from sciml_cryoem.reconstruction.images import ImageSettings, own_batches, views_of
from sciml_cryoem.reconstruction.insertion import complete
from sciml_cryoem.reconstruction.noise import sample_indices
from sciml_cryoem.reconstruction.prior import shrink_fsc
from sciml_cryoem.refinement.checkpoint import Keeper
from sciml_cryoem.refinement.defocus import Focus, with_defocus
from sciml_cryoem.refinement.half_noise import kinds_of, measure_halves
from sciml_cryoem.refinement.one_pass import Pass
from sciml_cryoem.refinement.particle_weights import UNTOLD, share_of_majority, share_of_something, shrunk_contrast
from sciml_cryoem.refinement.refined_poses import Poses, with_poses

MARGIN = 2
"""Shells beyond the FSC's 0.143 up to which images are compared with the map."""
LEAP = (4.0, 0.25)
"""Most shells by which that radius grows in an iteration: so many, or this share of it."""
CLEAR = 2.0
"""Shells beyond those that the halves share in which they must agree before the mask follows the molecule."""
JUMPS = 0.005
"""Images are searched again while more than this share of them jumped to a better pose (`one_pass.JUMP_DEG`)."""
REST_DEG = 0.1
"""Median turn of an iteration below which poses are at rest."""
AHEAD = 2
"""Shells beyond the next radius that the maps of an iteration hold, so that the FSC can be seen to go on."""


PROBED = 200
"""Images that are asked whether particles are bright in them."""


@dataclass(frozen=True)
class RefineOptions:
    """How to refine.

    Attributes:
        seed: of half sets and grids.
        start_resolution: Angstrom to which the start map is filtered; None: 10 shells of a particle that fills the box.
        diameter: of the particle, Angstrom; None: it may fill the box.
        symmetry: point group; the start map must have its axes where RELION has them.
        searches: iterations that search the whole grid.
        iterations: at most.
        mask: of the final maps and their FSC (`ReconstructOptions.mask`).
        defocus: whether to refine that of every particle, once the resolution tells it.
        settings: how images are read.
    """

    seed: int = 0
    start_resolution: float | None = None
    diameter: float | None = None
    symmetry: str = "C1"
    searches: int = 2
    iterations: int = 15
    mask: str | Float[np.ndarray, "n n n"] = "auto"
    defocus: bool = False
    settings: ImageSettings = field(default_factory=ImageSettings)


@dataclass(frozen=True)
class Iteration:
    """What an iteration did: a line of the report.

    Attributes:
        radius: Fourier pixels up to which poses were compared. searched: whether on the whole grid.
        resolution: Angstrom, FSC 0.143 of the halves in the mask. fsc: that curve.
        turn_deg, move: median change of poses (degrees, pixels). junk: images with a weight below a half.
        log_likelihood: mean of the images. refocused: whether the defocus of particles was refined.
    """

    number: int
    radius: float
    searched: bool
    resolution: float
    fsc: Float[np.ndarray, " shells"] = field(repr=False)
    turn_deg: float
    move: float
    junk: int
    log_likelihood: float
    refocused: bool = False


@dataclass(frozen=True)
class Refined:
    """What `refine` found.

    Attributes:
        particles: the set with its new poses, half sets included.
        poses: the same with weights and covariances.
        iterations: the record.
        converged: whether resolution had come to rest.
    """

    particles: Particles
    poses: Poses
    iterations: list[Iteration]
    converged: bool

    @property
    def used(self) -> Particles:
        """The images that are taken for particles: those with a weight of at least a half."""
        return self.particles.select(np.flatnonzero(self.poses.weights >= 0.5))

    @property
    def tells_nothing(self) -> bool:
        """Whether the projections of the maps are so weak beside the noise that poses and junk cannot be told."""
        return bool(np.median(self.poses.expected) < UNTOLD)


class Refinement:
    """The state of a refinement: poses, and the map of each half."""

    def __init__(self, particles: Particles, start: Float[np.ndarray, "n n n"], options: RefineOptions) -> None:
        self.particles, self.options = particles, options
        self.group = point_group(options.symmetry)
        box, pixel_size = particles.box, particles.pixel_size
        if start.shape != (box,) * 3:
            raise InputError(
                f"the start map has {start.shape[0]} voxels along its side, the images {box}; resample it."
            )
        self.settings = replace(options.settings, diameter=options.diameter or options.settings.diameter)
        self.halves = particles.half_sets(options.seed)
        views = views_of(particles, self.settings.use_ctf)
        self.noise = measure_halves(particles, views.groups, self.halves, self.settings)
        self.views = replace(views, groups=kinds_of(views.groups, self.halves))  # halves share no noise model
        self.poses = Poses.unknown(len(particles))
        extent = box * pixel_size
        fills = 0.84 if options.diameter is None else min(1.1 * options.diameter / extent, 0.84)
        self.mask_radius = 0.5 * fills
        self.limit = box / 2
        self.search_radius = min(12.0 * 0.84 / fills, self.limit - 1)
        first = min(10.0 * 0.84 / fills, self.limit - 1)
        self.radius = (
            first
            if options.start_resolution is None
            else float(np.clip(extent / options.start_resolution, 3, self.limit - 1))
        )
        self.shared = self.radius
        self.draw = np.random.default_rng([options.seed, 1])
        filtered = start * soft_sphere(box, self.mask_radius * box, 0.08 * box)
        filtered = fourier.resample(filtered, box, self.radius)
        self.maps, self.scales = [filtered, filtered], [1.0, 1.0]
        self.iterations: list[Iteration] = []
        self.jumps, self.focusing = 0, False
        if options.defocus and not self.settings.use_ctf:
            raise InputError("without a CTF there is no defocus to refine: leave out --defocus, or --no-ctf.")
        self.focus = Focus(particles, self.views.ctf) if options.defocus else None

    def step(self, watch: Callable[[int], None] | None = None) -> Iteration:
        """One iteration."""
        number = len(self.iterations)
        searched = number < self.options.searches or self.jumps > JUMPS * len(self.particles)
        if number == 0:
            self.scale_start()
        if self.focus is not None:
            self.focusing = number > 0 and not searched and self.focus.can_tell(self.iterations[-1].resolution)
            self.views = replace(self.views, ctf=self.focus.begin(self.poses, self.halves))
        side = self._side(self.reach())
        sums = [np.zeros((2 * side, 2 * side, side + 1, 3), np.float32) for _ in (1, 2)]
        before = replace(self.poses, rotations=self.poses.rotations.copy(), offsets=self.poses.offsets.copy())
        plan = Pass(self, side, self.radius, min(self.radius, self.search_radius) if searched else None, number > 0)
        with distributed.together():
            for part, images in own_batches(self.particles, self.settings):
                plan.run(part, images, sums)
                if watch:
                    watch(part.stop)
        plan.bring_together(sums)
        self.jumps = plan.jumps
        self._weigh()
        self.poses.scale[:] = shrunk_contrast(self.poses, self.halves)
        self.noise = plan.residuals.noise_found()
        curve, resolution = self._solve(sums, side)
        turn = symmetric_distance(before.rotations, self.poses.rotations, self.group)
        move = np.hypot(*(before.offsets - self.poses.offsets).T)
        record = Iteration(
            number, self.radius, searched, resolution, curve, float(np.median(turn)), float(np.median(move)),
            int((self.poses.weights < 0.5).sum()), float(self.poses.evidence.mean()), self.focusing,
        )  # fmt: skip
        self.iterations.append(record)
        shell = self.particles.box * self.particles.pixel_size / resolution
        least = min(self.radius, self.search_radius)
        self.radius = float(np.clip(shell + MARGIN, least, min(self.reach() - AHEAD, self.limit)))
        return record

    def _side(self, radius: float) -> int:
        """Side of the real box, spanning that of the images, that holds the shells below a radius."""
        return min(2 * int(np.ceil(min(radius, self.limit))) + 4, 2 * (self.particles.box // 2) + 4)

    def reach(self) -> float:
        """Radius of the shells that the maps of an iteration hold."""
        return self.radius + max(LEAP[0], LEAP[1] * self.radius) + AHEAD

    def spectrum(self, half: int, side: int) -> np.ndarray:
        """Padded transform of a half map on a grid of `side` voxels."""
        volume = fourier.resample(self.maps[half - 1], side)
        return fourier.transform_padded(correct_gridding(volume, 2), 2 * side).astype(np.complex64)

    def scale_start(self) -> None:
        """Bring the start map to the grey scale of the images of each half, whose power above the noise is that of
        projections."""
        side, disc = self._side(self.radius), Disc(self.particles.box, self.radius)
        axes = slice_axes(orientations.half_turn_grid(0), 2)
        slices, ring = np.empty((len(axes), len(disc)), np.complex64), disc.shell > 0
        for half in (1, 2):
            mine = np.flatnonzero(self.halves == half)
            which = mine[sample_indices(self.views.groups[mine])]
            images = image_spectra(self.particles, self.views, self.noise, self.radius, self.settings, which)
            kernels.gather(self.spectrum(half, side), axes, disc.kx, disc.ky, slices)
            signal = float((np.square(np.abs(images.values[:, ring])) - 1.0).sum())
            power = np.square(images.transfer[:, ring]).sum(0) @ np.square(np.abs(slices[:, ring])).mean(0)
            least = 1e-4 * images.values[:, ring].size
            self.scales[half - 1] = float(np.sqrt(max(signal, least) / max(float(power), 1e-30)))
            self.maps[half - 1] = self.maps[half - 1] * np.float32(self.scales[half - 1])
            low = images.take(slice(PROBED)).up_to(min(0.6 * self.search_radius, self.radius))
            if half == 1 and fits_negative(self.spectrum(half, side), low):
                raise InputError(
                    "the images fit the negative of the reference better than the reference: particles are dark in "
                    "one and bright in the other. Give --invert-contrast if they are dark in the images."
                )

    def _weigh(self) -> None:
        """Share of each image that is a particle, judged among those of its half set and optics group.

        An image that is in the map correlates with it. One that was left out is judged against a map without it only
        after the next pass: without memory, junk would be in and out by turns.
        """
        poses = self.poses
        judged = share_of_something(poses.evidence, poses.expected)
        judged *= share_of_majority(poses.contrast, poses.strength, self.views.groups)
        poses.weights[:] = np.minimum(judged, poses.judged)
        poses.judged[:] = judged

    def _solve(self, sums: list[np.ndarray], side: int) -> tuple[np.ndarray, float]:
        """New half maps, their FSC in the mask, and its resolution."""
        box, pixel_size = self.particles.box, self.particles.pixel_size
        tables, raw = [], []
        for half, grid in enumerate(sums):
            complete(grid)
            sums[half] = grid = symmetrize_sums(grid, self.group) if len(self.group) > 1 else grid
            total, number = kernels.shell_sums(grid, 2.0, side // 2 + 1)
            tables.append(total / np.maximum(number, 1))
            raw.append(self._divide(grid, positive(1e-2 * tables[-1]), side))
        mask = soft_sphere(side, self.mask_radius * side, 0.08 * side)
        curve = self._agreement(raw, mask)
        # A mask carries the agreement of the shells that the halves share into the next ones, a narrow one farther.
        if last_shell_before(curve, 0.143) >= self.shared + CLEAR:
            mask = mask * self._molecule(0.5 * (raw[0] + raw[1]) * mask)
            curve = self._agreement(raw, mask)
        shell = last_shell_before(curve, 0.143)
        shrunk = shrink_fsc(curve, mask)
        self.maps = [
            fourier.resample(self._divide(grid, positive(table * (1 - shrunk) / shrunk), side) * mask, box)
            for grid, table in zip(sums, tables, strict=True)
        ]
        return curve, float(box * pixel_size / max(shell, 1))

    def _agreement(self, halves: list[np.ndarray], mask: np.ndarray) -> np.ndarray:
        """FSC of two maps in a mask, 0 from the last shell on that images were compared in."""
        side = len(mask)
        curve = fsc(halves[0] * mask, halves[1] * mask)[: side // 2 + 1]
        curve[int(min(self.reach(), self.limit, side // 2)) :] = 0.0
        return curve

    def _molecule(self, average: np.ndarray) -> Float[np.ndarray, "n n n"]:
        """A mask at the resolution of the start map, up to which the halves may share something; 1 where nothing stands
        out of the noise."""
        extent = self.particles.box * self.particles.pixel_size
        try:
            return AutomaticMask(extent / self.shared).find(average, extent / len(average))
        except InputError:
            return np.ones_like(average)

    def _divide(self, grid: np.ndarray, precision: np.ndarray, side: int) -> np.ndarray:
        out = np.empty(grid.shape[:3], np.complex64)
        kernels.divide((grid,), np.append(precision, precision[-1]).astype(np.float32), 2.0, out)
        return correct_gridding(fourier.inverse_transform_cropped(out, side), 2)


@threadpool_limits.wrap(limits=1)  # products are small: a BLAS's threads would wait for each other longer than work
def refine(
    particles: Particles,
    start: Float[np.ndarray, "n n n"],
    options: RefineOptions | None = None,
    watch: Callable[[Iteration], None] | None = None,
    stage: Stage | None = None,
) -> Refined:
    """Refine poses and half maps from a start map.

    Args:
        particles: the set; its half sets are kept, its poses not used. start: a map at the box of the images.
        options: how. watch: called after every iteration.
        stage: where the state is kept after every iteration. If it holds one, the refinement goes on from there, to the
            same bits on the same machine.

    Raises:
        InputError: a start map of another box, an unusable image, or a state kept of other images.
    """
    options = options or RefineOptions()
    state = Refinement(particles, start, options)
    keeper = Keeper(stage)
    keeper.resume(state)
    while not (converged := settled(state.iterations)) and len(state.iterations) < options.iterations:
        record = state.step()
        keeper.write(state)
        if watch:
            watch(record)
    state.poses.defocus[state.poses.weights < 0.5] = 0.0
    posed = with_defocus(with_poses(particles, state.poses, state.halves), state.poses.defocus)
    return Refined(posed, state.poses, state.iterations, converged)


def settled(iterations: list[Iteration]) -> bool:
    """Whether a refinement has come to rest: two iterations without gain in resolution, and poses that hardly move.

    The first iteration that refines defocus is a new beginning: only the next uses it.
    """
    best, since, focused = np.inf, 0, False
    for record in iterations:
        since = 0 if record.resolution < 0.995 * best or record.refocused > focused else since + 1
        focused = record.refocused
        best = min(best, record.resolution)
    return since >= 2 and not iterations[-1].searched and iterations[-1].turn_deg < REST_DEG
