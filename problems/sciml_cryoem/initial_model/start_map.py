"""Ab initio: from a particle set to a start map and poses, with nothing but the images.

Several starts, which differ in the images and grids that they see, are raced at low resolution and pruned by the
likelihood of images that none of them has seen. The winner goes on on batches, whose gradient noise the core watches,
to the resolution that the map can predict; then preconditioned L-BFGS takes the images together.

Projections do not tell a structure from its mirror image: either hand comes out, by chance.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

import sciml
from sciml.errors import InputError
from sciml.watching.noise import NoiseEstimate
from sciml.watching.switching import AutoSwitch, Decision
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.devices import warm_up
from sciml_cryoem.initial_model.final_poses import Block, FinalPoses, centered
from sciml_cryoem.initial_model.frontier import PREDICTED, predicted_share
from sciml_cryoem.initial_model.likeliest_poses import LikeliestPoses
from sciml_cryoem.initial_model.map_slices import TurnedGrid
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, START, SearchPlan
from sciml_cryoem.poses.image_spectra import ImageSpectra, image_spectra, whitened
from sciml_cryoem.reconstruction.accumulation import Settings, batches, measure_noise, views_of
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import NoiseModel

STEP = sciml.SGD(lr=0.5)
"""Half of the preconditioned gradient: expectation maximisation that remembers the last few batches."""
FINISH = sciml.LBFGS(history=5, steps=1, tolerance=1e-3)
"""One step from all images, two passes: a further one costs as much as ten batches and hardly raises the likelihood."""
ROUNDS = ((14, 8.0), (12, 10.0))
"""Of the race: steps, and the radius (particle fills the box) at which the starts are then ranked."""
AHEAD = 6
"""Shells beyond the scored ones that the final map holds: polished poses are good for more than those of a grid."""
HELD_OUT = 200
STEPS = 200
"""Of the stochastic phase at most."""
SPAN, RISE = 8, 0.05
"""The phase goes on while the mean log likelihood of so many steps exceeds that of as many before by more than this
share of it: faint images go on rising long after resolution has come to rest."""
EXPLAINED = 0.4
"""Share of the images' signal that the likelihood of a right map reaches in nearly all sets. Below it the map may still
be one that all views fit alike, from which a search breaks out after tens of steps in which nothing is seen to happen:
"""
PATIENCE, BREAK = 100, 1.25
"""then the phase goes on for so many steps, or until the likelihood is so many times what it was when resolution first
had come to rest."""
MOST = 10_000
"""Images that take part; a start map needs no more. The others are read, and given poses, at the end."""

Look = Callable[[str, Float[np.ndarray, "classes m m m"], float], None]
"""Shown the maps as they emerge: the moment in words, the maps on a coarse grid that spans the box, Angstrom scored."""


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        seed: of the starts, batches and grids.
        starts: raced against each other.
        classes: maps that the images are shared out among.
        symmetry: point group imposed from the beginning.
        diameter: of the particle, Angstrom; None: it may fill the box.
        settings: how images are read.
    """

    seed: int = 0
    starts: int = 4
    classes: int = 1
    symmetry: str = "C1"
    diameter: float | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class StartMap:
    """What `abinitio` found.

    Attributes:
        maps: (classes, n, n, n) at the box of the images, best class first.
        rotations, offsets: most likely pose of every image; offsets (x, y) in Angstrom.
        classes: most likely class of every image, from 0.
        log_likelihood: log of the mean likelihood of every image over all poses, relative to an empty map.
        resolution: Angstrom, of the finest scored shell.
        race: a record for every round and start: steps, log_likelihood, resolution (scored, Angstrom), kept.
        solution: of the winner.
    """

    maps: Float[np.ndarray, "classes n n n"]
    rotations: Float[np.ndarray, "images 3 3"]
    offsets: Float[np.ndarray, "images 2"]
    classes: Int[np.ndarray, " images"]
    log_likelihood: Float[np.ndarray, " images"]
    resolution: float
    race: list[dict[str, Any]]
    solution: sciml.Solution

    @property
    def settled(self) -> bool:
        """Whether the stochastic phase ended because resolution had, and the finish did not fail."""
        ended = bool(self.solution.switch) and self.solution.switch[0]["step"] < STEPS
        return ended and self.solution.result in (sciml.Result.CONVERGED, sciml.Result.MAX_STEPS)


class AbInitio(Marginal):
    """The search for a start map, which says as it goes what resolution is scored.

    Attributes:
        extent: of the box, Angstrom.
    """

    evaluate_every = 1

    def __init__(self, particles: Particles, images: ImageSpectra, plan: SearchPlan, options: Options) -> None:
        super().__init__(images, plan, options.symmetry, options.settings.device, options.seed)
        self.extent = particles.box * particles.pixel_size

    def resolution(self, model: MarginalDensity) -> float:
        """Angstrom of the finest scored shell."""
        return self.extent / float(model.radius)

    def evaluate(self, model: MarginalDensity) -> dict[str, float]:
        """The scored resolution."""
        return {"resolution": self.resolution(model)}


