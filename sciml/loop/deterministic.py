"""Running a quasi-Newton phase on the fixed set: iterate, watch for the end, and draw the set anew or enlarge it when
the set is what limits the answer."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from sciml.batches import count, divisible, split
from sciml.loop.gradients import loss_only
from sciml.loop.stochastic import Ending, Setting
from sciml.optim.line_search import Ending as Search
from sciml.optim.quasi_newton import Iteration, Status
from sciml.phases import Deterministic, Objective
from sciml.watching.generalization import Generalization
from sciml.watching.noise import GradientNoise

GROWTH_LIMIT = 64
"""The fixed set of a stream is never made larger than so many times the declared one."""
EXHAUSTED = 0.1
"""||g||^2 / noise energy of the set below which the set says nothing more, if the loss beside it stalls too."""
RENEWED = 0.8
"""Loss on fresh items, relative to that at the last renewal, above which renewing was no help and the set must grow."""


class DeterministicRunner:
    """State of a quasi-Newton phase.

    Attributes:
        step: iterations done. items: item gradients spent. scale: largest change of the loss in the whole solve.
    """

    def __init__(self, setting: Setting, phase: Deterministic, index: int, scale: float = 0.0) -> None:
        self.setting, self.phase, self.index = setting, phase, index
        self.terms: dict[str, Tensor] = {}
        self.step, self.items, self.evaluations = 0, 0, 0
        batch = lambda: setting.fixed.batch
        self.method = phase.method(
            Objective(setting.problem, setting.model, setting.flat, batch, self._closure, self._spend)
        )
        self.loss = math.nan
        self.scale = scale
        self.small, self.flat_steps, self.weak = 0, 0, 0
        self.restarts, self.last_restart = 0, -100
        self.watch = Generalization()
        self.surveyed = math.inf  # loss on fresh items when the set was last drawn anew
        self.best: list[float] = []  # [smallest decrement, its loss, iteration] of the last time it halved
        self.lows: list[list[float]] = []  # [iteration, loss on fresh items] each time it was the smallest so far
        self.decrement = math.inf
        self.records: list[dict[str, Any]] = []

    def _closure(self) -> tuple[Tensor, Tensor]:
        evaluation = self.setting.evaluate(self.setting.fixed.batch)
        self._spend(1)
        self.terms = evaluation.terms
        return evaluation.loss, evaluation.gradient

    def _spend(self, evaluations: float) -> None:
        """Count work: loss-and-gradient evaluations of the whole set, or what costs as much."""
        self.items += evaluations * self.setting.fixed.size
        self.evaluations += evaluations

    def begin(self) -> float:
        """Evaluate at the start; returns the loss."""
        self.loss = self.method.refresh()
        return self.loss

    def advance(self) -> Ending | None:
        """One iteration; the ending if the phase is over."""
        if self.method.value is None:
            self.begin()
        start = self.method.value
        assert start is not None
        self.scale = max(self.scale, abs(start))
        iteration = self.method.iterate()
        self.step += 1
        self.loss = iteration.value
        self.scale = max(self.scale, abs(start - iteration.value) if math.isfinite(iteration.value) else 0.0)
        terms = torch.stack([t.double() for t in self.terms.values()]).tolist()
        self._record(
            "step",
            loss=self.loss,
            terms=dict(zip(self.terms, terms, strict=True)),
            batch=self.setting.fixed.size,
            set=self.setting.fixed.size,
            lr=iteration.step,
            decrement=iteration.decrement,
            line_search=iteration.evaluations,
        )
        ending = self._judge(iteration, start)
        if ending is not None and ending.result == "CONVERGED" and not self.setting.fixed.finite:
            ending = self._settled(ending)
        elif ending is None and not self.setting.fixed.finite and self.step % self.phase.check == 0:
            ending = self._look_beside()
        if ending is None and self.step >= self.phase.steps:
            ending = Ending("MAX_STEPS", f"its limit of {self.phase.steps} iterations", {})
        return ending

    def _judge(self, iteration: Iteration, start: float) -> Ending | None:
        """What one iteration's status means for the phase."""
        if iteration.status is Status.STATIONARY:
            return Ending("CONVERGED", "the gradient is zero", {"loss": self.loss})
        if iteration.status is Status.NONFINITE:
            return Ending("NONFINITE", "loss or gradient is not finite", {"loss": self.loss})
        if iteration.status is Status.NOISE_FLOOR:
            return Ending("NOISE_FLOOR", "the gradient is below its noise", {"loss": self.loss})
        if iteration.status is not Status.PROGRESS:
            return self._failed(iteration, restarted=iteration.status is Status.RESTARTED)
        self.decrement = iteration.decrement
        self.weak = self.weak + 1 if iteration.ending is Search.DECREASE else 0
        if self.weak >= 3:  # three searches that used up their evaluations: the curvature or the rounding is to blame
            self.weak = 0
            self.method.inverse_hessian.reset()
            return self._failed(iteration, restarted=True)
        limit = max(
            self.phase.tolerance**2 * self.scale, 4 * torch.finfo(self.setting.flat.vector.dtype).eps * abs(start)
        )
        self.small = self.small + 1 if iteration.decrement <= limit else 0
        if self.small >= 3:
            return Ending("CONVERGED", f"the Newton decrement fell to {iteration.decrement:.2g}", {"limit": limit})
        self.flat_steps = self.flat_steps + 1 if iteration.value >= start else 0
        if self.flat_steps >= 10:
            return Ending("CONVERGED", "the loss no longer changes beyond rounding", {"loss": self.loss})
        return self._stagnation()

    def _stagnation(self) -> Ending | None:
        """No halving of the decrement and no 1 % of the loss in `patience` iterations."""
        if not self.best or self.decrement < 0.5 * self.best[0] or self.loss < self.best[1] - 0.01 * abs(self.best[1]):
            self.best = [min(self.decrement, self.best[0] if self.best else math.inf), self.loss, self.step]
            return None
        if self.step - self.best[2] < self.phase.patience:
            return None
        reason = f"no progress in {self.phase.patience} iterations"
        return Ending("CONVERGED", reason, {"loss": self.loss, "decrement": self.decrement})

    def _failed(self, iteration: Iteration, *, restarted: bool) -> Ending | None:
        """The line search failed: restart once, else enlarge a stream's set, else the end."""
        if restarted and self.step - self.last_restart > 10:
            self.last_restart = self.step
            self.restarts += 1
            return None
        if 0 <= self.loss <= self.phase.tolerance**2 * self.scale:
            return Ending("CONVERGED", "the loss is at its rounding", {"loss": self.loss})
        if self.decrement <= 1e4 * self.phase.tolerance**2 * self.scale:
            return Ending("CONVERGED", "the line search met the rounding of the loss", {"decrement": self.decrement})
        if not self.setting.fixed.finite and self._grow("the line search failed"):
            self.last_restart = self.step
            return None
        name = "NONFINITE" if iteration.ending is Search.NONFINITE else "LINE_SEARCH_FAILED"
        return Ending(name, "the line search found no decrease, along steepest descent either", {"loss": self.loss})

    def _settled(self, ending: Ending) -> Ending | None:
        """Converged on the set of a stream: the end, unless the set's loss differs from that of fresh samples by more
        than the tolerance asks for; then the set is what limits the answer, and it is enlarged."""
        fresh = self._fresh()
        if abs(fresh - self.loss) <= self.phase.tolerance * self.scale:
            return ending
        if self._grow(f"converged on the set, where the loss is {self.loss:.4g}, but {fresh:.4g} on fresh samples"):
            return None
        reason = f"sampling noise: the loss is {self.loss:.4g} on the largest set allowed, {fresh:.4g} on fresh samples"
        return Ending("NOISE_FLOOR", reason, {"fresh_loss": fresh})

    def _fresh(self) -> float:
        """Loss on samples that the set has not seen, recorded."""
        fresh = loss_only(self.setting.problem, self.setting.model, self.setting.fixed.beside)
        self.items += self.setting.fixed.declared
        self._record("fresh", fresh_loss=fresh, loss=self.loss)
        return fresh

    def _look_beside(self) -> Ending | None:
        """Over-fitting and exhaustion of the set, judged on samples that it does not hold; all terms count."""
        fresh = self._fresh()
        if self._unrewarded(fresh):
            reason = f"twice the iterations did not lower the loss on fresh samples {self.phase.payoff:g}-fold"
            return Ending("CONVERGED", reason, {"fresh_loss": fresh})
        self.watch.look(self.loss, fresh)
        verdict = self.watch.verdict
        if verdict == "over-fitted":
            changed = self._renew(f"the set's loss, {self.loss:.3g}, falls on the set only ({fresh:.3g} beside it)")
        elif verdict == "stalled" and self._exhausted():
            changed = self._grow("the gradient is below its own sampling noise and the loss beside the set stalls")
        else:
            return None
        if changed:
            return None
        reason = f"sampling noise: the set is as large as allowed, its loss {self.loss:.3g}, {fresh:.3g} beside it"
        return Ending("NOISE_FLOOR", reason, {"fresh_loss": fresh})

    def _unrewarded(self, fresh: float) -> bool:
        """Whether the second half of all iterations lowered the loss on fresh items by less than the phase's payoff."""
        if not self.lows or fresh < self.lows[-1][1]:
            self.lows.append([self.step, fresh])
        early = [loss for step, loss in self.lows if 2 * step <= self.step]
        if self.phase.payoff is None or self.step < 4 * self.phase.patience or not early:
            return False
        return self.lows[-1][1] * self.phase.payoff > early[-1] > 0

    def _exhausted(self) -> bool:
        """Whether ||g||^2 < EXHAUSTED times the noise energy of the set's own gradient, where that can be measured."""
        if not divisible(self.setting.fixed.batch, 8):
            return False
        noise = GradientNoise(window=1)
        parts = [self.setting.evaluate(part) for part in split(self.setting.fixed.batch, 8)]
        self.items += self.setting.fixed.size
        measured = noise.measure([part.gradient for part in parts], self.setting.fixed.size)
        self._record(
            "noise",
            snr=measured.signal / measured.noise if measured.noise else None,
            snr_low=None,
            snr_high=None,
            critical_batch=None,
            signal=measured.signal,
            noise=measured.noise,
            batch=measured.batch,
        )
        return measured.mean_energy < EXHAUSTED * measured.noise

    def _record(self, kind: str, **fields: Any) -> None:
        stamp = {"items": self.items, "clock": time.monotonic()}
        self.records.append({"kind": kind, "step": self.step - 1, **fields, **stamp})

    def _renew(self, reason: str) -> bool:
        """Draw the set anew, half of it where residuals are large, and twice as many items if the last renewal was no
        help; keep parameters and curvature. False if it is as large as allowed."""
        fixed = self.setting.fixed
        survey = fixed.survey(self.setting.model)
        self.items += count(survey.items)
        size = fixed.size if survey.loss < RENEWED * self.surveyed else 2 * fixed.size
        if size > GROWTH_LIMIT * fixed.declared:
            return False
        self.surveyed = survey.loss
        fixed.renew(survey, size)
        self._record("grow", set=fixed.size, reason=f"{reason}: {fixed.size} new items")
        self._start_on_new_set()
        return True

    def _grow(self, reason: str) -> bool:
        """Double the set, keep parameters and curvature; False if it is as large as allowed."""
        fixed = self.setting.fixed
        before = fixed.size
        if 2 * before > GROWTH_LIMIT * fixed.declared:
            return False
        fixed.append(before)
        self._record("grow", set=fixed.size, reason=f"{reason}: {before} -> {fixed.size} items")
        self._start_on_new_set()
        return True

    def _start_on_new_set(self) -> None:
        """Evaluate on the new set, so that no curvature pair mixes two sets, and forget what was seen on the old."""
        self.loss = self.method.refresh()
        self.watch = Generalization()
        self.small, self.flat_steps, self.best = 0, 0, []

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""
        return self.method.tensors()

    def numbers(self) -> dict[str, Any]:
        """State numbers for a checkpoint."""
        own = {name: getattr(self, name) for name in _COUNTERS}
        return {**own, "watch": self.watch.state(), "method": self.method.numbers()}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take back a checkpoint."""
        for name in _COUNTERS:
            setattr(self, name, numbers[name])
        self.watch = Generalization(**numbers["watch"])
        self.method.restore(tensors, numbers["method"])


_COUNTERS = (
    "step",
    "items",
    "evaluations",
    "loss",
    "scale",
    "small",
    "flat_steps",
    "weak",
    "restarts",
    "last_restart",
    "surveyed",
    "best",
    "lows",
    "decrement",
)
