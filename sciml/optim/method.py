"""`Method`: what minimises a loss on a fixed set of items, one iteration after the other."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from sciml.optim.line_search import SearchEnding


class Status(Enum):
    """What one iteration did."""

    PROGRESS = "progress"
    RESTARTED = "restarted"  # the search failed along a quasi-Newton direction; the curvature was dropped
    LINE_SEARCH_FAILED = "line search failed"  # it failed along steepest descent too
    NONFINITE = "nonfinite"  # loss or gradient is not finite at the current point
    STATIONARY = "stationary"  # the gradient is zero
    NOISE_FLOOR = "noise floor"  # the gradient is mostly error (only where `QuasiNewton.noise` says how large that is)


@dataclass(frozen=True)
class Iteration:
    """The record of one iteration.

    Attributes:
        status: what it did.
        value: the loss after it.
        decrement: the Newton decrement g' H g before it.
        evaluations: loss-and-gradient evaluations spent.
        step: length of the step taken, in units of the direction.
        ending: how its line search ended; None where there was none.
    """

    status: Status
    value: float
    decrement: float
    evaluations: int
    step: float = 0.0
    ending: SearchEnding | None = None


class Method(ABC):
    """Minimises in place over a flat vector of parameters.

    Attributes:
        value: the loss at the present point; None before the first evaluation.
        gradient: the gradient there, shape (n,); likewise.
    """

    value: float | None
    gradient: Tensor | None

    @abstractmethod
    def refresh(self) -> float:
        """Evaluate at the present point, at the start or on new samples. The curvature is kept. One evaluation."""

    @abstractmethod
    def iterate(self) -> Iteration:
        """One iteration. If it fails, the vector is left at the best point known."""

    @abstractmethod
    def forget(self) -> None:
        """Drop what was learned of the curvature."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint; the vector itself is the caller's to save."""

    @abstractmethod
    def numbers(self) -> dict:
        """State numbers for a checkpoint."""

    @abstractmethod
    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to what `tensors` and `numbers` gave: the next iteration is the one that would have come."""
