"""What every domain can do, and domains made from others: unions, differences, intersections, products with time.

plate = Box((0.0, 0.0), (4.0, 1.0)) - Disk((2.0, 0.5), 0.2)
points, normals = plate.boundary(200, generator)
u = lambda x: plate.bubble(x) * network(x)          # zero on the boundary, hole included
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.boundary import Boundary
from sciml.pde.corners import Corner, Level, Part, at_corners, corners_of_union, have_a_seam, hypotenuse, smoothed
from sciml.pde.derivatives import gradient
from sciml.pde.outlines import outline_of
from sciml.pde.sampling import unit_points

ROUNDING = 1e-12
"""Relative to the size of a domain: closer than this to the boundary is on it."""


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
        """A function that is positive inside and vanishes on the boundary; smooth, re-entrant corners excepted.

        It makes a homogeneous Dirichlet condition hold by construction: u = bubble * network. Not to be used outside.
        At a re-entrant corner it behaves as solutions of elliptic equations do, like r^(pi / angle).

        Raises:
            InputError: no such function is known, e.g. of joined boxes in three dimensions.
        """
        return self.distance(x)

    def _outside(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """Like `bubble`, positive on the other side of the boundary."""
        outline = outline_of(self)
        return -self.distance(x) if outline is None else outline.reversed().bubble(x)

    def _lines(self) -> tuple[frozenset[float], frozenset[float]] | None:
        """The lines x = const and y = const on which the boundary runs; None if it does not run on such lines."""
        return None

    def _holds(self, x: Float[Tensor, "*points dim"]) -> Bool[Tensor, "*points"]:
        """Which points lie inside, found without `distance`; none of them is on a boundary."""
        return self.contains(x)

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

    def distance(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """That of the outline, where boxes of a plane are combined; else by Rvachev's functions."""
        outline = outline_of(self)
        return self._combined(x) if outline is None else outline.distance(x)

    def bubble(self, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
        """That of the outline, where boxes of a plane are combined; else from the bubbles of both."""
        outline = outline_of(self)
        return self._combined_bubble(x) if outline is None else outline.bubble(x)

    def _surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        outline = outline_of(self)
        if outline is None:
            return self._combined_surface(density, generator, method)
        return outline.surface(density, generator, method)

    @abstractmethod
    def _combined(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _combined_bubble(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _combined_surface(self, density: float, generator: torch.Generator, method: str) -> Boundary: ...

    def _lines(self) -> tuple[frozenset[float], frozenset[float]] | None:
        first, second = self.a._lines(), self.b._lines()
        return None if first is None or second is None else (first[0] | second[0], first[1] | second[1])


class Union(_Pair):
    """The union a | b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(map(min, self.a.lower, self.b.lower), map(max, self.a.upper, self.b.upper))

    def contains(self, x: Float[Tensor, "*points dim"]) -> Bool[Tensor, "*points"]:
        """Which points lie in one of both."""
        return self.a.contains(x) | self.b.contains(x)

    def _holds(self, x: Tensor) -> Tensor:
        return self.a._holds(x) | self.b._holds(x)

    def _combined(self, x: Tensor) -> Tensor:
        """R-disjunction: a + b + sqrt(a^2 + b^2)."""
        first, *levels = _levels(self)
        result = first(x)
        for level in levels:
            other = level(x)
            result = result + other + hypotenuse(result, other)
        return result

    def _combined_bubble(self, x: Tensor) -> Tensor:
        if self.dim != 2:
            raise InputError(
                f"no smooth function vanishes on the boundary of {self}, whose edges point inwards: give the values "
                "there as a loss term, dirichlet(u, points) with points of `boundary`. "
                "Where the last coordinate is time, write (a | b) * time."
            )
        return at_corners(_corners(self), self._combined(x), x)

    def _combined_surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        first, second = (part._surface(density, generator, method) for part in (self.a, self.b))
        # Where both boundaries run along each other, the normals tell an outer wall of both from a seam.
        value, rounding = self.b.distance(first.points)[:, 0], self._rounding
        out = gradient(self.b.distance, first.points).detach()
        same = (value.abs() <= rounding) & ((out * first.normals).sum(dim=-1) < 0)
        return first.keep((value < -rounding) | same).join(second.keep(~self.a.contains(second.points)))


class Intersection(_Pair):
    """The intersection a & b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(map(max, self.a.lower, self.b.lower), map(min, self.a.upper, self.b.upper))

    def _holds(self, x: Tensor) -> Tensor:
        return self.a._holds(x) & self.b._holds(x)

    def _combined(self, x: Tensor) -> Tensor:
        """R-conjunction: a + b - sqrt(a^2 + b^2)."""
        a, b = self.a.distance(x), self.b.distance(x)
        return a + b - hypotenuse(a, b)

    def _combined_bubble(self, x: Tensor) -> Tensor:
        """The product of both, smooth at the corners too."""
        return self.a.bubble(x) * self.b.bubble(x)

    def _combined_surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        first, second = (part._surface(density, generator, method) for part in (self.a, self.b))
        inside = self.a.distance(second.points)[..., 0] > self._rounding
        return first.keep(self.b.contains(first.points)).join(second.keep(inside))


class Difference(_Pair):
    """The difference a - b: what of a is outside b."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_corners(self.a.lower, self.a.upper)

    def _holds(self, x: Tensor) -> Tensor:
        return self.a._holds(x) & ~self.b._holds(x)

    def _combined(self, x: Tensor) -> Tensor:
        """R-conjunction of a and the outside of b."""
        a, b = self.a.distance(x), -self.b.distance(x)
        return a + b - hypotenuse(a, b)

    def _combined_bubble(self, x: Tensor) -> Tensor:
        """The bubble of a times one of the outside of b, smooth where the two boundaries meet too."""
        return self.a.bubble(x) * self.b._outside(x)

    def _combined_surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        outer, inner = (part._surface(density, generator, method) for part in (self.a, self.b))
        inside = self.a.distance(inner.points)[..., 0] > self._rounding
        walls = Boundary(inner.points, -inner.normals).keep(inside)
        return outer.keep(~self.b.contains(outer.points)).join(walls)


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


@lru_cache(256)
def _parts(union: Union) -> tuple[Domain, ...]:
    """What a union joins, with all that is made of boxes of a plane as one.

    Raises:
        InputError: two of them touch along a wall, which no smooth distance can leave out.
    """
    leaves: list[Domain] = []
    waiting: list[Domain] = [union]
    while waiting:
        domain = waiting.pop()
        if isinstance(domain, Union):
            waiting += [domain.b, domain.a]
        else:
            leaves.append(domain)
    straight = [leaf for leaf in leaves if leaf._lines() is not None]
    parts = [leaf for leaf in leaves if leaf._lines() is None]
    if straight:
        joined = straight[0]
        for leaf in straight[1:]:
            joined = Union(joined, leaf)
        parts.append(joined)
    for one, other in itertools.combinations(parts, 2):
        if have_a_seam(one.boundary(2000, torch.Generator().manual_seed(0)), other.distance, one._rounding):
            raise InputError(
                f"{one} and {other} touch along a wall, which would stay in their union: let them overlap, join plain "
                "boxes first, or give boundary values as loss terms, dirichlet(u, points)."
            )
    return tuple(parts)


@lru_cache(256)
def _plane_parts(union: Union) -> tuple[Part, ...]:
    """What a union in a plane joins."""
    parts = []
    for part in _parts(union):
        outline = outline_of(part)
        vertices = () if outline is None else tuple((x, y) for x, y in outline.ends.tolist())
        boundary = part.boundary(4000, torch.Generator().manual_seed(0))
        parts.append(Part(part.distance, boundary, vertices, () if outline is None else outline.corners))
    return tuple(parts)


@lru_cache(256)
def _levels(union: Union) -> tuple[Level, ...]:
    """Signed distances of what a union joins, smooth inside it."""
    if union.dim != 2:
        return tuple(part.distance for part in _parts(union))
    parts = _plane_parts(union)
    return tuple(smoothed(part, [other for other in parts if other is not part]) for part in parts)


@lru_cache(256)
def _corners(union: Union) -> tuple[Corner, ...]:
    """Re-entrant corners of a union in a plane."""
    size = max(high - low for low, high in zip(union.lower, union.upper, strict=True))
    try:
        return corners_of_union(_plane_parts(union), size)
    except ValueError as error:
        message = (
            f"{union}: {error}. Let its parts overlap, or give boundary values as loss terms, dirichlet(u, points)."
        )
        raise InputError(message) from None
