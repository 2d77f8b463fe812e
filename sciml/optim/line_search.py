"""A strong-Wolfe line search that survives non-finite values and notices when rounding stops it.

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
    """A point on the line.

    Attributes:
        step: the step a.
        value: psi(a).
        slope: psi'(a).
        gradient: of the loss there; None at a non-finite point.
    """

    step: float
    value: float
    slope: float
    gradient: Tensor | None = None

    @property
    def finite(self) -> bool:
        """Whether value and slope are finite."""
        return math.isfinite(self.value) and math.isfinite(self.slope)


class SearchEnding(Enum):
    """How a line search ended."""

    WOLFE = "wolfe"
    APPROXIMATE = "approximate"  # the decrease is below rounding; accepted by the slopes
    DECREASE = "decrease"  # sufficient decrease only: out of evaluations or bracket exhausted
    FAILED = "failed"  # no acceptable point
    NONFINITE = "nonfinite"  # every trial was non-finite


@dataclass(frozen=True)
class Search:
    """The answer of a line search.

    Attributes:
        trial: the accepted one; None if there is none.
        evaluations: of the loss and its gradient.
        ending: how the search ended.
    """

    trial: Trial | None
    evaluations: int
    ending: SearchEnding


@dataclass(frozen=True)
class Wolfe:
    """Constants of the search.

    Attributes:
        c1: constant of the sufficient decrease.
        c2: constant of the curvature condition.
        max_evaluations: trials after which the best decreasing point is taken.
        epsilon: relative rounding error of one loss value; the approximate conditions apply within 10 epsilon |f|.
        delta: constant of the approximate Wolfe conditions.
        noise: absolute error of a loss value, known from elsewhere (sampling noise). It relaxes the decrease condition.
        slope_noise: absolute error of a slope psi'(a), likewise. It relaxes the curvature condition.
    """

    c1: float = 1e-4
    c2: float = 0.9
    max_evaluations: int = 25
    epsilon: float = 2.3e-16
    delta: float = 0.1
    noise: float = 0.0
    slope_noise: float = 0.0


def search(evaluate: Callable[[float], Trial], start: Trial, first: float, rules: Wolfe) -> Search:
    """Find an acceptable step.

    Args:
        evaluate: value, slope and gradient at a step.
        start: the trial at step 0; its slope must be negative.
        first: the first step to try.
        rules: the constants.
    """
    bracket = _Bracket(start, rules)
    step: float | None = first
    evaluation = 0
    while step is not None and evaluation < rules.max_evaluations:
        evaluation += 1
        trial = evaluate(step)
        ending = bracket.take(trial)
        if ending is not None:
            return Search(trial, evaluation, ending)
        step = bracket.following(trial)
    trial, ending = bracket.best_of_all()
    return Search(trial, evaluation, ending)


class _Bracket:
    """What the trials so far tell of where an acceptable step lies.

    A loss may be rougher than its rounding (sums of large terms, terms that cancel). Trials so short that the slope
    predicts no change of the loss show how rough it is. Where nothing better is found, a trial is taken whose slope is
    acceptable and whose value exceeds that of the start by no more than this roughness.

    Attributes:
        low: the end of the bracket that has sufficient decrease.
        high: the other end; None while none is known.
        best: the lowest trial with sufficient decrease.
        level: the lowest trial that is acceptable by its slope only.
    """

    def __init__(self, start: Trial, rules: Wolfe) -> None:
        self.start, self.rules = start, rules
        self.low, self.high = start, None
        self.best: Trial | None = None
        self.level: Trial | None = None
        self.rounding = 10 * rules.epsilon * abs(start.value)
        self.relaxed = 2 * rules.noise
        self.roughness = self.rounding + self.relaxed
        self.width = math.inf
        self.any_finite = False

    def take(self, trial: Trial) -> SearchEnding | None:
        """Take in a trial; how the search ends if the trial is acceptable, else None."""
        if not trial.finite:
            self.high = trial
            return None
        self.any_finite = True
        start, rules, low = self.start, self.rules, self.low
        decreases = trial.value <= start.value + rules.c1 * trial.step * start.slope + self.relaxed
        higher = trial.value > start.value + self.rounding + self.relaxed
        if decreases and trial.value < (start if self.best is None else self.best).value:
            self.best = trial
        if not decreases and (2 * rules.delta - 1) * start.slope >= trial.slope >= rules.c2 * start.slope:
            if not higher:
                return SearchEnding.APPROXIMATE
            if self.level is None or trial.value < self.level.value:
                self.level = trial
        if -trial.step * start.slope <= self.rounding:
            self.roughness = max(self.roughness, 2 * abs(trial.value - start.value))
        # values that differ by rounding only say nothing; then the slope decides
        above = low is not start and trial.value > low.value + 2 * rules.epsilon * abs(low.value) + self.relaxed
        if above or (not decreases and (higher or trial.slope >= 0)):
            self.high = trial
            return None
        if decreases and abs(trial.slope) <= -rules.c2 * start.slope + rules.slope_noise:
            return SearchEnding.WOLFE
        # too steep still: the minimum lies on the side to which the slope points down
        toward_high = math.inf if self.high is None else self.high.step - trial.step
        if (self.high is None and trial.slope >= 0) or (self.high is not None and trial.slope * toward_high >= 0):
            self.high = low
        self.low = trial
        return None

    def following(self, trial: Trial) -> float | None:
        """The step to try after a trial that was not acceptable; None where nothing is left to try."""
        if not trial.finite:
            step = self.low.step + 0.2 * (trial.step - self.low.step)
            return step if step > self.low.step else None
        if self.high is None:
            return _expand(self.start, self.low)
        if trial is self.high and -trial.step * self.start.slope <= 0.01 * self.rounding:
            return None  # shorter ones differ by rounding only
        before, self.width = self.width, abs(self.high.step - self.low.step)
        if self.width <= 1e-15 * max(abs(self.high.step), abs(self.low.step)):
            return None
        return _between(self.low, self.high, bisect=self.width > 0.66 * before)

    def best_of_all(self) -> tuple[Trial | None, SearchEnding]:
        """The trial to take when none was acceptable, and how the search ends."""
        slight = self.best is None or self.start.value - self.best.value <= self.roughness
        if slight and self.level is not None and self.level.value <= self.start.value + self.roughness:
            return self.level, SearchEnding.APPROXIMATE
        if self.best is not None:
            return self.best, SearchEnding.DECREASE
        return None, SearchEnding.FAILED if self.any_finite else SearchEnding.NONFINITE


def line_minimum(start: Trial, found: Search) -> float:
    """The step at which the line's minimum seems to lie, judged by the start and the accepted trial of a search.

    It is the minimum of the cubic through both; where rounding hides the values, that of the parabola through their
    slopes; infinite where the slope has not risen.
    """
    trial = found.trial
    assert trial is not None
    guess = _cubic(start, trial) if found.ending is SearchEnding.WOLFE else None
    if guess is not None and guess > 0:
        return guess
    rise = trial.slope - start.slope
    return -trial.step * start.slope / rise if rise > 0 else math.inf


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
