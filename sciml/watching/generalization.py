"""Whether what is gained on the fixed set is gained beside it too: over-fitting and exhaustion of a stream's set."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

WINDOW = 3
"""Looks over which gains are compared."""
GAIN = 0.02
"""Relative fall of the loss beside the set, over the window, that counts as a gain; that many for each factor of two
between the loss beside the set and that on it, since the more they differ, the more a better set promises."""
OVERFIT = 2.0
"""Loss beside the set over loss on it, from which a set that no longer brings gains is over-fitted."""
GAP = 0.05
"""Relative gap of these losses below which a plateau is not the set's fault."""


@dataclass
class Generalization:
    """Losses on the set and beside it, on the same items at every look, since the set last changed.

    Attributes:
        looks: [loss on the set, loss beside it], oldest first.
    """

    looks: list[list[float]] = field(default_factory=list)

    def look(self, loss: float, beside: float) -> None:
        """Note one look."""
        self.looks = [*self.looks[-WINDOW:], [loss, beside]]

    @property
    def verdict(self) -> str | None:
        """What the window says: "over-fitted" (gains on the set are not gained beside it, and the losses differ by a
        factor), "stalled" (no gain beside the set, and the losses differ a little: noise may be the limit), or None.
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
