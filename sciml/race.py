"""The start race: where a stochastic step is not cheap against a full gradient, both methods start and the faster one
stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sciml.deterministic import DeterministicRunner
from sciml.gradients import loss_only
from sciml.stochastic import Ending, Setting, StochasticRunner
from sciml.switching import Decision

HALF, FULL = 4.0, 8.0
"""Fixed-set gradients after which a clearly slower finisher is dropped, and after which the race is decided."""


@dataclass(frozen=True)
class Outcome:
    """Who won: `decision` is None when the stochastic phase goes on. `start` is the fixed-set loss at the start;
    `ending` is set when the finisher already ended."""

    start: float
    decision: Decision | None
    ending: Ending | None = None


def race(
    setting: Setting, first: StochasticRunner, second: DeterministicRunner, stopped: Callable[[], bool]
) -> Outcome | None:
    """Run both from the same parameters and leave those of the winner in place.

    Returns:
        The outcome; None if `stopped()` became true (the parameters are then back at the start).
    """
    vector = setting.flat.vector
    origin = vector.clone()
    start = second.begin()
    finisher, ending = origin.clone(), None
    stochastic = origin.clone()
    scores: list[tuple[float, float]] = []
    for limit in (HALF, FULL):
        vector.copy_(finisher)
        while ending is None and second.evaluations < limit:
            ending = second.advance()
            if stopped():
                vector.copy_(origin)
                return None
        finisher = vector.clone()
        vector.copy_(stochastic)
        failed = None
        while failed is None and first.items < limit * setting.fixed.size:
            failed = first.advance()
            if stopped():
                vector.copy_(origin)
                return None
        stochastic = vector.clone()
        reached = loss_only(setting.problem, setting.model, setting.fixed.batch)
        second.items += setting.fixed.size
        scores.append((_decrease(start, second.loss), _decrease(start, reached)))
        own, other = scores[-1]
        bad = ending is not None and ending.result in ("NONFINITE", "LINE_SEARCH_FAILED")
        if not bad and limit == HALF and other > 0 and own < other * 2 / 3:
            bad = True
        if bad or not math.isfinite(own):
            return Outcome(start, None)
    if scores[-1][0] <= scores[-1][1]:
        return Outcome(start, None)
    vector.copy_(finisher)
    reason = (
        f"the start race went to {type(second.phase).__name__}: after {FULL:g} gradients of the fixed set it had "
        f"brought the loss from {start:.3g} to {second.loss:.3g}, {type(first.phase).__name__} to {reached:.3g}"
    )
    numbers = {"loss_finisher": second.loss, "loss_stochastic": reached, "loss_start": start}
    return Outcome(start, Decision(reason, numbers), ending)


def _decrease(start: float, now: float) -> float:
    """Decrease of log loss where losses are positive, else of the loss; -inf when it is not a number."""
    if not math.isfinite(now):
        return -math.inf
    return math.log(start / now) if start > 0 and now > 0 else start - now
