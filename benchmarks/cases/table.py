"""Finite sums over rows: what the problems with data share."""

import torch
from torch import Tensor, nn

from sciml import Problem

Rows = tuple[Tensor, Tensor]


def some_of(items: int, size: int, generator: torch.Generator) -> Tensor:
    """Numbers below `items`, drawn without replacement.

    Where they are few of many, without a permutation of all, which would take most of the time.
    """
    if 4 * size > items:
        return torch.randperm(items, generator=generator)[:size]
    drawn = torch.randint(items, (2 * size,), generator=generator).unique()
    return drawn[torch.randperm(len(drawn), generator=generator)[:size]]


class Table(Problem[nn.Module, Rows]):
    """A finite sum over rows and what belongs to each.

    Attributes:
        size: number of rows.
        rows: what is known of each item, one item a row.
        values: what is to be predicted of each.
    """

    size: int
    rows: Tensor
    values: Tensor

    def sample(self, size: int | None, generator: torch.Generator) -> Rows:
        """All rows, or some without replacement."""
        if size is None or size >= len(self.rows):
            return self.rows, self.values
        chosen = some_of(len(self.rows), size, generator)
        return self.rows[chosen], self.values[chosen]