class ResolutionSwitch(AutoSwitch):
    """Hand over to all images when the map predicts no further shell (the scored radius is at its limit, or has rested
    while `rest` images went by, the share of signal beyond it below `PREDICTED`) and the likelihood has come to rest,
    too (`RISE`), where it can be expected to (`EXPLAINED`). Where offsets turn out to go on beyond the range that is
    tried, that is widened first, and the phase goes on."""

    def __init__(
        self, problem: AbInitio, model: MarginalDensity, rest: int = 2 * HALF_LIFE, look: Look | None = None
    ) -> None:
        super().__init__()
        self._problem, self._model, self._look = problem, model, look
        self.rest = rest
        self.level: float | None = None
        self.begun = 0

    def limit(self, step: int) -> int | None:
        """Looks are half as far apart as the core's: resolution settles within a few steps."""
        return 5

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Look at the radius."""
        self.looked = step > 0
        radius, rho = float(self._model.radius), predicted_share(self._model)
        rested = int(self._model.frontier[-1])
        if rested < self.rest or (radius < self._problem.plan.stop and (rho is None or rho >= PREDICTED)):
            return None
        rise = self._rise() if step >= self.begun + 2 * SPAN else None
        if rise is None or rise > RISE or not self._explains(step, radius):
            return None
        if self._problem.offsets.cut_short(self._model) and self._problem.offsets.widen(self._model):
            self._model.frontier.zero_()
            self.begun = step
            return None
        snr = "unknown" if noise is None or noise.snr is None else f"{noise.snr:.2g}"
        ahead = "unknown" if rho is None else f"{rho:.2f}"
        reason = (
            f"the scored radius has stayed at {radius:g} Fourier pixels ({self._problem.extent / radius:.3g} Angstrom) "
            f"for {rested} images (limit {self._problem.plan.stop:g}; signal beyond it {ahead}, {PREDICTED} would "
            f"raise it); the log likelihood rose by {rise:.1%} in {SPAN} steps and is {self._share(radius):.0%} of the "
            f"images' signal; offsets to {float(self._model.shift_range):.3g} pixels were tried; the SNR of the "
            f"gradient is {snr}"
        )
        _show(self._look, "hand-over to all images", self._problem, self._model)
        return Decision(reason, {"radius": radius, "predicted": rho, "rested": rested, "rise": rise})

    def _rise(self) -> float | None:
        """Of the log likelihood in the latest steps, as a share of it; None before there are enough."""
        if len(self.losses) < 2 * SPAN:
            return None
        before, now = (float(np.mean(part)) for part in (self.losses[-2 * SPAN : -SPAN], self.losses[-SPAN:]))
        return (before - now) / max(abs(now), 1e-30)

    def _share(self, radius: float) -> float:
        """Of the signal in the images, what the likelihood of the latest steps amounts to."""
        return -float(np.mean(self.losses[-SPAN:])) / max(self._problem.signal(radius), 1e-30)

    def _explains(self, step: int, radius: float) -> bool:
        """Whether the map explains enough of the images, or has had its time."""
        now = -float(np.mean(self.losses[-SPAN:]))
        self.level = now if self.level is None else self.level
        return step >= PATIENCE or now > BREAK * self.level > 0 or self._share(radius) > EXPLAINED

    def state(self) -> dict[str, Any]:
        """Everything but problem and model."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


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
    settings: Settings


def prepare(
    particles: Particles,
    options: Options,
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
    options: Options | None = None,
    run: sciml.Run | None = None,
    watch: Callable[[int], None] | None = None,
    look: Look | None = None,
) -> StartMap:
    """Find a start map and poses.

    Args:
        particles: their poses, if they have any, are not looked at.
        options: how.
        run: where the solve of the winner (stage "abinitio") keeps its metrics and checkpoints.
        watch: called with the number of images read.
        look: shown the maps after each round of the race, at the hand-over and at the end.

    Raises:
        InputError: fewer than 50 images, an unusable image, or an unknown symmetry.
        KeyboardInterrupt: a solve was interrupted; with `run`, that of the winner goes on from there.
    """
    options = options or Options()
    draw = np.random.default_rng(options.seed)
    prepared = prepare(particles, options, draw, watch)
    problem, noise, views, chosen = prepared.problem, prepared.noise, prepared.views, prepared.chosen
    settings = prepared.settings
    model, records = race(problem, options, draw, look)
    stage = None if run is None else run.stage("abinitio")
    switch = ResolutionSwitch(problem, model, look=look)
    phases = [replace(STEP, steps=STEPS), FINISH]
    solution = _whole(sciml.solve(problem, model, phases, switch=switch, seed=options.seed, run=stage))
    _show(look, "the end", problem, model)
    final = FinalPoses(problem, model, noise)
    parts = [final.add(Block(problem.images, views.take(chosen), problem.poses(model)))]
    others = np.setdiff1d(np.arange(len(particles)), chosen)
    for part, block in batches(particles, settings, others):
        of_part = views.take(others[part])
        spectra = whitened(block, problem.images.disc, noise, of_part)
        parts.append(final.add(Block(spectra, of_part, problem.poses(model, spectra))))
        if watch:
            watch(len(chosen) + part.stop)
    poses = LikeliestPoses.joined(parts).take(np.argsort(np.concatenate([chosen, others])))
    return _conclude(problem, poses, final.maps(), (records, solution, problem.resolution(model)))


def _show(look: Look | None, moment: str, problem: AbInitio, model: MarginalDensity) -> None:
    if look is not None:
        look(moment, model.voxels.detach().cpu().numpy() * problem.slices.mask, problem.resolution(model))


def _whole(solution: sciml.Solution) -> sciml.Solution:
    """A solution that was not cut short: `solve` turns the first Ctrl-C into a result."""
    if solution.result is sciml.Result.INTERRUPTED:
        raise KeyboardInterrupt
    return solution


def race(
    problem: AbInitio, options: Options, draw: np.random.Generator, look: Look | None = None
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
            _whole(sciml.solve(training, models[start], [replace(STEP, steps=steps)], seed=seed))
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
        _show(look, f"race, round {number + 1}: the best of {len(scores)}", problem, problem.enlarged(models[alive[0]]))
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
