"""One pass of a refinement over images, a block at a time: poses, their evidence, and the sums of each half.

A pass is a function of the maps, of the state and of the images: it changes neither. An image that has not been
searched for in a map of this refinement's own making is searched on the whole grid at low resolution, and the likeliest
pose found, or the one it had, is polished; every other image has its pose polished only.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from sciml import distributed
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import central_slices, correct_gridding
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import asymmetric_unit, symmetric_distance, symmetrize_sums
from sciml_cryoem.poses.focus import refocus
from sciml_cryoem.poses.polish import best_of, polish
from sciml_cryoem.poses.polish_values import PolishOptions, PolishResult, ReferenceSpectrum
from sciml_cryoem.poses.search import search
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra, whitened
from sciml_cryoem.reconstruction.images import own_batches, own_images
from sciml_cryoem.reconstruction.insertion import complete
from sciml_cryoem.refinement import pass_kernels
from sciml_cryoem.refinement.half_maps import RefinementState
from sciml_cryoem.refinement.half_noise import Residuals
from sciml_cryoem.refinement.image_set import ImageSet
from sciml_cryoem.refinement.particle_weights import UNTOLD
from sciml_cryoem.refinement.refined_poses import Poses

CANDIDATES = 3
"""Likeliest poses of a search that are polished."""
CROWDED = 0.3
"""Share of images in the outer quarter of the range of offsets from which that is widened: two thirds of what it would
be if offsets were as frequent there as elsewhere."""
FIRST = PolishOptions(gain=0.25)
"""How poses of a search are polished: to a seventh of their standard deviation, for a later pass does it again."""
MANY = 1000
"""Known offsets of which all but the thousandth decide how far those of other images are searched; fewer do not."""
JUMP_DEG = 10.0
"""An image whose better pose lies further away than so many degrees has jumped."""


@dataclass(frozen=True)
class PassResult:
    """What a pass says of its images.

    Attributes:
        poses: of the images, with evidence, contrast and strength; weights as they were before.
        misfit: (images,) weighted squared misfit against the unmasked half map less that against an empty one.
        searched: whether an image was searched on the whole grid.
        jumped: whether one that had a pose was found to have a better one far away.
        grids: complete sums of half 1 and half 2 (`back_projection.back_project`); empty where they were not wanted.
        residuals: what the projections leave of the images.
    """

    poses: Poses
    misfit: Float[np.ndarray, " n"]
    searched: Bool[np.ndarray, " n"]
    jumped: Bool[np.ndarray, " n"]
    grids: list[Float[np.ndarray, "P P half 3"]]
    residuals: Residuals


def offset_range(box: int, poses: Poses) -> float:
    """How far offsets are searched, pixels: a sixteenth of the box; farther where those of the known poses come near
    that, and less far where next to none of many comes near it.

    Args:
        box: of the images, pixels.
        poses: of the images that have one.
    """
    reach, widest = orientations.OFFSETS * box, orientations.WIDEST * box
    good = (poses.weights > 0.5) & (poses.expected > UNTOLD)  # the best pose in noise lies anywhere
    if not good.any():
        return reach
    lengths = np.hypot(*poses.offsets[good].T)
    while reach < widest and (lengths > 0.75 * reach).mean() > CROWDED:
        reach *= orientations.WIDER
    if len(lengths) >= MANY:
        reach = min(reach, float(np.quantile(lengths, 1.0 - 1.0 / MANY)) + 0.5 * orientations.OFFSET_STEP * box)
    return min(reach, widest)


class ImagePass:
    """What images are compared with in one pass.

    Args:
        images: the set.
        state: of the refinement.
        maps: (2, n, n, n) half maps; their masked versions are what poses are refined against.
        turn: of the grid of orientations.
        reach: range of the offsets that are searched, pixels; None: no image is searched.
    """

    def __init__(
        self, images: ImageSet, state: RefinementState, maps: np.ndarray, turn: np.ndarray, reach: float | None
    ) -> None:
        self.images, self.state = images, state
        self.device = images.settings.device
        self.noise = replace(images.noise, power=state.noise_power)
        box, radius = images.box, state.radius
        self.side = images.side(images.reach(radius))
        self.wide = images.collected(radius)
        self.compared = min(radius, box / 2)
        self.near = Disc(box, self.compared)
        self.spectra = [self._spectrum(volume) for volume in maps]
        self.references = [ReferenceSpectrum(self._spectrum(volume * state.mask), self.near) for volume in maps]
        self.power = [self._mean_power(reference) for reference in self.references]
        if reach is not None:
            self.search_radius = min(radius, images.search_radius)
            rotations = orientations.turned(orientations.half_turn_grid(2), turn)
            rotations = rotations[asymmetric_unit(rotations[:, 2], images.group)]
            self.grid = PoseGrid(rotations, orientations.shift_disc(reach, orientations.OFFSET_STEP * box))
            disc = Disc(box, self.search_radius)
            self.slices = [central_slices(reference.spectrum, rotations, disc) for reference in self.references]

    def _spectrum(self, volume: np.ndarray) -> Complex[np.ndarray, "P P half"]:
        """Padded transform of a map on the grid of this pass."""
        coarse = correct_gridding(fourier.resample(volume, self.side), 2)
        return fourier.transform_padded(coarse, 2 * self.side).astype(np.complex64)

    def _mean_power(self, reference: ReferenceSpectrum) -> np.ndarray:
        """Mean over all views of the power of projections, at each point that is compared."""
        slices = central_slices(reference.spectrum, orientations.half_turn_grid(1), self.near)
        return np.square(np.abs(slices)).mean(0).astype(np.float64)

    def run(self, rows: Int[np.ndarray, " n"], poses: Poses, known: np.ndarray, wanted: np.ndarray) -> PassResult:
        """Pass over some images; of several processes each reads a part, and all have the whole result.

        Args:
            rows: the images, in ascending order.
            poses: that they have; not changed.
            known: whether an image has one.
            wanted: whether it is to be searched.

        Raises:
            InputError: an unusable image.
        """
        result = self._empty(len(rows), poses)
        with distributed.together():
            for part, pixels in own_batches(self.images.particles, self.images.settings, rows):
                views = self._views(rows[part], poses.defocus[part])
                spectra = whitened(pixels, self.wide, self.noise, views)
                self._block(part, rows, spectra, (known, wanted), result)
        self._bring_together(len(rows), result)
        for grid in result.grids:
            complete(grid)
        if len(self.images.group) > 1:
            order = np.float32(len(self.images.group))
            result.grids[:] = [symmetrize_sums(grid, self.images.group) / order for grid in result.grids]
        return result

    def _views(self, rows: np.ndarray, defocus: np.ndarray):
        views = self.images.views.take(rows)
        focus = self.images.focus
        return views if focus is None else replace(views, ctf=focus.coefficients(rows, defocus))

    def _empty(self, count: int, poses: Poses) -> PassResult:
        padded = 2 * self.side
        return PassResult(
            poses=poses.take(slice(None)),
            misfit=np.zeros(count),
            searched=np.zeros(count, bool),
            jumped=np.zeros(count, bool),
            grids=[np.zeros((padded, padded, padded // 2 + 1, 3), np.float32) for _ in (1, 2)],
            residuals=Residuals(self.noise, self.wide),
        )

    def _bring_together(self, count: int, result: PassResult) -> None:
        residuals = result.residuals
        distributed.add(*result.grids, residuals.power, residuals.points)
        rows = [*vars(result.poses).values(), result.misfit, result.searched, result.jumped]
        distributed.gather(own_images(count), *rows)

    def _block(self, part: slice, rows: np.ndarray, spectra: ImageSpectra, flags: tuple, result: PassResult) -> None:
        """Both halves of a block, images that are searched apart from those that are not."""
        known, wanted = (flag[part] for flag in flags)
        halves = self.images.halves[rows[part]]
        for half in (1, 2):
            for searched in (True, False):
                mine = np.flatnonzero((halves == half) & (wanted == searched))
                if not len(mine):
                    continue
                here = spectra.take(mine)
                observed = here.up_to(self.compared)
                at = part.start + mine
                poses = result.poses.take(at)
                if searched:
                    found, jumped = self._searched(half, here, observed, poses, known[mine])
                    result.jumped[at] = jumped
                else:
                    options = PolishOptions(scale=True)
                    found = polish(
                        self.references[half - 1], observed, poses.rotations, poses.offsets, options, self.device
                    )
                result.searched[at] = searched
                self._conclude(half, rows[at], (found, observed, here), poses, result.residuals)
                result.misfit[at] = self._insert(half, found, here, poses, result.grids[half - 1])
                if not searched:
                    # Inserted with the scales of the step before, which are about 1: the new ones also undo the filter
                    # of the map, and would take its amplitude away, more with each step.
                    poses.scale[:] = found.scale
                result.poses.put(at, poses)

    def _searched(
        self, half: int, spectra: ImageSpectra, observed: ImageSpectra, poses: Poses, known: np.ndarray
    ) -> tuple[PolishResult, np.ndarray]:
        """The best of the likeliest poses on the grid, polished, or of the pose that an image had; which jumped."""
        reference = self.references[half - 1]
        scored = spectra.up_to(self.search_radius)
        wanted = SearchRequest(sums=False, poses=CANDIDATES)
        best = search(scored, self.slices[half - 1], self.grid, self.search_radius, wanted, self.device)
        starts, offsets = self.grid.poses(best.places)
        first, _ = best_of(replace(reference, plane=scored.disc), scored, starts, offsets, device=self.device)
        fresh = polish(reference, observed, first.rotations, first.offsets, FIRST, self.device)
        jumped = np.zeros(len(spectra), bool)
        old = np.flatnonzero(known)
        if not len(old):
            return fresh, jumped
        before = polish(reference, observed.take(old), poses.rotations[old], poses.offsets[old], device=self.device)
        of_old = fresh.take(old)
        better = (of_old.misfit < before.misfit - 1.0) & (poses.weights[old] > 0.5)
        jumped[old] = better & (symmetric_distance(of_old.rotations, before.rotations, self.images.group) > JUMP_DEG)
        return fresh.replaced(old, before.or_better(of_old)), jumped

    def _conclude(self, half: int, rows: np.ndarray, found: tuple, poses: Poses, residuals: Residuals) -> None:
        """Write what was found of some images into their poses: evidence of each pose (log likelihood against an empty
        map), its expectation, contrast, defocus; and what is left of the images."""
        polished, observed, spectra = found
        poses.rotations[:], poses.offsets[:] = polished.rotations, polished.offsets
        poses.covariance[:] = polished.covariance
        left, out = np.zeros(self.noise.power.shape), np.empty((len(rows), 3))
        kinds = self.images.views.groups[rows]
        posed = self._posed(spectra, polished, polished.scale, poses.weights)
        shells, reference = self.wide.shell.astype(np.int64), self.references[half - 1]
        pass_kernels.judge(reference.spectrum, posed, self.power[half - 1], shells, kinds, left, out)
        residuals.add(left, kinds, poses.weights)
        power, expected, mean = out.T
        poses.evidence[:], poses.expected[:] = power - 0.5 * polished.misfit, expected
        # At scale a the evidence is 2 a <y, P> - a^2 S.
        product = 0.5 * (poses.evidence + np.square(polished.scale) * expected) / polished.scale
        poses.contrast[:] = product / np.maximum(expected, 1e-3)
        poses.strength[:] = np.sqrt(expected / np.maximum(mean, 1e-3))
        if self.state.focusing and self.images.focus is not None:
            spread = float(self.state.prior_spread[half - 1])
            prior = self.images.focus.prior(rows, kinds, self.noise, spread)
            refocused = refocus(self.references[half - 1], observed, polished, prior)
            poses.defocus[:], poses.defocus_deviation[:] = refocused.offset, refocused.deviation

    def _insert(
        self, half: int, found: PolishResult, spectra: ImageSpectra, poses: Poses, grid: np.ndarray
    ) -> Float[np.ndarray, " n"]:
        """Add what the unmasked half map leaves of images to the sums; the misfit of each of them."""
        misfit = np.empty(len(poses.weights))
        posed = self._posed(spectra, found, poses.scale, poses.weights)
        pass_kernels.insert_residuals(grid, self.spectra[half - 1], posed, misfit)
        return misfit * poses.weights

    def _posed(
        self, spectra: ImageSpectra, found: PolishResult, scale: np.ndarray, weight: np.ndarray
    ) -> pass_kernels.PosedImages:
        """Images at their poses, for the compiled loops."""
        return pass_kernels.PosedImages(
            slice_axes(found.rotations, 2),
            self.wide.kx.astype(np.float32),
            self.wide.ky.astype(np.float32),
            *self.wide.table_places,
            *spectra.arrays,
            *self.wide.phase_tables(found.offsets),
            scale.astype(np.float32),
            weight.astype(np.float32),
        )
