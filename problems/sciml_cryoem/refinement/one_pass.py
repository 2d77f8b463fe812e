"""One pass of a refinement over the images, a block at a time: poses, their evidence, Fourier sums."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sciml import distributed
from sciml_cryoem.imaging import kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import asymmetric_unit, symmetric_distance
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.poses.focus import refocus
from sciml_cryoem.poses.polish import best_of, polish
from sciml_cryoem.poses.polish_values import PolishOptions, PolishResult, ReferenceSpectrum
from sciml_cryoem.poses.search import search
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra, whitened
from sciml_cryoem.reconstruction.images import own_images
from sciml_cryoem.refinement.half_noise import Residuals
from sciml_cryoem.refinement.particle_weights import UNTOLD

if TYPE_CHECKING:
    from sciml_cryoem.refinement.gold_standard import Refinement

CANDIDATES = 3
"""Likeliest poses of a search that are polished."""
CROWDED = 0.3
"""Share of images in the outer quarter of the range of offsets from which that is widened: two thirds of what it would
be if offsets were as frequent there as elsewhere."""
JUMP_DEG = 10.0
"""An image whose better pose lies further away than so many degrees has jumped."""


class Pass:
    """One pass over the images at a radius, a block at a time."""

    def __init__(self, state: "Refinement", side: int, radius: float, search_radius: float | None, known: bool) -> None:
        self.state, self.known, self.jumps = state, known, 0
        self.device = state.settings.device
        self.options = PolishOptions(scale=search_radius is None)
        box = state.particles.box
        self.wide = Disc(box, min(state.reach(), box / 2))
        self.near = Disc(box, min(radius, box / 2))
        self.residuals = Residuals(state.noise, self.wide)
        self.references = [ReferenceSpectrum(state.spectrum(half, side), self.near) for half in (1, 2)]
        self.power = [self._mean_power(reference) for reference in self.references]
        self.search_radius = search_radius
        if search_radius is not None:
            turned = orientations.turned(orientations.half_turn_grid(2), orientations.random_turns(1, state.draw)[0])
            turned = turned[asymmetric_unit(turned[:, 2], state.group)]
            self.grid = PoseGrid(turned, orientations.shift_disc(self._range(), box / 32))
            axes = slice_axes(turned, 2)
            disc = Disc(box, search_radius)
            self.slices = []
            for reference in self.references:
                out = np.empty((len(turned), len(disc)), np.complex64)
                kernels.gather(reference.spectrum, axes, disc.kx, disc.ky, out)
                self.slices.append(out)

    def _range(self) -> float:
        """How far offsets are searched, pixels: a sixteenth of the box, and farther where those of the last iteration
        come near that."""
        box, poses = self.state.particles.box, self.state.poses
        reach, widest = orientations.OFFSETS * box, orientations.WIDEST * box
        good = (poses.weights > 0.5) & (poses.expected > UNTOLD)  # the best pose in noise lies anywhere
        if not self.known or not good.any():
            return reach
        lengths = np.hypot(*poses.offsets[good].T)
        while reach < widest and (lengths > 0.75 * reach).mean() > CROWDED:
            reach *= orientations.WIDER
        return min(reach, widest)

    def run(self, part: slice, images: np.ndarray, sums: list[np.ndarray]) -> None:
        """Poses of a block, and its share of the sums."""
        state = self.state
        spectra = whitened(images, self.wide, state.noise, state.views.take(part))
        rows = np.arange(part.start, part.stop)
        for half in (1, 2):
            mine = state.halves[rows] == half
            if mine.any():
                self._half(half, rows[mine], spectra.take(np.flatnonzero(mine)), sums[half - 1])

    def bring_together(self, sums: list[np.ndarray]) -> None:
        """Complete poses and sums where several processes have passed over a part of the images each."""
        jumps = np.array([self.jumps])
        distributed.add(*sums, jumps, self.residuals.power, self.residuals.points)
        distributed.gather(own_images(len(self.state.particles)), *vars(self.state.poses).values())
        self.jumps = int(jumps[0])

    def _half(self, half: int, rows: np.ndarray, spectra: ImageSpectra, sums: np.ndarray) -> None:
        state, poses = self.state, self.state.poses
        observed = spectra.up_to(float(self.near.radius or self.near.size / 2))
        reference = self.references[half - 1]
        found: PolishResult | None = None
        if self.known:
            found = polish(reference, observed, poses.rotations[rows], poses.offsets[rows], self.options, self.device)
        if self.search_radius is not None:
            fresh = self._searched(half, spectra, observed)
            if found is None:
                found = fresh
            else:
                jumped = (fresh.misfit < found.misfit - 1.0) & (poses.weights[rows] > 0.5)
                self.jumps += int(
                    (symmetric_distance(fresh.rotations, found.rotations, state.group)[jumped] > JUMP_DEG).sum()
                )
                found = found.or_better(fresh)
        assert found is not None
        poses.rotations[rows], poses.offsets[rows], poses.covariance[rows] = (
            found.rotations,
            found.offsets,
            found.covariance,
        )
        self._judge(half, rows, found, spectra)
        if state.focusing and state.focus is not None:
            refocused = refocus(reference, observed, found, state.focus.prior(rows, half, state.views, state.noise))
            poses.defocus[rows], poses.defocus_deviation[rows] = refocused.offset, refocused.deviation
        # With the scales of the iteration before, which are about 1: the new ones also undo the filter of the map, and
        # would take its amplitude away, more with each iteration.
        self._insert(rows, found, spectra, sums)
        if self.options.scale:
            poses.scale[rows] = found.scale

    def _searched(self, half: int, spectra: ImageSpectra, observed: ImageSpectra) -> PolishResult:
        """The best of the likeliest poses on the grid, polished."""
        reference, radius = self.references[half - 1], self.search_radius
        assert radius is not None
        scored = spectra.up_to(radius)
        wanted = SearchRequest(sums=False, poses=CANDIDATES)
        best = search(scored, self.slices[half - 1], self.grid, radius, wanted, self.device)
        starts, offsets = self.grid.poses(best.places)
        first, _ = best_of(replace(reference, plane=scored.disc), scored, starts, offsets, device=self.device)
        return polish(reference, observed, first.rotations, first.offsets, device=self.device)

    def _judge(self, half: int, rows: np.ndarray, found: PolishResult, spectra: ImageSpectra) -> None:
        """Evidence of each pose: log likelihood against an empty map, its expectation; contrast; what is left."""
        near = len(self.near)
        power = np.square(np.abs(spectra.values[:, :near])).sum(1)
        evidence = power - 0.5 * found.misfit
        axes = slice_axes(found.rotations, 2)
        slices = np.empty((len(rows), near), np.complex64)
        kernels.gather(self.references[half - 1].spectrum, axes, self.near.kx, self.near.ky, slices)
        slices *= spectra.transfer[:, :near]
        expected = np.square(np.abs(slices)).sum(1)
        left = np.square(np.abs(spectra.values))
        slices *= self.near.phases(-found.offsets) * found.scale[:, None].astype(np.float32)
        left[:, :near] = np.square(np.abs(spectra.values[:, :near] - slices))
        poses = self.state.poses
        self.residuals.add(left, self.state.views.groups[rows], poses.weights[rows])
        poses.evidence[rows], poses.expected[rows] = evidence, expected
        # At scale a the evidence is 2 a <y, P> - a^2 S.
        product = 0.5 * (evidence + np.square(found.scale) * expected) / found.scale
        poses.contrast[rows] = product / np.maximum(expected, 1e-3)
        mean = np.square(spectra.transfer[:, :near]) @ self.power[half - 1]
        poses.strength[rows] = np.sqrt(expected / np.maximum(mean, 1e-3))

    def _mean_power(self, reference: ReferenceSpectrum) -> np.ndarray:
        """Mean over all views of the power of projections, at each point that is compared."""
        axes = slice_axes(orientations.half_turn_grid(1), 2)
        slices = np.empty((len(axes), len(self.near)), np.complex64)
        kernels.gather(reference.spectrum, axes, self.near.kx, self.near.ky, slices)
        return np.square(np.abs(slices)).mean(0)

    def _insert(self, rows: np.ndarray, found: PolishResult, spectra: ImageSpectra, sums: np.ndarray) -> None:
        weights = self.state.poses.weights[rows].astype(np.float32)[:, None]
        transfer = spectra.transfer * self.state.poses.scale[rows].astype(np.float32)[:, None]
        values = spectra.values * self.wide.phases(found.offsets) * (transfer * weights)
        axes = slice_axes(found.rotations, 2)
        squares = np.square(transfer) * weights
        search_kernels.insert_slices(sums, axes, self.wide.kx, self.wide.ky, values.astype(np.complex64), squares)
