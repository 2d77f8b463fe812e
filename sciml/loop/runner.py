"""`Runner`: a phase while it runs, as the loop of `solve` sees it."""

import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from sciml.solution import Result
from sciml.watching.noise import NoiseEstimate


@dataclass(frozen=True)
class Ending:
    """How a phase ended.

    Attributes:
        result: what the solve answers if the phase was its last.
        reason: a sentence.
        details: the numbers that decided.
    """

    result: Result
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class State:
    """The plain numbers of a running phase; all of them go into its checkpoints.

    Attributes:
        step: steps or iterations taken.
        items: gradients of single items computed.
        loss: the latest loss.
    """

    step: int = 0
    items: float = 0
    loss: float = math.nan


OwnState = TypeVar("OwnState", bound=State)


class Runner(ABC, Generic[OwnState]):
    """A phase while it runs.

    Attributes:
        state: its plain numbers.
        records: metric records that the loop has not collected yet.
        evaluate_every: steps between two calls of `Problem.evaluate`, unless the problem says otherwise.
    """

    state: OwnState
    evaluate_every: int

    def __init__(self, state: OwnState) -> None:
        self.state = state
        self.records: list[dict[str, Any]] = []

    @property
    @abstractmethod
    def batch(self) -> int:
        """Items that a step sees."""

    @property
    @abstractmethod
    def noise(self) -> NoiseEstimate | None:
        """The gradient noise; None where it is not measured."""

    @abstractmethod
    def advance(self) -> Ending | None:
        """Go on until the loop should look at clocks and signals; how the phase ended, or None if it goes on."""

    @abstractmethod
    def finish(self) -> None:
        """Leave the parameters as the phase is to leave them. Called once, when it is over."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go back to the state that `tensors` and `numbers` gave."""

    def record(self, kind: str, step: int, items: float, **fields: Any) -> None:
        """Add a metric record.

        Args:
            kind: what it is about.
            step: the step it belongs to.
            items: gradients of single items computed by then.
            **fields: its values.
        """
        self.records.append({"kind": kind, "step": step, **fields, "items": items, "clock": time.monotonic()})
