"""Derivatives of fields at points, by nested reverse-mode differentiation.

A field maps points of shape (*points, dim) to values of shape (*points, k) (or (*points,)), each value depending on its
own point alone. That is what makes one reverse pass over the *sum* of the values give the derivative at every point.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciml.errors import InputError

Field = Callable[[Tensor], Tensor]


def derivative(u: Field | Tensor, x: Float[Tensor, "*points dim"], order: int = 1, dim: int = 0) -> Tensor:
    """The partial derivative of `u` with respect to coordinate `dim`, taken `order` times.

    Args:
        u: a function of the points, or its values already computed from this very `x` (which must then require grad).
            Values of shape (*points, k) or (*points,).
        x: points, shape (*points, dim).
        order: how often to differentiate; 0 returns the values.
        dim: index of the coordinate.

    Returns:
        Values of the same shape as those of `u`. They carry a graph (to the parameters and to `x`) unless gradients are
        switched off around the call.

    Raises:
        InputError: `dim` or `order` out of range, or `u` is a tensor that was not computed from `x`.
    """
    if not 0 <= dim < x.shape[-1]:
        raise InputError(f"dim = {dim}: the points have coordinates 0 to {x.shape[-1] - 1}.")
    if order < 0:
        raise InputError(f"order = {order}: a derivative's order is 0, 1, 2, ...")
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        value, x = _evaluate(u, x)
        for remaining in range(order, 0, -1):
            value = _partial(value, x, dim, graph=keep or remaining > 1)
    return value if keep else value.detach()


def derivatives(u: Field | Tensor, x: Float[Tensor, "*points dim"], order: int, dim: int = 0) -> tuple[Tensor, ...]:
    """The values of `u` and its derivatives up to `order` along one coordinate, from a single evaluation of `u`.

    Arguments, shapes and errors as for `derivative`: `u, slope, curvature = derivatives(field, x, order=2)`.
    """
    if not 0 <= dim < x.shape[-1]:
        raise InputError(f"dim = {dim}: the points have coordinates 0 to {x.shape[-1] - 1}.")
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        value, x = _evaluate(u, x)
        results = [value]
        for remaining in range(order, 0, -1):
            results.append(_partial(results[-1], x, dim, graph=keep or remaining > 1))
    return tuple(results) if keep else tuple(result.detach() for result in results)


def gradient(u: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Tensor:
    """The gradient of `u`: shape (*points, dim) for a scalar field, (*points, k, dim) for one with k > 1 components.

    Arguments and errors as for `derivative`.
    """
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        value, x = _evaluate(u, x)
        rows = [_slope(column, x, graph=keep) for column in _columns(value, x)]
    result = rows[0] if len(rows) == 1 else torch.stack(rows, dim=-2)
    return result if keep else result.detach()


def divergence(flux: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points k"]:
    """The divergence of a vector field of shape (*points, dim), one column; of a tensor field (a stress) of shape
    (*points, k, dim) that of its k rows. Arguments and errors as for `derivative`."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        value, x = _evaluate(flux, x)
        rows = value.unbind(dim=-2) if value.dim() == x.dim() + 1 else (value,)
        result = torch.cat([_row_divergence(row, x, graph=keep) for row in rows], dim=-1)
    return result if keep else result.detach()


def _row_divergence(row: Tensor, x: Tensor, graph: bool) -> Tensor:
    columns = _columns(row, x)
    if len(columns) != x.shape[-1]:
        raise InputError(f"divergence of a field with {len(columns)} components in {x.shape[-1]} dimensions.")
    return torch.stack([_slope(column, x, graph)[..., i : i + 1] for i, column in enumerate(columns)]).sum(0)


def laplacian(u: Field | Tensor, x: Float[Tensor, "*points dim"]) -> Tensor:
    """The sum of the second derivatives of `u`; same shape as its values. Arguments and errors as for `derivative`."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        value, x = _evaluate(u, x)
        results = []
        for column in _columns(value, x):
            first = _slope(column, x, graph=True)
            second = [_slope(first[..., i], x, graph=keep)[..., i] for i in range(x.shape[-1])]
            results.append(torch.stack(second).sum(0))
    result = torch.stack(results, dim=-1) if value.dim() == x.dim() else results[0]
    return result if keep else result.detach()


def _evaluate(u: Field | Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The values and the points they hang on. The caller's tensor stays untouched: points without grad are copied."""
    if isinstance(u, Tensor):
        if not x.requires_grad or not u.requires_grad:
            raise InputError("u was given as a tensor: compute it from an x on which requires_grad_(True) was called.")
        return u, x
    x = x if x.requires_grad else x.detach().requires_grad_(True)
    return u(x), x


def _columns(value: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    if value.shape[: x.dim() - 1] != x.shape[:-1] or value.dim() not in (x.dim() - 1, x.dim()):
        raise InputError(f"a field on points of shape {tuple(x.shape)} gave values of shape {tuple(value.shape)}.")
    return (value,) if value.dim() < x.dim() or value.shape[-1] == 1 else value.unbind(-1)


def _partial(value: Tensor, x: Tensor, dim: int, graph: bool) -> Tensor:
    columns = [_slope(column, x, graph) for column in _columns(value, x)]
    if x.shape[-1] > 1:
        columns = [column[..., dim : dim + 1] for column in columns]
    result = columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
    return result if value.dim() == x.dim() else result[..., 0]


def _slope(value: Tensor, x: Tensor, graph: bool) -> Tensor:
    """Gradient of one scalar field, shape of x; zero where the field does not depend on x (a line's curvature)."""
    if not value.requires_grad:
        return torch.zeros_like(x)
    # The last pass of a caller without gradients frees nothing that an earlier component may still need.
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(x) if slope is None else slope
