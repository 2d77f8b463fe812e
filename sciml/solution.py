"""What a solve answers: `Solution`, its `Result`, and the `Budget` it was given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from sciml.errors import InputError


class Result(Enum):
    """How a solve ended. Failure is data; `solve(..., throw=True)` raises instead."""

    CONVERGED = "CONVERGED"
    MAX_STEPS = "MAX_STEPS"  # a step limit or the budget ended it
    NOISE_FLOOR = "NOISE_FLOOR"  # the gradient is below its own sampling noise and the sample may not grow further
    LINE_SEARCH_FAILED = "LINE_SEARCH_FAILED"
    NONFINITE = "NONFINITE"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True)
class Budget:
    """Where to stop at the latest.

    Attributes:
        seconds: wall-clock seconds of the solve, earlier sessions of a resumed run counted in.
        evaluations: loss-and-gradient evaluations per item of the declared set, line-search calls included.
        target: names of values of `Problem.evaluate` and how small each must be for the answer to be good enough. They
            are then looked at after every finisher iteration and every ten stochastic steps.
    """

    seconds: float | None = None
    evaluations: float | None = None
    target: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluations"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise InputError(f"Budget({name}={given}): must be positive, or None for no limit")

    def spent(self, seconds: float, evaluations: float) -> str | None:
        """Which part of the budget is spent, in words."""
        if self.seconds is not None and seconds >= self.seconds:
            return f"the budget of {self.seconds:g} s"
        if self.evaluations is not None and evaluations >= self.evaluations:
            return f"the budget of {self.evaluations:g} evaluations"
        return None

    def reached(self, values: Mapping[str, float]) -> str | None:
        """The target in words if the values are all at or below it.

        Raises:
            InputError: the target names a value that the problem does not evaluate.
        """
        target = self.target or {}
        if missing := sorted(set(target) - set(values)):
            raise InputError(f"Budget(target=...) names {', '.join(missing)}; the problem gives {sorted(values)}")
        if not target or any(not values[name] <= limit for name, limit in target.items()):
            return None
        return "the target " + ", ".join(f"{name} <= {limit:g}" for name, limit in target.items())


@dataclass
class Solution:
    """The answer of `solve`.

    Attributes:
        model: the trained module (the one passed in). result: how it ended. loss: final loss, on the fixed set when a
            quasi-Newton phase came last. evaluations: loss-and-gradient evaluations per item of the declared set.
        seconds: wall-clock time. history: every metric record. switch: one record for each phase that ended: phase,
            step, reason, snr, batch, set, details. values: the last answer of `Problem.evaluate`.
    """

    model: torch.nn.Module
    result: Result
    loss: float
    evaluations: float
    seconds: float
    history: list[dict[str, Any]] = field(repr=False)
    switch: list[dict[str, Any]]
    values: dict[str, float]

    def summary(self, values: Mapping[str, float]) -> dict[str, Any]:
        """What every command that solves prints with `--json`.

        Args:
            values: the answer of `Problem.evaluate` for the final model; `relative_l2` is None where it is missing.
        """
        others = {name: float(value) for name, value in values.items() if name != "relative_l2"}
        error = values.get("relative_l2")
        return {
            "result": self.result.name,
            "relative_l2": None if error is None else float(error),
            "loss": float(self.loss),
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            **others,
            "switch": self.switch,
        }

    def plot(self) -> Any:
        """A figure of the optimisation: loss, signal-to-noise ratio with its interval, batch and set, switches."""
        from sciml.reporting.report import optimisation_figure

        return optimisation_figure(self.history)
