"""Central slices of the maps of a search at every orientation of its grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float
from torch import Tensor, equal

from sciml_cryoem.imaging import fourier, kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import asymmetric_unit
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import SearchPlan
from sciml_cryoem.maps.masks import cosine_edge


@dataclass(frozen=True)
class TurnedGrid:
    """Where images are searched.

    Attributes:
        radius: of the scored shells, Fourier pixels.
        turn: of the grid of orientations.
    """

    radius: float
    turn: Float[np.ndarray, "3 3"]


def sphere(plan: SearchPlan, side: int) -> Float[np.ndarray, "m m m"]:
    """Where the particle may be, on a grid of this side."""
    axis = np.arange(side) - side // 2
    distance = np.sqrt(sum(np.square(a) for a in np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)))
    return cosine_edge((distance - plan.mask_radius * side).astype(np.float32), 0.07 * side)


class MapSlices:
    """Slices of a density, at the points of the images.

    Args:
        plan: the grids, and how many shells are collected.
        disc: the points of the images.
        group: of the map: only views of one asymmetric unit are tried.

    Attributes:
        mask: of the map, on the grid of the plan.
    """

    def __init__(self, plan: SearchPlan, disc: Disc, group: Float[np.ndarray, "order 3 3"]) -> None:
        self._plan, self._disc, self._group = plan, disc, group
        self._grids = {order: orientations.half_turn_grid(order) for order in (1, 2)}
        self.mask = sphere(plan, plan.side)
        # The last results and what they are functions of: the parts of a batch share the map, and some the turn.
        self._last_spectra: tuple[Tensor, np.ndarray] | None = None
        self._last: tuple[Tensor, TurnedGrid, tuple[np.ndarray, np.ndarray]] | None = None

    def orientations(self, where: TurnedGrid) -> Float[np.ndarray, "n 3 3"]:
        """The grid for a scored radius, turned."""
        grid = orientations.turned(self._grids[self._plan.order(where.radius)], where.turn)
        return grid if len(self._group) == 1 else grid[asymmetric_unit(grid[:, 2], self._group)]

    def spectra(self, model: MarginalDensity) -> Complex[np.ndarray, "classes P P half"]:
        """Padded transforms of the classes."""
        voxels = model.voxels.detach()
        if self._last_spectra is not None and equal(self._last_spectra[0], voxels):
            return self._last_spectra[1]
        corrected = [correct_gridding(volume, 2) for volume in voxels.cpu().numpy() * self.mask]
        padded = np.stack([fourier.transform_padded(volume, 2 * self._plan.side) for volume in corrected])
        self._last_spectra = (voxels.clone(), padded.astype(np.complex64))
        return self._last_spectra[1]

    def of(
        self, model: MarginalDensity, where: TurnedGrid
    ) -> tuple[Float[np.ndarray, "n 2 3"], Complex[np.ndarray, "classes n points"]]:
        """Axes of every orientation in the padded grid, and the slices of every class up to the collected radius."""
        voxels = model.voxels.detach()
        if self._last is not None:
            before, known, result = self._last
            if known.radius == where.radius and np.array_equal(known.turn, where.turn) and equal(before, voxels):
                return result
        grid = self.orientations(where)
        axes = slice_axes(grid, 2)
        disc = self._disc
        points = disc.within(where.radius + self._plan.frontier)
        slices = np.empty((len(voxels), len(grid), points), np.complex64)
        for spectrum, out in zip(self.spectra(model), slices, strict=True):
            kernels.gather(spectrum, axes, disc.kx[:points], disc.ky[:points], out)
        self._last = (voxels.clone(), where, (axes, slices))
        return axes, slices
