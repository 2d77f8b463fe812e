"""`solve`: the one loop. Phases run in order; every end of a phase is recorded with its reason and its numbers."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from sciml import distributed
from sciml.errors import ConvergenceError, InputError
from sciml.loop.deterministic import DeterministicRunner
from sciml.loop.fixed_set import FixedSet
from sciml.loop.gradients import WORTH_SHARING, loss_only
from sciml.loop.interrupts import Interrupts
from sciml.loop.snapshots import Snapshots
from sciml.loop.stochastic import Ending, Setting, StochasticRunner
from sciml.parameters import FlatParameters
from sciml.phases import Deterministic, Phase, Stochastic, default_phases
from sciml.problem import Problem
from sciml.reporting.progress import Progress
from sciml.runs.run import Run
from sciml.runs.stage import Stage
from sciml.schedules import Schedule
from sciml.solution import Budget, Result, Solution
from sciml.watching.switching import SwitchRule, rule_for

RETURNS = 1
"""How often a finisher that stalled hands back to the stochastic phase before it, at a tenth of the step size."""

LOOK = 10
"""Short advances between two looks at signals and clocks, where several processes must look together."""

Runner = StochasticRunner | DeterministicRunner


def solve(
    problem: Problem,
    model: torch.nn.Module,
    phases: Sequence[Phase] | None = None,
    *,
    switch: str | int | SwitchRule = "auto",
    seed: int = 0,
    budget: Budget | None = None,
    run: Run | Stage | None = None,
    throw: bool = False,
) -> Solution:
    """Minimise a problem's expected loss over a model's parameters.

    Args:
        problem: where samples come from and what the loss is.
        model: trained in place; its parameters decide device and dtype, and become views of one flat vector.
        phases: algorithms in order; default: watched Adam, then a quasi-Newton finisher fit for the model's size.
        switch: what ends a stochastic phase that another phase follows: "auto", "snr" (the literal SNR rule), a step
            number, or a rule. seed: decides every batch; the model's initial parameters are the caller's. budget:
            where to stop at the latest. run: a run (its stage "solve" is used) or a stage to write metrics and
            checkpoints to. If it holds a checkpoint of this solve, the solve goes on from there, to the same bits on
            the same CPU; a finished one answers at once.
        throw: raise when the result is neither CONVERGED nor MAX_STEPS.

    Raises:
        InputError: the problem, the model or an option cannot be used.
        ConvergenceError: with `throw`, when the solve failed.
        RankError: another process of the run is gone.

    Under torchrun every process calls this alike and gets the same answer; the work is shared (`sciml.distributed`),
    the leader's first parameters are everyone's, and the leader alone writes.
    """
    distributed.copy_from_leader(*model.parameters(), *model.buffers())
    loop = _Loop(problem, model, phases, switch, seed)
    loop.budget = budget or Budget()
    loop.stage = run.stage("solve") if isinstance(run, Run) else run
    loop.snapshots = None if loop.stage is None else Snapshots(loop.stage)
    loop.resume()
    if loop.result is None:
        # scipy's BLAS beside torch's own threads: each would wait, spinning, for cores that the other holds.
        with threadpool_limits(1, "blas"), Interrupts() as interrupts, Progress(type(problem).__name__) as progress:
            loop.run(interrupts, progress)
    solution = loop.solution()
    if throw and solution.result not in (Result.CONVERGED, Result.MAX_STEPS):
        reason = solution.switch[-1]["reason"] if solution.switch else "it was interrupted"
        raise ConvergenceError(f"{solution.result.value}: {reason} (loss {solution.loss:.6g})")
    return solution


class _Loop:
    """State of a solve: the phase that runs, what was spent, and the records."""

    budget: Budget
    stage: Stage | None

    def __init__(
        self,
        problem: Problem,
        model: torch.nn.Module,
        phases: Sequence[Phase] | None,
        switch: str | int | SwitchRule,
        seed: int,
    ) -> None:
        flat = FlatParameters(model.parameters())
        self.setting = Setting(problem, model, flat, FixedSet(problem, seed, flat.vector), seed)
        self.phases = tuple(phases or default_phases(problem, model, flat.vector.numel()))
        for phase in self.phases:
            if not isinstance(phase, (Stochastic, Deterministic)):
                raise InputError(f"{phase!r} is not a phase; allowed are Adam, SGD, LBFGS, SelfScaled and GaussNewton")
        self.switch_option = switch
        rule_for(switch)
        self.index = 0
        self.items_before = 0.0  # item gradients of the phases that ended
        self.initial_loss: float | None = None
        self.history: list[dict[str, Any]] = []
        self.switches: list[dict[str, Any]] = []
        self.values: dict[str, float] = {}
        self.evaluated_at = -1
        self.result: Result | None = None
        self.seconds_before = 0.0
        self.began = time.monotonic()
        self.snapshots: Snapshots | None = None
        self.returns = 0
        self.unlooked, self.looked_at = 0, 0.0  # advances since the last look at signals and clocks; items spent then
        self.stalled: Tensor | None = None  # parameters of the finisher that handed back
        self.runner: Runner = self._make_runner(0)

    def _make_runner(self, index: int) -> Runner:
        phase = self.phases[index]
        if isinstance(phase, Stochastic):
            if self.returns and not isinstance(phase.lr, Schedule):
                phase = replace(phase, lr=phase.lr * 0.1**self.returns)
            followed = index + 1 < len(self.phases)
            draws = index + self.returns * len(self.phases)  # after a return other batches than before
            rule = rule_for(self.switch_option)
            return StochasticRunner(self.setting, phase, draws, rule if followed or rule.ends_the_last else None)
        return DeterministicRunner(self.setting, phase, index, abs(self.initial_loss or 0.0))

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.began

    @property
    def evaluations(self) -> float:
        return (self.items_before + self.runner.items) / self.setting.fixed.declared

    def run(self, interrupts: Interrupts, progress: Progress) -> None:
        """Phases in order until one fails, the last ends, the budget is spent, or the user interrupts."""
        if not self.history:
            self._evaluate()
        while self.result is None:
            ending = self.runner.advance()
            self._collect()
            if (reached := self.budget.reached(self.values)) is not None:
                self._end_phase(Ending("CONVERGED", reached, {}), last=True)
            elif ending is not None:
                self._end_phase(ending)
            elif (spent := self.budget.spent(0.0, self.evaluations)) is not None:
                self._end_phase(Ending("MAX_STEPS", spent, {}), last=True)
            else:
                self._look_around(interrupts)
            self._show(progress)

    def _look_around(self, interrupts: Interrupts) -> None:
        """What signals and clocks ask for between two advances: any process's signal counts, the leader's clock.

        Several processes must look together, which takes a good part of a millisecond: where an advance is short, only
        after every tenth.
        """
        self.unlooked += 1
        work = (self.runner.items - self.looked_at) * self.setting.flat.vector.numel()
        if distributed.size() > 1 and self.unlooked < LOOK and abs(work) < LOOK * WORTH_SHARING:
            return
        self.unlooked, self.looked_at = 0, self.runner.items
        spent = self.budget.spent(self.seconds, self.evaluations)
        leads, due = distributed.leader(), self.snapshots is not None and self.snapshots.due
        vector = self.setting.flat.vector
        stamp = distributed.fingerprint(vector) if distributed.size() > 1 else 0
        asked, over, due = distributed.in_step([interrupts.asked, leads and spent is not None, leads and due], stamp)
        if asked:
            self._stop(Result.INTERRUPTED)
        elif over:
            self._end_phase(Ending("MAX_STEPS", spent or "the budget of the leading process", {}), last=True)
        elif due:
            self._save()

    def _collect(self) -> None:
        """Complete the runner's records and hand them to history and stage; evaluate now and then."""
        common = {"phase": type(self.phases[self.index]).__name__, "index": self.index}
        records = []
        for own in self.runner.records:
            record = {"kind": own["kind"], **common, **own}
            record["evaluations"] = (self.items_before + record.pop("items")) / self.setting.fixed.declared
            record["seconds"] = self.seconds_before + record.pop("clock") - self.began
            records.append(record)
        self.runner.records = []
        if self.initial_loss is None:
            self.initial_loss = next((r["loss"] for r in records if r["kind"] == "step"), None)
        self._append(records)
        usual = 20 if isinstance(self.runner, DeterministicRunner) else 100
        interval = 1 if self.budget.target else self.setting.problem.evaluate_every or usual
        if self.runner.step // interval != self.evaluated_at:
            self.evaluated_at = self.runner.step // interval
            self._evaluate()

    def _evaluate(self) -> None:
        values = {k: float(v) for k, v in self.setting.problem.evaluate(self.setting.model).items()}
        if values:
            self.values = values
            self._append([self._record("evaluate", values=values)])

    def _record(self, kind: str, **fields: Any) -> dict[str, Any]:
        phase = type(self.phases[self.index]).__name__
        return {
            "kind": kind, "phase": phase, "index": self.index, "step": self.runner.step,
            "evaluations": self.evaluations, "seconds": self.seconds, **fields,
        }  # fmt: skip

    def _append(self, records: list[dict[str, Any]]) -> None:
        self.history.extend(records)
        if self.stage is not None:
            self.stage.append_metrics(records)

    def _record_switch(self, reason: str, details: dict[str, Any]) -> None:
        runner = self.runner
        stochastic = isinstance(runner, StochasticRunner)
        estimate = runner.noise.estimate() if stochastic else None
        record = self._record(
            "switch",
            reason=reason,
            snr=None if estimate is None else estimate.snr,
            batch=runner.batch if stochastic else self.setting.fixed.size,
            set=self.setting.fixed.size,
            loss=runner.loss,
            details={**details, **({} if estimate is None else vars(estimate))},
        )
        self.switches.append({k: v for k, v in record.items() if k != "kind"})
        self._append([record])

    def _end_phase(self, ending: Ending, last: bool = False) -> None:
        """Record the end; go to the next phase, or stop after the last one or a failure."""
        if isinstance(self.runner, StochasticRunner):
            self.runner.finish()
        self._record_switch(ending.reason, ending.details)
        result = Result[ending.result]
        failed = result in (Result.NONFINITE,)
        back = not last and self._may_return(result)
        if last or failed or (self.index + 1 == len(self.phases) and not back):
            self._keep_better()
            self._evaluate()
            self._stop(result)
            return
        self.items_before += self.runner.items
        if back:
            self.returns += 1
            self.stalled = self.setting.flat.vector.clone()
        self.index += -1 if back else 1
        self.runner = self._make_runner(self.index)
        self.evaluated_at = -1
        self._save()

    def _may_return(self, result: Result) -> bool:
        """Whether the phase that ended is a finisher that stalled on a stream and may hand back to the stochastic phase
        before it."""
        return (
            self.returns < RETURNS
            and result is Result.LINE_SEARCH_FAILED
            and isinstance(self.runner, DeterministicRunner)
            and self.index > 0
            and isinstance(self.phases[self.index - 1], Stochastic)
            and not self.setting.fixed.finite
        )

    def _keep_better(self) -> None:
        """After a return: of the parameters now and those that the finisher had stalled at, keep the better ones."""
        if self.stalled is None:
            return
        setting, now = self.setting, self.setting.flat.vector.clone()
        judge = lambda batch: loss_only(setting.problem, setting.model, batch)
        loss = judge(setting.fixed.beside)
        setting.flat.vector.copy_(self.stalled)
        if judge(setting.fixed.beside) < loss or math.isnan(loss):
            self.runner.loss = judge(setting.fixed.batch)
        else:
            setting.flat.vector.copy_(now)

    def _stop(self, result: Result) -> None:
        """Record the end. An interrupted solve is saved as unfinished, before its end is recorded."""
        self.result = result
        if result is Result.INTERRUPTED:
            self._save()
        self._append([self._record("end", result=result.value, loss=self.runner.loss)])
        if result is not Result.INTERRUPTED:
            self._save()
        if self.stage is not None:
            self.stage.flush()

    def _save(self) -> None:
        """Write a checkpoint, if there is a stage."""
        if self.snapshots is None:
            return
        finished = None if self.result in (None, Result.INTERRUPTED) else self.result.value
        numbers = {
            **self._identity(),
            **{name: getattr(self, name) for name in _KEPT},
            "result": finished,
            "seconds": self.seconds,
            "draws": self.setting.fixed.draws,
            "runner": self.runner.numbers(),
        }
        tensors = {"parameters": self.setting.flat.vector}
        if self.stalled is not None:
            tensors["stalled"] = self.stalled
        tensors |= {f"buffer.{name}": buffer for name, buffer in self.setting.model.named_buffers()}
        for owner, own in (("runner.", self.runner.tensors()), ("fixed.", self.setting.fixed.tensors())):
            tensors |= {owner + name: tensor for name, tensor in own.items()}
        self.snapshots.write(tensors, numbers)

    def resume(self) -> None:
        """Go on from the newest sound checkpoint of the stage, if there is one; forget metrics written after it."""
        self.began = time.monotonic()
        if self.stage is None or self.snapshots is None:
            return
        state, warnings = self.snapshots.read()
        if self.snapshots.number != distributed.agreed(self.snapshots.number):
            raise InputError(f"{self.stage.path} holds other checkpoints here than for the leading process; share it.")
        distributed.barrier()  # all have read before the leader writes
        if state is None:
            self.stage.truncate_metrics(0)
            self._append(warnings)
            return
        numbers = state.numbers
        self._check_same(numbers)
        vector = self.setting.flat.vector
        tensors = {name: tensor.to(vector.device) for name, tensor in state.tensors.items()}
        vector.copy_(tensors["parameters"])
        self.stalled = tensors.get("stalled")
        for name, buffer in self.setting.model.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        self.setting.fixed.restore(_of("fixed.", tensors), numbers["draws"])
        for name in _KEPT:
            setattr(self, name, numbers[name])
        self.runner = self._make_runner(self.index)
        self.runner.restore(_of("runner.", tensors), numbers["runner"])
        self.seconds_before = numbers["seconds"]
        self.result = None if numbers["result"] is None else Result(numbers["result"])
        self.stage.truncate_metrics(numbers["metrics"])
        distributed.barrier()
        self.history = self.stage.read_metrics()
        distributed.barrier()  # likewise
        self._append(warnings)

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree in to belong to this solve."""
        option = self.switch_option
        return {
            "phases": [repr(phase) for phase in self.phases],
            "switch": type(option).__name__ if isinstance(option, SwitchRule) else option,
            "seed": self.setting.seed,
            "unknowns": self.setting.flat.vector.numel(),
        }

    def _check_same(self, numbers: dict[str, Any]) -> None:
        """Refuse a checkpoint of another solve."""
        assert self.stage is not None
        for name, here in self._identity().items():
            if numbers[name] != here:
                raise InputError(
                    f"{self.stage.path} holds a checkpoint with {name} {numbers[name]}, not {here}; "
                    "use the same settings to go on, or another folder to start anew"
                )

    def _show(self, progress: Progress) -> None:
        runner = self.runner
        stochastic = isinstance(runner, StochasticRunner)
        estimate = runner.noise.estimate() if stochastic and not progress.quiet else None
        left = None if self.budget.seconds is None else max(self.budget.seconds - self.seconds, 0.0)
        progress.update(
            phase=type(self.phases[self.index]).__name__,
            step=runner.step,
            loss=runner.loss,
            snr=None if estimate is None else estimate.snr,
            rate=self.evaluations / max(self.seconds, 1e-9),
            left=left,
        )

    def solution(self) -> Solution:
        """The answer."""
        assert self.result is not None
        seconds = self.history[-1].get("seconds", self.seconds) if self.history else self.seconds
        loss = self.runner.loss if math.isfinite(self.runner.loss) else math.nan
        return Solution(
            self.setting.model, self.result, loss, self.evaluations, seconds, self.history, self.switches, self.values
        )


_KEPT = ("index", "items_before", "initial_loss", "switches", "values", "evaluated_at", "returns")


def _of(owner: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that one owner saved, under its own names."""
    return {name.removeprefix(owner): tensor for name, tensor in tensors.items() if name.startswith(owner)}
