"""Essential (Dirichlet) conditions that hold by construction, whatever the network says."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.domains import Interval


@dataclass(frozen=True)
class HardDirichlet:
    """Turns a free field N on an interval into one with prescribed end values: u(x) = lift(x) + mask(x) N(x).

    With t = (x - left end) / length the mask is t for a condition on the left, 1 - t on the right, 4 t (1 - t) on
    both; the lift is the constant or linear function through the prescribed values.

    Args:
        interval: where the field lives.
        left, right: prescribed values; None leaves that end free.
    """

    interval: Interval
    left: float | None = None
    right: float | None = None

    def __post_init__(self) -> None:
        if self.left is None and self.right is None:
            raise InputError("a hard Dirichlet condition with both ends free: prescribe at least one end value.")

    def __call__(self, free: Float[Tensor, "*points 1"], x: Float[Tensor, "*points 1"]) -> Float[Tensor, "*points 1"]:
        """The field that satisfies the conditions, from the free one at the same points."""
        length = self.interval.right - self.interval.left
        if self.right is None:
            result, value = (x - self.interval.left) * (free / length), self.left
        elif self.left is None:
            result, value = (self.interval.right - x) * (free / length), self.right
        else:
            result = (x - self.interval.left) * (self.interval.right - x) * (free * (4 / length**2))
            value = self.left
            if self.right != self.left:
                result = result + (x - self.interval.left) * ((self.right - self.left) / length)
        return result + value if value else result
