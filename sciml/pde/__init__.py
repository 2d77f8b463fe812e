"""What any PDE needs: derivatives, domains, sampling, quadrature, weak forms, networks, conditions."""

from sciml.pde.boundary import Boundary
from sciml.pde.conditions import (
    HardDirichlet,
    dirichlet,
    initial_velocity,
    interface,
    neumann,
    normal_derivative,
    periodic,
    robin,
)
from sciml.pde.derivatives import derivative, derivatives, divergence, gradient, laplacian
from sciml.pde.domains import Box, Disk, Interval, interleave
from sciml.pde.elasticity import Elastic, strain, traction
from sciml.pde.exact import blend, box_lift, exact_dirichlet, exact_initial, exact_neumann
from sciml.pde.networks import MLP, Creases, FourierFeatures, Kinks, PeriodicEmbedding
from sciml.pde.quadrature import box_gauss, composite_gauss, disk_gauss, gauss_legendre
from sciml.pde.regions import Domain, SpaceTime
from sciml.pde.sampling import residual_adaptive, unit_points
from sciml.pde.weak import TestFunctions, bubbles, concatenate, dot, hats, sines, tensor_product
from sciml.pde.weights import gradient_balance, weighted

__all__ = [
    "MLP",
    "Boundary",
    "Box",
    "Creases",
    "Disk",
    "Domain",
    "Elastic",
    "FourierFeatures",
    "HardDirichlet",
    "Interval",
    "Kinks",
    "PeriodicEmbedding",
    "SpaceTime",
    "TestFunctions",
    "blend",
    "box_gauss",
    "box_lift",
    "bubbles",
    "composite_gauss",
    "concatenate",
    "derivative",
    "derivatives",
    "dirichlet",
    "disk_gauss",
    "divergence",
    "dot",
    "exact_dirichlet",
    "exact_initial",
    "exact_neumann",
    "gauss_legendre",
    "gradient",
    "gradient_balance",
    "hats",
    "initial_velocity",
    "interface",
    "interleave",
    "laplacian",
    "neumann",
    "normal_derivative",
    "periodic",
    "residual_adaptive",
    "robin",
    "sines",
    "strain",
    "tensor_product",
    "traction",
    "unit_points",
    "weighted",
]
