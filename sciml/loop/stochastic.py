"""A stochastic phase while it runs: it draws micro-batches, measures the gradient noise, steps, and asks the switch."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sciml.batches import concatenate, count, move, pieces, split
from sciml.errors import InputError
from sciml.loop.gradients import accumulate, loss_only
from sciml.loop.runner import Ending, Runner, State
from sciml.loop.setting import Setting
from sciml.phases import Stochastic
from sciml.problem import Evaluation, Problem
from sciml.schedules import value
from sciml.seeds import generator
from sciml.solution import Result
from sciml.watching.batch_size import first_batch
from sciml.watching.noise import GradientNoise, NoiseEstimate
from sciml.watching.switching import Decision, SwitchRule
from sciml.watching.worth import worth

BLOCK = 10
"""Steps between two looks at the numbers. Each look is one transfer from the device."""
WATCH = 20
"""Steps from one noise measurement to the next. On small batches a measurement costs as much as two or three steps."""
WATCHED = 20
"""The first steps all measure the noise, so that the first window is complete early. This many do."""


@dataclass
class StochasticState(State):
    """The plain numbers of a running stochastic phase.

    Attributes:
        batch: items that a step sees.
    """

    batch: int = 0


class _Step(NamedTuple):
    """A step whose numbers are still on the device."""

    step: int
    items: float
    loss: Tensor
    terms: dict[str, Tensor]


class StochasticRunner(Runner[StochasticState]):
    """A stochastic phase while it runs.

    Args:
        setting: what the phases share.
        phase: the algorithm and its options.
        index: number of the phase; its batches are a function of it.
        switch: the rule that ends the phase before its limit of steps; None for none.

    Raises:
        InputError: the phase keeps the best iterate, but a step does not see the whole set.
    """

    evaluate_every = 100

    def __init__(self, setting: Setting, phase: Stochastic, index: int, switch: SwitchRule | None) -> None:
        fixed = setting.fixed
        batch = first_batch(fixed.declared, phase.batch, setting.problem.first_batch, phase.micro_batches, fixed.finite)
        super().__init__(StochasticState(batch=batch))
        self.setting, self.phase, self.index, self.switch = setting, phase, index, switch
        self.rule = phase.rule(setting.problem, setting.model, setting.flat.vector)
        if switch:
            switch.averaging = self.rule.averaging
        self.tracker = phase.keep.start(setting.flat.vector) if phase.keep else None
        self.window = GradientNoise(phase.window)
        self.safe = setting.flat.vector.clone()
        if phase.keep and phase.keep.whole_set and not (fixed.finite and batch == fixed.size):
            raise InputError(
                f"{phase.keep} needs every step to see the whole set, but a step sees {batch} items of "
                f"{setting.problem.size or 'an endless stream'}; among samples the smallest loss is the luckiest one. "
                "Use Average() instead, or a finite problem with batch = its size"
            )

    @property
    def batch(self) -> int:
        """Items that a step sees."""
        return self.state.batch

    @property
    def noise(self) -> NoiseEstimate | None:
        """The gradient noise over the latest measurements."""
        return self.window.estimate()

    @property
    def sees_all(self) -> bool:
        """Whether a step sees every item of a finite problem, so that its gradient has no sampling noise."""
        return self.setting.fixed.finite and self.batch == self.setting.fixed.size

    @property
    def cost(self) -> float:
        """Fixed-set gradients that one step costs."""
        return self.batch / self.setting.fixed.size

    def _draw(self, parts: int) -> list[Any]:
        """The step's batch in micro-batches: independent ones of a stream, disjoint parts of one draw of a finite set.

        With `parts` = 1 the batch is drawn whole, which is much cheaper for a stream of Sobol points.
        """
        problem, seed, spacing = self.setting.problem, self.setting.seed, self.phase.micro_batches
        like, step = self.setting.flat.vector, self.state.step
        if self.setting.fixed.finite:
            drawn = move(problem.sample(self.batch, generator(seed, "batch", self.index, counter=step)), like)
            return split(drawn, parts) if parts > 1 else [drawn]
        draws = []
        for part in range(parts):
            stream = generator(seed, "batch", self.index, counter=step * spacing + part)
            draws.append(move(problem.sample(self.batch // parts, stream), like))
        return draws

    def _evaluate(self, batch: Any, parts: int) -> Evaluation:
        """Loss and gradient of a batch, computed one part after the other."""
        if parts == 1:
            return self.setting.evaluate(batch)
        cut = pieces(batch, parts)
        return accumulate([self.setting.evaluate(piece) for piece in cut], [count(piece) for piece in cut])

    def _gradient(self, watched: bool) -> Evaluation:
        """The raw gradient of a step. The problem learns from it.

        Args:
            watched: whether to measure the noise, in the metric that was fixed before the batch was drawn.
        """
        problem, model = self.setting.problem, self.setting.model
        micro = self._draw(self.phase.micro_batches if watched else 1)
        items = [count(part) for part in micro]
        self.state.items += sum(items)
        parts = [self._evaluate(part, -(-self.phase.accumulate // len(micro))) for part in micro]
        if watched:
            gradients = [part.gradient for part in parts]
            self.window.measure(gradients, self.batch, problem.population, self.rule.metric())
            self._record_noise()
        evaluation = accumulate(parts, items)
        if type(problem).learn is not Problem.learn:
            learned = problem.learn(model, concatenate(micro), evaluation)
            evaluation = evaluation if learned is None else replace(evaluation, gradient=learned)
        return evaluation

    def _transformed(self, gradient: Tensor) -> Tensor:
        """What the update rule takes for the gradient."""
        for place, transform in enumerate(self.phase.transforms):
            draw = lambda at=place: generator(self.setting.seed, "transform", self.index, at, counter=self.state.step)
            gradient = transform(gradient, draw)
        return gradient

    def advance(self) -> Ending | None:
        """Take up to one block of steps and look at the numbers; how the phase ended, or None if it goes on."""
        steps = min(BLOCK - self.state.step % BLOCK, self.phase.steps - self.state.step)
        limit = self.switch.limit(self.state.step) if self.switch else None
        if limit is not None:
            steps = min(steps, limit)
        taken: list[_Step] = []
        for _ in range(steps):
            watched = not self.sees_all and (self.state.step < WATCHED or self.state.step % WATCH == 0)
            evaluation = self._gradient(watched)
            if self.tracker:
                self.tracker.observe(self.setting.flat.vector, evaluation.loss)
            lr = value(self.phase.lr, self.state.step)
            self.rule.apply(self.setting.flat.vector, self._transformed(evaluation.gradient), lr)
            taken.append(_Step(self.state.step, self.state.items, evaluation.loss, evaluation.terms))
            self.state.step += 1
        if taken and not self._note(taken):
            self.setting.flat.vector.copy_(self.safe)
            return Ending(Result.NONFINITE, f"the loss became {self.state.loss}; the last finite parameters were kept")
        return self._ending()

    def finish(self) -> None:
        """Leave the iterate that the phase keeps, and compute its loss on the set, which counts as work."""
        if self.tracker and self.state.step and math.isfinite(self.state.loss):
            self.setting.flat.vector.copy_(self.tracker.tensors()["vector"])
            self.state.loss = loss_only(self.setting.problem, self.setting.model, self.setting.fixed.batch)
            self.state.items += self.setting.fixed.size

    def _note(self, taken: list[_Step]) -> bool:
        """Bring a block's losses to the host, record them, show them to the switch. False if one is not finite."""
        names = list(taken[0].terms)
        table = torch.stack([torch.stack([t.loss, *(t.terms[n] for n in names)]).double() for t in taken]).tolist()
        for (step, items, *_), (loss, *terms) in zip(taken, table, strict=True):
            self.state.loss = loss
            if not math.isfinite(loss):
                return False
            self.record(
                "step",
                step,
                items,
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

    def _record_noise(self) -> None:
        estimate = self.window.estimate()
        assert estimate is not None
        value = worth(estimate, 1 / self.cost, self.rule.averaging)
        self.record(
            "noise",
            self.state.step,
            self.state.items,
            snr=estimate.snr,
            snr_low=estimate.low,
            snr_high=estimate.high,
            critical_batch=estimate.critical_batch,
            signal=estimate.signal,
            noise=estimate.noise,
            batch=estimate.batch,
            worth=value.value,
            worth_low=value.low,
            worth_high=value.high,
        )

    def _ending(self) -> Ending | None:
        estimate = self.window.estimate()
        decision: Decision | None = self.switch.decide(self.state.step, estimate) if self.switch else None
        if decision is None and self.state.step >= self.phase.steps:
            drowned = estimate is not None and estimate.high is not None and estimate.high < 1
            result = Result.NOISE_FLOOR if drowned else Result.MAX_STEPS
            return Ending(result, f"its limit of {self.phase.steps} steps")
        if decision is not None:
            result = Result.CONVERGED if self.switch and self.switch.ends_the_last else Result.MAX_STEPS
            return Ending(result, decision.reason, decision.details)
        if self.switch and self.phase.batch is None:
            fixed = self.setting.fixed
            self.state.batch = self.switch.next_batch(self.batch, fixed.size, estimate, self.rule.averaging)
        return None

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""
        kept = {f"kept.{name}": tensor for name, tensor in self.tracker.tensors().items()} if self.tracker else {}
        return {**self.rule.tensors(), **kept, "safe": self.safe}

    def numbers(self) -> dict[str, Any]:
        """State numbers for a checkpoint."""
        return {
            "state": asdict(self.state),
            "noise": self.window.state(),
            "rule": self.rule.numbers(),
            "switch": self.switch.state() if self.switch else None,
        }

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to the state of a checkpoint."""
        self.rule.restore(tensors, numbers["rule"])
        self.safe.copy_(tensors["safe"])
        if self.tracker:
            prefix = "kept."
            self.tracker.restore({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        self.state = StochasticState(**numbers["state"])
        self.window.restore(numbers["noise"])
        if self.switch and numbers["switch"] is not None:
            self.switch.restore(numbers["switch"])
