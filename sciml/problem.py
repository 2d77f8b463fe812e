"""`Problem`: where samples come from and what the loss is. A problem module must supply nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sciml.errors import InputError

Model = TypeVar("Model", bound=torch.nn.Module)
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Statistics:
    """What an evaluation tells of a batch besides loss and gradient, for `Problem.learn`.

    The core joins the statistics of parts of a batch and of several processes. It can do so for two kinds.

    Attributes:
        mean: named tensors that are means over the items of the batch.
        each: named tensors with a row for each item, in the order of the batch.
    """

    mean: Mapping[str, Tensor] = field(default_factory=dict)
    each: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Loss and gradient on a batch, all detached.

    Attributes:
        loss: scalar tensor, the sum of the terms.
        terms: the named terms.
        gradient: flat, shape (unknowns,).
        statistics: what the problem's own `gradient` gives beyond that.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    gradient: Tensor
    statistics: Statistics = field(default_factory=Statistics)


OwnGradient = tuple[Mapping[str, Tensor], Tensor] | tuple[Mapping[str, Tensor], Tensor, Statistics]
"""What `Problem.gradient` returns: loss terms, the flat gradient of their sum, and, optionally, statistics."""


class Problem(ABC, Generic[Model, Batch]):
    """Minimise over the parameters of a model the expectation of a loss over items.

    An *item* is what one draws at random: a collocation point, a test function with its own quadrature, a particle
    image. A batch is a tensor, or a tuple, list, dict or dataclass of tensors, whose leading dimension counts items;
    every tensor in it is cut along that dimension when the batch is split into micro-batches. What is the same for
    all items (a quadrature rule, a boundary condition at two points) belongs to the problem, not to the batch.
    """

    size: int | None = None
    """Number of items of a finite set, whose batches are drawn without replacement; None for an endless stream."""
    divides: bool | None = None
    """Whether a part of a batch costs a part of the work, so that several processes (`torchrun`) should share it.
    False: every process evaluates all of it, or the problem shares the work itself. None: large batches are shared."""
    first_batch: int | None = None
    """Items of the first batch where a phase leaves them to `solve`; None: a quarter of the fixed set, 32 to 128."""
    long_steps: bool = False
    """Whether a step takes so long that a checkpoint is written after each; else the clock says when."""
    evaluate_every: int | None = None
    """The fewest steps between two calls of `evaluate`. None: 100 stochastic steps, 20 quasi-Newton iterations."""

    @property
    def fingerprint(self) -> str:
        """What of the problem its class and attributes do not show, such as the content of a file that it reads. A run
        that goes on refuses a problem with another one. Empty unless a problem says otherwise."""
        return ""

    @property
    def population(self) -> int | None:
        """Number of items that the micro-batches of a step are drawn from without replacement.

        The noise of their mean is the smaller for it, which the noise statistic takes into account. None where the
        micro-batches are independent draws. It is `size`, unless a problem says otherwise: one whose batches hold more
        chance than the choice of items (a random grid that its items share) has to draw them independently.
        """
        return self.size

    @abstractmethod
    def sample(self, size: int | None, generator: torch.Generator) -> Batch:
        """Draw a batch.

        Args:
            size: number of items; None asks for the full, fixed set (for a stream: a set of the size the author thinks
                right; `solve` enlarges it when the gradient noise demands it).
            generator: a CPU generator; all randomness must come from it.
        """

    def loss(self, model: Model, batch: Batch) -> Mapping[str, Tensor]:
        """Named loss terms (scalars). Their sum is minimised. Each is a **mean** over the batch's items.

        Unless defined, the mean squares of `least_squares`: a problem defines one of the two.
        """
        residuals = self.least_squares(model, batch)
        if residuals is None:
            raise InputError(f"{type(self).__name__} has neither a method `loss` nor `least_squares`; define one.")
        return {name: residual.square().mean() for name, residual in residuals.items()}

    def evaluate(self, model: Model) -> Mapping[str, float]:
        """Errors against the truth or a held-out set; may be empty. Never used to train, never changes the training.

        The key `relative_l2`, if present, is the one printed and judged.
        """
        return {}

    def gradient(self, model: Model, batch: Batch) -> OwnGradient | None:
        """Loss terms and the flat gradient of their sum, for problems where autograd would be wasteful.

        The flat gradient concatenates the gradients of `model.parameters()` in order. A third value, `Statistics`, is
        handed on to `learn`. None (the default) means: use autograd.

        Like `loss` it is a function of model and batch: called twice, it gives the same bits and leaves the model as
        it was.
        """
        return None

    def learn(self, model: Model, batch: Batch, evaluation: Evaluation) -> Tensor | None:
        """Remember what a stochastic step has shown, in the model's buffers or in the problem.

        Only here may either change. Called once for a step, after its evaluations and before its update. What is
        learned is in force for this update (its preconditioner) and for the evaluations of the next step. The noise of
        this step was measured in the metric that stood before. A quasi-Newton phase, whose objective must stay the
        same, never calls it.

        Args:
            model: the module.
            batch: the whole batch of the step.
            evaluation: of the whole batch.

        Returns:
            The flat gradient of the same batch under what has been learned, where that changes it (a prior that the
            batch itself sets); None leaves it as it was.
        """

    def least_squares(self, model: Model, batch: Batch) -> Mapping[str, Tensor] | None:
        """The residuals whose **mean squares** are the loss terms of the same names; None if the loss is no such sum.

        `GaussNewton` needs them. A residual of the batch has shape (items, ...); each entry is a function of its own
        item and of the parameters. A residual that belongs to no item (a condition at an end) has any other shape. The
        mean is over all entries, so a term that *sums* squares over k of them gives residuals multiplied by sqrt(k).
        """
        return None

    def preconditioner(self, model: Model) -> Callable[[Tensor], Tensor] | None:
        """A symmetric positive operator on flat vectors, close to the inverse Hessian, or None.

        It may read the model's buffers when it is applied. It is the metric of the noise statistic, the direction of
        `SGD`, and the initial inverse Hessian of `LBFGS`.
        """
        return None
