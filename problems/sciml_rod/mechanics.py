"""The axial bar: what it is made of, what loads it, how it is held. SI units here; the forms work non-dimensionally.

Equilibrium of a piece of the bar reads -(EA u')' = f with the axial displacement u [m], the axial stiffness EA [N] and
the load f [N/m]. The normal force N = EA u' [N] is positive in tension. Forces and displacements are positive along +x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError

Field = Callable[[Tensor], Tensor] | float
"""A constant, or a torch function of x [m] of any shape that works element by element."""


@dataclass(frozen=True)
class Displacement:
    """An end held at a displacement [m]: an essential condition."""

    value: float = 0.0


@dataclass(frozen=True)
class Traction:
    """An end pulled by a force [N], positive along +x: N(L) = force at the right end, -N(0) = force at the left."""

    force: float = 0.0


@dataclass(frozen=True)
class PointLoad:
    """A force [N], positive along +x, at a position [m] inside the bar: N falls by it there."""

    position: float
    force: float


@dataclass(frozen=True)
class Interface:
    """A place where the slope of u jumps, because EA jumps or a point load acts: EA+ u'+ - EA- u'- + force = 0.

    Attributes:
        position: x [m].
        stiffness_left: EA just left of it [N].
        stiffness_right: EA just right of it [N].
        force: the point load there [N].
    """

    position: float
    stiffness_left: float
    stiffness_right: float
    force: float

    def __str__(self) -> str:
        words = []
        if self.stiffness_left != self.stiffness_right:
            words.append(f"EA jumps from {self.stiffness_left:g} N to {self.stiffness_right:g} N")
        if self.force:
            words.append(f"a point load of {self.force:g} N acts")
        return f"x = {self.position:g} m, where {' and '.join(words)}"


@dataclass(frozen=True)
class Rod:
    """An axial bar.

    Args:
        length: L [m].
        stiffness: EA [N]: a constant or a function; a tuple of them, one per segment, if there are breakpoints.
        load: f [N/m], likewise.
        left: `Displacement` or `Traction` at x = 0; at least one of the two ends has a `Displacement`.
        right: likewise at x = L.
        point_loads: concentrated forces inside the bar.
        breakpoints: where segments meet [m], ascending, inside the bar. Declare here every jump of EA or f.

    Raises:
        InputError: what was given is no bar in equilibrium: lengths, positions, stiffness not positive, no end held.
    """

    length: float = 1.0
    stiffness: Field | tuple[Field, ...] = 1.0
    load: Field | tuple[Field, ...] = 0.0
    left: Displacement | Traction = Displacement()
    right: Displacement | Traction = Traction()
    point_loads: tuple[PointLoad, ...] = ()
    breakpoints: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.length < float("inf"):
            raise InputError(f"length = {self.length}: a bar's length is positive and finite [m].")
        for name, places in (
            ("breakpoints", self.breakpoints),
            ("point loads", [p.position for p in self.point_loads]),
        ):
            if any(not 0 < place < self.length for place in places):
                raise InputError(f"{name} at {list(places)}: they must lie inside the bar, 0 < x < {self.length:g} m.")
        if any(a >= b for a, b in zip(self.breakpoints[:-1], self.breakpoints[1:], strict=True)):
            raise InputError(f"breakpoints {self.breakpoints}: they must ascend.")
        for name in ("stiffness", "load"):
            field = getattr(self, name)
            if isinstance(field, tuple) and len(field) != len(self.breakpoints) + 1:
                raise InputError(f"{name} has {len(field)} pieces, the bar {len(self.breakpoints) + 1} segments.")
        if isinstance(self.left, Traction) and isinstance(self.right, Traction):
            raise InputError("both ends are pulled and none is held: the displacement is not determined. Hold one end.")
        lowest = float(self.EA(torch.linspace(0, self.length, 257, dtype=torch.float64)).min())
        if not lowest > 0:
            raise InputError(f"stiffness EA falls to {lowest:g} N: it must be positive along the whole bar.")

    def EA(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Axial stiffness [N] at x [m]; at a breakpoint that of the segment on its right."""
        return self._evaluate(self.stiffness, x)

    def f(self, x: Float[Tensor, "*points"]) -> Float[Tensor, "*points"]:
        """Distributed load [N/m] at x [m]; at a breakpoint that of the segment on its right."""
        return self._evaluate(self.load, x)

    @property
    def nodes(self) -> tuple[float, ...]:
        """Ends, breakpoints and point loads, ascending [m]: between them everything is smooth."""
        inner = {*self.breakpoints, *(load.position for load in self.point_loads)}
        return (0.0, *sorted(inner), self.length)

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """Where the slope of u jumps: jumps of EA and point loads, ascending."""
        found = []
        for place in self.nodes[1:-1]:
            x = torch.tensor([place], dtype=torch.float64)
            # Neighbouring floats give the one-sided values to rounding.
            left, right = (float(self.EA(torch.nextafter(x, torch.full_like(x, side)))) for side in (0.0, self.length))
            force = sum(load.force for load in self.point_loads if load.position == place)
            if force or abs(left - right) > 1e-12 * max(left, right):
                found.append(Interface(place, left, right, force))
        return tuple(found)

    def _evaluate(self, field: Field | tuple[Field, ...], x: Tensor) -> Tensor:
        if not isinstance(field, tuple):
            return _values(field, x)
        edges = torch.tensor(self.breakpoints, dtype=x.dtype, device=x.device)
        segment = torch.searchsorted(edges, x.detach().contiguous(), right=True)
        result = _values(field[0], x)
        for index, piece in enumerate(field[1:], start=1):
            result = torch.where(segment >= index, _values(piece, x), result)
        return result


