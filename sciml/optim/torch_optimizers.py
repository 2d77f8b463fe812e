"""The quasi-Newton methods as plain `torch.optim.Optimizer`s, usable without the rest of the package."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.method import Status
from sciml.optim.quasi_newton import InverseHessian, Noise, QuasiNewton
from sciml.optim.self_scaled import DenseSelfScaled
from sciml.parameters import FlatParameters

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]
"""What torch's optimisers take: parameters, or groups of them."""


class _QuasiNewtonOptimizer(torch.optim.Optimizer):
    """`step(closure)` runs up to `iterations` iterations on one and the same function.

    The closure computes the loss, calls backward (as often as it likes: gradients add up from zero) and returns the
    loss, a number or a tensor. It is called once at the start of every step, so a closure that changes its samples
    between steps never mixes two sample sets in a curvature pair; the curvature found so far is kept.

    Attributes:
        status: how the latest iteration ended (`sciml.optim.quasi_newton.Status`).
    """

    def __init__(
        self, params: Parameters, inverse_hessian: Callable[[Tensor], InverseHessian], defaults: dict[str, Any]
    ) -> None:
        super().__init__(params, defaults)
        self._flat = FlatParameters(self.param_groups[0]["params"])
        self._closure: Callable[[], Any] | None = None
        self._method = QuasiNewton(self._flat.vector, self._evaluate, inverse_hessian(self._flat.vector))
        self.status: Status | None = None

    @property
    def noise(self) -> Noise:
        """Errors of the closure's loss and gradient that another call would not repeat. None by default; may be set."""
        return self._method.noise

    @noise.setter
    def noise(self, value: Noise) -> None:
        self._method.noise = value

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a second group: the curvature is that of all parameters together.

        Raises:
            InputError: there is a group already.
        """
        if self.param_groups:
            raise InputError("a second parameter group was given; a quasi-Newton method takes one, for all parameters")
        super().add_param_group(param_group)

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        assert self._closure is not None
        self.zero_grad()
        with torch.enable_grad():
            loss = torch.as_tensor(self._closure()).detach()
        if all(p.grad is None for p in self._flat.parameters):
            raise InputError("the closure left no gradient in any parameter; it must call backward() on its loss")
        return loss.to(self._flat.vector), self._flat.flatten(tuple(p.grad for p in self._flat.parameters))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run the iterations. The parameters are left at the best point.

        Args:
            closure: computes the loss, calls backward and returns the loss.

        Returns:
            The loss **after** the step (torch's own L-BFGS returns the one before it).

        Raises:
            InputError: no closure was given, or it computed no gradient.
        """
        if closure is None:
            raise InputError("step() needs a closure that computes the loss and its gradient")
        self._closure = closure
        self._adopt()
        try:
            loss = self._method.refresh()
            for _ in range(self.param_groups[0]["iterations"]):
                iteration = self._method.iterate()
                loss, self.status = iteration.value, iteration.status
                if self.status not in (Status.PROGRESS, Status.RESTARTED):
                    break
        finally:
            self._closure = None
        return loss

    def _adopt(self) -> None:
        """Where someone else has given a parameter new storage (another optimiser, `load_state_dict(assign=True)`),
        take its content and make it a view of the flat vector again."""
        start = 0
        for parameter in self._flat.parameters:
            part = self._flat.vector[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
            if parameter.data_ptr() != part.data_ptr():
                part.copy_(parameter.detach())
                parameter.data = part

    def state_dict(self) -> dict[str, Any]:
        """Curvature and settings. The parameters are the model's to save."""
        numbers = self._method.numbers() | {"method": type(self).__name__, "unknowns": self._flat.vector.numel()}
        return {"tensors": self._method.tensors(), "numbers": numbers, "groups": self._settings()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to what `state_dict` gave: the next step is the one that would have come.

        Args:
            state_dict: of parameters of the same sizes.

        Raises:
            InputError: the state is of another method, another number of parameters, or another history.
        """
        given = {name: state_dict["numbers"].get(name) for name in ("method", "unknowns")}
        own = {"method": type(self).__name__, "unknowns": self._flat.vector.numel()}
        fixed = {name: self.param_groups[0][name] for name in ("history",) if name in self.param_groups[0]}
        given |= {name: state_dict["groups"].get(name) for name in fixed}
        if given != own | fixed:
            raise InputError(f"this state is of {given}, the optimizer is {own | fixed}; load it into one like its own")
        self.param_groups[0].update(state_dict["groups"])
        tensors = {name: tensor.clone() for name, tensor in state_dict["tensors"].items()}
        self._method.restore(tensors, state_dict["numbers"])

    def _settings(self) -> dict[str, Any]:
        return {name: value for name, value in self.param_groups[0].items() if name != "params"}


class LBFGS(_QuasiNewtonOptimizer):
    """L-BFGS in compact form with a strong-Wolfe search; scale-free: f and c f give the same iterates.

    Args:
        params: one group of parameters of one dtype and device.
        history: curvature pairs kept.
        iterations: iterations in one step.
        preconditioner: symmetric positive operator on flat vectors, close to the inverse Hessian.
    """

    def __init__(
        self,
        params: Parameters,
        history: int = 20,
        iterations: int = 20,
        preconditioner: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if history < 1 or iterations < 1:
            raise InputError(f"LBFGS(history={history}, iterations={iterations}): both must be at least 1")
        defaults = {"history": history, "iterations": iterations}
        super().__init__(params, lambda vector: CompactLBFGS(vector, history, preconditioner), defaults)


class SelfScaled(_QuasiNewtonOptimizer):
    """Self-scaled Broyden updates of a dense inverse Hessian: for models of up to about 10,000 parameters.

    Args:
        params: one group of parameters of one dtype and device.
        iterations: iterations in one step.
    """

    def __init__(self, params: Parameters, iterations: int = 20) -> None:
        if iterations < 1:
            raise InputError(f"SelfScaled(iterations={iterations}): must be at least 1")
        super().__init__(params, DenseSelfScaled, {"iterations": iterations})
