"""Outlines of straight edges: a smooth distance from them, and the outline of joined boxes."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciml.pde.boundary import Boundary
from sciml.pde.corners import Corner, at_corners, straight
from sciml.pde.sampling import unit_points


@dataclass(frozen=True)
class Outline:
    """Straight edges around a domain of the plane, of any number of loops, with the domain on their left.

    Attributes:
        starts: where the edges start.
        ends: where they end.
    """

    starts: Float[np.ndarray, "edges 2"]
    ends: Float[np.ndarray, "edges 2"]

    @property
    def lengths(self) -> Float[np.ndarray, " edges"]:
        """Of the edges."""
        return np.linalg.norm(self.ends - self.starts, axis=1)

    @property
    def normals(self) -> Float[np.ndarray, "edges 2"]:
        """Unit normals that point into the domain."""
        along = (self.ends - self.starts) / self.lengths[:, None]
        return np.stack([-along[:, 1], along[:, 0]], axis=1)

    @property
    def area(self) -> float:
        """Of the domain."""
        return float(0.5 * (self.starts[:, 0] * self.ends[:, 1] - self.starts[:, 1] * self.ends[:, 0]).sum())

    def reversed(self) -> "Outline":
        """Of what is outside the domain."""
        return Outline(self.ends, self.starts)

    def distance(self, x: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 1"]:
        """A signed distance, smooth off the corners, exact to first order at the edges; positive inside.

        It is 2 / W with the weight of the mean value coordinates, W = int d(angle) / |x - y| over the outline, which
        has the sign of the side on which x lies (Hormann and Floater 2006, ACM Trans. Graph. 25, 1424).
        """
        a = x.new_tensor(self.starts) - x[..., None, :]
        b = x.new_tensor(self.ends) - x[..., None, :]
        at_vertex = (a == 0).all(dim=-1).any(dim=-1)[..., None]  # where no angle exists, and the distance is zero
        a, b = (torch.where(at_vertex[..., None], 1.0, part) for part in (a, b))
        first, second = (part.square().sum(dim=-1).sqrt() for part in (a, b))
        inner = (a * b).sum(dim=-1)
        height = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]  # distance from the line, times the length of the edge
        # The tangent of half the angle under which an edge is seen is height / (first second + inner), or, where that
        # angle is wide, (first second - inner) / height. The widest of these is the edge next to x, with height zero on
        # it, so all is multiplied by this height.
        product, sums = first * second, (first + second)
        wide = inner < 0
        narrow_term = torch.where(wide, 0.0, sums * height / (product * torch.where(wide, 1.0, product + inner)))
        wide_top = torch.where(wide, sums * (product - inner) / product, 0.0)
        nearest = torch.where(wide, height.detach().abs() / product.detach(), math.inf).argmin(dim=-1, keepdim=True)
        here = torch.zeros_like(wide).scatter(-1, nearest, True)
        pole = torch.where(here & wide, height, torch.where(here, 1.0, 0.0)).sum(dim=-1, keepdim=True)
        others = narrow_term + torch.where(wide & ~here, wide_top / torch.where(wide & ~here, height, 1.0), 0.0)
        top = torch.where(here, wide_top, 0.0).sum(dim=-1, keepdim=True)
        weight = top + pole * others.sum(dim=-1, keepdim=True)
        return torch.where(at_vertex, 0.0, 2 * pole / torch.where(at_vertex, 1.0, weight))

    @cached_property
    def corners(self) -> tuple[Corner, ...]:
        """All corners, no closer to each other than their radii; where the domain touches itself there is none."""
        return tuple(corner for edge in range(len(self.ends)) if (corner := self._corner(edge)) is not None)

    def _corner(self, first: int) -> Corner | None:
        """At the end of an edge."""
        point = self.ends[first]
        following = np.flatnonzero((self.starts == point).all(axis=1))
        if len(following) != 1:
            return None
        second = int(following[0])
        others = [edge for edge in range(len(self.starts)) if edge not in (first, second)]
        gaps = [_gap(point, self.starts[edge], self.ends[edge]) for edge in others]
        gaps += [0.5 * gap for gap in np.linalg.norm(self.ends - point, axis=1).tolist() if gap > 0]
        here, one, two = (tuple(values.tolist()) for values in (point, self.normals[first], self.normals[second]))
        along, onwards = (self.ends[edge] - self.starts[edge] for edge in (first, second))
        reentrant = bool(along[0] * onwards[1] - along[1] * onwards[0] < 0)
        return Corner(here, (one, two), (straight(here, one), straight(here, two)), 0.95 * min(gaps), reentrant)

    def bubble(self, x: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 1"]:
        """Positive inside, zero on the edges, with the right power of the distance at re-entrant corners."""
        return at_corners(self.corners, self.distance(x), x)

    def surface(self, density: float, generator: torch.Generator, method: str) -> Boundary:
        """About `density` points per unit of length, with outward normals."""
        points, normals = [], []
        for start, end, normal in zip(self.starts, self.ends, self.normals, strict=True):
            number = math.ceil(density * float(np.linalg.norm(end - start)))
            along = unit_points(number, 1, generator, method)
            points.append(torch.from_numpy(start) + along * torch.from_numpy(end - start))
            normals.append(torch.from_numpy(-normal).expand(number, 2))
        return Boundary(torch.cat(points), torch.cat(normals))


def _gap(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Distance of a point from a segment."""
    along = end - start
    place = np.clip((point - start) @ along / (along @ along), 0.0, 1.0)
    return float(np.linalg.norm(point - start - place * along))


