"""`Problem`: where samples come from and what the loss is. The only thing a problem module must supply."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sciml.errors import InputError

Model = TypeVar("Model", bound=torch.nn.Module)
Batch = TypeVar("Batch")


class Problem(ABC, Generic[Model, Batch]):
    """Minimise over the parameters of a model the expectation of a loss over items.

    An *item* is what one draws at random: a collocation point, a test function with its own quadrature, a particle
    image. A batch is a tensor, or a tuple, list, dict or dataclass of tensors, whose leading dimension counts items;
    every tensor in it is cut along that dimension when the batch is split into micro-batches. What is the same for
    all items (a quadrature rule, a boundary condition at two points) belongs to the problem, not to the batch.
    """

    size: int | None = None
    """Number of items of a finite set (the batches are then drawn without replacement); None for an endless stream."""
    divides: bool | None = None
    """Whether a part of a batch costs a part of the work, so that several processes (`torchrun`) should share it.
    False: every process evaluates all of it, or the problem shares the work itself. None: where batches are large."""
    evaluate_every: int | None = None
    """Steps between two calls of `evaluate` at least; None: 100 stochastic ones, 20 of a finisher."""

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

    def gradient(self, model: Model, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor] | None:
        """Loss terms and the flat gradient of their sum, for problems where autograd would be wasteful.

        The flat gradient concatenates the gradients of `model.parameters()` in order. None (the default) means: use
        autograd.
        """
        return None

    def least_squares(self, model: Model, batch: Batch) -> Mapping[str, Tensor] | None:
        """The residuals whose **mean squares** are the loss terms of the same names; None if the loss is no such sum.

        `GaussNewton` needs them. A residual of the batch has shape (items, ...), each entry a function of its own item
        and the parameters; one that belongs to no item (a condition at an end) has any other shape. The mean is over
        all entries, so a term that *sums* squares over k of them gives residuals multiplied by sqrt(k).
        """
        return None

    def preconditioner(self, model: Model) -> Callable[[Tensor], Tensor] | None:
        """A symmetric positive operator on flat vectors, close to the inverse Hessian, or None.

        It is the metric of the noise statistic, the direction of `SGD`, and the initial inverse Hessian of `LBFGS`.
        """
        return None
