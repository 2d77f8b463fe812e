"""Whether gains on the fixed set are gains beside it too: over-fitting and exhaustion of the set of a stream."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW = 3
"""The number of looks over which gains are compared."""
GAIN = 0.02
"""Relative fall of the loss beside the set, over the window, that counts as a gain. It is multiplied by the number of
factors of two between the loss beside the set and that on it: the more they differ, the more a better set promises."""
OVERFIT = 2.0
"""Ratio of the loss beside the set to that on it, above which a set that brings no more gains is over-fitted."""
GAP = 0.05
"""Relative gap between these losses, below which the set is not to blame for a plateau."""


@dataclass
class Generalization:
    """Losses on the set and beside it, since the set last changed. Every look sees the same items.

    Attributes:
        looks: [loss on the set, loss beside it], oldest first.
    """

    looks: list[list[float]] = field(default_factory=list)

    def look(self, loss: float, beside: float) -> None:
        """Note the losses at one look.

        Args:
            loss: on the set.
            beside: on the items beside it.
        """
        self.looks = [*self.looks[-WINDOW:], [loss, beside]]

    @property
    def verdict(self) -> str | None:
        """The verdict over the window.

        "over-fitted": gains on the set are no gains beside it, and the losses differ by a factor. "stalled": there is
        no gain beside the set, and the losses differ a little, so noise may be the limit. None: neither.
        """
        if len(self.looks) <= WINDOW:
            return None
        (loss_then, beside_then), (loss, beside) = self.looks[0], self.looks[-1]
        if not math.isfinite(beside):
            return "over-fitted"
        factors = math.log2(max(beside / loss, 2.0)) if loss > 0 else 1.0
        if beside_then - beside >= GAIN * factors * abs(beside_then):
            return None
        if loss > 0:
            if beside > OVERFIT * loss:
                return "over-fitted"
        elif beside - beside_then > 0.5 * (loss_then - loss) > 0.5 * GAIN * abs(loss_then):
            return "over-fitted"  # an energy: what the set gains, others lose
        return "stalled" if beside - loss > GAP * abs(beside) else None

    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return asdict(self)