@dataclass(frozen=True)
class Scales:
    """Units of the non-dimensional bar: x = length xi, u = displacement u^, N = force N^, EA = stiffness EA^."""

    length: float
    displacement: float
    force: float

    @property
    def stiffness(self) -> float:
        """Unit of EA [N]; it makes N^ = EA^ du^/dxi."""
        return self.force * self.length / self.displacement


def nondimensional(rod: Rod) -> tuple[Rod, Scales]:
    """The same bar on [0, 1] with normal forces and displacements of order one, and the units used.

    The units are the largest displacement and the largest normal force, by a coarse integration of the loads.
    """
    x, weights = _rule(rod)
    flexibility = weights / rod.EA(x)
    compliance = float(flexibility.sum())
    loaded = torch.cumsum(weights * rod.f(x), 0)
    for load in rod.point_loads:
        loaded = loaded + load.force * (x > load.position)
    total = float(loaded[-1])
    if isinstance(rod.left, Traction):
        constant, start = -rod.left.force, 0.0
    elif isinstance(rod.right, Traction):
        constant, start = rod.right.force + total, rod.left.value
    else:
        start = rod.left.value
        constant = (rod.right.value - start + float((flexibility * loaded).sum())) / compliance
    moved = start + torch.cumsum(flexibility * (constant - loaded), 0)
    if isinstance(rod.left, Traction) and isinstance(rod.right, Displacement):
        moved = moved + rod.right.value - moved[-1]
    displacement = float(moved.abs().max()) or 1.0
    force = float((constant - loaded).abs().max()) or displacement / compliance
    scales = Scales(rod.length, displacement, force)
    return _divide(rod, scales), scales


def _divide(rod: Rod, unit: Scales) -> Rod:
    def rescale(field: Field | tuple[Field, ...], scale: float) -> Field | tuple[Field, ...]:
        if isinstance(field, tuple):
            return tuple(rescale(piece, scale) for piece in field)  # type: ignore[return-value]
        if callable(field):
            return lambda x: field(x * unit.length) / scale
        return field / scale

    def end(side: Displacement | Traction) -> Displacement | Traction:
        if isinstance(side, Displacement):
            return Displacement(side.value / unit.displacement)
        return Traction(side.force / unit.force)

    return replace(
        rod,
        length=1.0,
        stiffness=rescale(rod.stiffness, unit.stiffness),
        load=rescale(rod.load, unit.force / unit.length),
        left=end(rod.left),
        right=end(rod.right),
        point_loads=tuple(PointLoad(p.position / unit.length, p.force / unit.force) for p in rod.point_loads),
        breakpoints=tuple(place / unit.length for place in rod.breakpoints),
    )


def _values(field: Field, x: Tensor) -> Tensor:
    return field(x) if callable(field) else torch.full_like(x, field)


def _rule(rod: Rod) -> tuple[Tensor, Tensor]:
    from sciml.pde import composite_gauss

    x, weights = composite_gauss(rod.nodes, points=8, cells=64)
    return x.reshape(-1), weights.reshape(-1)


def check_positions(x: Sequence[float] | Tensor, rod: Rod) -> Tensor:
    """Positions as a float64 tensor, checked to lie on the bar.

    Raises:
        InputError: a position outside 0 <= x <= L.
    """
    positions = torch.as_tensor(x, dtype=torch.float64)
    if positions.numel() and (float(positions.min()) < 0 or float(positions.max()) > rod.length):
        low, high = float(positions.min()), float(positions.max())
        raise InputError(f"positions from {low:g} to {high:g} m: the bar reaches from 0 to {rod.length:g} m.")
    return positions
