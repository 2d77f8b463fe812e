"""What every phase of a solve shares."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml.findings import Finding
from sciml.loop.fixed_set import FixedSet
from sciml.loop.gradients import evaluate, loss_only
from sciml.parameters import FlatParameters
from sciml.problem import Evaluation, Problem

GOOD = 1e-4
"""A start whose loss is below this share of the loss with all parameters at zero is good already."""
GOOD_START = Finding("It is good already: the solve begins with the finisher.", "start", "note")


@dataclass(frozen=True)
class Setting:
    """What every phase of a solve shares.

    Attributes:
        problem: where items come from and what the loss is.
        model: the module that is trained.
        flat: its parameters as one vector.
        fixed: the fixed set of items, on which quasi-Newton phases work.
        seed: decides every batch.
    """

    problem: Problem
    model: torch.nn.Module
    flat: FlatParameters
    fixed: FixedSet
    seed: int

    def evaluate(self, batch: Any) -> Evaluation:
        """Loss and gradient on a batch at the present parameters."""
        return evaluate(self.problem, self.model, self.flat, batch)


def good_start(setting: Setting) -> float | None:
    """The loss on the fixed set with all parameters at zero, that of no answer; only of a start that is below `GOOD` of
    it.

    None where it is not, or cannot be computed. The parameters stay as they are.
    """
    problem, model, batch = setting.problem, setting.model, setting.fixed.batch
    loss, vector = loss_only(problem, model, batch), setting.flat.vector.clone()
    setting.flat.vector.zero_()
    try:
        zero = loss_only(problem, model, batch)
    except (ArithmeticError, RuntimeError, ValueError):
        return None
    finally:
        setting.flat.vector.copy_(vector)
    return zero if 0 <= loss < GOOD * zero < math.inf else None


def better(setting: Setting, other: Tensor, batch: Any) -> float | None:
    """Take other parameters if their loss on a batch is lower than that of the present ones.

    Args:
        setting: holds the present ones.
        other: flat, shape (unknowns,).
        batch: on which both are judged.

    Returns:
        The loss of the other ones, if they were taken.
    """
    vector, now = setting.flat.vector, setting.flat.vector.clone()
    loss = loss_only(setting.problem, setting.model, batch)
    vector.copy_(other)
    found = loss_only(setting.problem, setting.model, batch)
    if found < loss or (math.isnan(loss) and not math.isnan(found)):
        return found
    vector.copy_(now)
    return None
