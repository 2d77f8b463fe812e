"""What the remembered weight of a density is used for: the prior precision, and the inverse Hessian that both make.

    T = a tenth of the mean weight of each Fourier shell,        P v = D F^-1 [F D v / (W + T)]

with W the weight that one image gives each Fourier voxel, F the transform of the box, and D the roll-off of gridding.
P is the preconditioner, and so the metric of the gradient noise. In shells that no image has been collected in, W is
what images whose views are uniformly distributed give: the metric is never degenerate, neither before the first batch
nor when the radius grows.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, SearchPlan

PRIOR = 0.1
"""Prior precision as a share of the mean weight of its shell."""


class WeightMetric:
    """The running weight of a density as a metric.

    Args:
        plan: the grid of the density, and how many shells are collected at a radius.
    """

    def __init__(self, plan: SearchPlan) -> None:
        self._plan, side = plan, plan.side
        radius = np.sqrt(fourier.squared_radii(side, 3))
        self._shell = np.minimum(np.rint(radius).astype(np.int64), side)
        self._count = np.maximum(np.bincount(self._shell.ravel(), minlength=side + 1), 1)
        # The last table and what it is a function of: it is asked for several times a step.
        self._last_prior: tuple[Tensor, int, Tensor] | None = None
        self._roll_off = torch.from_numpy(1.0 / correct_gridding(np.ones((side,) * 3, np.float32), 2))

    def shell_mean(self, weight: Float[np.ndarray, "m m half"]) -> Float[np.ndarray, " shells"]:
        """Mean over each shell."""
        return np.bincount(self._shell.ravel(), weight.ravel(), len(self._count)) / self._count

    def spherical(self, means: Float[np.ndarray, " shells"]) -> Float[np.ndarray, "m m half"]:
        """A grid with the same value everywhere in a shell."""
        return means[self._shell]

    def _collected(self, model: MarginalDensity) -> int:
        """Number of shells, from the origin, that images are collected in."""
        return int(float(model.radius)) + self._plan.frontier

    def learn(self, model: MarginalDensity, weight: Float[Tensor, "classes m m half"], images: int) -> None:
        """Renew the running mean in the shells that are collected.

        Args:
            model: its buffer `weight` changes.
            weight: per image.
            images: that gave it.
        """
        keep = 0.5 ** (images / HALF_LIFE)
        mixed = keep * model.weight + (1.0 - keep) * weight.to(model.weight)
        collected = torch.from_numpy(self._shell < self._collected(model))
        model.weight.copy_(torch.where(collected.to(mixed.device), mixed, model.weight))

    def prior_precision(self, model: MarginalDensity) -> Float[Tensor, "classes m m half"]:
        """Of each Fourier voxel, for one image."""
        if self._last_prior is not None:
            weight, collected, result = self._last_prior
            if collected == self._collected(model) and torch.equal(weight, model.weight):
                return result
        table = []
        for of_class in model.weight.cpu().numpy():
            mean = self.shell_mean(of_class)
            prior = PRIOR * mean + 1e-3 * mean.max()
            # Beyond the collected shells only leakage of the mask is found: held at zero.
            prior[self._collected(model) :] = mean.max()
            table.append(self.spherical(prior))
        result = torch.from_numpy(np.stack(table)).to(model.weight)
        self._last_prior = (model.weight.clone(), self._collected(model), result)
        return result

    def prior_gradient(self, model: MarginalDensity) -> Float[Tensor, "classes m m m"]:
        """T V, with T acting on the grid of the box."""
        side = self._plan.side
        spectrum = fourier.transform(model.voxels.detach(), 3) * self.prior_precision(model)
        return fourier.inverse_transform(spectrum, side, 3) * float(2 * side) ** 3

    def preconditioner(self, model: MarginalDensity) -> Callable[[Tensor], Tensor]:
        """P on flat voxels, close to the inverse Hessian (see `density.DensityProblem`); it reads the weight when it is
        applied."""
        side = self._plan.side

        def apply(vector: Tensor) -> Tensor:
            line = self._roll_off.to(vector)
            hessian = (model.weight + self.prior_precision(model)).to(vector)
            spectrum = fourier.transform(vector.reshape(-1, side, side, side) * line, 3) / hessian
            return (fourier.inverse_transform(spectrum, side, 3) * line).reshape(-1) / float(2 * side) ** 3

        return apply
