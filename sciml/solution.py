"""What a solve answers: the `Solution`, and its `Result`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import torch

from sciml.findings import Finding


class Result(Enum):
    """How a solve ended. A failure is a result, too; `solve(..., throw=True)` raises instead."""

    CONVERGED = "CONVERGED"
    MAX_STEPS = "MAX_STEPS"  # a limit of steps or the budget ended it
    STALLED = "STALLED"  # the optimiser came to rest, but the loss, or the term that is most of it, has hardly fallen
    DIVERGED = "DIVERGED"  # the loss grew beyond all measure, or falls without end
    NOISE_FLOOR = "NOISE_FLOOR"  # the gradient is below its own sampling noise and the sample may not grow further
    LINE_SEARCH_FAILED = "LINE_SEARCH_FAILED"
    NONFINITE = "NONFINITE"
    INTERRUPTED = "INTERRUPTED"


@dataclass
class Solution:
    """The answer of `solve`.

    Attributes:
        model: the trained module, the one passed in.
        result: how the solve ended.
        loss: the final loss, on the fixed set when a quasi-Newton phase came last.
        evaluations: loss-and-gradient evaluations per item of the declared set.
        seconds: wall-clock time.
        history: every metric record.
        switch: one record for each phase that ended, with phase, step, reason, snr, batch, set, details.
        values: the last answer of `Problem.evaluate`.
        findings: what to know about the problem and the answer.
        start_loss: loss of the first step; None before one was taken.
        shares: share of each named term in the last loss.
    """

    model: torch.nn.Module
    result: Result
    loss: float
    evaluations: float
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)
    switch: list[dict[str, Any]]
    values: dict[str, float]
    findings: list[Finding] = field(default_factory=list)
    start_loss: float | None = None
    shares: dict[str, float] = field(default_factory=dict)

    def whole(self) -> Self:
        """This solution, for what is computed from it next: a solve that was cut short is no basis for anything.

        Raises:
            KeyboardInterrupt: the solve was interrupted. `solve` itself makes the first Ctrl-C or SIGTERM a result.
        """
        if self.result is Result.INTERRUPTED:
            raise KeyboardInterrupt
        return self

    def summary(self, values: Mapping[str, float]) -> dict[str, Any]:
        """The object that every command that solves prints with `--json`.

        Args:
            values: the answer of `Problem.evaluate` for the final model; `relative_l2` is None where it is missing.
        """
        others = {name: float(value) for name, value in values.items() if name != "relative_l2"}
        error = values.get("relative_l2")
        return {
            "result": self.result.name,
            "relative_l2": None if error is None else float(error),
            "loss": float(self.loss),
            "loss_relative_to_start": float(self.loss) / self.start_loss if self.start_loss else None,
            "loss_shares": self.shares,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            **others,
            "findings": self.findings,
            "switch": self.switch,
        }

    def plot(self) -> Any:
        """A figure of the optimisation: loss, signal-to-noise ratio, batch and set, ends of phases."""
        from sciml.reporting.report import optimisation_figure

        return optimisation_figure(self.history)
