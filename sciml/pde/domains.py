"""The domains of a PDE: intervals, boxes, disks. `regions.py` combines them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.boundary import Boundary
from sciml.pde.corners import hypotenuse
from sciml.pde.regions import Domain
from sciml.pde.sampling import unit_points

Side = Literal["lower", "upper"]
SIDES: tuple[Side, Side] = ("lower", "upper")


@dataclass(frozen=True)
class Box(Domain):
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
    def volume(self) -> float:
        """The length, area or volume."""
        return math.prod(high - low for low, high in zip(self.lower, self.upper, strict=True))

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The R-conjunction of (x - a)(b - x) / (b - a) over the axes; exact to first order at every face."""
        low, high = self._corners(x)
        sides = ((x - low) * (high - x) / (high - low)).split(1, dim=-1)
        result = sides[0]
        for side in sides[1:]:
            result = result + side - hypotenuse(result, side)
        return result

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The product of 4 (x - a)(b - x) / (b - a)^2 over the axes: 1 in the middle, smooth everywhere."""
        low, high = self._corners(x)
        return (4 * (x - low) * (high - x) / (high - low) ** 2).prod(dim=-1, keepdim=True)

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

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        points, normals = [], []
        for axis in range(self.dim):
            area = self.volume / (self.upper[axis] - self.lower[axis])
            for side in SIDES:
                face = self.face(axis, side, math.ceil(density * area), generator, method)
                points.append(face)
                normals.append(torch.zeros_like(face))
                normals[-1][:, axis] = -1.0 if side == "lower" else 1.0
        return Boundary(torch.cat(points), torch.cat(normals))

    def _lines(self) -> tuple[frozenset[float], frozenset[float]] | None:
        if self.dim != 2:
            return None
        first, second = (frozenset(sides) for sides in zip(self.lower, self.upper, strict=True))
        return first, second

    def _corners(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.lower), like.new_tensor(self.upper)


class Interval(Box):
    """The interval [left, right]: a box of one dimension, so its points have shape (points, 1)."""

    def __init__(self, left: float, right: float) -> None:
        super().__init__((float(left),), (float(right),))

    @property
    def left(self) -> float:
        """The left end of the interval."""
        return self.lower[0]

    @property
    def right(self) -> float:
        """The right end of the interval."""
        return self.upper[0]

    @property
    def ends(self) -> Float[Tensor, "2 1"]:
        """Both end points, the left one first."""
        return torch.tensor([[self.left], [self.right]], dtype=torch.float64)

    def grid(self, cells: int) -> Float[Tensor, "nodes"]:
        """The cells + 1 equidistant nodes of a uniform mesh, both ends exact."""
        if cells < 1:
            raise InputError(f"{cells} cells: a mesh has at least 1.")
        return torch.linspace(self.left, self.right, cells + 1, dtype=torch.float64)


@dataclass(frozen=True)
class Disk(Domain):
    """The points of a plane that are no farther than `radius` from `center`.

    Raises:
        InputError: no center in a plane, or no positive radius.
    """

    center: tuple[float, float]
    radius: float

    def __post_init__(self) -> None:
        if len(self.center) != 2 or not all(map(math.isfinite, (*self.center, self.radius))) or self.radius <= 0:
            raise InputError(f"a disk with center {self.center}, radius {self.radius}: give (x, y) and a radius > 0.")
        self._set_corners((c - self.radius for c in self.center), (c + self.radius for c in self.center))

    @property
    def volume(self) -> float:
        """The area of the disk."""
        return math.pi * self.radius**2

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """(R^2 - r^2) / 2 R: smooth, and exact to first order at the circle."""
        square = (x - x.new_tensor(self.center)).square().sum(dim=-1, keepdim=True)
        return (self.radius**2 - square) / (2 * self.radius)

    def sample(self, size: int, generator: torch.Generator, method: str = "auto") -> Float[Tensor, "points dim"]:
        """Uniformly distributed points: the unit square's, with area as one polar coordinate. See `Domain.sample`."""
        unit = unit_points(size, 2, generator, method)
        return self._polar(self.radius * unit[:, 0].sqrt(), 2 * math.pi * unit[:, 1])

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        number = math.ceil(density * 2 * math.pi * self.radius)
        angle = 2 * math.pi * unit_points(number, 1, generator, method)[:, 0]
        return Boundary(
            self._polar(torch.full_like(angle, self.radius), angle), torch.stack([angle.cos(), angle.sin()], dim=-1)
        )

    def _polar(self, radius: Tensor, angle: Tensor) -> Tensor:
        center = torch.tensor(self.center, dtype=torch.float64)
        return center + radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)


def interleave(
    domains: Sequence[Domain], size: int, generator: torch.Generator, method: str = "auto"
) -> Float[Tensor, "points dim"]:
    """Points of several domains in turn, so that any run of them holds as many of each: for more points in a part.

    `interleave((plate, plate & around_the_hole), 400, generator)`; other arguments as for `Domain.sample`.

    Raises:
        InputError: no domain, or domains of different dimensions.
    """
    if len({domain.dim for domain in domains}) != 1:
        raise InputError(f"points of {list(domains)} in turn: give domains with the same number of coordinates.")
    share = -(-size // len(domains))
    drawn = [domain.sample(share, generator, method) for domain in domains]
    return torch.stack(drawn, dim=1).flatten(0, 1)[:size]
