"""When a stochastic phase hands over to the finisher, how large its batch must be, and why.

Cost is counted in gradients over the fixed set (line-search calls included); a stochastic step costs batch / set.

`AutoSwitch`, the default, asks what the next gradient's worth of stochastic steps would do, and answers by the
gradient's signal-to-noise ratio (`worth`); where the loss has ceased to fall it does not wait for that answer.
`ProgressSwitch` asks only what the last steps did: it fits the rate at which the loss falls. `SnrSwitch` is the literal
rule (SNR below a threshold, on a plateau), `FixedSwitch` a step number. Every rule answers with a sentence and the
numbers behind it, and says how large the next batches shall be. The fixed set is handed over as it is: the finisher
enlarges or renews it once it has proved exhausted (`sciml.loop.deterministic`).
"""

import bisect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from sciml.errors import InputError
from sciml.watching.batch_size import grown_batch
from sciml.watching.loss_rate import SHORTEST, LossRate, loss_rate
from sciml.watching.noise import WINDOW, NoiseEstimate
from sciml.watching.worth import Worth, worth

_NEARLY = 1 - 1e-9
"""A sum of many small costs falls short of what it should be by so little at most."""
_GROWTH = math.sqrt(2.0)
"""From one look's cost to the next: to be late by half a look is to pay a fifth more for the stochastic phase."""


@dataclass(frozen=True)
class Decision:
    """End of a stochastic phase: a sentence, and the numbers that decided."""

    reason: str
    details: dict[str, Any]


class SwitchRule(ABC):
    """Watches a stochastic phase. `observe` sees every step; `decide` is asked between blocks of steps, then
    `next_batch` if the phase goes on and `solve` may choose its batch.

    Attributes:
        ends_the_last: whether the rule also ends a stochastic phase that no other follows; the solve then converged.
        averaging: how many times the SNR of the update rule's direction is that of one gradient
            (`FirstOrder.averaging`); whoever runs the phase sets it.
    """

    ends_the_last = False
    averaging: float = 1.0

    def limit(self, step: int) -> int | None:
        """Steps that may be taken before `decide` must be asked again; None for any."""
        return None

    @abstractmethod
    def observe(self, cost: float, loss: float) -> None:
        """One step: its cost in fixed-set gradients, and its batch loss."""

    @abstractmethod
    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Whether to switch now."""

    def next_batch(self, batch: int, fixed_set: int, noise: NoiseEstimate | None, averaging: float) -> int:
        """Items of the following steps, asked after `decide` where `solve` may choose them; by default as they are.

        Args:
            batch: items of the steps so far.
            fixed_set: items of the fixed set.
            noise: of the batch's gradient.
            averaging: how many times the SNR of the direction is that of the gradient.
        """
        return batch

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class WatchfulSwitch(SwitchRule):
    """What the rules share that look when the cost passes first * 2^(j/2): the cost spent, and a batch that grows at a
    look.

    Attributes:
        steps: taken.
        spent: their cost.
        target: cost of the next look.
        gain: steps at the present batch that a gradient of the fixed set buys, N / B.
        looked: whether `decide` has just looked.

    Args:
        first: cost of the first look.
    """

    def __init__(self, first: float = 4.0) -> None:
        self.first = first
        self.steps, self.spent, self.target = 0, 0.0, first
        self.gain = math.inf
        self.looked = False

    def observe(self, cost: float, loss: float) -> None:
        """Add up the cost."""
        self.steps += 1
        self.spent += cost
        self.gain = 1 / cost

    def next_batch(self, batch: int, fixed_set: int, noise: NoiseEstimate | None, averaging: float) -> int:
        """`grown_batch`, after a look."""
        return grown_batch(batch, fixed_set, noise, averaging) if self.looked else batch

    def _due(self, at_once: bool) -> bool:
        """Whether to look now, because it is time or at once; sets the time of the next look."""
        self.looked = at_once or self.spent >= self.target
        while self.looked and self.target * _NEARLY <= self.spent:
            self.target *= _GROWTH
        return self.looked

    def state(self) -> dict[str, Any]:
        """All that it has observed."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what it had observed."""
        vars(self).update(state)


class _LossSwitch(WatchfulSwitch):
    """Also keeps the losses of the last quarter of the cost, for the rate at which they fall.

    Attributes:
        costs: spent after each step that is kept.
        losses: of these steps.
        highest: of all losses.
        lowest: of all losses.
    """

    def __init__(self, first: float) -> None:
        super().__init__(first)
        self.costs: list[float] = []
        self.losses: list[float] = []
        self.highest, self.lowest = -math.inf, math.inf

    def observe(self, cost: float, loss: float) -> None:
        """Keep the loss, too."""
        super().observe(cost, loss)
        self.costs.append(self.spent)
        self.losses.append(loss)
        self.highest, self.lowest = max(self.highest, loss), min(self.lowest, loss)

    def _rate(self) -> LossRate | None:
        """Over the last quarter of the cost; None while it has too few steps. What came before is forgotten."""
        start = min(bisect.bisect_left(self.costs, 0.75 * self.spent), max(0, len(self.costs) - SHORTEST))
        self.costs, self.losses = self.costs[start:], self.losses[start:]
        return loss_rate(self.costs, self.losses, self.lowest, self.highest)


