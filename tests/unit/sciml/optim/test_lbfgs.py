"""The compact form of L-BFGS: its algebra, and its rows with a preconditioner."""

import pytest
import torch
from minimisers import minimiser, pairs, quadratic

from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.quasi_newton import Pair


def two_loop(history, gradient, h0):
    """Nocedal's recursion, algorithm 7.4 of Nocedal and Wright: the oracle of the compact form."""
    q, alphas = gradient.clone(), []
    for s, y in reversed(history):
        alpha = (s @ q) / (s @ y)
        q -= alpha * y
        alphas.append(alpha)
    r = h0(q)
    for (s, y), alpha in zip(history, reversed(alphas), strict=True):
        r += s * (alpha - (y @ r) / (s @ y))
    return r


@pytest.mark.parametrize("condition", [1e2, 1e6])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_compact_form_equals_the_two_loop_recursion(condition, preconditioned, count):
    n, m = 30, 5
    matrix = quadratic(n, condition)
    diagonal = torch.linspace(0.5, 3, n, dtype=torch.float64)
    operator = (lambda g: diagonal * g) if preconditioned else None
    x = torch.zeros(n, dtype=torch.float64)
    method = CompactLBFGS(x, m, operator)
    kept, g = [], torch.randn(n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for s, y, _ in pairs(matrix, count):
        method.product(g)
        following = g + y
        method.update(Pair(s, y, following, 1.0, -1.0))
        kept, g = [*kept, (s, y)][-m:], following
    s, y = kept[-1]
    p = diagonal if preconditioned else torch.ones(n, dtype=torch.float64)
    gamma = (s @ y) / (y @ (p * y))
    expected = two_loop(kept, g, lambda v: gamma * p * v)
    assert torch.allclose(method.product(g), expected, rtol=1e-9, atol=1e-9 * float(expected.norm()))


def test_preconditioner_equal_to_the_inverse_hessian_converges_at_once():
    matrix = quadratic(20, 1e6)
    inverse = torch.linalg.inv(matrix)
    _, method = minimiser(
        lambda v: 0.5 * v @ matrix @ v,
        torch.ones(20, dtype=torch.float64),
        lambda v: CompactLBFGS(v, 5, lambda g: inverse @ g),
    )
    first = method.iterate()
    assert first.step == 1.0 and first.evaluations == 2
    assert first.value < 1e-20 * first.decrement


def test_pairs_are_of_one_set_each_and_the_preconditioned_rows_follow():
    """Three sets in turn, of different Hessians: every held pair has y = A s of one of them, and Z = P Y."""
    hessians = [quadratic(12, 20, seed) for seed in range(3)]
    diagonal = torch.linspace(0.2, 2, 12, dtype=torch.float64)
    held = [hessians[0]]
    _, method = minimiser(
        lambda v: 0.5 * v @ held[0] @ v,
        torch.ones(12, dtype=torch.float64),
        lambda v: CompactLBFGS(v, 9, lambda g: diagonal * g),
    )
    for hessian in hessians:
        held[0] = hessian
        method.refresh()
        for _ in range(3):
            method.iterate()
    kept = method.inverse_hessian
    assert isinstance(kept, CompactLBFGS) and len(kept.order) == 9
    s, y, z = kept.rows[:9], kept.rows[9:18], kept.rows[18:]
    for slot, index in enumerate(kept.order):
        expected = hessians[slot // 3] @ s[index]
        assert torch.allclose(y[index], expected, rtol=1e-6, atol=1e-10 * float(expected.norm()))
    assert torch.allclose(z, y * diagonal, rtol=1e-6, atol=1e-9 * float(z.abs().max()))
