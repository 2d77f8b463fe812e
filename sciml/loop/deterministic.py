"""A quasi-Newton phase while it runs on the fixed set.

It iterates, decides when it is over, and enlarges the set or draws it anew when the set limits the answer.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sciml.batches import count, divisible, split
from sciml.loop.gradients import loss_only
from sciml.loop.runner import Ending, Runner, State
from sciml.loop.setting import Setting
from sciml.optim.line_search import SearchEnding
from sciml.optim.method import Iteration, Status
from sciml.phases import Deterministic, Objective
from sciml.solution import Result
from sciml.watching.generalization import Generalization
from sciml.watching.noise import GradientNoise

GROWTH_LIMIT = 64
"""The fixed set of a stream never grows to more than this many times the declared one."""
EXHAUSTED = 0.1
"""||g||^2 / noise energy below which the set has nothing more to teach, if the loss beside it stalls too."""
IDLE_SETS, IDLE_SHARE = 3, 0.4
"""A phase has stalled when so many new sets in a row did not lower the loss on new items by a tenth, and that loss is
above this share of the first one."""
ROUNDING_SHARE = 0.01
"""Of the Newton decrement or the loss: changes by rounding above it leave a line search nothing to find."""
RENEWED = 0.8
"""Loss on fresh items, relative to that at the last renewal, above which renewing did not help: the set must grow."""


@dataclass
class DeterministicState(State):
    """The plain numbers of a running quasi-Newton phase.

    Attributes:
        evaluations: of the whole set, or what costs as much.
        scale: largest change of the loss in the whole solve.
        decrement: the latest Newton decrement.
        small: iterations running whose decrement was below the tolerance.
        unchanged: iterations running that did not lower the loss.
        weak: line searches running that used up their evaluations.
        restarts: how often the curvature was dropped.
        last_restart: the iteration after which that happened last.
        surveyed: loss on fresh items when the set was last drawn anew.
        best: [smallest decrement, its loss, iteration] of the last time the decrement halved.
        lows: [iteration, loss on fresh items] of each time that loss was the smallest so far.
        sets: loss on each new set when it was new.
    """

    evaluations: float = 0
    scale: float = 0.0
    decrement: float = math.inf
    small: int = 0
    unchanged: int = 0
    weak: int = 0
    restarts: int = 0
    last_restart: int = -100
    surveyed: float = math.inf
    best: list[float] = field(default_factory=list)
    lows: list[list[float]] = field(default_factory=list)
    sets: list[float] = field(default_factory=list)


class DeterministicRunner(Runner[DeterministicState]):
    """A quasi-Newton phase while it runs.

    Args:
        setting: what the phases share.
        phase: the algorithm and its options.
        scale: largest change of the loss in the solve so far.
        reference: a loss that stands for no answer at all; infinite where none is known.
    """

    evaluate_every = 20

    def __init__(self, setting: Setting, phase: Deterministic, scale: float = 0.0, reference: float = math.inf) -> None:
        super().__init__(DeterministicState(scale=scale))
        self.setting, self.phase, self.reference = setting, phase, reference
        self.terms: dict[str, Tensor] = {}
        batch = lambda: setting.fixed.batch
        self.method = phase.method(
            Objective(setting.problem, setting.model, setting.flat, batch, self._closure, self._spend)
        )
        self.watch = Generalization()

    @property
    def batch(self) -> int:
        """Items that an iteration sees: the whole set."""
        return self.setting.fixed.size

    @property
    def noise(self) -> None:
        """Not measured: every iteration sees the same items."""
        return None

    def finish(self) -> None:
        """The parameters stay as they are: a method leaves them at the best point."""

    def _closure(self) -> tuple[Tensor, Tensor]:
        evaluation = self.setting.evaluate(self.setting.fixed.batch)
        self._spend(1)
        self.terms = evaluation.terms
        return evaluation.loss, evaluation.gradient

    def _spend(self, evaluations: float) -> None:
        """Count work: loss-and-gradient evaluations of the whole set, or what costs as much."""
        self.state.items += evaluations * self.setting.fixed.size
        self.state.evaluations += evaluations

    def advance(self) -> Ending | None:
        """One iteration; how the phase ended, or None if it goes on."""
        state, fixed = self.state, self.setting.fixed
        start = self.method.refresh() if self.method.value is None else self.method.value
        state.scale = max(state.scale, abs(start))
        iteration = self.method.iterate()
        state.step += 1
        state.loss = iteration.value
        if math.isfinite(iteration.value):
            state.scale = max(state.scale, abs(start - iteration.value))
        terms = torch.stack([t.double() for t in self.terms.values()]).tolist()
        self._record(
            "step",
            loss=state.loss,
            terms=dict(zip(self.terms, terms, strict=True)),
            batch=fixed.size,
            set=fixed.size,
            lr=iteration.step,
            decrement=iteration.decrement,
            line_search=iteration.evaluations,
        )
        ending = self._judge(iteration, start)
        if ending is not None and ending.result is Result.CONVERGED and not fixed.finite:
            ending = self._settled(ending)
        elif ending is None and not fixed.finite and state.step % self.phase.check == 0:
            ending = self._look_beside()
        if ending is None and self._idle():
            reason = (
                f"no progress over the last {IDLE_SETS} sets: {state.sets[-1 - IDLE_SETS]:.4g} -> {state.sets[-1]:.4g}"
            )
            ending = Ending(Result.STALLED, reason, {"sets": state.sets})
        if ending is None and state.step >= self.phase.steps:
            ending = Ending(Result.MAX_STEPS, f"its limit of {self.phase.steps} iterations")
        return ending

    def _judge(self, iteration: Iteration, start: float) -> Ending | None:
        """What one iteration means for the phase; `start` is the loss before it."""
        state = self.state
        if iteration.status is Status.STATIONARY:
            return Ending(Result.CONVERGED, "the gradient is zero", {"loss": state.loss})
        if iteration.status is Status.NONFINITE:
            return Ending(Result.NONFINITE, "loss or gradient is not finite", {"loss": state.loss})
        if iteration.status is Status.NOISE_FLOOR:
            return Ending(Result.NOISE_FLOOR, "the gradient is below its noise", {"loss": state.loss})
        if iteration.status is not Status.PROGRESS:
            return self._failed(iteration, restarted=iteration.status is Status.RESTARTED)
        state.decrement = iteration.decrement
        state.weak = state.weak + 1 if iteration.ending is SearchEnding.DECREASE else 0
        if state.weak >= 3:  # three searches used up their evaluations: the curvature or the rounding is to blame
            state.weak = 0
            self.method.forget()
            return self._failed(iteration, restarted=True)
        rounding = torch.finfo(self.setting.flat.vector.dtype).eps * abs(start)
        limit = max(self.phase.tolerance**2 * state.scale, 4 * rounding)
        state.small = state.small + 1 if iteration.decrement <= limit else 0
        if state.small >= 3:
            reason = f"the Newton decrement fell to {iteration.decrement:.2g}"
            return Ending(Result.CONVERGED, reason, {"limit": limit})
        state.unchanged = state.unchanged + 1 if iteration.value >= start else 0
        if state.unchanged >= 10:
            return Ending(Result.CONVERGED, "the loss no longer changes beyond rounding", {"loss": state.loss})
        return self._stagnation()

    def _stagnation(self) -> Ending | None:
        """The end of a phase whose decrement did not halve, and whose loss did not fall by 1 %, in `patience`
        iterations."""
        state = self.state
        smallest, loss, step = state.best or (math.inf, math.inf, state.step)
        if not state.best or state.decrement < 0.5 * smallest or state.loss < loss - 0.01 * abs(loss):
            state.best = [min(state.decrement, smallest), state.loss, state.step]
            return None
        if state.step - step < self.phase.patience:
            return None
        reason = f"no progress in {self.phase.patience} iterations"
        return Ending(Result.CONVERGED, reason, {"loss": state.loss, "decrement": state.decrement})

    def _idle(self) -> bool:
        """Whether the last sets, each of new items, brought nothing, while the loss is much of what no answer has."""
        *_, before = [math.inf, *self.state.sets[:-IDLE_SETS]]
        latest = self.state.sets[-IDLE_SETS:]
        return bool(latest) and min(latest) > 0.9 * before and latest[-1] > IDLE_SHARE * self.reference

    def _at_rounding(self) -> bool:
        """Whether moving the parameters by their own rounding changes the loss as much as a step might gain."""
        vector, loss = self.setting.flat.vector, self.state.loss
        origin, epsilon = vector.clone(), torch.finfo(vector.dtype).eps
        stream, changes = torch.Generator().manual_seed(0), []
        for _ in range(3):
            signs = torch.randint(0, 2, vector.shape, generator=stream).to(vector) * 2 - 1
            vector.mul_(1 + epsilon * signs)
            changes.append(abs(float(self._closure()[0]) - loss))
            vector.copy_(origin)
        return max(changes) > ROUNDING_SHARE * min(self.state.decrement, abs(loss))

    def _failed(self, iteration: Iteration, *, restarted: bool) -> Ending | None:
        """After a failed line search: go on with fresh curvature once, else enlarge a stream's set, else end."""
        state, rounding = self.state, self.phase.tolerance**2 * self.state.scale
        if restarted and state.step - state.last_restart > 10:
            state.last_restart = state.step
            state.restarts += 1
            return None
        if 0 <= state.loss <= rounding:
            return Ending(Result.CONVERGED, "the loss is at its rounding", {"loss": state.loss})
        if state.decrement <= 1e4 * rounding:
            reason = "the line search met the rounding of the loss"
            return Ending(Result.CONVERGED, reason, {"decrement": state.decrement})
        dtype = self.setting.flat.vector.dtype
        if dtype is not torch.float64 and self._at_rounding():
            reason = f"the line search met the rounding of {dtype}, the loss falls no further in this precision"
            return Ending(Result.CONVERGED, reason, {"decrement": state.decrement})
        if not self.setting.fixed.finite and self._grow("the line search failed"):
            state.last_restart = state.step
            return None
        result = Result.NONFINITE if iteration.ending is SearchEnding.NONFINITE else Result.LINE_SEARCH_FAILED
        reason = "the line search found no decrease, along steepest descent either"
        return Ending(result, reason, {"loss": state.loss})

    def _settled(self, ending: Ending) -> Ending | None:
        """After convergence on the set of a stream. It is the end, unless the loss on the set differs from that on
        fresh samples by more than the tolerance allows: then the set limits the answer, and it is enlarged."""
        fresh, loss = self._fresh(), self.state.loss
        if abs(fresh - loss) <= self.phase.tolerance * self.state.scale:
            return ending
        if self._grow(f"converged on the set, where the loss is {loss:.4g}, but {fresh:.4g} on fresh samples"):
            return None
        reason = f"sampling noise: the loss is {loss:.4g} on the largest set allowed, {fresh:.4g} on fresh samples"
        return Ending(Result.NOISE_FLOOR, reason, {"fresh_loss": fresh})

    def _fresh(self) -> float:
        """The loss on samples that are not in the set; it is recorded."""
        fresh = loss_only(self.setting.problem, self.setting.model, self.setting.fixed.beside)
        self.state.items += self.setting.fixed.declared
        self._record("fresh", fresh_loss=fresh, loss=self.state.loss)
        return fresh

    def _look_beside(self) -> Ending | None:
        """Judge over-fitting and exhaustion of the set on samples that it does not hold; all loss terms count."""
        fresh, loss = self._fresh(), self.state.loss
        if self._unrewarded(fresh):
            reason = f"twice the iterations did not lower the loss on fresh samples {self.phase.payoff:g}-fold"
            return Ending(Result.CONVERGED, reason, {"fresh_loss": fresh})
        self.watch.look(loss, fresh)
        verdict = self.watch.verdict
        if verdict == "over-fitted":
            changed = self._renew(f"the set's loss, {loss:.3g}, falls on the set only ({fresh:.3g} beside it)")
        elif verdict == "stalled" and self._exhausted():
            changed = self._grow("the gradient is below its own sampling noise and the loss beside the set stalls")
        else:
            return None
        if changed:
            return None
        reason = f"sampling noise: the set is as large as allowed, its loss {loss:.3g}, {fresh:.3g} beside it"
        return Ending(Result.NOISE_FLOOR, reason, {"fresh_loss": fresh})

    def _unrewarded(self, fresh: float) -> bool:
        """Whether the second half of all iterations lowered the loss on fresh items by less than the phase's payoff."""
        state = self.state
        if not state.lows or fresh < state.lows[-1][1]:
            state.lows.append([state.step, fresh])
        early = [loss for step, loss in state.lows if 2 * step <= state.step]
        if self.phase.payoff is None or state.step < 4 * self.phase.patience or not early:
            return False
        return state.lows[-1][1] * self.phase.payoff > early[-1] > 0

    def _exhausted(self) -> bool:
        """Whether ||g||^2 < EXHAUSTED times the noise energy of the set's own gradient, where that can be measured."""
        fixed = self.setting.fixed
        if not divisible(fixed.batch, 8):
            return False
        parts = [self.setting.evaluate(part) for part in split(fixed.batch, 8)]
        self.state.items += fixed.size
        measured = GradientNoise(window=1).measure([part.gradient for part in parts], fixed.size)
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
        self.record(kind, self.state.step - 1, self.state.items, **fields)

    def _renew(self, reason: str) -> bool:
        """Draw the set anew, half of it where residuals are large, and twice as many items if the last renewal did not
        help; keep parameters and curvature. False if the set is as large as allowed."""
        fixed = self.setting.fixed
        survey = fixed.survey(self.setting.model)
        self.state.items += count(survey.items)
        size = fixed.size if survey.loss < RENEWED * self.state.surveyed else 2 * fixed.size
        if size > GROWTH_LIMIT * fixed.declared:
            return False
        self.state.surveyed = survey.loss
        fixed.renew(survey, size)
        self._record("grow", set=fixed.size, reason=f"{reason}: {fixed.size} new items")
        self._start_on_new_set()
        return True

    def _grow(self, reason: str) -> bool:
        """Double the set, keep parameters and curvature. False if the set is as large as allowed."""
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
        self.state.loss = self.method.refresh()
        self.state.sets.append(self.state.loss)
        self.watch = Generalization()
        self.state.small, self.state.unchanged, self.state.best = 0, 0, []

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""
        return self.method.tensors()

    def numbers(self) -> dict[str, Any]:
        """State numbers for a checkpoint."""
        return {"state": asdict(self.state), "watch": self.watch.state(), "method": self.method.numbers()}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to the state of a checkpoint."""
        self.state = DeterministicState(**numbers["state"])
        self.watch = Generalization(**numbers["watch"])
        self.method.restore(tensors, numbers["method"])
