"""Ab initio: from a particle set to a start map and poses, with nothing but the images.

Several starts, which differ in the images and grids that they see, are raced at low resolution and pruned by the
likelihood of images that none of them has seen. The best one is kept. It is optimized on batches, whose gradient noise
the core watches, to the resolution that the map can predict; then preconditioned L-BFGS takes the images together.

Projections do not tell a structure from its mirror image: either hand comes out, by chance.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

import sciml
from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.devices import warm_up
from sciml_cryoem.initial_model.final_poses import Block, FinalPoses, centered
from sciml_cryoem.initial_model.likeliest_poses import LikeliestPoses
from sciml_cryoem.initial_model.map_slices import TurnedGrid
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.resolution_switch import AbInitio, AbInitioOptions, Look, ResolutionSwitch, show
from sciml_cryoem.initial_model.search_plan import START, SearchPlan
from sciml_cryoem.reconstruction.image_spectra import image_spectra, whitened
from sciml_cryoem.reconstruction.images import ImageSettings, batches, image_findings, measure_noise, views_of
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import NoiseModel

STEP = sciml.SGD(lr=0.5)
"""Half of the preconditioned gradient: expectation maximization that remembers the last few batches."""
FINISH = sciml.LBFGS(history=5, steps=1, tolerance=1e-3)
"""One step from all images, two passes: a further one costs as much as ten batches and hardly raises the likelihood."""
ROUNDS = ((14, 8.0), (12, 10.0))
"""Of the race: steps, and the radius (particle fills the box) at which the starts are then ranked."""
AHEAD = 6
"""Shells beyond the scored ones that the final map holds: polished poses are good for more than those of a grid."""
HELD_OUT = 200
STEPS = 200
"""Of the stochastic phase at most."""
MOST = 10_000
"""Images that take part; a start map needs no more. The others are read, and given poses, at the end."""


@dataclass(frozen=True)
class StartMap:
    """What `abinitio` found.

    Attributes:
        maps: (classes, n, n, n) at the box of the images, best class first.
        rotations: A of the likeliest pose of every image.
        offsets: (x, y) of the likeliest pose of every image, Angstrom.
        classes: likeliest class of every image, from 0.
        log_likelihood: log of the mean likelihood of every image over all poses, relative to an empty map.
        resolution: Angstrom, of the finest scored shell.
        race: a record for every round and start: steps, log_likelihood, resolution (scored, Angstrom), kept.
        solution: of the winner.
        findings: what to know about the images.
    """

    maps: Float[np.ndarray, "classes n n n"]
    rotations: Float[np.ndarray, "images 3 3"]
    offsets: Float[np.ndarray, "images 2"]
    classes: Int[np.ndarray, " images"]
    log_likelihood: Float[np.ndarray, " images"]
    resolution: float
    race: list[dict[str, Any]]
    solution: sciml.Solution
    findings: tuple[Finding, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the stochastic phase ended because resolution had, and the finish did not fail."""
        ended = bool(self.solution.switch) and self.solution.switch[0]["step"] < STEPS
        return ended and self.solution.result in (sciml.Result.CONVERGED, sciml.Result.MAX_STEPS)


@dataclass(frozen=True)
class Prepared:
    """A search before its first start.

    Attributes:
        problem: of the images that take part.
        noise: of the images.
        views: CTFs and optics groups of all particles.
        chosen: which particles take part, in order.
        settings: how images are read.
    """

    problem: AbInitio
    noise: NoiseModel
    views: Views
    chosen: Int[np.ndarray, " some"]
    settings: ImageSettings


def prepare(
    particles: Particles,
    options: AbInitioOptions,
    draw: np.random.Generator,
    watch: Callable[[int], None] | None = None,
) -> Prepared:
    """Read the images that take part.

    Args:
        particles: all of them.
        options: how to search.
        draw: decides which images take part.
        watch: called with the number of images read.

    Raises:
        InputError: fewer than 50 images, an unusable image, or an unknown symmetry.
    """
    if len(particles) < 50:
        raise InputError(f"{particles.path}: {len(particles)} particles; ab initio needs at least 50.")
    settings = replace(options.settings, diameter=options.diameter or options.settings.diameter)
    extent = particles.box * particles.pixel_size
    plan = SearchPlan.fit(particles.box, None if options.diameter is None else options.diameter / extent)
    warm_up(settings.device)
    views = views_of(particles, settings.use_ctf)
    noise = measure_noise(particles, views.groups, settings)
    chosen = np.sort(draw.permutation(len(particles))[:MOST])
    radius = min(plan.stop + AHEAD, particles.box / 2)
    images = image_spectra(particles, views, noise, radius, settings, chosen, watch)
    return Prepared(AbInitio(particles, images, plan, options), noise, views, chosen, settings)


