"""A density without poses as a model of the core: what a search optimizes, and what it remembers between steps."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml_cryoem.initial_model.search_plan import SearchPlan


class MarginalDensity(torch.nn.Module):
    """A density on a coarse grid that spans the box of the images, with what its search remembers.

    The buffers change in `Marginal.learn` and, when the search is given more room, in `OffsetRange.widen`; evaluating
    the loss or its gradient leaves them as they are.

    Attributes:
        voxels: (classes, m, m, m) float32, origin at m // 2.
        weight: (classes, m, m, m // 2 + 1) running mean of the weight that one image gives each Fourier voxel.
        radius: of the scored shells, Fourier pixels.
        frontier: running sums of both parts of rho and of the variance that noise gives the first, and the number of
            images since the radius grew (see `frontier`).
        shift_range: of the offsets tried, pixels.
        outermost: running numbers of images whose likeliest offset is at the end of that range, and of all images.

    Args:
        plan: the first radius and range of offsets.
        volumes: the first voxels.
        weight: that an image is expected to give each voxel of each class before any has been seen.
    """

    weight: Tensor
    radius: Tensor
    frontier: Tensor
    shift_range: Tensor
    outermost: Tensor

    def __init__(
        self,
        plan: SearchPlan,
        volumes: Float[np.ndarray, "classes m m m"],
        weight: Float[np.ndarray, "m m half"],
    ) -> None:
        super().__init__()
        self.voxels = torch.nn.Parameter(torch.from_numpy(volumes.astype(np.float32)))
        self.register_buffer("weight", torch.from_numpy(weight).expand(len(volumes), *weight.shape).float().clone())
        self.register_buffer("radius", torch.tensor([plan.start]))
        self.register_buffer("frontier", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("shift_range", torch.tensor([plan.shift_range], dtype=torch.float64))
        self.register_buffer("outermost", torch.zeros(2, dtype=torch.float64))
