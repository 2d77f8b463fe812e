"""Running a stochastic phase: draw micro-batches, measure the gradient noise, step, watch for the switch."""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciml.batches import concatenate, count, move, split
from sciml.fixed_set import FixedSet
from sciml.gradients import Evaluation, evaluate
from sciml.noise import GradientNoise
from sciml.parameters import FlatParameters
from sciml.phases import Stochastic
from sciml.problem import Problem
from sciml.schedules import value
from sciml.seeds import generator
from sciml.switching import AutoSwitch, Decision, SwitchRule, grown_batch, set_size

BLOCK = 10
"""Steps between two looks at the numbers: one transfer from the device each, and one noise measurement."""
WATCHED = 20
"""First steps, all of which measure the noise, so that the first window is complete early."""


@dataclass
class Setting:
    """What every phase of a solve shares."""

    problem: Problem
    model: torch.nn.Module
    flat: FlatParameters
    fixed: FixedSet
    seed: int

    def evaluate(self, batch: Any) -> Evaluation:
        """Loss and gradient on a batch at the present parameters."""
        return evaluate(self.problem, self.model, self.flat, batch)


@dataclass(frozen=True)
class Ending:
    """How a phase ended: the `Result` name to report if it was the last, a sentence, and numbers."""

    result: str
    reason: str
    details: dict[str, Any]


class _Taken(NamedTuple):
    """A step whose numbers are still on the device."""

    step: int
    items: int
    loss: Tensor
    terms: dict[str, Tensor]


