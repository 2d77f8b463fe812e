"""Where a PDE lives: intervals and boxes. Time is an axis of a box like any other."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.sampling import unit_points

Side = Literal["lower", "upper"]
SIDES: tuple[Side, Side] = ("lower", "upper")


@dataclass(frozen=True)
class Box:
    """The product of intervals [lower_i, upper_i]; space-time is `Box((a, 0.0), (b, T))` with time as the last axis.

    Raises:
        InputError: different numbers of lower and upper bounds, or an empty or infinite side.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.lower) != len(self.upper) or not self.lower:
            raise InputError(f"a box needs as many lower as upper bounds; got {self.lower} and {self.upper}.")
        for axis, (low, high) in enumerate(zip(self.lower, self.upper, strict=True)):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InputError(f"side {axis} of the box is [{low}, {high}]: it must be finite, with lower < upper.")

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return len(self.lower)

    @property
    def volume(self) -> float:
        """Length, area, volume, ..."""
        return math.prod(high - low for low, high in zip(self.lower, self.upper, strict=True))

    def sample(self, size: int, generator: torch.Generator, method: str = "auto") -> Float[Tensor, "points dim"]:
        """Points inside, float64 on the CPU, an independent draw at every call.

        Args:
            size: number of points.
            generator: a CPU generator, the only source of randomness.
            method: `auto` (stratified on a line, scrambled Sobol otherwise), `sobol`, `uniform`, `stratified` or
                `latin`; see `sciml.pde.sampling.unit_points`.
        """
        return self._scale(unit_points(size, self.dim, generator, method))

    def face(
        self, axis: int, side: Side, size: int, generator: torch.Generator, method: str = "auto"
    ) -> Float[Tensor, "points dim"]:
        """Points on one face, e.g. the initial time of `Box((a, 0.0), (b, T))`: `face(1, "lower", 200, generator)`."""
        if not 0 <= axis < self.dim:
            raise InputError(f"axis = {axis}: the box has axes 0 to {self.dim - 1}.")
        value = {"lower": self.lower, "upper": self.upper}[side][axis]
        if self.dim == 1:
            return torch.full((size, 1), value, dtype=torch.float64)
        free = [i for i in range(self.dim) if i != axis]
        rest = Box(tuple(self.lower[i] for i in free), tuple(self.upper[i] for i in free))
        points = torch.full((size, self.dim), value, dtype=torch.float64)
        points[:, free] = rest.sample(size, generator, method)
        return points

    def boundary(self, size: int, generator: torch.Generator, method: str = "auto") -> Float[Tensor, "points dim"]:
        """Points on all faces, shared out in proportion to the areas of the faces (rounded, at least one each)."""
        faces: list[tuple[int, Side]] = [(axis, side) for axis in range(self.dim) for side in SIDES]
        areas = torch.tensor([self.volume / (self.upper[axis] - self.lower[axis]) for axis, _ in faces])
        ends = torch.round(torch.cumsum(areas, 0) / areas.sum() * size).long().tolist()
        counts = [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]
        parts = [self.face(axis, side, n, generator, method) for (axis, side), n in zip(faces, counts, strict=True)]
        return torch.cat(parts)

    def _scale(self, unit: Tensor) -> Tensor:
        lower = torch.tensor(self.lower, dtype=torch.float64)
        upper = torch.tensor(self.upper, dtype=torch.float64)
        return lower + (upper - lower) * unit


class Interval(Box):
    """The interval [left, right]: a box of one dimension, so its points have shape (points, 1)."""

    def __init__(self, left: float, right: float) -> None:
        super().__init__((float(left),), (float(right),))

    @property
    def left(self) -> float:
        """Left end."""
        return self.lower[0]

    @property
    def right(self) -> float:
        """Right end."""
        return self.upper[0]

    @property
    def ends(self) -> Float[Tensor, "2 1"]:
        """Both end points."""
        return torch.tensor([[self.left], [self.right]], dtype=torch.float64)

    def grid(self, cells: int) -> Float[Tensor, "nodes"]:
        """The cells + 1 equidistant nodes of a uniform mesh, both ends exact."""
        if cells < 1:
            raise InputError(f"{cells} cells: a mesh has at least 1.")
        return torch.linspace(self.left, self.right, cells + 1, dtype=torch.float64)
