"""Test functions on intervals and boxes, each with a quadrature rule on its own support.

A weak form then reads like the formula. For -(k u')' = f, virtual work against every test function v:

    v = hats(interval.grid(64), points=4)
    residual = v.integrate(k(v.x) * derivative(u, v.x) * v.slope - f(v.x) * v.value)     # shape (tests,)
    loss = residual.square().mean()

and for -div(k grad u) = f on a rectangle:

    v = tensor_product(hats(x_nodes), hats(y_nodes))
    residual = v.integrate(dot(k(v.x) * gradient(u, v.x), v.gradient) - f(v.x) * v.value)

The items of such a loss are the test functions: a batch is a subset of them, never a subset of quadrature points,
because the square of a mean is not the mean of squares.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciml.errors import InputError
from sciml.pde.domains import Interval
from sciml.pde.quadrature import composite_gauss, gauss_legendre


@dataclass(frozen=True)
class TestFunctions:
    """Test functions tabulated at their quadrature points; the leading dimension counts them, so this is a batch.

    Attributes:
        x: quadrature points in the support of each function.
        weights: quadrature weights (lengths).
        value: v(x).
        slope: v'(x); in more dimensions the gradient of v, also under that name.
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    x: Float[Tensor, "tests points dim"]
    weights: Float[Tensor, "tests points 1"]
    value: Float[Tensor, "tests points 1"]
    slope: Float[Tensor, "tests points dim"]

    @property
    def gradient(self) -> Float[Tensor, "tests points dim"]:
        """The gradient of v, the same as `slope`."""
        return self.slope

    def __len__(self) -> int:
        return len(self.x)

    def integrate(self, integrand: Float[Tensor, "tests points 1"]) -> Float[Tensor, "tests"]:
        """The integral over each function's support of an integrand given at `x`."""
        return (self.weights * integrand).sum(dim=(-2, -1))

    def take(self, index: Int[Tensor, "chosen"]) -> "TestFunctions":
        """The chosen test functions, in that order."""
        return TestFunctions(*(getattr(self, field.name)[index] for field in fields(self)))


def hats(
    nodes: Sequence[float] | Float[Tensor, "nodes"], points: int = 4, left: bool = False, right: bool = False
) -> TestFunctions:
    """The piecewise linear function of each node: 1 there, 0 at all others; in the order of the nodes.

    Args:
        nodes: ascending mesh nodes.
        points: Gauss points on each half of a support (its two cells; for an end node the halves of its only cell).
        left: whether the left end node has a (half) hat. It needs none where the solution is prescribed.
        right: whether the right end node has one, likewise.

    Raises:
        InputError: nodes not ascending, or no hat left.
    """
    grid = _mesh(nodes)
    first, last = (0 if left else 1), (len(grid) if right else len(grid) - 1)
    if last <= first:
        raise InputError(f"{len(grid)} nodes leave no hat function between fixed ends: add nodes.")
    low, high = torch.cat([grid[:1], grid[:-1]]), torch.cat([grid[1:], grid[-1:]])
    peak = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64).repeat(len(grid), 1)
    peak[0], peak[-1] = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.5, 1.0])
    middle = torch.cat([(low + high)[:1] / 2, grid[1:-1], (low + high)[-1:] / 2])
    corners, heights = torch.stack([low, middle, high], dim=1)[first:last], peak[first:last]
    t, w = gauss_legendre(points)
    fraction, gap, rise = (t + 1) / 2, corners.diff(dim=1)[..., None], heights.diff(dim=1)[..., None]
    x = corners[:, :-1, None] + gap * fraction
    value = heights[:, :-1, None] + rise * fraction
    slope = (rise / gap).expand_as(x)
    return _tabulate(*(column.flatten(1) for column in (x, gap * w / 2, value, slope)))


