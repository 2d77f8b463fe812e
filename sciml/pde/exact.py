"""Conditions that hold by construction: each function turns a free field N into one that keeps a condition exactly.

    u = exact_dirichlet(network, plate, value=g)                    # u = g on the boundary of the plate
    u = exact_initial(exact_dirichlet(network, plate * time), u0)   # u = u0 at the start, and on the walls at all times

Fields and values are functions of points (*points, dim). Such fields need no loss term for the condition, and no weight
that balances it. Source: Sukumar and Srivastava (2022, Comput. Methods Appl. Mech. Eng. 389, 114333).
"""

import itertools
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.conditions import Data, value_at
from sciml.pde.derivatives import Field, gradient
from sciml.pde.domains import Box
from sciml.pde.regions import Domain


def exact_dirichlet(free: Field, domain: Domain, value: Data = 0.0) -> Field:
    """u = value + bubble N: equals `value` on the boundary of the domain (of space-time: on its walls).

    Args:
        free: the field N, e.g. a network.
        domain: its bubble vanishes on the boundary.
        value: a number, or a smooth function on the whole domain; `box_lift` and `blend` extend boundary values.
    """

    def field(x: Tensor) -> Tensor:
        inside = domain.bubble(x) * free(x)
        return inside + value_at(value, x, inside)

    return field


def exact_neumann(free: Field, domain: Domain, flux: Data = 0.0) -> Field:
    """u = N - d (flux + grad d . grad N) with the approximate distance d: the outward derivative of u is `flux`.

    For boundaries without corners (disks, ends of intervals). Costs one order of derivatives more than N.

    Args:
        free: the field N, one component.
        domain: d is its `distance`, whose gradient on the boundary is the inward unit normal.
        flux: the prescribed normal derivative, extended into the domain.
    """

    def field(x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_(True)
        value, distance = free(x), domain.distance(x)
        slope = (gradient(distance, x) * gradient(value, x)).sum(dim=-1, keepdim=True)
        return value - distance * (slope + value_at(flux, x, slope, "fluxes"))

    return field


def exact_initial(
    free: Field, value: Data, velocity: Data | None = None, start: float = 0.0, span: float | None = None
) -> Field:
    """u = value + s N, or value + s velocity + s^2 N for equations of second order in time; s = t - start.

    Args:
        free: the field N.
        value: u at the start, as a function of (x, t) or a number.
        velocity: u_t at the start; None leaves it free (first order in time).
        start: the initial time, last coordinate.
        span: if given, s / (s + span) or s^2 / (s^2 + span^2) stands in place of the growing factor, so that N need not
            be large at early times.
    """
    order = 1 if velocity is None else 2

    def field(x: Tensor) -> Tensor:
        s = x[..., -1:] - start
        growth = s**order
        if span is not None:
            growth = growth / (growth + span**order)
        grown = growth * free(x)
        result = value_at(value, x, grown, "initial values") + grown
        return result if velocity is None else result + s * value_at(velocity, x, grown, "initial velocities")

    return field


def box_lift(box: Box, value: Callable[[Tensor], Tensor]) -> Field:
    """Extends values on the faces of a box into it, smoothly (Coons; Gordon 1971): `value` is used on the faces only.

    Args:
        box: in any number of dimensions; the value is evaluated 3^dim - 1 times.
        value: continuous on the boundary of the box.
    """
    sides = list(zip(box.lower, box.upper, strict=True))

    def field(x: Float[Tensor, "*points dim"]) -> Tensor:
        result = None
        # One minus the product over the axes of (1 - interpolation along the axis).
        for choice in itertools.product((None, 0, 1), repeat=box.dim):
            if all(end is None for end in choice):
                continue
            place, weight = list(x.split(1, dim=-1)), -1.0
            for axis, end in enumerate(choice):
                if end is not None:
                    low, high = sides[axis]
                    fraction = (x[..., axis : axis + 1] - low) / (high - low)
                    weight = -weight * (fraction if end else 1 - fraction)
                    place[axis] = x.new_full(place[axis].shape, sides[axis][end])
            term = weight * value(torch.cat(place, dim=-1))
            result = term if result is None else result + term
        assert result is not None
        return result

    return field


def blend(parts: Mapping[Domain, Data]) -> Field:
    """One function that takes different values on several boundaries, weighted by the inverse of the distances.

    With bubbles b_i: the sum of value_i prod_{j != i} |b_j|, over the sum of these weights.

    Args:
        parts: for each domain (the plate's outline, each hole) the value on its boundary. The boundaries must not meet.
    """
    if len(parts) < 2:
        raise InputError("a blend of one boundary value: give at least two domains, or the value itself.")

    def field(x: Float[Tensor, "*points dim"]) -> Tensor:
        bubbles = [domain.bubble(x).abs() for domain in parts]
        others = [torch.stack(bubbles[:i] + bubbles[i + 1 :]).prod(dim=0) for i in range(len(bubbles))]
        values = [weight * value_at(value, x, weight) for weight, value in zip(others, parts.values(), strict=True)]
        return torch.stack(values).sum(dim=0) / torch.stack(others).sum(dim=0)

    return field
