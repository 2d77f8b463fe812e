"""The dense self-scaled update: its formula, its symmetric matrix, its restart."""

import pytest
import torch
from minimisers import quadratic

from sciml.optim.quasi_newton import Pair
from sciml.optim.self_scaled import DenseSelfScaled, SymmetricMatrix, broyden_scaling


def test_self_scaled_update_is_its_formula():
    """Against the formula written out with B = inverse of H, for steps of different lengths."""
    n, stream = 7, torch.Generator().manual_seed(3)
    curvature = quadratic(n, 50)
    for step in (1.0, 0.03, 4.0):
        dense = DenseSelfScaled(torch.zeros(n, dtype=torch.float64))
        root = torch.randn(n, n, generator=stream, dtype=torch.float64)
        h = root @ root.T + torch.eye(n, dtype=torch.float64)
        dense.matrix = h
        g = torch.randn(n, generator=stream, dtype=torch.float64)
        p = -h @ g
        s, y = step * p, curvature @ (step * p)
        assert dense.update(Pair(s, y, g + y, step, float(p @ g)))
        hy, ys, yhy = h @ y, y @ s, y @ h @ y
        tau, q = broyden_scaling(float(s @ torch.linalg.solve(h, s) / ys), float(yhy / ys), n)
        v = yhy.sqrt() * (s / ys - hy / yhy)
        inner = h - torch.outer(hy, hy) / yhy + q * torch.outer(v, v)
        expected = inner / tau + torch.outer(s, s) / ys
        assert torch.allclose(dense.matrix, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_symmetric_matrix_is_its_dense_counterpart(dtype):
    stream = torch.Generator().manual_seed(5)
    n, tolerance = 11, 200 * torch.finfo(dtype).eps
    start = torch.randn(n, n, generator=stream, dtype=dtype)
    dense = start + start.T
    x, y, probe = torch.randn(3, n, generator=stream, dtype=dtype)
    matrix = SymmetricMatrix(x)
    matrix.entries.copy_(dense)
    for xx, xy, yy in ((2.0, -0.7, 0.0), (1.0, 0.3, -2.0), (1.0, 0.1, 3.0), (-1.0, 0.0, -2.0), (0.0, 0.0, 0.0)):
        matrix.add_form(x, y, xx, xy, yy)
        dense = dense + xx * torch.outer(x, x) + yy * torch.outer(y, y)
        dense = dense + xy * (torch.outer(x, y) + torch.outer(y, x))
        expected = dense @ probe
        assert torch.allclose(matrix.product(probe), expected, rtol=tolerance, atol=tolerance * float(expected.norm()))


def test_dense_matrix_that_lost_its_definiteness_starts_again_from_the_pair():
    dense = DenseSelfScaled(torch.zeros(3, dtype=torch.float64))
    dense.matrix = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    s = torch.tensor([0.1, 1.0, 0.0], dtype=torch.float64)
    assert dense.update(Pair(s, 2 * s, 2 * s, 1.0, -1.0))
    assert torch.allclose(dense.product(2 * s), s)
    assert float(torch.linalg.eigvalsh(dense.matrix)[0]) > 0
