"""The fixed set of items that a quasi-Newton phase works on: the data of a finite problem, or a growing sample of a
stream."""

from typing import Any

from torch import Tensor

from sciml.batches import concatenate, count, move
from sciml.problem import Problem
from sciml.seeds import generator


class FixedSet:
    """A set that is a function of the seed and the list of sizes appended, so a checkpoint needs only that list.

    Args:
        problem: gives the items. seed: the run's seed. like: tensor whose device and dtype the items get.
    """

    def __init__(self, problem: Problem, seed: int, like: Tensor) -> None:
        self.problem, self.seed, self.like = problem, seed, like
        self.appended: list[int] = []
        self.batch: Any = self._draw(None, 0)
        self.declared = count(self.batch)

    @property
    def finite(self) -> bool:
        """Whether the set is the whole problem."""
        return self.problem.size is not None

    @property
    def size(self) -> int:
        """Items in the set."""
        return self.declared + sum(self.appended)

    def _draw(self, size: int | None, counter: int) -> Any:
        return move(self.problem.sample(size, generator(self.seed, "fixed", counter=counter)), self.like)

    def append(self, size: int) -> None:
        """Add `size` new items of the stream."""
        self.appended.append(size)
        self.batch = concatenate([self.batch, self._draw(size, len(self.appended))])

    def grow_to(self, size: int) -> None:
        """Append what is missing to `size`."""
        if size > self.size:
            self.append(size - self.size)

    def fresh(self, counter: int) -> Any:
        """A sample of the declared size that the set has not seen, for checks."""
        return move(self.problem.sample(self.declared, generator(self.seed, "fresh", counter=counter)), self.like)

    def restore(self, appended: list[int]) -> None:
        """Rebuild from the list of sizes appended to the declared set."""
        for size in appended:
            self.append(int(size))