@threadpool_limits.wrap(limits=1)  # products are small: a BLAS's threads would wait for each other longer than work
def abinitio(
    particles: Particles,
    options: AbInitioOptions | None = None,
    run: sciml.Run | None = None,
    watch: Callable[[int], None] | None = None,
    look: Look | None = None,
) -> StartMap:
    """Find a start map and poses.

    Args:
        particles: their poses, if they have any, are not looked at.
        options: how to search.
        run: where the solve of the winner (stage "abinitio") keeps its metrics and checkpoints.
        watch: called with the number of images read.
        look: shown the maps after each round of the race, at the hand-over and at the end.

    Raises:
        InputError: fewer than 50 images, an unusable image, or an unknown symmetry.
        KeyboardInterrupt: a solve was interrupted; with `run`, that of the winner goes on from there.
    """
    options = options or AbInitioOptions()
    draw = np.random.default_rng(options.seed)
    prepared = prepare(particles, options, draw, watch)
    problem, noise, views, chosen = prepared.problem, prepared.noise, prepared.views, prepared.chosen
    settings = prepared.settings
    model, records = race(problem, options, draw, look)
    stage = None if run is None else run.stage("abinitio")
    switch = ResolutionSwitch(problem, model, look=look)
    phases = [replace(STEP, steps=STEPS), FINISH]
    solution = sciml.solve(problem, model, phases, switch=switch, seed=options.seed, run=stage).whole()
    show(look, "the end", problem, model)
    final = FinalPoses(problem, model)
    parts = [final.add(Block(problem.images, problem.poses(model)))]
    others = np.setdiff1d(np.arange(len(particles)), chosen)
    for part, block in batches(particles, settings, others):
        spectra = whitened(block, problem.images.disc, noise, views.take(others[part]))
        parts.append(final.add(Block(spectra, problem.poses(model, spectra))))
        if watch:
            watch(len(chosen) + part.stop)
    poses = LikeliestPoses.joined(parts).take(np.argsort(np.concatenate([chosen, others])))
    found = _conclude(problem, poses, final.maps(), (records, solution, problem.resolution(model)))
    return replace(found, findings=image_findings(particles, settings))


def race(
    problem: AbInitio, options: AbInitioOptions, draw: np.random.Generator, look: Look | None = None
) -> tuple[MarginalDensity, list[dict[str, Any]]]:
    """The most promising of several starts, and how they fared.

    Args:
        problem: whose images they are raced on, at low resolution.
        options: how many starts, and of which maps.
        draw: decides the starts and the images that they are judged by.
        look: shown the best map after each round.

    Returns:
        The winner on the grid of the problem, and the records of `StartMap.race`.
    """
    order = draw.permutation(problem.size)
    unseen = np.sort(order[: min(HELD_OUT, problem.size // 5)])
    # Low resolutions need a coarse grid only.
    last = ROUNDS[-1][1] * problem.plan.start / START
    coarse = replace(problem.plan, stop=min(last, problem.plan.stop))
    images = problem.images.up_to(coarse.stop + coarse.frontier)
    training = Marginal(images.take(np.sort(order[len(unseen) :])), coarse, options.symmetry)
    judge = Marginal(images.take(unseen), coarse, options.symmetry)
    turn = orientations.random_turns(1, draw)[0]
    models = [training.blob(options.classes, draw) for _ in range(max(1, options.starts))]
    records: list[dict[str, Any]] = []
    alive = list(range(len(models)))
    for number, (steps, radius) in enumerate(ROUNDS if len(models) > 1 else ()):
        scores = {}
        for start in alive:
            seed = options.seed * 1000 + 10 * start + number
            sciml.solve(training, models[start], [replace(STEP, steps=steps)], seed=seed).whole()
            ranked_at = min(radius * problem.plan.start / START, coarse.stop)
            where = TurnedGrid(ranked_at, turn)
            scores[start] = judge.log_likelihood(models[start], np.arange(len(unseen)), where)
        alive = sorted(alive, key=lambda start: -scores[start])[: max(1, len(alive) // 2)]
        records += [
            {
                "round": number + 1,
                "start": start + 1,
                "steps": steps,
                "log_likelihood": score,
                "resolution": problem.resolution(models[start]),
                "kept": start in alive,
            }
            for start, score in scores.items()
        ]
        show(look, f"race, round {number + 1}: the best of {len(scores)}", problem, problem.enlarged(models[alive[0]]))
    return problem.enlarged(models[alive[0]]), records


def _conclude(
    problem: AbInitio,
    poses: LikeliestPoses,
    maps: Float[np.ndarray, "classes m m m"],
    record: tuple[list[dict[str, Any]], sciml.Solution, float],
) -> StartMap:
    """The answer, the class with most images first, centered, at the box of the images."""
    records, solution, resolution = record
    box = problem.images.disc.size
    order = np.argsort(-np.bincount(poses.classes, minlength=len(maps)), kind="stable")
    full = np.stack([fourier.resample(volume, box) for volume in maps]).astype(np.float32)
    full, offsets = centered(full, poses, problem.group)
    return StartMap(
        maps=full[order],
        rotations=poses.rotations,
        offsets=offsets * (problem.extent / box),
        classes=np.argsort(order)[poses.classes],
        log_likelihood=poses.log_likelihood,
        resolution=resolution,
        race=records,
        solution=solution,
    )
