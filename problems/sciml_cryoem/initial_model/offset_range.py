"""Which offsets a search without poses tries: a range that is widened where those of the images go on beyond it."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciml_cryoem.imaging import orientations
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, SearchPlan
from sciml_cryoem.poses.search_result import SearchResult


class OffsetRange:
    """The offsets that are tried; what is known of those of the images is kept in the model's buffers.

    Args:
        plan: the range at first and at most, and the step.
    """

    def __init__(self, plan: SearchPlan) -> None:
        self._step, self._widest = plan.shift_step, plan.widest

    def tried(self, model: MarginalDensity) -> Float[np.ndarray, "shifts 2"]:
        """Offsets (x, y) in pixels."""
        return orientations.shift_disc(float(model.shift_range), self._step)

    def _at_the_end(self, model: MarginalDensity) -> Bool[np.ndarray, " shifts"]:
        """Which of the offsets are at the end of the range."""
        length = np.hypot(*self.tried(model).T)
        return length > length.max() - 0.5 * self._step

    def outermost(self, model: MarginalDensity, found: SearchResult) -> float:
        """Number of images whose likeliest offset is at the end of the range."""
        return float(self._at_the_end(model)[found.places[:, 0, 0]].sum())

    def learn(self, model: MarginalDensity, share: Tensor, images: int) -> None:
        """Remember the share of a batch's images whose likeliest offset is at the end of the range."""
        counts = torch.tensor([float(share) * images, images], dtype=torch.float64)
        model.outermost.mul_(0.5 ** (images / HALF_LIFE)).add_(counts)

    def cut_short(self, model: MarginalDensity) -> bool:
        """Whether the offsets of the images go on beyond the range: more of them are found at its end than if offsets
        there were as frequent as elsewhere."""
        there, images = model.outermost.tolist()
        return images > 0 and there / images > float(self._at_the_end(model).mean())

    def widen(self, model: MarginalDensity) -> bool:
        """Try a wider range; False if it is the widest already."""
        wider = min(orientations.WIDER * float(model.shift_range), self._widest)
        if wider < float(model.shift_range) + self._step:
            return False
        model.shift_range.fill_(wider)
        model.outermost.zero_()
        return True
