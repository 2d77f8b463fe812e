"""What every domain can do, and domains made from others: unions, differences, intersections, products with time.

plate = Box((0.0, 0.0), (4.0, 1.0)) - Disk((2.0, 0.5), 0.2)
points, normals = plate.boundary(200, generator)
u = lambda x: plate.bubble(x) * network(x)          # zero on the boundary, hole included
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.sampling import unit_points

ROUNDING = 1e-12
"""Relative to the size of a domain: closer than this to the boundary is on it."""


class Boundary(NamedTuple):
    """Points of a boundary and the unit normals there, which point out of the domain."""

    points: Float[Tensor, "points dim"]
    normals: Float[Tensor, "points dim"]

    def where(self, condition: Callable[[Tensor], Tensor]) -> "Boundary":
        """The part whose points meet a condition: `edge.where(lambda x: x[:, 0] > 0)`."""
        return _keep(self, condition(self.points))


class Domain(ABC):
    """A bounded, closed set of points.

    Attributes:
        lower: the lower corner of a box that holds it.
        upper: the upper corner of that box.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return len(self.lower)

    def _set_corners(self, lower: Iterable[float], upper: Iterable[float]) -> None:
        # Domains are frozen dataclasses; their corners follow from the fields.
        object.__setattr__(self, "lower", tuple(lower))
        object.__setattr__(self, "upper", tuple(upper))

    @abstractmethod
    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """An approximate signed distance from the boundary: positive inside, negative outside.

        It vanishes on the boundary, where its gradient is the inward unit normal (corners excepted). Combinations use
        Rvachev's functions, see Sukumar and Srivastava (2022, Comput. Methods Appl. Mech. Eng. 389, 114333).
        """

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """A function that is positive inside and vanishes on the boundary; smooth, inner corners of a union excepted.

        It makes a homogeneous Dirichlet condition hold by construction: u = bubble * network. Not to be used outside.
        """
        return self.distance(x)

    def contains(self, x: Float[Tensor, "*points dim"]) -> Bool[Tensor, "*points"]:
        """Which points lie in the domain; those of its boundary do."""
        return self.distance(x)[..., 0] >= -self._rounding

    def sample(self, size: int, generator: torch.Generator, method: str = "auto") -> Float[Tensor, "points dim"]:
        """Uniformly distributed points inside, float64 on the CPU, an independent draw at every call.

        Args:
            size: number of points.
            generator: a CPU generator, the only source of randomness.
            method: `auto` (stratified on a line, scrambled Sobol otherwise), `sobol`, `uniform`, `stratified` or
                `latin`; see `sciml.pde.sampling.unit_points`. Where the domain is no box, points of the box around it
                that lie outside are dropped.
        """
        low, high = (torch.tensor(corner, dtype=torch.float64) for corner in (self.lower, self.upper))
        drawn = size
        while True:
            points = low + (high - low) * unit_points(drawn, self.dim, generator, method)
            inside = points[self.contains(points)]
            if len(inside) >= size:
                return inside[:size]
            if drawn > 10_000 * size + 100_000:
                raise InputError(f"{self} seems to be empty: {len(inside)} of {drawn} points lie inside.")
            drawn = int(1.1 * drawn * min(size / max(len(inside), 1), 8.0)) + 8

    def boundary(self, size: int, generator: torch.Generator, method: str = "auto") -> Boundary:
        """Points uniformly distributed over the boundary, in random order, and the outward normals.

        Arguments as for `sample`; `method` holds for each face or circle by itself.
        """
        sides = [high - low for low, high in zip(self.lower, self.upper, strict=True)]
        if min(sides) <= 0:
            raise InputError(f"{self} is empty: it has no boundary.")
        around = 2 * math.prod(sides) * sum(1 / side for side in sides)  # the surface of the box around the domain
        count = float(size)
        # Twice at most is the first guess corrected downwards; what is too many then is dropped.
        for attempt in itertools.count():
            points, normals = self._surface(count / around, generator, method)
            if len(points) >= size and (attempt > 1 or len(points) <= 1.1 * size):
                chosen = torch.randperm(len(points), generator=generator)[:size]
                return Boundary(points[chosen], normals[chosen])
            if count > 1000 * size + 100_000:
                break
            count *= min(1.05 * size / max(len(points), 1), 2.0)
        raise InputError(f"{self} seems to have no boundary: is it empty?")

    @abstractmethod
    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        """About `density` points per unit of length or area of the boundary."""

    @property
    def _rounding(self) -> float:
        return ROUNDING * max(high - low for low, high in zip(self.lower, self.upper, strict=True))

    def __or__(self, other: "Domain") -> "Domain":
        """The union of two domains."""
        return Union(self, other)

    def __and__(self, other: "Domain") -> "Domain":
        """The intersection."""
        return Intersection(self, other)

    def __sub__(self, other: "Domain") -> "Domain":
        """What of this domain is outside the other (whose boundary, where it lies in this one, remains)."""
        return Difference(self, other)

    def __mul__(self, time: "Domain") -> "SpaceTime":
        """Space-time: the product with an interval of time, which becomes the last coordinate."""
        return SpaceTime(self, time)


