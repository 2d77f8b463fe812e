"""When the state of a solve is written, and how the newest sound checkpoint of a stage is read back."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from sciml import distributed
from sciml.errors import InputError
from sciml.runs import checkpoint
from sciml.runs.stage import Stage

SECONDS = 5.0
"""Seconds between two checkpoints. If a checkpoint takes long, the interval is 20 times that."""


class Snapshots:
    """The checkpoints of one solve.

    Attributes:
        number: of the newest checkpoint.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.number = 0
        self.saved, self.cost = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() - self.saved > max(SECONDS, 20 * self.cost)

    def write(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Write a checkpoint that also says how many bytes of metrics belong to it."""
        start = time.monotonic()
        self.number += 1
        own = {"number": self.number, "metrics": self.stage.metrics_offset()}
        checkpoint.write(self.stage.checkpoints, self.number, checkpoint.Checkpoint(tensors, {**numbers, **own}))
        self.saved = time.monotonic()
        self.cost = self.saved - start

    def read(self) -> tuple[checkpoint.Checkpoint | None, list[dict[str, Any]]]:
        """The newest sound checkpoint (None without one), and a warning record for each damaged one passed over.

        Those are named on standard error as well: the solve takes longer than whoever resumes it expects.
        """
        state, damaged = checkpoint.newest(self.stage.checkpoints)
        self.number = int(state.numbers["number"]) if state else 0
        start = f"checkpoint {self.number}" if state else "the beginning"
        for path in damaged if distributed.leader() else []:
            print(f"{path} is damaged and is passed over; going on from {start}.", file=sys.stderr, flush=True)
        return state, [{"kind": "warning", "text": f"{path.name} is damaged and was passed over"} for path in damaged]


@contextmanager
def understood(stage: Stage | None) -> Iterator[None]:
    """Read a checkpoint that may come from another version of this program, or from someone who made it up.

    Raises:
        InputError: in place of what its odd content raises.
    """
    try:
        yield
    except (InputError, distributed.RankError):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if stage is None:
            raise
        raise InputError(
            f"{stage.checkpoints} holds a checkpoint with other content than this version writes "
            f"({type(error).__name__}: {error}). Go on with the version that wrote it, or choose another folder."
        ) from error
