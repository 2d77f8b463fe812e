"""Which offsets a search without poses tries: a range that is widened where those of the images go on beyond it."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float

from sciml_cryoem.imaging import orientations
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, Plan
from sciml_cryoem.poses.search_result import SearchResult

if TYPE_CHECKING:
    from sciml_cryoem.initial_model.marginal import MarginalDensity


class OffsetRange:
    """The offsets that are tried; what is known of the images' own is kept in the model, and so in its checkpoints.

    Args:
        plan: the range at first and at most, and the step.
    """

    def __init__(self, plan: Plan) -> None:
        self._step, self._widest = plan.shift_step, plan.widest

    def tried(self, model: "MarginalDensity") -> Float[np.ndarray, "shifts 2"]:
        """Offsets (x, y) in pixels."""
        return orientations.shift_disc(float(model.shift_range), self._step)

    def _outermost(self, model: "MarginalDensity") -> Bool[np.ndarray, " shifts"]:
        """Which of them are at the end of the range."""
        length = np.hypot(*self.tried(model).T)
        return length > length.max() - 0.5 * self._step

    def watch(self, model: "MarginalDensity", found: SearchResult, images: int) -> None:
        """Count the images of a batch whose likeliest offset is at the end of the range."""
        there = self._outermost(model)[found.places[:, 0, 0]].sum()
        model.edge.mul_(0.5 ** (images / HALF_LIFE)).add_(torch.tensor([float(there), images], dtype=torch.float64))

    def cut_short(self, model: "MarginalDensity") -> bool:
        """Whether the offsets of the images go on beyond the range: more of them are found at its end than if offsets
        there were as frequent as elsewhere."""
        there, images = model.edge.tolist()
        return images > 0 and there / images > float(self._outermost(model).mean())

    def widen(self, model: "MarginalDensity") -> bool:
        """Try a wider range; False if it is the widest already."""
        wider = min(orientations.WIDER * float(model.shift_range), self._widest)
        if wider < float(model.shift_range) + self._step:
            return False
        model.shift_range.fill_(wider)
        model.edge.zero_()
        return True
