"""The end of an ab initio search: a continuous pose for every image, and the maps that these give.

Images come a block at a time: those of the search from memory, all others from disk, so that what is held does not grow
with the set.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from sciml import distributed
from sciml_cryoem.imaging import fourier, kernels
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.initial_model.likeliest_poses import LikeliestPoses
from sciml_cryoem.initial_model.map_slices import sphere
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import side_of
from sciml_cryoem.initial_model.weight_metric import PRIOR
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.poses.polish import polish
from sciml_cryoem.poses.polish_values import ReferenceSpectrum
from sciml_cryoem.poses.pose_error import common_shift
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

BLOCK = 2_000
"""Images that are polished together."""


@dataclass(frozen=True)
class Block:
    """Some images.

    Attributes:
        spectra: up to the radius of the final map.
        poses: where polishing starts.
    """

    spectra: ImageSpectra
    poses: LikeliestPoses

    def take(self, rows: np.ndarray | slice) -> "Block":
        """The poses of some of the images."""
        return Block(self.spectra.take(rows), self.poses.take(rows))


def centered(
    maps: Float[np.ndarray, "classes n n n"], poses: LikeliestPoses, group: Float[np.ndarray, "order 3 3"]
) -> tuple[Float[np.ndarray, "classes n n n"], Float[np.ndarray, "images 2"]]:
    """Each map moved to where the offsets of its images have no common part: to where the images were centered.

    Args:
        maps: at the box of the images.
        poses: of the images.
        group: of the maps, whose axes stay where they are.

    Returns:
        The maps, and the offsets in pixels that go with them.
    """
    moved, offsets = maps.copy(), poses.offsets.copy()
    for number in np.unique(poses.classes):
        mine = poses.classes == number
        shift = group.mean(0) @ common_shift(poses.rotations[mine], offsets[mine])
        offsets[mine] -= poses.rotations[mine, :2] @ shift
        moved[number] = fourier.moved(maps[number], -shift)
    return moved, offsets


class FinalPoses:
    """Polishes images against the maps of a search, and adds them up at the poses found.

    Args:
        problem: whose images were searched.
        model: the search as it ended.
    """

    def __init__(self, problem: Marginal, model: MarginalDensity) -> None:
        self.problem, self.radius = problem, float(model.radius)
        disc = problem.images.up_to(self.radius).disc
        self.references = [ReferenceSpectrum(one.astype(np.complex64), disc) for one in problem.slices.spectra(model)]
        whole = problem.images.disc
        self.side = side_of(whole.radius or whole.size / 2)
        padded = 2 * self.side
        self.grids = [np.zeros((padded, padded, padded // 2 + 1, 3), np.float32) for _ in self.references]

    def add(self, block: Block) -> LikeliestPoses:
        """Polish images, and add each to the sums of its class; of several processes each takes a part.

        Returns:
            The poses found.
        """
        mine = distributed.share(len(block.spectra))
        rotations, offsets = block.poses.rotations.copy(), block.poses.offsets.copy()
        for at in range(mine.start, mine.stop, BLOCK):
            part = slice(at, min(at + BLOCK, mine.stop))
            found = self._add(block.take(part))
            rotations[part], offsets[part] = found.rotations, found.offsets
        distributed.gather(mine, rotations, offsets)
        return replace(block.poses, rotations=rotations, offsets=offsets)

    def _add(self, block: Block) -> LikeliestPoses:
        rotations, offsets = block.poses.rotations.copy(), block.poses.offsets.copy()
        for number, reference in enumerate(self.references):
            rows = np.flatnonzero(block.poses.classes == number)
            mine = block.take(rows)
            images = mine.spectra.up_to(self.radius)
            found = polish(reference, images, mine.poses.rotations, mine.poses.offsets, device=self.problem.device)
            rotations[rows], offsets[rows] = found.rotations, found.offsets
            self.insert(number, mine.spectra, found.rotations, found.offsets)
        return replace(block.poses, rotations=rotations, offsets=offsets)

    def insert(
        self,
        number: int,
        images: ImageSpectra,
        rotations: Float[np.ndarray, "some 3 3"],
        offsets: Float[np.ndarray, "some 2"],
    ) -> None:
        """Add images to the sums of a class at known poses.

        Args:
            number: of the class, from 0.
            images: up to the radius of the final map.
            rotations: A of each image.
            offsets: (x, y) of each image in pixels.
        """
        disc = images.disc
        values = images.values * disc.phases(offsets) * images.transfer
        axes = slice_axes(rotations, 2)
        weights = np.square(images.transfer)
        search_kernels.insert_slices(self.grids[number], axes, disc.kx, disc.ky, values.astype(np.complex64), weights)

    def maps(self) -> Float[np.ndarray, "classes m m m"]:
        """The map of each class from all images added, in every shell that they hold; asked for once, at the end."""
        distributed.add(*self.grids)
        return np.stack([self._solve(self.problem.sums.completed(grid)) for grid in self.grids])

    def _solve(self, grid: np.ndarray) -> np.ndarray:
        side = self.side
        total, number = kernels.shell_sums(grid, 2.0, side // 2 + 1)
        mean = total / np.maximum(number, 1)
        precision = np.append(PRIOR * mean + 1e-3 * mean.max() + 1e-30, 1.0).astype(np.float32)
        out = np.empty(grid.shape[:3], np.complex64)
        kernels.divide((grid,), precision, 2.0, out)
        return correct_gridding(fourier.inverse_transform_cropped(out, side), 2) * sphere(self.problem.plan, side)
