"""Points of a boundary with their normals."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Boundary(NamedTuple):
    """Points of a boundary and the unit normals there, which point out of the domain."""

    points: Float[Tensor, "points dim"]
    normals: Float[Tensor, "points dim"]

    def where(self, condition: Callable[[Tensor], Tensor]) -> "Boundary":
        """The part whose points meet a condition: `edge.where(lambda x: x[:, 0] > 0)`."""
        return self.keep(condition(self.points))

    def keep(self, which: Bool[Tensor, " points"]) -> "Boundary":
        """The chosen points."""
        return Boundary(self.points[which], self.normals[which])

    def join(self, other: "Boundary") -> "Boundary":
        """These points and others."""
        return Boundary(torch.cat([self.points, other.points]), torch.cat([self.normals, other.normals]))