@dataclass(frozen=True)
class _Pair(Domain):
    a: Domain
    b: Domain

    def __post_init__(self) -> None:
        if self.a.dim != self.b.dim:
            raise InputError(f"{self.a} has {self.a.dim} coordinates, {self.b} has {self.b.dim}: make them equal.")


class Union(_Pair):
    """The union a | b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(map(min, self.a.lower, self.b.lower), map(max, self.a.upper, self.b.upper))

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """R-disjunction: a + b + sqrt(a^2 + b^2)."""
        a, b = self.a.distance(x), self.b.distance(x)
        return a + b + hypotenuse(a, b)

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        first, second = (part._surface(density, generator, method) for part in (self.a, self.b))
        return _join(_keep(first, ~self.b.contains(first.points)), _keep(second, ~self.a.contains(second.points)))


class Intersection(_Pair):
    """The intersection a & b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(map(max, self.a.lower, self.b.lower), map(min, self.a.upper, self.b.upper))

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """R-conjunction: a + b - sqrt(a^2 + b^2)."""
        a, b = self.a.distance(x), self.b.distance(x)
        return a + b - hypotenuse(a, b)

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The product of both, smooth at the corners too."""
        return self.a.bubble(x) * self.b.bubble(x)

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        first, second = (part._surface(density, generator, method) for part in (self.a, self.b))
        inside = self.a.distance(second.points)[..., 0] > self._rounding
        return _join(_keep(first, self.b.contains(first.points)), _keep(second, inside))


class Difference(_Pair):
    """The difference a - b: what of a is outside b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(self.a.lower, self.a.upper)

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """R-conjunction of a and the outside of b."""
        a, b = self.a.distance(x), -self.b.distance(x)
        return a + b - hypotenuse(a, b)

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The bubble of a times the distance from b, smooth where the two boundaries meet too."""
        return -self.a.bubble(x) * self.b.distance(x)

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        outer, inner = (part._surface(density, generator, method) for part in (self.a, self.b))
        inside = self.a.distance(inner.points)[..., 0] > self._rounding
        return _join(
            _keep(outer, ~self.b.contains(outer.points)), _keep(Boundary(inner.points, -inner.normals), inside)
        )


@dataclass(frozen=True)
class SpaceTime(Domain):
    """space * interval: points (x, t) with time as the last coordinate.

    Its `boundary` consists of the walls, that is the boundary of space at all times. The normals there have no
    component along time, and `bubble` vanishes there. The start does not belong to it: see `at`.

    Attributes:
        space: where the points x lie.
        time: the interval of t.

    Raises:
        InputError: time has more than one coordinate.
    """

    space: Domain
    time: Domain

    def __post_init__(self) -> None:
        if self.time.dim != 1:
            raise InputError(f"{self.time} as time has {self.time.dim} coordinates: give an Interval.")
        self._set_corners((*self.space.lower, *self.time.lower), (*self.space.upper, *self.time.upper))

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """R-conjunction of space and time."""
        a, b = self.space.distance(x[..., :-1]), self.time.distance(x[..., -1:])
        return a + b - hypotenuse(a, b)

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """The bubble of space, at all times."""
        return self.space.bubble(x[..., :-1])

    def at(
        self, time: float, size: int, generator: torch.Generator, method: str = "auto"
    ) -> Float[Tensor, "points dim"]:
        """Points of space at one time: `at(0.0, 200, generator)` for initial conditions."""
        points = self.space.sample(size, generator, method)
        return torch.cat([points, torch.full((size, 1), float(time), dtype=torch.float64)], dim=-1)

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        (start,), (end,) = self.time.lower, self.time.upper
        length = end - start
        points, normals = self.space._surface(density * length, generator, method)
        times = start + length * unit_points(len(points), 1, generator, "stratified")
        return Boundary(torch.cat([points, times], dim=-1), torch.cat([normals, torch.zeros_like(times)], dim=-1))


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


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2), with a finite gradient where both vanish."""
    return torch.sqrt(a * a + b * b + torch.finfo(a.dtype).tiny)


def _keep(boundary: Boundary, which: Tensor) -> Boundary:
    return Boundary(boundary.points[which], boundary.normals[which])


def _join(first: Boundary, second: Boundary) -> Boundary:
    return Boundary(torch.cat([first.points, second.points]), torch.cat([first.normals, second.normals]))
