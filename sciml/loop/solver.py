"""`solve`: minimises a `Problem`."""

from collections.abc import Sequence

import torch
from threadpoolctl import threadpool_limits

from sciml import distributed
from sciml.budget import Budget
from sciml.errors import ConvergenceError
from sciml.loop.fixed_set import FixedSet
from sciml.loop.interrupts import Interrupts
from sciml.loop.phase_loop import PhaseLoop
from sciml.loop.probe import check_arguments, probe
from sciml.loop.setting import Setting
from sciml.loop.snapshots import understood
from sciml.parameters import FlatParameters
from sciml.phases import Phase
from sciml.problem import Problem
from sciml.reporting.progress import Progress
from sciml.runs.run import Run
from sciml.runs.stage import Stage
from sciml.solution import Result, Solution
from sciml.watching.switching import SwitchRule


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

    Under torchrun every process calls this alike and gets the same answer. The work is shared (`sciml.distributed`),
    the leader's first parameters are everyone's, and the leader alone writes.

    Args:
        problem: where samples come from and what the loss is.
        model: is trained in place. Its parameters decide device and dtype, and become views of one flat vector.
        phases: the algorithms in order. None takes watched Adam, then a quasi-Newton method that fits the model's size.
        switch: what ends a stochastic phase that another phase follows: "auto" (the signal-to-noise ratio makes its
            steps worth too little, or the loss no longer falls), "progress" (the loss falls too slowly), "snr" (the
            literal rule: the ratio is below a threshold), a step number, or a rule of your own.
        seed: decides every batch. The model's initial parameters are the caller's.
        budget: where to stop at the latest; None for no limit but those of the phases.
        run: where metrics and checkpoints are written: a run (its stage "solve" is used) or a stage. If it holds a
            checkpoint of this solve, the solve goes on from there, to the same bits on the same CPU. If it holds a
            finished solve, that answer is returned at once.
        throw: whether to raise when the result is neither CONVERGED nor MAX_STEPS.

    Returns:
        The trained model, how the solve ended, and its history.

    Raises:
        InputError: the problem, the model or an option cannot be used.
        ConvergenceError: with `throw`, when the solve failed.
        RankError: another process of the run is gone.
    """
    check_arguments(problem, model, phases, seed)
    distributed.copy_from_leader(*model.parameters(), *model.buffers())
    flat = FlatParameters(model.parameters())
    setting = Setting(problem, model, flat, FixedSet(problem, seed, flat.vector), seed)
    stage = run.stage("solve") if isinstance(run, Run) else run
    loop = PhaseLoop(setting, phases, switch, budget or Budget(), stage)
    with understood(stage):
        loop.resume()
    if loop.result is None:
        if not loop.records.history:
            loop.state.findings += [finding.record() for finding in probe(problem, model)]
        with (
            threadpool_limits(1, "blas"),  # beside torch's own threads: each would spin for cores that the other holds
            Interrupts(problem.long_steps) as interrupts,
            Progress(type(problem).__name__) as progress,
        ):
            loop.run(interrupts, progress)
    solution = loop.solution()
    if throw and solution.result not in (Result.CONVERGED, Result.MAX_STEPS):
        reason = solution.switch[-1]["reason"] if solution.switch else "it was interrupted"
        raise ConvergenceError(f"{solution.result.value}: {reason} (loss {solution.loss:.6g})")
    return solution