def bubbles(nodes: Sequence[float] | Float[Tensor, "nodes"], degree: int = 2, points: int = 8) -> TestFunctions:
    """Polynomials of degree 2 to `degree` on every cell that vanish at its ends (integrated Legendre polynomials).

    On a cell of length h the integral of v'^2 is 2 / h, as for a hat function between two such cells; slopes of
    different degrees are orthogonal. Order: by cell, then by degree.

    Args:
        nodes: ascending mesh nodes.
        degree: highest degree, at least 2.
        points: Gauss points on the cell.
    """
    if degree < 2:
        raise InputError(f"bubbles of degree {degree}: the lowest that vanishes at both ends of a cell has degree 2.")
    x, weights = composite_gauss(_mesh(nodes), points)
    t, _ = gauss_legendre(points)
    legendre = [torch.ones_like(t), t]
    for k in range(1, degree):
        legendre.append(((2 * k + 1) * t * legendre[k] - k * legendre[k - 1]) / (k + 1))
    orders = range(2, degree + 1)
    value = torch.stack([(legendre[k] - legendre[k - 2]) / math.sqrt(2 * (2 * k - 1)) for k in orders])
    slope = torch.stack([legendre[k - 1] * math.sqrt((2 * k - 1) / 2) for k in orders])
    half = weights.sum(1) / 2
    cells, shapes = len(x), len(value)
    return _tabulate(
        x.repeat_interleave(shapes, 0),
        weights.repeat_interleave(shapes, 0),
        value.repeat(cells, 1),
        slope.repeat(cells, 1) / half.repeat_interleave(shapes)[:, None],
    )


def sines(interval: Interval, number: int, points: int = 8) -> TestFunctions:
    """sin(k pi t), t = (x - left) / length, for k = 1 to `number`: global functions that vanish at both ends.

    Args:
        interval: the domain.
        number: how many functions.
        points: Gauss points on each half wave of the *fastest* one; all functions share this grid.
    """
    if number < 1:
        raise InputError(f"{number} sine functions: at least 1 is needed.")
    x, weights = composite_gauss(interval.ends[:, 0], points, cells=number)
    x, weights = x.reshape(1, -1).repeat(number, 1), weights.reshape(1, -1).repeat(number, 1)
    wave = torch.arange(1, number + 1, dtype=torch.float64)[:, None] * (math.pi / (interval.right - interval.left))
    phase = wave * (x - interval.left)
    return _tabulate(x, weights, phase.sin(), wave * phase.cos())


def concatenate(*families: TestFunctions) -> TestFunctions:
    """Several families as one. All need the same number of quadrature points per function."""
    counts = [family.x.shape[1] for family in families]
    if len(set(counts)) != 1:
        raise InputError(f"families with {counts} quadrature points per function: make the numbers equal.")
    return TestFunctions(*(torch.cat([getattr(f, field.name) for f in families]) for field in fields(TestFunctions)))


def tensor_product(*families: TestFunctions) -> TestFunctions:
    """On the product of intervals, every product of one function from each family: v(x, y) = a(x) b(y).

    `tensor_product(hats(x_nodes), hats(y_nodes))` are the bilinear elements' functions. Order: the last family fastest.

    Args:
        families: one for each coordinate. Of m and n functions with p and q quadrature points there come m n functions
            with p q points each.
    """
    result = families[0]
    for family in families[1:]:
        result = _times(result, family)
    return result


def dot(a: Float[Tensor, "*points dim"], b: Float[Tensor, "*points dim"]) -> Float[Tensor, "*points 1"]:
    """The scalar product at every point."""
    return (a * b).sum(dim=-1, keepdim=True)


def _times(a: TestFunctions, b: TestFunctions) -> TestFunctions:
    def pair(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(left), len(right), left.shape[1], right.shape[1])
        left = left[:, None, :, None, :].expand(*shape, -1)
        right = right[None, :, None, :, :].expand(*shape, -1)
        return left.flatten(0, 1).flatten(1, 2), right.flatten(0, 1).flatten(1, 2)

    (ax, bx), (aw, bw) = pair(a.x, b.x), pair(a.weights, b.weights)
    (av, bv), (ag, bg) = pair(a.value, b.value), pair(a.slope, b.slope)
    return TestFunctions(torch.cat([ax, bx], -1), aw * bw, av * bv, torch.cat([ag * bv, av * bg], -1))


def _mesh(nodes: Sequence[float] | Tensor) -> Tensor:
    grid = torch.as_tensor(nodes, dtype=torch.float64)
    if grid.dim() != 1 or len(grid) < 2 or bool((grid.diff() <= 0).any()):
        raise InputError(f"mesh nodes {grid.tolist()}: at least two, in ascending order.")
    return grid


def _tabulate(x: Tensor, weights: Tensor, value: Tensor, slope: Tensor) -> TestFunctions:
    return TestFunctions(*(column[..., None].contiguous() for column in (x, weights, value, slope)))
