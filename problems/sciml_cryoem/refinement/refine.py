"""`refine`: poses and two half maps from a start map, halves apart from the first step."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

import sciml
from sciml.runs.stage import Stage
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.refinement.defocus import with_defocus
from sciml_cryoem.refinement.gold_standard import Refinement
from sciml_cryoem.refinement.half_maps import Iteration
from sciml_cryoem.refinement.image_set import ImageSet, RefineOptions
from sciml_cryoem.refinement.particle_weights import UNTOLD
from sciml_cryoem.refinement.refined_poses import Poses, with_poses
from sciml_cryoem.refinement.rest import RefinementSwitch
from sciml_cryoem.refinement.start import begin

BATCHES = 12
"""Steps on batches at most, before all images come in."""


@dataclass(frozen=True)
class Refined:
    """What `refine` found.

    Attributes:
        particles: the set with its new poses, half sets included.
        poses: the same with weights and covariances.
        iterations: the record of the steps.
        solution: how the solve went.
    """

    particles: Particles
    poses: Poses
    iterations: list[Iteration]
    solution: sciml.Solution

    @property
    def converged(self) -> bool:
        """Whether resolution and poses had come to rest."""
        return self.solution.result is sciml.Result.CONVERGED

    @property
    def used(self) -> Particles:
        """The images that are taken for particles: those with a weight of at least a half."""
        return self.particles.select(np.flatnonzero(self.poses.weights >= 0.5))

    @property
    def tells_nothing(self) -> bool:
        """Whether the projections of the maps are so weak beside the noise that poses and junk cannot be told."""
        return bool(np.median(self.poses.expected) < UNTOLD)


@threadpool_limits.wrap(limits=1)  # products are small: a BLAS's threads would wait for each other longer than work
def refine(
    particles: Particles,
    start: Float[np.ndarray, "n n n"],
    options: RefineOptions | None = None,
    watch: Callable[[Iteration], None] | None = None,
    stage: Stage | None = None,
) -> Refined:
    """Refine poses and half maps from a start map.

    Args:
        particles: the set; its half sets are kept, its poses not used.
        start: a map at the box of the images.
        options: how.
        watch: called after every step.
        stage: where the solve keeps its metrics and checkpoints. If it holds one, the refinement goes on from there, to
            the same bits on the same machine.

    Raises:
        InputError: a start map of another box, an unusable image, or a checkpoint of other images.
        KeyboardInterrupt: the solve was interrupted; with a stage, it goes on from there.
    """
    options = options or RefineOptions()
    images = ImageSet.prepare(particles, options)
    problem = Refinement(images, begin(images, start), watch)
    model = problem.model(BATCHES + options.iterations)
    phases = [sciml.SGD(lr=1.0, batch=len(images), steps=options.iterations)]
    if problem.first_batch is not None:
        phases.insert(0, sciml.SGD(lr=1.0, steps=BATCHES, window=1))
    solution = sciml.solve(
        problem, model, phases, switch=RefinementSwitch(model, len(images)), seed=options.seed, run=stage
    ).whole()
    poses = model.images.poses
    poses.defocus[poses.weights < 0.5] = 0.0
    posed = with_defocus(with_poses(particles, poses, images.halves), poses.defocus)
    return Refined(posed, poses, model.iterations, solution)