class AutoSwitch(_LossSwitch):
    """Hand over once a gradient's worth of stochastic steps is worth less than `enough` full-batch steps, but not
    before `least` gradients of the fixed set are spent; at once where the loss has ceased to fall; and at the latest
    when `most` gradients are spent.

    What is compared is E (`worth`) with a constant, because a quasi-Newton step, too, costs a gradient or a little
    more, and is worth some tens of first-order steps whatever the problem. E falls below it for two reasons, and they
    are the two reasons to hand over:

    * *Curvature is the limit.* Where a gradient buys only a few steps (small sets), E is below `enough` however clean
      the gradient is, and a quasi-Newton method makes better use of it.
    * *Noise is the limit.* Where a gradient buys a hundred steps or more (large sets), E is large as long as the
      direction is mostly signal, and falls as noise drowns it. A batch that grows with the noise (`grown_batch`) lowers
      N / B and so E's ceiling.

    The point estimate decides, with a full window of measurements: to be early and to be late cost about alike, so even
    odds are enough; the sentence says whether the whole 95 % interval of E lies below `enough` or only its middle.
    Without a full window nothing but the ceiling N / B is known, and it decides if it is low enough. Where E stays
    large, or cannot be told (few unknowns make wide intervals), `most` ends the wait: a small part of what a finisher
    costs, whereas Adam without limit is not. `least` lets a network leave its start, whose few first steps are the
    cheapest of all.

    What E cannot see is whether a clean direction leads anywhere: at the noise floor the iterate swings across the
    valley, and a swing, too, is a gradient with a high SNR. There the loss says it: it falls by less than `dry` (in its
    logarithm) while the cost grows by a factor of e, its standard error added (`sciml.watching.loss_rate`). The factor,
    and not a gradient, is the measure, because what may be lost by waiting is a share of what has been spent.

    Args:
        enough: A, full-batch steps.
        least: gradients of the fixed set spent before E may end the phase.
        most: gradients of the fixed set spent at the latest; infinite for no limit.
        dry: fall of the loss, in its logarithm for each factor of e in cost, that counts as none; minus infinity to go
            by E alone.
        first: cost of the first look.
    """

    def __init__(
        self, enough: float = 30.0, least: float = 8.0, most: float = 16.0, dry: float = 0.04, first: float = 2.0
    ) -> None:
        super().__init__(first)
        self.enough, self.least, self.most, self.dry = enough, least, most, dry

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Look at the worth of the next steps and at the fall of the loss, if a look is due."""
        over = self.spent >= self.most * _NEARLY
        if not self._due(over or self.spent >= self.target * _NEARLY):
            return None
        now, fall = self.worth(noise), self._fall()
        below = f"fewer than the {self.enough:g} that a step of the finisher is taken to be worth"
        may = self.spent >= self.least * _NEARLY
        if may and now.high < self.enough:
            verdict = f": surely {below}"
        elif may and now.value is not None and now.value < self.enough:
            verdict = f": probably {below}"
        elif fall is not None and fall.high < self.dry:
            verdict = f", but the loss no longer falls ({fall} in its logarithm while the cost grows by a factor of e)"
        elif over:
            verdict = f": not fewer than {self.enough:g} as far as is known, but {self.most:g} gradients are the limit"
        else:
            return None
        spent = f"{self.spent:.3g} gradients of the fixed set are spent, on {self.steps} steps"
        return Decision(f"{spent}; {now}{verdict}", self.numbers(now, fall))

    def worth(self, noise: NoiseEstimate | None) -> Worth:
        """Of the next gradient of the fixed set, at the present batch. A window that is not full yet counts as nothing
        known."""
        known = noise if noise is None or noise.snr is None or noise.measurements >= WINDOW else None
        return worth(known, self.gain, self.averaging)

    def _fall(self) -> LossRate | None:
        """Of the loss for each factor of e in cost: the rate in the last quarter of the cost, times that quarter's
        middle."""
        rate = self._rate()
        middle = (self.costs[0] + self.costs[-1]) / 2
        return None if rate is None else LossRate(rate.value * middle, rate.error * middle)

    def numbers(self, now: Worth, fall: LossRate | None) -> dict[str, Any]:
        """For the record of a decision."""
        falls = {"fall": fall and fall.value, "fall_error": fall and fall.error, "dry": self.dry}
        return now.numbers() | falls | {"threshold": self.enough, "spent": self.spent, "limit": self.most}


class ProgressSwitch(_LossSwitch):
    """Switch once the loss surely falls by less than `rate` (in its logarithm) per fixed-set gradient, and at the
    latest when `at_most` such gradients are spent, or as many as a gradient buys steps, if these are fewer.

    The rate is that of the last quarter of the cost spent (`sciml.watching.loss_rate`); surely means that its standard
    error is added.

    The limit is a ski-rental argument. Nobody knows beforehand whether Adam will go on to be worth its cost; a finisher
    costs a hundred to several hundred gradients of the fixed set wherever it starts, so Adam for about a tenth of that
    is a small part of the total if it was in vain, whereas Adam without limit is not. Where Adam is the better method
    (ill-conditioned sums of many items), the first 20 to 30 gradients bring most of what it can bring. It is so because
    a gradient buys a hundred steps or more there; where it buys four or eight, a quasi-Newton method makes better use
    of it, and so the limit is the number of steps that a gradient buys (but no less than `first`): in 18 runs on five
    problems with four to eight, the cost to a target was 0.94 (median) of that with 24. And since waiting is cheap up
    to the limit, only a rate that is low beyond its standard error ends the phase before.

    Args:
        rate: of the loss, that is too low.
        at_most: gradients of the fixed set spent at the latest; infinite for no limit.
        first: cost of the first look.
    """

    def __init__(self, rate: float = 0.02, at_most: float = 24.0, first: float = 4.0) -> None:
        super().__init__(first)
        self.rate, self.at_most = rate, at_most

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Look at the rate if the cost has passed the next look or the limit."""
        limit = self.at_most
        if self.spent and math.isfinite(limit):  # infinite: none is wanted
            limit = min(limit, max(self.steps / self.spent, self.first))
        full = self.spent >= limit * _NEARLY
        if not self._due(full):
            return None
        now = self._rate()
        numbers = {"rate": now and now.value, "rate_error": now and now.error}
        numbers |= {"threshold": self.rate, "limit": limit, "spent": self.spent}
        if now is not None and now.high <= self.rate:
            return Decision(
                f"progress fell to {now} per gradient of the fixed set (limit {self.rate:.2g}) after {self.spent:.3g} "
                "of them",
                numbers,
            )
        if not full:
            return None
        return Decision(
            f"{self.spent:.3g} gradients of the fixed set are spent, on {self.steps} steps (limit {limit:.3g})"
            + ("" if now is None else f"; progress was still {now} per gradient"),
            numbers,
        )


