"""Boundary, initial and interface conditions as residuals, for loss terms; and the ends of an interval by construction.

    {
        "equation": (laplacian(u, x) + f(x)).square().mean(),
        "hole": neumann(u, hole.boundary(100, generator)).square().mean(),
    }

Fields are functions of points (*points, dim) with values (*points, k). Values and coefficients are numbers, tensors of
matching shape, or functions of the points: (*points, k), or one number a point (*points, 1) or a component (k,). Other
shapes are refused: broadcast, they would compare values of different points. `exact.py` has conditions without a term.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.boundary import Boundary
from sciml.pde.derivatives import Field, derivative, gradient
from sciml.pde.domains import Box, Interval

Data = float | Tensor | np.ndarray | Callable[[Tensor], Tensor]
"""A number, values at the points, or a function of the points."""


def dirichlet(u: Field, x: Float[Tensor, "points dim"], value: Data = 0.0) -> Float[Tensor, "points k"]:
    """u - value at points of the boundary, of the start (an initial condition), or of a measurement (data)."""
    values = u(x)
    return values - value_at(value, x, values)


def normal_derivative(u: Field, boundary: Boundary) -> Float[Tensor, "points k"]:
    """The normal derivative du/dn along the outward normals."""
    slope = gradient(u, boundary.points)
    if slope.dim() == 2:
        return (slope * boundary.normals).sum(dim=-1, keepdim=True)
    return (slope * boundary.normals[:, None, :]).sum(dim=-1)


def neumann(u: Field, boundary: Boundary, flux: Data = 0.0, coefficient: Data = 1.0) -> Float[Tensor, "points k"]:
    """coefficient du/dn - flux; without more, an insulated boundary."""
    x = boundary.points
    slope = normal_derivative(u, boundary)
    return value_at(coefficient, x, slope, "coefficients") * slope - value_at(flux, x, slope, "fluxes")


def robin(u: Field, boundary: Boundary, transfer: Data, ambient: Data = 0.0) -> Float[Tensor, "points k"]:
    """du/dn + transfer (u - ambient): a boundary that loses what flows to it in proportion to the excess."""
    x = boundary.points
    slope, values = normal_derivative(u, boundary), u(x)
    excess = values - value_at(ambient, x, values, "ambient values")
    return slope + value_at(transfer, x, slope, "transfer coefficients") * excess


def initial_velocity(u: Field, x: Float[Tensor, "points dim"], value: Data = 0.0) -> Float[Tensor, "points k"]:
    """u_t - value at points of the start; time is the last coordinate."""
    speed = derivative(u, x, dim=x.shape[-1] - 1)
    return speed - value_at(value, x, speed)


def periodic(
    u: Field, box: Box, x: Float[Tensor, "points dim"], axis: int = 0, orders: int = 2
) -> Float[Tensor, "points conditions"]:
    """Differences between opposite faces of u and its derivatives along the axis, below order `orders`, as columns.

    Args:
        u: the field.
        box: gives the period, upper - lower along the axis.
        x: points of the lower face, e.g. `box.face(axis, "lower", size, generator)`.
        axis: the periodic coordinate.
        orders: the order of the equation in that coordinate: 2 compares u and u_x, 1 only u.
    """
    if orders < 1:
        raise InputError(f"orders = {orders}: at least the values (1) must agree.")
    shift = torch.zeros_like(x)
    shift[..., axis] = box.upper[axis] - box.lower[axis]
    gaps = [derivative(u, x + shift, order, axis) - derivative(u, x, order, axis) for order in range(orders)]
    return torch.cat(gaps, dim=-1)


def interface(
    u: Field, boundary: Boundary, inside: Data, outside: Data, gap: float = 1e-9
) -> Float[Tensor, "points k"]:
    """The jump of the flux over the boundary of an inclusion, outside du/dn - inside du/dn, which must vanish.

    The field needs a kink there (`Kinks`, `Creases`). A smooth field would keep its slope, not its flux, and nothing
    would show the error.

    Args:
        u: a continuous field whose slope may jump at the boundary.
        boundary: points of the interface, with normals out of the inclusion.
        inside: the coefficient (stiffness, conductivity) in the inclusion.
        outside: the coefficient outside it.
        gap: the one-sided slopes are taken at this distance from the interface.
    """
    x, step = boundary.points, gap * boundary.normals
    within, beyond = Boundary(x - step, boundary.normals), Boundary(x + step, boundary.normals)
    outer, inner = normal_derivative(u, beyond), normal_derivative(u, within)
    return value_at(outside, x, outer, "coefficients") * outer - value_at(inside, x, inner, "coefficients") * inner


def value_at(value: Data, x: Tensor, like: Tensor, what: str = "values") -> Tensor | float:
    """The value at the points, whether it is given as a number, as a tensor or as a function.

    Args:
        value: what is prescribed.
        x: the points.
        like: values of the field that it meets, (*points, k).
        what: its name in a message.

    Raises:
        InputError: its shape is neither that of the field nor that of one number a point or a component. Broadcast, it
            would meet the values of other points.
    """
    found = value(x) if callable(value) and not isinstance(value, Tensor) else value
    if isinstance(found, np.ndarray):
        found = torch.as_tensor(found, dtype=like.dtype, device=like.device)
    if not isinstance(found, Tensor) or found.dim() == 0:
        return found
    components = like.shape[-1] if like.dim() == x.dim() else 0
    allowed = {tuple(like.shape)}
    if components:
        allowed |= {(*like.shape[:-1], 1)}
    if components > 1:
        allowed |= {(components,), (*(1,) * (like.dim() - 1), components)}
    if tuple(found.shape) in allowed:
        return found
    column = found.shape == like.shape[:-1] and components == 1
    hint = "write values[:, None]" if column else "give one row a point, one column a component, or a number"
    shapes = f"{what} of shape {tuple(found.shape)} meet a field of shape {tuple(like.shape)}"
    raise InputError(f"{shapes} at {tuple(x.shape[:-1])} points: {hint}.")


@dataclass(frozen=True)
class HardDirichlet:
    """Turns a free field N on an interval into one with prescribed end values: u(x) = lift(x) + mask(x) N(x).

    With t = (x - left end) / length the mask is t for a condition on the left, 1 - t on the right, 4 t (1 - t) on
    both; the lift is the constant or linear function through the prescribed values.

    Args:
        interval: where the field lives.
        left: the prescribed value at the left end; None leaves that end free.
        right: the prescribed value at the right end; None leaves that end free.

    Raises:
        InputError: both ends are free.
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
