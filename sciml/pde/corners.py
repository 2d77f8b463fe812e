"""Functions that vanish on a boundary and suit equations at its corners.

A function that vanishes on both sides of a corner cannot have slope 1 at both and a bounded Laplacian: that of
r g(theta) is (g + g'') / r, which forces the network behind it to vanish there. Solutions of elliptic equations look
like r^(pi / angle) cos(pi psi / angle), with psi the angle from the bisector (Grisvard 1985, Elliptic Problems in
Nonsmooth Domains). The Laplacian of this is zero, so that near a corner it takes the place of the distance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.pde.boundary import Boundary
from sciml.pde.derivatives import gradient

Level = Callable[[Tensor], Tensor]
"""A smooth function of points (*points, 2), zero on a curve, with the inward unit normal as gradient there."""

CONTACT = 1e-5
"""Relative to the size of a domain: boundaries that run along each other closer than this touch."""


@dataclass(frozen=True)
class Corner:
    """A corner: where the boundaries of {first > 0} and {second > 0} cross.

    The domain is the union of these sets where it is re-entrant, else their intersection.

    Attributes:
        point: the corner.
        normals: inward unit normals of both curves at the corner, a row each; not parallel.
        levels: of both curves, values (*points, 1).
        radius: within it the boundary of the domain consists of these two curves.
        reentrant: of more than 180 degrees.
    """

    point: tuple[float, float]
    normals: tuple[tuple[float, float], tuple[float, float]]
    levels: tuple[Level, Level]
    radius: float
    reentrant: bool = True

    @property
    def angle(self) -> float:
        """Of the domain at the corner."""
        (a, b), (c, d) = self.normals
        turn = math.acos(max(-1.0, min(1.0, a * c + b * d)))
        return math.pi + (turn if self.reentrant else -turn)

    def function(self, x: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 1"]:
        """Zero on both curves, positive in the domain, harmonic where both are straight; a length."""
        first, second = (torch.tensor(normal, dtype=torch.float64) for normal in self.normals)
        bisector = (first + second) / (first + second).norm()
        across = torch.stack([-bisector[1], bisector[0]])
        # Coordinates in which both curves are straight: y . n = level.
        back = torch.linalg.inv(torch.stack([first, second]))
        along, aside = (torch.stack([axis @ back for axis in (bisector, across)])).to(x).unbind()
        levels = torch.cat([level(x) for level in self.levels], dim=-1)
        u, v = (levels * along).sum(dim=-1, keepdim=True), (levels * aside).sum(dim=-1, keepdim=True)
        # At the corner itself neither angle nor slope exists.
        square = u * u + v * v
        apart = square > torch.finfo(x.dtype).tiny
        psi = torch.atan2(torch.where(apart, v, 0.0), torch.where(apart, u, 1.0))
        power = math.pi / self.angle
        reach = (torch.where(apart, square, 1.0) / self.radius**2) ** (power / 2)
        return torch.where(apart, self.radius * reach * torch.cos(power * psi), 0.0)


def at_corners(
    corners: Sequence[Corner], elsewhere: Float[Tensor, "*points 1"], x: Float[Tensor, "*points 2"]
) -> Float[Tensor, "*points 1"]:
    """Near each corner its own function, else the given one. The corners' radii must not overlap."""
    for corner in corners:
        weight = fading(squared_distance(x, corner.point) / corner.radius**2)
        elsewhere = weight * corner.function(x) + (1 - weight) * elsewhere
    return elsewhere


def squared_distance(x: Float[Tensor, "*points 2"], point: Sequence[float]) -> Float[Tensor, "*points 1"]:
    """Of points from one."""
    return (x - x.new_tensor(point)).square().sum(dim=-1, keepdim=True)


def fading(square: Tensor) -> Tensor:
    """1 at 0 and 0 from 1 on, as a function of the squared distance; flat at both, four times differentiable."""
    t = square.clamp(0.0, 1.0)
    return 1 - t**5 * (126 - 420 * t + 540 * t**2 - 315 * t**3 + 70 * t**4)


def straight(point: Sequence[float], normal: Sequence[float]) -> Level:
    """The signed distance from a line through a point."""
    return lambda x: ((x - x.new_tensor(point)) * x.new_tensor(normal)).sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Part:
    """One of the domains that a union joins.

    Attributes:
        distance: its signed distance.
        boundary: points of it, with normals.
        vertices: of its boundary, where the distance is not smooth.
        corners: its corners with straight sides.
    """

    distance: Level
    boundary: Boundary
    vertices: tuple[tuple[float, float], ...]
    corners: tuple[Corner, ...]


def smoothed(part: Part, others: Sequence[Part]) -> Level:
    """The distance of a part, smooth also at those of its vertices that lie inside another part.

    There it fades to zero: what a part says inside another does not matter for their union.
    """
    hidden = []
    for vertex in part.vertices:
        x = torch.tensor([vertex], dtype=torch.float64)
        depth = max((float(other.distance(x)) for other in others), default=0.0)
        if depth > 0:
            hidden.append((vertex, 0.9 * depth))

    def level(x: Tensor) -> Tensor:
        result = part.distance(x)
        for vertex, radius in hidden:
            result = result * (1 - fading(squared_distance(x, vertex) / radius**2))
        return result

    return level