@runtime_checkable
class OnLines(Protocol):
    """A domain whose boundary may run on lines parallel to the axes."""

    def _lines(self) -> tuple[frozenset[float], frozenset[float]] | None: ...

    def _holds(self, x: Float[Tensor, "*points 2"]) -> Bool[Tensor, "*points"]: ...


@lru_cache(256)
def outline_of(domain: OnLines) -> Outline | None:
    """Of a plane domain made of boxes alone; None of others."""
    lines = domain._lines()
    if lines is None:
        return None
    xs, ys = (sorted(part) for part in lines)
    middle = lambda values: torch.tensor([(a + b) / 2 for a, b in itertools.pairwise(values)], dtype=torch.float64)
    cells = torch.stack(torch.meshgrid(middle(xs), middle(ys), indexing="ij"), dim=-1)
    return outline_of_cells(xs, ys, domain._holds(cells).numpy())


def outline_of_cells(xs: Sequence[float], ys: Sequence[float], inside: Bool[np.ndarray, "columns rows"]) -> Outline:
    """The outline of some cells of a grid.

    Args:
        xs: increasing coordinates of the grid's lines.
        ys: the same of the other axis.
        inside: (len(xs) - 1, len(ys) - 1), which cells belong to the domain.
    """
    padded = np.pad(inside, 1).astype(int)
    edges: list[tuple[tuple[float, float], tuple[float, float]]] = []
    # Vertical lines run up where the domain is on their left, horizontal ones to the right where it is above.
    for i, x in enumerate(xs):
        change = padded[i, 1:-1] - padded[i + 1, 1:-1]
        edges += [((x, ys[a]), (x, ys[b])) if sign > 0 else ((x, ys[b]), (x, ys[a])) for a, b, sign in _runs(change)]
    for j, y in enumerate(ys):
        change = padded[1:-1, j + 1] - padded[1:-1, j]
        edges += [((xs[a], y), (xs[b], y)) if sign > 0 else ((xs[b], y), (xs[a], y)) for a, b, sign in _runs(change)]
    return Outline(
        np.array([start for start, _ in edges]).reshape(-1, 2), np.array([end for _, end in edges]).reshape(-1, 2)
    )


def _runs(signs: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal signs other than zero: first, one after the last, sign."""
    cuts = [0, *(np.flatnonzero(np.diff(signs)) + 1).tolist(), len(signs)]
    return [(a, b, int(signs[a])) for a, b in itertools.pairwise(cuts) if signs[a]]
