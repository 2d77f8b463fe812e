"""What every phase of a solve shares."""

from dataclasses import dataclass
from typing import Any

import torch

from sciml.loop.fixed_set import FixedSet
from sciml.loop.gradients import evaluate
from sciml.parameters import FlatParameters
from sciml.problem import Evaluation, Problem


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
