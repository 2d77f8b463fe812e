"""All trainable parameters of a module as one flat vector that the module's own parameters are views of."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sciml.errors import InputError


class FlatParameters:
    """One contiguous vector behind some parameters. Optimisers work on it, and the module sees every change at once.

    Attributes:
        vector: shape (n,), the parameters that require gradients, concatenated in the order of `model.parameters()`.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Rebind the parameters (those that require gradients) to views of one vector.

        Raises:
            InputError: no trainable parameter, or several dtypes or devices among them.
        """
        given = list(parameters)
        self.parameters = [p for p in given if p.requires_grad]
        if not self.parameters:
            frozen = f": all {len(given)} are frozen; set requires_grad_(True) on those to fit" if given else ""
            raise InputError(f"the model has no trainable parameters; there is nothing to optimise{frozen}")
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) > 1:
            given = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise InputError(f"the model's parameters are {given}; give them one dtype and device, e.g. model.double()")
        if not self.parameters[0].is_floating_point():
            raise InputError(f"the model's parameters are {self.parameters[0].dtype}; allowed are real floating types")
        self.vector = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        start = 0
        for parameter in self.parameters:
            end = start + parameter.numel()
            parameter.data = self.vector[start:end].view_as(parameter)
            start = end

    def flatten(self, gradients: tuple[Tensor | None, ...]) -> Tensor:
        """Concatenate per-parameter gradients (None counts as zero) into a vector of shape (n,)."""
        pairs = zip(gradients, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in pairs])