class SnrSwitch(SwitchRule):
    """The literal rule: the windowed SNR has stayed below `threshold` in consecutive windows, and the loss is on a
    plateau.

    A plateau: the mean loss of the latest `span` steps is no more than `flat` (relative) below that of the `span`
    before.
    """

    def __init__(self, threshold: float = 1.0, windows: int = 2, span: int = 100, flat: float = 0.02) -> None:
        self.threshold, self.windows, self.span, self.flat = threshold, windows, span, flat
        self.below = 0
        self.losses: list[float] = []

    def observe(self, cost: float, loss: float) -> None:
        """Keep the latest losses."""
        self.losses.append(loss)
        del self.losses[: -2 * self.span]

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Count the blocks for which both conditions hold."""
        if noise is None or noise.snr is None or len(self.losses) < 2 * self.span:
            return None
        before = math.fsum(self.losses[: self.span]) / self.span
        now = math.fsum(self.losses[self.span :]) / self.span
        plateau = before - now <= self.flat * abs(before)
        # a window of 20 measurements, one every second block of steps, is renewed every 40 blocks
        self.below = self.below + 1 if noise.snr < self.threshold else 0
        if not plateau or self.below < 40 * self.windows:
            return None
        return Decision(
            f"the SNR stayed below {self.threshold:g} (now {noise.snr:.3g}) on a plateau of the loss",
            {"threshold": self.threshold, "loss_before": before, "loss_now": now},
        )

    def state(self) -> dict[str, Any]:
        """All that it has observed."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what it had observed."""
        vars(self).update(state)


class FixedSwitch(SwitchRule):
    """Switch after a given number of steps."""

    def __init__(self, step: int) -> None:
        if step < 0:
            raise InputError(f"switch={step}: the step to switch at must not be negative")
        self.step = step

    def limit(self, step: int) -> int | None:
        """Steps left until the fixed one."""
        return max(self.step - step, 0)

    def observe(self, cost: float, loss: float) -> None:
        """Nothing to watch."""

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Hand over at the fixed step."""
        return Decision(f"fixed at step {self.step}", {"step": self.step}) if step >= self.step else None

    def state(self) -> dict[str, Any]:
        """Nothing: the step is all it knows."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing: the step is all it knows."""


RULES: dict[str, type[SwitchRule]] = {"auto": AutoSwitch, "progress": ProgressSwitch, "snr": SnrSwitch}
"""By the name that `solve` knows them by."""


def rule_for(switch: object) -> SwitchRule:
    """The rule behind `solve(switch=...)`: "auto", "progress", "snr", a step number, or a rule of one's own.

    Raises:
        InputError: anything else.
    """
    if isinstance(switch, SwitchRule):
        return switch
    if isinstance(switch, str) and switch in RULES:
        return RULES[switch]()
    if isinstance(switch, int) and not isinstance(switch, bool):
        return FixedSwitch(switch)
    raise InputError(f"switch={switch!r}: allowed are 'auto', 'progress', 'snr', a step number, or a SwitchRule")
