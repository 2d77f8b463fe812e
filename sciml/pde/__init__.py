"""What any PDE needs: derivatives, domains, sampling, quadrature, weak forms, networks, hard conditions. Torch only."""

from sciml.pde.conditions import HardDirichlet
from sciml.pde.derivatives import derivative, derivatives, divergence, gradient, laplacian
from sciml.pde.domains import Box, Interval
from sciml.pde.networks import MLP, Kinks
from sciml.pde.quadrature import composite_gauss, gauss_legendre
from sciml.pde.sampling import residual_adaptive, unit_points
from sciml.pde.weak import TestFunctions, bubbles, concatenate, hats, sines

__all__ = [
    "MLP",
    "Box",
    "HardDirichlet",
    "Interval",
    "Kinks",
    "TestFunctions",
    "bubbles",
    "composite_gauss",
    "concatenate",
    "derivative",
    "derivatives",
    "divergence",
    "gauss_legendre",
    "gradient",
    "hats",
    "laplacian",
    "residual_adaptive",
    "sines",
    "unit_points",
]
