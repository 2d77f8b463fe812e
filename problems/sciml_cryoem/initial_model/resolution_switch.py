"""The stochastic phase of a search for a start map, and when it hands over to all images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from sciml.watching.noise import NoiseEstimate
from sciml.watching.switching import Decision, WatchfulSwitch
from sciml.watching.worth import worth
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.initial_model.frontier import PREDICTED, predicted_share
from sciml_cryoem.initial_model.marginal import Marginal
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, SearchPlan
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra
from sciml_cryoem.reconstruction.images import ImageSettings

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

Look = Callable[[str, Float[np.ndarray, "classes m m m"], float], None]
"""Shown the maps as they emerge: the moment in words, the maps on a coarse grid that spans the box, Angstrom scored."""


@dataclass(frozen=True)
class AbInitioOptions:
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
    settings: ImageSettings = field(default_factory=ImageSettings)


class AbInitio(Marginal):
    """The search for a start map, which says as it goes what resolution is scored.

    Attributes:
        extent: of the box, Angstrom.
    """

    evaluate_every = 1

    def __init__(self, particles: Particles, images: ImageSpectra, plan: SearchPlan, options: AbInitioOptions) -> None:
        super().__init__(images, plan, options.symmetry, options.settings.device, options.seed)
        self.extent = particles.box * particles.pixel_size

    def resolution(self, model: MarginalDensity) -> float:
        """Angstrom of the finest scored shell."""
        return self.extent / float(model.radius)

    def evaluate(self, model: MarginalDensity) -> dict[str, float]:
        """The scored resolution."""
        return {"resolution": self.resolution(model)}


class ResolutionSwitch(WatchfulSwitch):
    """Hands over to all images when the map predicts no further shell and the likelihood has come to rest.

    The map predicts none when the scored radius is at its limit, or has rested while `rest` images went by with the
    share of signal beyond it below `PREDICTED`. The likelihood rests by `RISE`, where it can be expected to
    (`EXPLAINED`). Where offsets turn out to go on beyond the range that is tried, the range is widened first, and the
    phase goes on.

    Args:
        problem: the search.
        model: what it optimizes; its buffers say how far it is.
        rest: images.
        look: shown the maps at the hand-over.
    """

    def __init__(
        self, problem: AbInitio, model: MarginalDensity, rest: int = 2 * HALF_LIFE, look: Look | None = None
    ) -> None:
        super().__init__()
        self._problem, self._model, self._show_to = problem, model, look
        self.rest = rest
        self.level: float | None = None
        self.begun = 0
        self.losses: list[float] = []

    def observe(self, cost: float, loss: float) -> None:
        """Keep the latest losses, too."""
        super().observe(cost, loss)
        self.losses = [*self.losses[1 - 2 * SPAN :], loss]

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
        now = worth(noise, self.gain, self.averaging)
        ahead = "unknown" if rho is None else f"{rho:.2f}"
        reason = (
            f"the scored radius has stayed at {radius:g} Fourier pixels ({self._problem.extent / radius:.3g} Angstrom) "
            f"for {rested} images (limit {self._problem.plan.stop:g}; signal beyond it {ahead}, {PREDICTED} would "
            f"raise it); the log likelihood rose by {rise:.1%} in {SPAN} steps and is {self._share(radius):.0%} of the "
            f"images' signal; offsets to {float(self._model.shift_range):.3g} pixels were tried; {self.spent:.3g} "
            f"gradients of all images are spent: {now}"
        )
        show(self._show_to, "hand-over to all images", self._problem, self._model)
        numbers = {"radius": radius, "predicted": rho, "rested": rested, "rise": rise, "spent": self.spent}
        return Decision(reason, numbers | now.numbers())

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


def show(look: Look | None, moment: str, problem: AbInitio, model: MarginalDensity) -> None:
    """Show the maps of a model to whoever looks."""
    if look is not None:
        look(moment, model.voxels.detach().cpu().numpy() * problem.slices.mask, problem.resolution(model))