def corners_of_union(parts: Sequence[Part], size: float) -> tuple[Corner, ...]:
    """The corners of a union: where boundaries of its parts cross, and those of its parts.

    Args:
        parts: the domains.
        size: of the union, a length.

    Raises:
        ValueError: boundaries that touch without crossing, or are too intricate at a corner.
    """
    vertices = [vertex for part in parts for vertex in part.vertices]
    found = []
    for number, part in enumerate(parts):
        others = [*parts[:number], *parts[number + 1 :]]
        found += [corner for corner in part.corners if not _covered(corner.point, others, size)]
        for later in range(number + 1, len(parts)):
            rest = [other for place, other in enumerate(parts) if place not in (number, later)]
            _refuse_contact(part, parts[later], rest, size)
            crossings = _crossings(part, parts[later], vertices, size)
            found += [corner for corner in crossings if not _covered(corner.point, rest, size)]
    walls = torch.cat([_uncovered(number, parts, size) for number in range(len(parts))])
    return tuple(
        _fitted(corner, [other.point for other in found if other is not corner], walls, size) for corner in found
    )


def _covered(point: Sequence[float], others: Sequence[Part], size: float) -> bool:
    x = torch.tensor([point], dtype=torch.float64)
    return any(float(other.distance(x)) > 1e-9 * size for other in others)


def _uncovered(number: int, parts: Sequence[Part], size: float) -> Tensor:
    points = parts[number].boundary.points
    for place, other in enumerate(parts):
        if place != number:
            points = points[other.distance(points)[:, 0] < 1e-9 * size]
    return points


def _refuse_contact(one: Part, other: Part, rest: Sequence[Part], size: float) -> None:
    """Refuse boundaries that touch where they do not cross: no function is smooth and vanishes on both beside that."""
    close = one.boundary.keep(other.distance(one.boundary.points)[:, 0].abs() < CONTACT * size)
    slope = torch.nn.functional.normalize(gradient(other.distance, close.points), dim=1).detach()
    across = slope[:, 0] * close.normals[:, 1] - slope[:, 1] * close.normals[:, 0]
    touching = [tuple(point) for point in close.points[across.abs() < 0.02].tolist()]
    for part, opposite in ((one, other), (other, one)):
        value = opposite.distance(torch.tensor(part.vertices, dtype=torch.float64).reshape(-1, 2))[:, 0]
        touching += [vertex for vertex, gap in zip(part.vertices, value.abs(), strict=True) if gap < CONTACT * size]
    for point in touching:
        if not _covered(point, rest, size):
            raise ValueError(f"boundaries touch without crossing near ({point[0]:.4g}, {point[1]:.4g})")


def _crossings(one: Part, other: Part, vertices: Sequence[tuple[float, float]], size: float) -> list[Corner]:
    """Where the boundaries of two parts cross, by Newton's method from points of the first."""
    points = one.boundary.points[other.distance(one.boundary.points)[:, 0].abs() < 0.1 * size]
    for _ in range(30 if len(points) else 0):
        points = points.detach()
        value, slope = _levels(one, other, points)
        regular = torch.linalg.det(slope).abs() > 1e-6
        points, value, slope = points[regular], value[regular], slope[regular]
        step = torch.linalg.solve(slope, value[..., None])[..., 0]
        points = points - step * (0.2 * size / step.norm(dim=1, keepdim=True)).clamp(max=1.0)
        points = points[points.isfinite().all(dim=1)]
    found: list[Corner] = []
    for point in points.detach():
        value, slope = _levels(one, other, point[None])
        place, normals = tuple(point.tolist()), torch.nn.functional.normalize(slope[0], dim=1)
        known = (*vertices, *(corner.point for corner in found))
        if float(value.abs().max()) > 1e-12 * size or any(math.dist(place, other) < 1e-6 * size for other in known):
            continue
        if abs(float(torch.linalg.det(normals))) > 1e-3:
            first, second = (tuple(normal) for normal in normals.tolist())
            away = [math.dist(place, vertex) for vertex in vertices]
            found.append(Corner(place, (first, second), (one.distance, other.distance), 0.9 * min([size, *away])))
    return found


def _levels(one: Part, other: Part, points: Tensor) -> tuple[Tensor, Tensor]:
    """Both distances and their gradients, (points, 2) and (points, 2, 2)."""
    x = points.requires_grad_()
    values = torch.cat([part.distance(x) for part in (one, other)], dim=1)
    slopes = [torch.autograd.grad(values[:, place].sum(), x, retain_graph=True)[0] for place in (0, 1)]
    return values.detach(), torch.stack(slopes, dim=1)


def _fitted(corner: Corner, others: Sequence[Sequence[float]], walls: Tensor, size: float) -> Corner:
    """The corner with a radius within which no other boundary runs."""
    radius = min([corner.radius, *(0.5 * math.dist(corner.point, other) for other in others)])
    for _ in range(12):
        trial = replace(corner, radius=radius)
        near = walls[(walls - torch.tensor(corner.point, dtype=torch.float64)).norm(dim=1) < radius]
        if float(trial.function(near).abs().sum()) < 1e-6 * size:
            return trial
        radius *= 0.7
    raise ValueError(f"the boundary is too intricate near {corner.point}")


def hypotenuse(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(a^2 + b^2), with a finite gradient where both vanish."""
    return torch.sqrt(a * a + b * b + torch.finfo(a.dtype).tiny)


def have_a_seam(boundary: Boundary, distance: Level, rounding: float) -> bool:
    """Whether another domain touches a boundary from outside along a wall.

    Args:
        boundary: points of it.
        distance: of the other domain.
        rounding: closer than this is on the boundary.
    """
    beside = boundary.keep(distance(boundary.points)[:, 0].abs() <= 20 * rounding)
    if len(beside.points) < 2:
        return False
    inwards = gradient(distance, beside.points).detach()
    return bool(((inwards * beside.normals).sum(dim=-1) > 0.99).any())