class StochasticRunner:
    """State of a stochastic phase.

    Attributes:
        step: steps taken. items: item gradients spent. records: metric records since they were last taken.
    """

    def __init__(self, setting: Setting, phase: Stochastic, index: int, switch: SwitchRule | None) -> None:
        self.setting, self.phase, self.index, self.switch = setting, phase, index, switch
        self.rule = phase.rule(setting.problem, setting.model, setting.flat.vector)
        self.noise = GradientNoise()
        self.step, self.items = 0, 0
        self.set_size = setting.fixed.declared
        self.batch = self._first_batch(setting.fixed.declared)
        self.safe = setting.flat.vector.clone()
        self.loss = math.nan
        self.records: list[dict[str, Any]] = []

    def _first_batch(self, declared: int) -> int:
        """The batch given, or a quarter of the set within 32 and 128 items; a multiple of the micro-batches."""
        parts = self.phase.micro_batches
        size = self.phase.batch or min(max(declared // 4, 32), 128)
        if self.setting.fixed.finite:
            size = min(size, declared)
        return max(size // parts, 1) * parts

    @property
    def cost(self) -> float:
        """Fixed-set gradients that one step costs."""
        return self.batch / self.set_size

    def _micro_batches(self) -> list[Any]:
        """K independent micro-batches of a stream, or K disjoint parts of one draw without replacement."""
        problem, seed, parts = self.setting.problem, self.setting.seed, self.phase.micro_batches
        like = self.setting.flat.vector
        if self.setting.fixed.finite:
            drawn = problem.sample(self.batch, generator(seed, "batch", self.index, counter=self.step))
            return split(move(drawn, like), parts)
        draws = []
        for part in range(parts):
            stream = generator(seed, "batch", self.index, counter=self.step * parts + part)
            draws.append(move(problem.sample(self.batch // parts, stream), like))
        return draws

    def _gradient(self, watched: bool) -> Evaluation:
        micro = self._micro_batches()
        self.items += sum(count(part) for part in micro)
        if not watched:
            return self.setting.evaluate(concatenate(micro))
        metric = self.rule.metric()
        parts = [self.setting.evaluate(part) for part in micro]
        gradients = [part.gradient for part in parts]
        self.noise.measure(gradients, self.batch, self.setting.problem.size, metric)
        self._record_noise()
        names = parts[0].terms
        terms = {name: torch.stack([part.terms[name] for part in parts]).mean() for name in names}
        loss = torch.stack([part.loss for part in parts]).mean()
        return Evaluation(loss, terms, torch.stack(gradients).mean(0))

    def advance(self) -> Ending | None:
        """Up to one block of steps, then one look at the numbers; the ending if the phase is over."""
        steps = min(BLOCK - self.step % BLOCK, self.phase.steps - self.step)
        limit = self.switch.limit(self.step) if self.switch else None
        if limit is not None:
            steps = min(steps, limit)
        taken: list[_Taken] = []
        for _ in range(steps):
            watched = self.step < WATCHED or self.step % BLOCK == 0
            evaluation = self._gradient(watched)
            lr = value(self.phase.lr, self.step)
            self.rule.apply(self.setting.flat.vector, evaluation.gradient, lr)
            taken.append(_Taken(self.step, self.items, evaluation.loss, evaluation.terms))
            self.step += 1
        if taken and not self._note(taken):
            self.setting.flat.vector.copy_(self.safe)
            return Ending("NONFINITE", f"the loss became {self.loss}; the last finite parameters were kept", {})
        return self._ending()

    def _note(self, taken: list[_Taken]) -> bool:
        """Bring a block's losses to the host, record them, tell the switch; False if one is not finite."""
        names = list(taken[0].terms)
        table = torch.stack([torch.stack([t.loss, *(t.terms[n] for n in names)]).double() for t in taken]).tolist()
        for (step, items, *_), (loss, *terms) in zip(taken, table, strict=True):
            self.loss = loss
            if not math.isfinite(loss):
                return False
            self._record(
                "step",
                items,
                step=step,
                loss=loss,
                terms=dict(zip(names, terms, strict=True)),
                batch=self.batch,
                set=self.set_size,
                lr=value(self.phase.lr, step),
            )
            if self.switch:
                self.switch.observe(self.cost, loss)
        self.safe.copy_(self.setting.flat.vector)
        return bool(torch.isfinite(self.setting.flat.vector).all())

    def _record(self, kind: str, items: int, **fields: Any) -> None:
        self.records.append({"kind": kind, **fields, "items": items, "clock": time.monotonic()})

    def _record_noise(self) -> None:
        estimate = self.noise.estimate()
        assert estimate is not None
        self._record(
            "noise",
            self.items,
            step=self.step,
            snr=estimate.snr,
            snr_low=estimate.low,
            snr_high=estimate.high,
            critical_batch=estimate.critical_batch,
            signal=estimate.signal,
            noise=estimate.noise,
            batch=estimate.batch,
        )

    def _ending(self) -> Ending | None:
        estimate = self.noise.estimate()
        decision: Decision | None = self.switch.decide(self.step, estimate) if self.switch else None
        if decision is None and self.step >= self.phase.steps:
            drowned = estimate is not None and estimate.high is not None and estimate.high < 1
            result = "NOISE_FLOOR" if drowned else "MAX_STEPS"
            return Ending(result, f"its limit of {self.phase.steps} steps", {})
        looked = isinstance(self.switch, AutoSwitch) and self.switch.looked
        if looked and not self.setting.fixed.finite:
            self.set_size = set_size(self.setting.fixed.declared, estimate)
        if decision is not None:
            return Ending("MAX_STEPS", decision.reason, decision.details)
        if looked and self.phase.batch is None:
            self.batch = grown_batch(self.batch, self.set_size, estimate)
        return None

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""
        return {**self.rule.tensors(), "safe": self.safe}

    def numbers(self) -> dict[str, Any]:
        """State numbers for a checkpoint."""
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "noise": self.noise.state(),
            "rule": self.rule.numbers(),
            "switch": self.switch.state() if self.switch else None,
        }

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Take back a checkpoint."""
        self.rule.restore(tensors, numbers["rule"])
        self.safe.copy_(tensors["safe"])
        for name in _COUNTERS:
            setattr(self, name, numbers[name])
        self.noise.restore(numbers["noise"])
        if self.switch and numbers["switch"] is not None:
            self.switch.restore(numbers["switch"])


_COUNTERS = ("step", "items", "batch", "set_size", "loss")
