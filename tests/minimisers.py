"""Functions to minimise, and minimisers of them, for the tests of the quasi-Newton methods."""

import math

import torch

from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.quasi_newton import QuasiNewton
from sciml.optim.self_scaled import DenseSelfScaled

METHODS = {"lbfgs": lambda x: CompactLBFGS(x, 10), "self_scaled": DenseSelfScaled}


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def minimiser(function, start, method, **options):
    x = start.clone()

    def closure():
        live = x.clone().requires_grad_()
        value = function(live)
        (gradient,) = torch.autograd.grad(value, live)
        return value.detach(), gradient

    return x, QuasiNewton(x, closure, method(x), **options)


def quadratic(n, condition, seed=0):
    stream = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=stream, dtype=torch.float64))
    return q @ torch.diag(torch.logspace(0, math.log10(condition), n, dtype=torch.float64)) @ q.T


def pairs(matrix, count, seed=1):
    stream = torch.Generator().manual_seed(seed)
    for _ in range(count):
        s = torch.randn(matrix.shape[0], generator=stream, dtype=torch.float64)
        g = torch.randn(matrix.shape[0], generator=stream, dtype=torch.float64)
        yield s, matrix @ s, g
