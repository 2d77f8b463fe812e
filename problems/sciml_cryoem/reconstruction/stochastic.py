"""The map by watched stochastic descent on its voxels: both half maps, then the full map under the prior they imply.

Preconditioned SGD on batches of particles takes the map to where the sampling noise of the gradient hides the signal;
preconditioned L-BFGS on all particles finishes. Same sums, floors, FSC and prior as the direct path, so the maps can be
compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

import sciml
from sciml.errors import InputError
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging.devices import torch_device
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.reconstruction.accumulation import HalfSetSums, ReconstructOptions, accumulate, sums_memory
from sciml_cryoem.reconstruction.density import CHUNK, MEMORY_MB, Density, DensityProblem
from sciml_cryoem.reconstruction.direct import Reconstruction
from sciml_cryoem.reconstruction.images import stack_bytes
from sciml_cryoem.reconstruction.prior import estimate_prior
from sciml_cryoem.reconstruction.resources import Resources, disc_points

_HISTORY = 10
DEFAULT_PHASES = (sciml.SGD(lr=0.2, momentum=0.0), sciml.LBFGS(history=_HISTORY, tolerance=1e-3, steps=60))
"""A fifth of the preconditioned gradient of a batch; then until the decrement is a millionth of the largest loss."""


@dataclass(frozen=True)
class StochasticReconstruction:
    """A reconstruction by stochastic descent, with its three solves.

    Attributes:
        reconstruction: maps, prior and weights, as from the direct path.
        solutions: of "half1", "half2" and "full", in this order.
    """

    reconstruction: Reconstruction
    solutions: dict[str, sciml.Solution]

    @property
    def result(self) -> sciml.Result:
        """CONVERGED if all three solves did, else the first other result."""
        results = [solution.result for solution in self.solutions.values()]
        return next((r for r in results if r is not sciml.Result.CONVERGED), sciml.Result.CONVERGED)

    @property
    def switch(self) -> list[dict[str, Any]]:
        """Every end of a phase, with the solve (`stage`) it belongs to."""
        return [{"stage": name, **record} for name, solution in self.solutions.items() for record in solution.switch]


def reconstruct_stochastic(
    particles: Particles,
    options: ReconstructOptions | None = None,
    run: sciml.Run | None = None,
    phases: Sequence[Any] = DEFAULT_PHASES,
    half_sums: HalfSetSums | None = None,
) -> StochasticReconstruction:
    """Reconstruct a particle set with known poses by gradient steps on mini-batches of its images.

    Args:
        particles: with poses.
        options: as for the direct path; the symmetry must be C1.
        run: where the three solves (stages half1, half2, full) keep their metrics and checkpoints.
        phases: of each solve.
        half_sums: of the same particles and options, if they are at hand.

    Raises:
        InputError: a symmetry, which the voxels are not held to; else see `accumulate`.
        KeyboardInterrupt: a solve was interrupted; with a run, it goes on from there.
    """
    options = options or ReconstructOptions()
    if len(point_group(options.symmetry)) > 1:
        raise InputError(
            f"The stochastic solver knows no symmetry: {options.symmetry!r} needs the direct one, `reconstruct`."
        )
    half_sums = half_sums or accumulate(particles, options)
    solutions: dict[str, sciml.Solution] = {}

    def solve(
        name: str, half: int | None, precision: Float[np.ndarray, " shells"] | None
    ) -> Float[np.ndarray, "n n n"]:
        problem = DensityProblem(particles, half_sums, half, precision, options.settings.use_ctf)
        model = Density(particles.box).to(torch_device(options.settings.device))
        stage = None if run is None else run.stage(name)
        solutions[name] = sciml.solve(problem, model, phases, seed=options.seed, run=stage).whole()
        return model.voxels.detach().cpu().numpy().copy()

    half1, half2 = solve("half1", 1, None), solve("half2", 2, None)
    estimate = estimate_prior(half1, half2, half_sums, options)
    full = solve("full", None, estimate.precision)
    if estimate.mask is not None:
        full = full * estimate.mask
    return StochasticReconstruction(Reconstruction(full, half1, half2, estimate, half_sums), solutions)


def agreement(found: Reconstruction) -> float:
    """Least FSC, up to the resolution of the map, between it and the direct solve with the same sums and prior."""
    direct = found.half_sums.full_map(found.prior.precision)
    if found.prior.mask is not None:
        direct = direct * found.prior.mask
    curves = found.prior.curves
    shells = max(1, int(curves.box * curves.pixel_size / curves.resolution()))
    return float(fsc(found.full * found.prior.region, direct * found.prior.region)[: shells + 1].min())


def resources(particles: Particles) -> Resources:
    """Memory, reading and time of the stochastic solves; their number of steps, and so the time, is a guess."""
    box, count = particles.box, len(particles)
    points = disc_points(box / 2)
    memory = [
        *sums_memory(box),
        ("Fourier values of the images", min(8.0 * count * points, MEMORY_MB * 2**20)),
        ("a chunk of Fourier points with the corners of each", 8 * 48.0 * CHUNK),
        ("maps and history of the finisher", (24.0 + 8.0 * _HISTORY) * box**3),
    ]
    seconds = 3 * 60 * count * points * 3e-7
    note = "The solves are taken to pass 60 times over the images, each."
    return Resources(memory, memory, stack_bytes(particles) * 3, 3, seconds, [note])
