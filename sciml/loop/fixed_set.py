"""The fixed set of items that a quasi-Newton phase works on.

It is the data of a finite problem, or a sample of a stream that grows or is drawn anew.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sciml.batches import adaptive_choice, concatenate, count, divisible, leaves, move, split, tree_map
from sciml.errors import InputError
from sciml.loop.gradients import loss_only
from sciml.problem import Problem
from sciml.seeds import generator

CANDIDATES = 8
"""Fresh items, for each item of the set, among which a new set is chosen."""


@dataclass(frozen=True)
class Survey:
    """Fresh items of a stream, as candidates for a new set.

    Attributes:
        items: the batch.
        loss: its loss.
        density: root of the sum of squared residuals of each item, shape (items,). None where the problem gives no
            residuals, where an item is not one row of every tensor, or where a residual is not finite.
    """

    items: Any
    loss: float
    density: Tensor | None


class FixedSet:
    """A set of items, and other items beside it on which to check what is learned from it.

    Until the set is drawn anew by residuals, it is a function of the seed and of the sizes appended.

    Args:
        problem: gives the items.
        seed: the run's seed.
        like: a tensor whose device and dtype the items get.

    Attributes:
        batch: the items of the set.
        declared: items of the set before it grew.
        draws: how often the stream was drawn from.
        changed: whether the set is more than the first draw.
    """

    def __init__(self, problem: Problem, seed: int, like: Tensor) -> None:
        self.problem, self.seed, self.like = problem, seed, like
        self.draws = 0
        self.changed = False
        self.batch: Any = self._draw(None, 0)
        self.declared = count(self.batch)
        if self.declared < 1:
            raise InputError(f"{type(problem).__name__}.sample(None) gives no items; return at least one.")
        self._beside: Any = None

    @property
    def finite(self) -> bool:
        """Whether the set is the whole problem."""
        return self.problem.size is not None

    @property
    def size(self) -> int:
        """Items in the set."""
        return count(self.batch)

    @property
    def beside(self) -> Any:
        """Items that are not in the set but distributed like those that are.

        They stay the same until the set changes. Two losses on them differ by what the training did, not by the draw.
        """
        if self._beside is None:
            stream = generator(self.seed, "fresh", counter=self.draws)
            self._beside = move(self.problem.sample(self.declared, stream), self.like)
        return self._beside

    def _draw(self, size: int | None, counter: int) -> Any:
        return move(self.problem.sample(size, generator(self.seed, "fixed", counter=counter)), self.like)

    def append(self, size: int) -> None:
        """Add `size` new items of the stream to the set."""
        self.changed, self._beside = True, self.beside  # still beside it, and distributed as most of the set is
        self.draws += 1
        self.batch = concatenate([self.batch, self._draw(size, self.draws)])

    def survey(self, model: torch.nn.Module) -> Survey:
        """Draw candidates for a new set and look at their residuals under the present model."""
        self.draws += 1
        items = self._draw(CANDIDATES * self.size, self.draws)
        # a batch with a tensor of few rows, as the points of an end condition, cannot be cut
        parts = split(items, CANDIDATES) if divisible(items, CANDIDATES) else [items]
        loss = sum(loss_only(self.problem, model, part) for part in parts) / len(parts)
        densities = [self._density(model, part) for part in parts]
        known = all(density is not None and bool(density.isfinite().all()) for density in densities)
        return Survey(items, loss, torch.cat([d for d in densities if d is not None]) if known else None)

    def _density(self, model: torch.nn.Module, items: Any) -> Tensor | None:
        sizes = {leaf.shape[0] for leaf in leaves(items)}
        if len(sizes) != 1:
            return None
        with torch.enable_grad():
            residuals = self.problem.least_squares(model, items)
        if residuals is None:
            return None
        (size,) = sizes
        squares = [r.detach().reshape(size, -1).square().sum(1) for r in residuals.values() if r.shape[:1] == (size,)]
        return torch.stack(squares).sum(0).sqrt() if squares else None

    def renew(self, survey: Survey, size: int) -> None:
        """Replace all items, and those beside the set, by candidates.

        Half of them are chosen where the residuals are large (RAD; see `sciml.pde.residual_adaptive`). Where the
        residuals of single items are not known, the set is a plain draw.

        Args:
            survey: the candidates.
            size: items of the new set.
        """
        self.changed, self._beside = True, None
        if survey.density is None:
            self.batch = self._draw(size, self.draws)
            return
        stream = generator(self.seed, "renew", counter=self.draws)
        chosen = adaptive_choice(survey.density, size + self.declared, stream).to(self.like.device)
        self.batch = tree_map(lambda leaf: leaf[chosen[:size]], survey.items)
        self._beside = tree_map(lambda leaf: leaf[chosen[size:]], survey.items)

    def tensors(self) -> dict[str, Tensor]:
        """State tensors for a checkpoint: the items, once they are more than the first draw."""
        if not self.changed:
            return {}
        named = {f"items.{i}": leaf for i, leaf in enumerate(leaves(self.batch))}
        return named | {f"beside.{i}": leaf for i, leaf in enumerate(leaves(self.beside))}

    def restore(self, tensors: dict[str, Tensor], draws: int) -> None:
        """Go back to what `tensors` gave and to the count of draws."""
        self.draws, self._beside = draws, None
        if not tensors:
            return
        self.changed = True
        template = self.batch
        self.batch, self._beside = (_filled(template, tensors, name) for name in ("items", "beside"))


def _filled(template: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A batch of the template's structure from numbered tensors."""
    index = iter(range(len(leaves(template))))
    return tree_map(lambda leaf: tensors[f"{name}.{next(index)}"].to(leaf), template)
