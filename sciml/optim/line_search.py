"""A strong-Wolfe line search that survives non-finite values and knows when rounding is what stops it.

Accepts a step `a` along p with psi(a) = f(x + a p) when

    psi(a) <= psi(0) + c1 a psi'(0)    and    |psi'(a)| <= c2 |psi'(0)|,

or, once the first fails by no more than rounding, by the approximate Wolfe conditions of Hager and Zhang (2005, eq.
4.1). Bracketing and zoom follow Nocedal and Wright (2006, algorithms 3.5 and 3.6). Nothing here is absolute: f and c
f take the same steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """A point on the line: step, value, slope psi'(step), and the gradient there (None at a non-finite point)."""

    step: float
    value: float
    slope: float
    gradient: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether value and slope are numbers."""
        return math.isfinite(self.value) and math.isfinite(self.slope)


class Ending(Enum):
    """How a line search ended."""

    WOLFE = "wolfe"
    APPROXIMATE = "approximate"  # the decrease is below rounding; accepted by the slopes
    DECREASE = "decrease"  # sufficient decrease only: out of evaluations or bracket exhausted
    FAILED = "failed"  # no acceptable point
    NONFINITE = "nonfinite"  # every trial was non-finite


@dataclass(frozen=True)
class Search:
    """Answer of a line search: the accepted trial (None if none), evaluations spent, how it ended."""

    trial: Trial | None
    evaluations: int
    ending: Ending


@dataclass(frozen=True)
class Wolfe:
    """Constants of the search.

    Attributes:
        c1: sufficient decrease. c2: curvature. max_evaluations: trials before the best decreasing point is taken.
        epsilon: relative rounding error of one loss value; the approximate conditions apply within 10 epsilon |f|.
        delta: of the approximate Wolfe conditions.
        noise: absolute error of a loss value known from elsewhere (sampling noise); relaxes the decrease condition.
    """

    c1: float = 1e-4
    c2: float = 0.9
    max_evaluations: int = 25
    epsilon: float = 2.3e-16
    delta: float = 0.1
    noise: float = 0.0


def search(evaluate: Callable[[float], Trial], start: Trial, first: float, rules: Wolfe) -> Search:
    """Find an acceptable step.

    Args:
        evaluate: value, slope and gradient at a step.
        start: the trial at step 0; its slope must be negative.
        first: first step to try.
        rules: constants.
    """
    slack = 10 * rules.epsilon * abs(start.value) + 2 * rules.noise
    low, high = start, None
    best: Trial | None = None
    step, previous_width, any_finite = first, math.inf, False
    for evaluation in range(1, rules.max_evaluations + 1):
        trial = evaluate(step)
        if not trial.finite:
            high = trial
            step = low.step + 0.2 * (trial.step - low.step)
            if not step > low.step:
                break
            continue
        any_finite = True
        decreases = trial.value <= start.value + rules.c1 * trial.step * start.slope
        flat = (2 * rules.delta - 1) * start.slope >= trial.slope >= rules.c2 * start.slope
        if not decreases and trial.value <= start.value + slack and flat:
            return Search(trial, evaluation, Ending.APPROXIMATE)
        if decreases and trial.value < (start if best is None else best).value:
            best = trial
        # values that differ by rounding only say nothing; then the slope decides
        above = low is not start and trial.value > low.value + 2 * rules.epsilon * abs(low.value)
        if not decreases or above:
            high = trial
        elif abs(trial.slope) <= -rules.c2 * start.slope:
            return Search(trial, evaluation, Ending.WOLFE)
        else:
            # too steep still: the minimum lies on the side to which the slope points down
            toward_high = math.inf if high is None else high.step - trial.step
            if (high is None and trial.slope >= 0) or (high is not None and trial.slope * toward_high >= 0):
                high = low
            low = trial
        if high is None:
            step = _expand(start, low)
            continue
        width = abs(high.step - low.step)
        if width <= 1e-15 * max(abs(high.step), abs(low.step)):
            break
        step = _between(low, high, bisect=width > 0.66 * previous_width)
        previous_width = width
    else:
        evaluation = rules.max_evaluations
    if best is not None:
        return Search(best, evaluation, Ending.DECREASE)
    return Search(None, evaluation, Ending.FAILED if any_finite else Ending.NONFINITE)


def _cubic(a: Trial, b: Trial) -> float | None:
    """Minimiser of the cubic through two trials' values and slopes (Nocedal and Wright eq. 3.59), None if it has
    none."""
    width = b.step - a.step
    if width == 0 or not (a.finite and b.finite):
        return None
    d1 = a.slope + b.slope - 3 * (b.value - a.value) / width
    radicand = d1 * d1 - a.slope * b.slope
    if radicand < 0 or not math.isfinite(radicand):
        return None
    d2 = math.copysign(math.sqrt(radicand), width)
    denominator = b.slope - a.slope + 2 * d2
    if denominator == 0:
        return None
    return b.step - width * (b.slope + d2 - d1) / denominator


def _expand(start: Trial, low: Trial) -> float:
    """A longer step while the slope is still steeply negative: the cubic's minimum, held within 2 and 10 times the
    step."""
    guess = _cubic(start, low)
    if guess is None or guess <= low.step:
        return 4 * low.step
    return min(max(guess, 2 * low.step), 10 * low.step)


def _between(low: Trial, high: Trial, *, bisect: bool) -> float:
    """A step inside the bracket: the cubic's minimum kept off the ends, or the middle."""
    width = high.step - low.step
    if not high.finite:
        return low.step + 0.2 * width
    guess = None if bisect else _cubic(low, high)
    if guess is None:
        return low.step + 0.5 * width
    inner, outer = sorted((low.step + 0.1 * width, high.step - 0.1 * width))
    return min(max(guess, inner), outer)
