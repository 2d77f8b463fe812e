"""Runs the tests as another processor would: with moved initial parameters, or with other seeds.

`python tests/portability.py` sets the two variables; they hold within the process of the tests and within no process
that a test starts. A claim about bits stays true under both, since the change is the same in every solve.
"""

import os

import numpy as np
import torch
from torch import Tensor

PERTURB = "SCIML_PERTURB"
"""Relative change of every initial parameter of a solve; single precision changes by a rounding at least."""

SEED_SHIFT = "SCIML_SEED_SHIFT"
"""Added to every whole number that seeds a generator of torch or numpy."""


def apply() -> None:
    """Do what the variables ask for; nothing where they are absent."""
    if scale := float(os.environ.get(PERTURB, 0)):
        _move_parameters(scale)
    if shift := int(os.environ.get(SEED_SHIFT, 0)):
        _shift_seeds(shift)


def moved(vector: Tensor, scale: float) -> Tensor:
    """The vector with every entry changed by the factor 1 + scale * (uniform in -1 to 1)."""
    stream = torch.Generator().manual_seed(vector.numel())
    change = 2 * torch.rand(vector.shape, generator=stream, dtype=torch.float64) - 1
    return vector * (1 + max(scale, torch.finfo(vector.dtype).eps) * change.to(vector))


def _move_parameters(scale: float) -> None:
    from sciml.loop import solver
    from sciml.optim import torch_optimizers
    from sciml.parameters import FlatParameters

    class Moved(FlatParameters):
        def __init__(self, parameters) -> None:
            super().__init__(parameters)
            self.vector.copy_(moved(self.vector, scale))

    solver.FlatParameters = torch_optimizers.FlatParameters = Moved


def _shift_seeds(shift: int) -> None:
    class Shifted(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            super().manual_seed(seed + shift)
            return self

    plain_seed, plain_rng = torch.manual_seed, np.random.default_rng

    def default_rng(seed=None):
        if isinstance(seed, int):
            seed += shift
        elif isinstance(seed, (list, tuple)):
            seed = [seed[0] + shift, *seed[1:]]
        return plain_rng(seed)

    torch.Generator = Shifted
    torch.manual_seed = lambda seed: plain_seed(seed + shift)
    np.random.default_rng = default_rng
