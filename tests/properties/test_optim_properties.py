"""What must hold for any problem of a kind: line searches, quasi-Newton steps and noise statistics on random inputs."""

import itertools
import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.line_search import SearchEnding, Trial, Wolfe, search
from sciml.optim.method import Status
from sciml.optim.quasi_newton import QuasiNewton
from sciml.optim.self_scaled import DenseSelfScaled, broyden_scaling
from sciml.watching.noise import GradientNoise

coefficients = st.floats(-3, 3, allow_nan=False)
steps = st.floats(1e-6, 1e6)


@given(a=coefficients, b=coefficients, c=st.floats(0.05, 3), first=steps, scale=st.sampled_from([1e-12, 1.0, 1e9]))
@settings(max_examples=60, deadline=None)
def test_line_search_on_random_quartics(a, b, c, first, scale):
    """c t^4 + a t^3 + b t^2 - t is bounded below and falls at 0: an acceptable step exists and is found."""

    def trial(t):
        value = scale * (c * t**4 + a * t**3 + b * t**2 - t)
        slope = scale * (4 * c * t**3 + 3 * a * t**2 + 2 * b * t - 1)
        return Trial(t, value, slope, torch.zeros(1))

    rules = Wolfe(max_evaluations=60)
    found = search(trial, trial(0.0), first, rules)
    assert found.ending in (SearchEnding.WOLFE, SearchEnding.APPROXIMATE)
    assert found.trial is not None
    assert abs(found.trial.slope) <= rules.c2 * scale
    assert found.trial.value <= rules.c1 * found.trial.step * -scale + 1e-12 * scale


@given(
    n=st.integers(1, 12),
    condition=st.floats(1, 1e3),
    seed=st.integers(0, 1000),
    dense=st.booleans(),
    scale=st.sampled_from([1e-9, 1.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_quadratics_are_minimised_monotonically(n, condition, seed, dense, scale):
    stream = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64))
    matrix = scale * q @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ q.T
    x = torch.randn(n, generator=stream, dtype=torch.float64)
    method = QuasiNewton(
        x, lambda: (0.5 * x @ matrix @ x, matrix @ x), DenseSelfScaled(x) if dense else CompactLBFGS(x, 8)
    )
    values = [method.refresh()]
    for _ in range(300):
        iteration = method.iterate()
        if iteration.status is not Status.PROGRESS:
            break
        values.append(iteration.value)
        if iteration.value < 1e-200:  # below, numbers lose their digits
            break
    assert all(b <= a * (1 + 1e-14) for a, b in itertools.pairwise(values))
    assert values[-1] <= 1e-10 * values[0]


@given(b=st.floats(1e-12, 1e12), excess=st.floats(0, 1e12), n=st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_broyden_scaling_keeps_the_update_positive_definite(b, excess, n):
    """tau > 0, and with A = b h - 1 the update stays positive definite while 1 + A theta > 0, that is q > -1 / A."""
    h = (1 + excess) / b
    tau, q = broyden_scaling(b, h, n)
    assert math.isfinite(tau)
    assert tau > 0
    assert math.isfinite(q)
    assert q * max(excess, 1e-16) > -1 - 1e-9


@given(parts=st.integers(2, 8), seed=st.integers(0, 10**6), factor=st.floats(1e-6, 1e6))
@settings(max_examples=40, deadline=None)
def test_noise_statistic_scales_and_ignores_order(parts, seed, factor):
    stream = torch.Generator().manual_seed(seed)
    gradients = list(torch.randn(parts, 9, generator=stream, dtype=torch.float64))
    plain = GradientNoise().measure(gradients, 8 * parts)
    scaled = GradientNoise().measure([factor * g for g in reversed(gradients)], 8 * parts)
    assert math.isclose(scaled.noise, factor**2 * plain.noise, rel_tol=1e-9)
    assert math.isclose(scaled.signal, factor**2 * plain.signal, rel_tol=1e-7, abs_tol=1e-9 * factor**2 * plain.noise)
