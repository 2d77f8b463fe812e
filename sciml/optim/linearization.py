"""Residuals to first order around a point, and the damped least-squares problem on them. Size decides the form."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from scipy.linalg import blas
from torch import Tensor

from sciml.optim.jacobian import ResidualJacobian

KEPT_NUMBERS = 1 << 25
"""Entries up to which the Jacobian is kept (256 MB in float64)."""
GRAM_LIMIT = 4096
"""Unknowns up to which J'J is formed by chunks when the Jacobian is too large to be kept."""


class Linearization(ABC):
    """r + J s around a point, and the damped least-squares problem on it.

    Attributes:
        rows: r, shape (m,).
        scale: tr(J'J) / n, the unit of the damping.
        cost: loss-and-gradient evaluations spent so far.
    """

    rows: Tensor
    scale: float
    cost: float

    @abstractmethod
    def product(self, step: Tensor) -> Tensor:
        """The product J s, shape (m,)."""

    @abstractmethod
    def adjoint(self, weights: Tensor) -> Tensor:
        """The product J'w, shape (n,)."""

    @abstractmethod
    def solve(self, weights: Tensor, damping: float) -> Tensor | None:
        """(J'J + damping scale I)^-1 J'w, shape (n,); None if it is singular to rounding."""


class Dense(Linearization):
    """J is kept; Cholesky of J'J when n <= m, of J J' (Woodbury) when m < n, with one step of refinement."""

    def __init__(self, rows: Tensor, jacobian: Tensor, cost: float) -> None:
        self.rows, self.jacobian, self.cost = rows, jacobian, cost
        m, n = jacobian.shape
        self.narrow = n <= m
        self.gram = lower_gram(jacobian if self.narrow else jacobian.T)
        self.scale = float(self.gram.diagonal().sum()) / n
        self._factor: tuple[float, Tensor | None] = (math.nan, None)

    def product(self, step: Tensor) -> Tensor:
        """The product J s, shape (m,)."""
        return self.jacobian @ step

    def adjoint(self, weights: Tensor) -> Tensor:
        """The product J'w, shape (n,)."""
        return weights @ self.jacobian

    def solve(self, weights: Tensor, damping: float) -> Tensor | None:
        """Solve by the factor of the Gram matrix, which is kept for the next right-hand side with the same damping."""
        shift = damping * self.scale
        if self._factor[0] != damping:
            self._factor = (damping, _factor(self.gram, shift))
        factor = self._factor[1]
        if factor is None:
            return None
        if not self.narrow:
            y = _back(factor, weights)
            y = y + _back(factor, weights - self.product(self.adjoint(y)) - shift * y)
            return self.adjoint(y)
        right = self.adjoint(weights)
        step = _back(factor, right)
        # The residual is taken with J itself, not with J'J, whose rounding squares the condition.
        return step + _back(factor, right - self.adjoint(self.product(step)) - shift * step)


class Products(Linearization):
    """J is not kept: J'w by one reverse pass, J s by the reverse of the reverse, both from one graph.

    Args:
        jacobian: makes the residuals.
        batch: the items.
        unknowns: n.
        gram: the lower triangle of J'J, if it could be formed by chunks (the solve is then direct), or None (then it is
            by conjugate gradients).
        cost: loss-and-gradient evaluations that forming it was worth.
    """

    iterations = 200
    """Conjugate-gradient iterations at most."""
    accuracy = 0.01
    """Relative residual at which they stop."""

    def __init__(self, jacobian: ResidualJacobian, batch: Any, gram: Tensor | None, cost: float) -> None:
        self.flat, self.gram, self.cost = jacobian.flat, gram, cost + 1.0
        self.live = jacobian.live(batch)
        self.rows = self.live.detach()
        self.weights = torch.zeros_like(self.rows, requires_grad=True)
        with torch.enable_grad():
            self.reverse = torch.autograd.grad(
                self.live, self.flat.parameters, self.weights, create_graph=True, allow_unused=True
            )
        n = self.flat.vector.numel()
        signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(0)).to(self.rows) * 2 - 1
        # Hutchinson's estimate of the trace with one fixed vector of signs: the damping only needs its magnitude.
        trace = float(gram.diagonal().sum()) if gram is not None else float(self.product(signs).square().sum())
        self.scale = trace / n

    def product(self, step: Tensor) -> Tensor:
        """The product J s, shape (m,)."""
        self.cost += 2.0
        live, tangents, start = [], [], 0
        for gradient, parameter in zip(self.reverse, self.flat.parameters, strict=True):
            end = start + parameter.numel()
            if gradient is not None:
                live.append(gradient)
                tangents.append(step[start:end].view_as(parameter))
            start = end
        (result,) = torch.autograd.grad(live, self.weights, tangents, retain_graph=True)
        return result

    def adjoint(self, weights: Tensor) -> Tensor:
        """The product J'w, shape (n,)."""
        self.cost += 1.0
        grads = torch.autograd.grad(self.live, self.flat.parameters, weights, retain_graph=True, allow_unused=True)
        return self.flat.flatten(grads)

    def solve(self, weights: Tensor, damping: float) -> Tensor | None:
        """Solve directly where J'J was formed, else by conjugate gradients."""
        right, shift = self.adjoint(weights), damping * self.scale
        if self.gram is not None:
            factor = _factor(self.gram, shift)
            return None if factor is None else _back(factor, right)
        step, residual = torch.zeros_like(right), right.clone()
        direction, energy = residual.clone(), float(residual @ residual)
        target = self.accuracy**2 * energy
        for _ in range(self.iterations):
            if energy <= target:
                break
            image = self.adjoint(self.product(direction)) + shift * direction
            length = energy / float(direction @ image)
            step += length * direction
            residual -= length * image
            previous, energy = energy, float(residual @ residual)
            direction = residual + energy / previous * direction
        return step


def linearize(jacobian: ResidualJacobian, batch: Any) -> Linearization:
    """The form that fits the size: J kept, or J'J by chunks, or neither."""
    n = jacobian.flat.vector.numel()
    starts = jacobian.starts(batch)
    rows = len(jacobian.rows(batch)) if len(starts) > 1 else 0  # one chunk always fits
    if rows * n <= KEPT_NUMBERS:
        parts = [jacobian.chunk(batch, start) for start in starts]
        rows, matrix = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        return Dense(rows, matrix, jacobian.cost)
    if n > GRAM_LIMIT:
        return Products(jacobian, batch, None, 0.0)
    gram = jacobian.flat.vector.new_zeros(n, n)
    for start in starts:
        gram += lower_gram(jacobian.chunk(batch, start)[1])
    return Products(jacobian, batch, gram, jacobian.cost)


def lower_gram(matrix: Tensor) -> Tensor:
    """A'A in its lower triangle; what is above the diagonal means nothing. Half the work of a full product."""
    kind = {torch.float32: "s", torch.float64: "d"}.get(matrix.dtype)
    if kind is None or matrix.device.type != "cpu":
        return matrix.T @ matrix
    # BLAS counts in columns: a row-contiguous A is its A', and the transpose of a row-contiguous one its A
    transposed = matrix.is_contiguous()
    values = matrix.T.numpy() if transposed else matrix.numpy()
    return torch.from_numpy(getattr(blas, f"{kind}syrk")(1.0, values, trans=0 if transposed else 1, lower=1))


def _factor(gram: Tensor, shift: float) -> Tensor | None:
    shifted = gram.clone()
    shifted.diagonal().add_(shift)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    return None if int(failed) else factor


def _back(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[:, None], factor)[:, 0]
