"""Running a stochastic phase: draw micro-batches, measure the gradient noise, step, watch for the switch."""

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciml.batches import concatenate, count, move, pieces, split
from sciml.errors import InputError
from sciml.loop.fixed_set import FixedSet
from sciml.loop.gradients import accumulate, evaluate, loss_only
from sciml.parameters import FlatParameters
from sciml.phases import Stochastic
from sciml.problem import Evaluation, Problem
from sciml.schedules import value
from sciml.seeds import generator
from sciml.watching.noise import GradientNoise
from sciml.watching.switching import Decision, SwitchRule

BLOCK = 10
"""Steps between two looks at the numbers: one transfer from the device each."""
WATCH = 20
"""Steps from one noise measurement to the next: on small batches it costs as much as two or three steps."""
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
        self.kept = phase.keep.start(setting.flat.vector) if phase.keep else None
        self.noise = GradientNoise()
        self.step, self.items = 0, 0
        self.batch = self._first_batch(setting.fixed.declared)
        self.safe = setting.flat.vector.clone()
        self.loss = math.nan
        self.records: list[dict[str, Any]] = []
        if phase.keep and phase.keep.whole_set and not (setting.fixed.finite and self.batch == setting.fixed.size):
            raise InputError(
                f"{phase.keep} needs every step to see the whole set, but a step sees {self.batch} items of "
                f"{setting.problem.size or 'an endless stream'}; among samples the smallest loss is the luckiest one. "
                "Use Average() instead, or a finite problem with batch = its size"
            )

    def _first_batch(self, declared: int) -> int:
        """The batch given, or what the problem asks for, or a quarter of the set within 32 and 128 items; a multiple of
        the micro-batches, unless it is the whole set, whose noise is not measured."""
        parts = self.phase.micro_batches
        size = self.phase.batch or self.setting.problem.first_batch or min(max(declared // 4, 32), 128)
        if self.setting.fixed.finite:
            if (self.phase.batch or 0) >= declared:
                return declared
            size = min(size, declared)
        return max(size // parts, 1) * parts

    @property
    def sees_all(self) -> bool:
        """Whether a step sees every item of a finite problem, so that its gradient has no sampling noise."""
        return self.setting.fixed.finite and self.batch == self.setting.fixed.size

    @property
    def cost(self) -> float:
        """Fixed-set gradients that one step costs."""
        return self.batch / self.setting.fixed.size

    def _draw(self, parts: int) -> list[Any]:
        """The step's batch as independent micro-batches of a stream, or as disjoint parts of one draw without
        replacement; whole for `parts` = 1, which spares a stream of Sobol points most of the cost of its draw."""
        problem, seed, spacing = self.setting.problem, self.setting.seed, self.phase.micro_batches
        like = self.setting.flat.vector
        if self.setting.fixed.finite:
            drawn = move(problem.sample(self.batch, generator(seed, "batch", self.index, counter=self.step)), like)
            return split(drawn, parts) if parts > 1 else [drawn]
        draws = []
        for part in range(parts):
            stream = generator(seed, "batch", self.index, counter=self.step * spacing + part)
            draws.append(move(problem.sample(self.batch // parts, stream), like))
        return draws

    def _evaluate(self, batch: Any, parts: int) -> Evaluation:
        """Loss and gradient of a batch, a part after the other."""
        if parts == 1:
            return self.setting.evaluate(batch)
        cut = pieces(batch, parts)
        return accumulate([self.setting.evaluate(piece) for piece in cut], [count(piece) for piece in cut])

    def _gradient(self, watched: bool) -> Evaluation:
        """The raw gradient of a step, from which the problem has learned; with `watched`, the noise is measured on the
        way, in the metric that stood before the batch was drawn."""
        problem, model = self.setting.problem, self.setting.model
        micro = self._draw(self.phase.micro_batches if watched else 1)
        items = [count(part) for part in micro]
        self.items += sum(items)
        parts = [self._evaluate(part, -(-self.phase.accumulate // len(micro))) for part in micro]
        if watched:
            gradients = [part.gradient for part in parts]
            self.noise.measure(gradients, self.batch, problem.population, self.rule.metric())
            self._record_noise()
        evaluation = accumulate(parts, items)
        if type(problem).learn is not Problem.learn:
            problem.learn(model, concatenate(micro), evaluation)
        return evaluation

    def _transformed(self, gradient: Tensor) -> Tensor:
        """What the update rule takes for the gradient."""
        for place, transform in enumerate(self.phase.transforms):
            draw = lambda at=place: generator(self.setting.seed, "transform", self.index, at, counter=self.step)
            gradient = transform(gradient, draw)
        return gradient

    def advance(self) -> Ending | None:
        """Up to one block of steps, then one look at the numbers; the ending if the phase is over."""
        steps = min(BLOCK - self.step % BLOCK, self.phase.steps - self.step)
        limit = self.switch.limit(self.step) if self.switch else None
        if limit is not None:
            steps = min(steps, limit)
        taken: list[_Taken] = []
        for _ in range(steps):
            watched = not self.sees_all and (self.step < WATCHED or self.step % WATCH == 0)
            evaluation = self._gradient(watched)
            if self.kept:
                self.kept.observe(self.setting.flat.vector, evaluation.loss)
            lr = value(self.phase.lr, self.step)
            self.rule.apply(self.setting.flat.vector, self._transformed(evaluation.gradient), lr)
            taken.append(_Taken(self.step, self.items, evaluation.loss, evaluation.terms))
            self.step += 1
        if taken and not self._note(taken):
            self.setting.flat.vector.copy_(self.safe)
            return Ending("NONFINITE", f"the loss became {self.loss}; the last finite parameters were kept", {})
        return self._ending()

    def finish(self) -> None:
        """The phase is over: leave the iterate that was to be kept, and its loss on the set (counted)."""
        if self.kept and self.step and math.isfinite(self.loss):
            self.setting.flat.vector.copy_(self.kept.tensors()["vector"])
            self.loss = loss_only(self.setting.problem, self.setting.model, self.setting.fixed.batch)
            self.items += self.setting.fixed.size

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
                set=self.setting.fixed.size,
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
        if decision is not None:
            result = "CONVERGED" if self.switch and self.switch.ends_the_last else "MAX_STEPS"
            return Ending(result, decision.reason, decision.details)
        if self.switch and self.phase.batch is None:
            self.batch = self.switch.next_batch(self.batch, self.setting.fixed.size, estimate, self.rule.averaging)
        return None

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""
        kept = {f"kept.{name}": tensor for name, tensor in self.kept.tensors().items()} if self.kept else {}
        return {**self.rule.tensors(), **kept, "safe": self.safe}

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
        if self.kept:
            prefix = "kept."
            self.kept.restore({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        for name in _COUNTERS:
            setattr(self, name, numbers[name])
        self.noise.restore(numbers["noise"])
        if self.switch and numbers["switch"] is not None:
            self.switch.restore(numbers["switch"])


_COUNTERS = ("step", "items", "batch", "loss")
