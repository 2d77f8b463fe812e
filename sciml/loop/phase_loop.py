"""The one loop: phases run in order, and every end of a phase is recorded with its reason and its numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from sciml import distributed
from sciml.budget import Budget
from sciml.errors import InputError
from sciml.findings import Finding
from sciml.loop.deterministic import DeterministicRunner
from sciml.loop.fingerprint import check_same, fingerprint
from sciml.loop.gradients import WORTH_SHARING, loss_only
from sciml.loop.interrupts import Interrupts
from sciml.loop.records import Records
from sciml.loop.runner import Ending, Runner
from sciml.loop.setting import GOOD_START, Setting, better, good_start
from sciml.loop.snapshots import Snapshots
from sciml.loop.stochastic import StochasticRunner
from sciml.loop.verdict import STALLED, judge, shares
from sciml.phases import Phase, Stochastic, default_phases
from sciml.problem import Problem
from sciml.reporting.progress import Progress
from sciml.runs.checkpoint import Checkpoint
from sciml.runs.stage import Stage
from sciml.solution import Result, Solution
from sciml.watching.switching import SwitchRule, rule_for

HANDED_OVER = 0.5
"""A stochastic phase that leaves the loss above this share of its first may have begun from something better."""

RETURNS = 1
"""How often a stalled quasi-Newton phase hands back to the stochastic phase before it, at a tenth of the step size."""

LOOK = 10
"""Short advances between two looks at signals and clocks, where several processes must look together."""


@dataclass
class _State:
    """The plain numbers of a solve; all of them go into its checkpoints.

    Attributes:
        index: number of the phase that runs.
        items_before: gradients of single items that the phases before it computed.
        initial_loss: loss of the first step; None before.
        switches: a record for each phase that ended.
        values: the latest answer of `Problem.evaluate`.
        evaluated_at: the interval of steps in which that was.
        returns: how often a stalled quasi-Newton phase handed back to the stochastic phase before it.
        findings: records of what is to be known about problem and answer.
    """

    index: int = 0
    items_before: float = 0.0
    initial_loss: float | None = None
    switches: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    evaluated_at: int = -1
    returns: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)


class PhaseLoop:
    """A solve: the phase that runs, what was spent, and the records.

    Args:
        setting: what the phases share.
        phases: the algorithms in order; None takes `default_phases`.
        switch: what ends a stochastic phase that another phase follows; see `sciml.watching.switching.rule_for`.
        budget: where to stop at the latest.
        stage: where metrics and checkpoints are written; None for nowhere.

    Attributes:
        result: how the solve ended; None while it goes on.
        runner: the phase that runs.

    Raises:
        InputError: a phase or the switch cannot be used.
    """

    def __init__(
        self,
        setting: Setting,
        phases: Sequence[Phase] | None,
        switch: str | int | SwitchRule,
        budget: Budget,
        stage: Stage | None,
    ) -> None:
        self.setting, self.switch, self.budget, self.stage = setting, switch, budget, stage
        self.chosen = not phases
        self.phases = tuple(phases or default_phases(setting.problem, setting.model, setting.flat.vector.numel()))
        for phase in self.phases:
            if not isinstance(phase, Phase):
                raise InputError(f"{phase!r} is not a phase; allowed are Adam, SGD, LBFGS, SelfScaled and GaussNewton")
        rule_for(switch)  # refuses what is no rule, also where no phase needs one
        self.state = _State()
        self.result: Result | None = None
        self.records = Records(stage)
        self.snapshots = None if stage is None else Snapshots(stage)
        self.unlooked, self.looked_at = 0, 0.0  # advances since the last look at signals and clocks; items spent then
        self.stalled: Tensor | None = None  # parameters of the quasi-Newton phase that handed back
        own = type(setting.problem).gradient is not Problem.gradient  # as of a density, whose copy would be large
        self.start = None if own else setting.flat.vector.clone()
        self.identity = self._identity()
        self.runner = self._make_runner()

    def _make_runner(self) -> Runner:
        """The phase at the present index, ready to run."""
        state, phase = self.state, self.phases[self.state.index]
        if isinstance(phase, Stochastic):
            followed = state.index + 1 < len(self.phases)
            draws = state.index + state.returns * len(self.phases)  # after a return other batches than before
            rule = rule_for(self.switch)
            ends = rule if followed or rule.ends_the_last else None
            return StochasticRunner(self.setting, phase.slower(0.1**state.returns), draws, ends)
        first = abs(state.initial_loss or 0.0)
        return DeterministicRunner(self.setting, phase, first, first or math.inf)

    @property
    def evaluations(self) -> float:
        """Loss-and-gradient evaluations per item of the declared set, so far."""
        return self._evaluations_at(self.runner.state.items)

    def _evaluations_at(self, items: float) -> float:
        return (self.state.items_before + items) / self.setting.fixed.declared

    def run(self, interrupts: Interrupts, progress: Progress) -> None:
        """Run the phases in order until one fails, the last ends, the budget is spent, or the user interrupts."""
        if not self.records.history:
            self._begin_well()
            self._evaluate()
        while self.result is None:
            ending = self.runner.advance()
            self._collect()
            if (reached := self.budget.reached(self.state.values)) is not None:
                self._end_phase(Ending(Result.CONVERGED, reached), last=True)
            elif ending is not None:
                self._end_phase(ending)
            elif (spent := self.budget.spent(0.0, self.evaluations)) is not None:
                self._end_phase(Ending(Result.MAX_STEPS, spent), last=True)
            else:
                self._look_around(interrupts)
            self._show(progress)

    def _begin_well(self) -> None:
        """Of the default phases take the finisher alone where the start is good already: Adam's steps would throw it
        away. Its tolerance is then relative to the loss of no answer."""
        setting, phase = self.setting, self.phases[-1]
        if not self.chosen or self.start is None or isinstance(phase, Stochastic):
            return
        if (zero := good_start(setting)) is not None:
            self.state.index = len(self.phases) - 1
            self.runner = DeterministicRunner(setting, phase, zero)
            self.state.findings.append(GOOD_START.record())

    def _look_around(self, interrupts: Interrupts) -> None:
        """Do what signals and clocks ask for between two advances. Any process's signal counts, and the leader's clock.

        Several processes must look together, which takes a good part of a millisecond. Where an advance is short, they
        look only after every tenth.
        """
        self.unlooked += 1
        work = (self.runner.state.items - self.looked_at) * self.setting.flat.vector.numel()
        if distributed.size() > 1 and self.unlooked < LOOK and abs(work) < LOOK * WORTH_SHARING:
            return
        self.unlooked, self.looked_at = 0, self.runner.state.items
        spent = self.budget.spent(self.records.seconds, self.evaluations)
        leads, snapshots = distributed.leader(), self.snapshots
        due = snapshots is not None and (self.setting.problem.long_steps or snapshots.due)
        vector = self.setting.flat.vector
        stamp = distributed.fingerprint(vector) if distributed.size() > 1 else 0
        asked, over, due = distributed.in_step([interrupts.asked, leads and spent is not None, leads and due], stamp)
        if asked:
            self._stop(Result.INTERRUPTED)
        elif over:
            self._end_phase(Ending(Result.MAX_STEPS, spent or "the budget of the leading process"), last=True)
        elif due:
            self._save()

    def _collect(self) -> None:
        """Complete the runner's records and append them; evaluate now and then."""
        common = {"phase": self._phase_name, "index": self.state.index}
        records = []
        for own in self.runner.records:
            record = {"kind": own["kind"], **common, **own}
            record["evaluations"] = self._evaluations_at(record.pop("items"))
            record["seconds"] = self.records.seconds_at(record.pop("clock"))
            records.append(record)
        self.runner.records = []
        if self.state.initial_loss is None:
            self.state.initial_loss = next((r["loss"] for r in records if r["kind"] == "step"), None)
        self.records.append(records)
        usual = self.setting.problem.evaluate_every or self.runner.evaluate_every
        interval = self.runner.state.step // (1 if self.budget.target else usual)
        if interval != self.state.evaluated_at:
            self.state.evaluated_at = interval
            self._evaluate()

    def _evaluate(self) -> None:
        values = {k: float(v) for k, v in self.setting.problem.evaluate(self.setting.model).items()}
        if values:
            self.state.values = values
            self.records.append([self._record("evaluate", values=values)])

    @property
    def _phase_name(self) -> str:
        return type(self.phases[self.state.index]).__name__

    def _record(self, kind: str, **fields: Any) -> dict[str, Any]:
        return {
            "kind": kind, "phase": self._phase_name, "index": self.state.index, "step": self.runner.state.step,
            "evaluations": self.evaluations, "seconds": self.records.seconds, **fields,
        }  # fmt: skip

    def _record_switch(self, ending: Ending) -> None:
        estimate = self.runner.noise
        record = self._record(
            "switch",
            reason=ending.reason,
            snr=None if estimate is None else estimate.snr,
            batch=self.runner.batch,
            set=self.setting.fixed.size,
            loss=self.runner.state.loss,
            details={**ending.details, **({} if estimate is None else vars(estimate))},
        )
        self.state.switches.append({k: v for k, v in record.items() if k != "kind"})
        self.records.append([record])

    def _end_phase(self, ending: Ending, last: bool = False) -> None:
        """Record the end; go to the next phase, or stop after the last one or a failure."""
        self.runner.finish()
        self._record_switch(ending)
        back = not last and self._may_return(ending.result)
        no_more = self.state.index + 1 == len(self.phases) and not back
        if last or no_more or ending.result in (Result.NONFINITE, Result.STALLED):
            self._keep_better()
            self._keep_start(STALLED)
            self._evaluate()
            self._stop(self._judged(ending.result))
            return
        if not back:
            self._keep_start(HANDED_OVER)
        self.state.items_before += self.runner.state.items
        if back:
            self.state.returns += 1
            self.stalled = self.setting.flat.vector.clone()
        self.state.index += -1 if back else 1
        self.runner = self._make_runner()
        self.state.evaluated_at = -1
        self._save()

    def _may_return(self, result: Result) -> bool:
        """Whether a phase that ended with this result may hand back to the stochastic phase before it. A
        quasi-Newton phase that stalled on a stream may."""
        return (
            self.state.returns < RETURNS
            and result is Result.LINE_SEARCH_FAILED
            and self.state.index > 0
            and isinstance(self.phases[self.state.index - 1], Stochastic)
            and not self.setting.fixed.finite
        )

    def _keep_better(self) -> None:
        """After a return, keep the better parameters: the present ones, or those at which the quasi-Newton phase
        stalled."""
        fixed = self.setting.fixed
        if self.stalled is not None and better(self.setting, self.stalled, fixed.beside) is not None:
            self.runner.state.loss = loss_only(self.setting.problem, self.setting.model, fixed.batch)

    def _keep_start(self, share: float) -> None:
        """Go back to the parameters of the start if they are better than the present ones, as after a warm start. They
        are compared only where the loss of the steps has not fallen below a share of its first."""
        now, first = self.runner.state.loss, self.state.initial_loss
        if self.start is None or first is None or (now < share * abs(first) and math.isfinite(now)):
            return
        loss = better(self.setting, self.start, self.setting.fixed.batch)
        self.state.items_before += 2 * self.setting.fixed.size
        if loss is not None:
            self.runner.state.loss = loss
            text = f"back to the parameters of the start, which are better: loss {loss:.3g}, not {now:.3g}"
            self.records.append([self._record("warning", text=text)])

    def _judged(self, result: Result) -> Result:
        """The result after a look at what the loss did; findings are kept."""
        vector, start = self.setting.flat.vector, self.start
        moved = 1.0 if start is None else float((vector - start).norm() / start.norm().clamp_min(1e-300))
        verdict = judge(result, self.runner.state.loss, self.records.history, moved, vector.dtype)
        self.state.findings += [finding.record() for finding in verdict.findings]
        return verdict.result

    def _stop(self, result: Result) -> None:
        """Record the end. An interrupted solve is saved as unfinished, before its end is recorded."""
        self.result = result
        if result is Result.INTERRUPTED:
            self._save()
        self.records.append([self._record("end", result=result.value, loss=self.runner.state.loss)])
        if result is not Result.INTERRUPTED:
            self._save()
        self.records.flush()

    def _save(self) -> None:
        """Write a checkpoint, if there is a stage."""
        if self.snapshots is None:
            return
        finished = None if self.result in (None, Result.INTERRUPTED) else self.result.value
        numbers = {
            "identity": self.identity,
            "state": asdict(self.state),
            "result": finished,
            "seconds": self.records.seconds,
            "draws": self.setting.fixed.draws,
            "runner": self.runner.numbers(),
        }
        tensors = {"parameters": self.setting.flat.vector}
        if self.stalled is not None:
            tensors["stalled"] = self.stalled
        if self.start is not None:
            tensors["start"] = self.start
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.setting.model.named_buffers()}
        for owner, own in (("runner.", self.runner.tensors()), ("fixed.", self.setting.fixed.tensors())):
            tensors |= {owner + name: tensor for name, tensor in own.items()}
        self.snapshots.write(tensors, numbers)

    def resume(self) -> None:
        """Go on from the newest sound checkpoint of the stage, if there is one; forget metrics written after it."""
        if self.stage is None or self.snapshots is None:
            return
        state, warnings = self.snapshots.read()
        if self.snapshots.number != distributed.agreed(self.snapshots.number):
            raise InputError(f"{self.stage.path} holds other checkpoints here than for the leading process; share it.")
        distributed.barrier()  # all have read before the leader writes
        if state is None:
            self.stage.truncate_metrics(0)
        else:
            check_same(self.stage.path, state.numbers["identity"], self.identity)
            self._restore(state)
            self.stage.truncate_metrics(state.numbers["metrics"])
            distributed.barrier()
            self.records.history = self.stage.read_metrics()
            distributed.barrier()  # likewise
        self.records.append(warnings)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go back to the state of a checkpoint."""
        numbers, vector = checkpoint.numbers, self.setting.flat.vector
        tensors = {name: tensor.to(vector.device) for name, tensor in checkpoint.tensors.items()}
        vector.copy_(tensors["parameters"])
        self.stalled, self.start = tensors.get("stalled"), tensors.get("start")
        for name, buffer in self.setting.model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        self.setting.fixed.restore(checkpoint.of("fixed.", vector), numbers["draws"])
        self.state = _State(**numbers["state"])
        self.runner = self._make_runner()
        self.runner.restore(checkpoint.of("runner.", vector), numbers["runner"])
        self.records.before = numbers["seconds"]
        self.result = None if numbers["result"] is None else Result(numbers["result"])

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in to belong to this solve."""
        return {
            "phases": [repr(phase) for phase in self.phases],
            "switch": type(self.switch).__name__ if isinstance(self.switch, SwitchRule) else self.switch,
            "seed": self.setting.seed,
            "unknowns": self.setting.flat.vector.numel(),
            "problem": fingerprint(self.setting.problem, self.setting.model),
        }

    def _show(self, progress: Progress) -> None:
        estimate = None if progress.quiet else self.runner.noise
        seconds, limit = self.records.seconds, self.budget.seconds
        progress.update(
            phase=self._phase_name,
            step=self.runner.state.step,
            loss=self.runner.state.loss,
            snr=None if estimate is None else estimate.snr,
            rate=self.evaluations / max(seconds, 1e-9),
            left=None if limit is None else max(limit - seconds, 0.0),
        )

    def solution(self) -> Solution:
        """The answer, once the solve has ended."""
        assert self.result is not None
        history, loss = self.records.history, self.runner.state.loss
        return Solution(
            model=self.setting.model,
            result=self.result,
            loss=loss if math.isfinite(loss) else math.nan,
            evaluations=self.evaluations,
            seconds=history[-1].get("seconds", self.records.seconds) if history else self.records.seconds,
            history=history,
            switch=self.state.switches,
            values=self.state.values,
            findings=[Finding.from_record(record) for record in self.state.findings],
            start_loss=self.state.initial_loss,
            shares=shares(history),
        )
