"""The Jacobian of least-squares residuals with respect to a network's parameters, one row per residual.

A residual of item i depends on item i alone. Give every item its own copy of the weights (a view: nothing is copied),
and one reverse pass over the *sum* of the residuals leaves each item's row in its copy's gradient. Measured on
Poisson's equation (1000 points, 501 parameters, one core): 12 ms for the whole Jacobian, where loss and gradient take
9 ms, batched reverse passes with one-hot vectors 130 to 600 ms; `torch.func` refuses the nested `torch.autograd.grad`
that spatial derivatives are made of.

That works for parameters that enter through `torch.nn.functional.linear`, and for a few that enter otherwise (an
unknown coefficient), whose columns cost two passes each. The first Jacobian is checked against a product with a random
vector. Where the check fails, batched reverse passes do the work.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sciml.batches import count, tree_map
from sciml.errors import InputError
from sciml.parameters import FlatParameters

LOOSE_LIMIT = 16
"""Unknowns outside linear layers up to which their columns are computed one by one."""
ONE_HOT_ITEMS = 32
"""Items per batched reverse pass in the general way: measured fastest among 4 to 64."""
CHUNK_NUMBERS = 1 << 23
"""Entries of the Jacobian computed at a time (64 MB in float64; autograd holds a few times that)."""

Residuals = Callable[[Any], Mapping[str, Tensor]]
"""Named residuals of a batch at the present parameters; the loss is the sum of their mean squares."""


class ResidualJacobian:
    """The residuals r and the Jacobian J of a batch, scaled so that the loss is r'r and its gradient 2 J'r.

    Args:
        flat: the parameters.
        residuals: named residuals of a batch. Those whose leading dimension counts the batch's items belong to the
            items; others (a condition at two points) are few.

    Attributes:
        cost: loss-and-gradient evaluations that the latest Jacobian was worth.
    """

    def __init__(self, flat: FlatParameters, residuals: Residuals) -> None:
        self.flat, self.residuals = flat, residuals
        self.cost = 0.0
        self.shared: bool | None = None  # whether one pass for all items works; None until tried

    def starts(self, batch: Any) -> list[int]:
        """Where the chunks of a batch start."""
        return list(range(0, count(batch), self._width(batch)))

    def rows(self, batch: Any) -> Tensor:
        """r of the whole batch, without J: one residual evaluation."""
        parts = []
        for start in self.starts(batch):
            chunk, share = self._cut(batch, start)
            parts += [share * r.detach().reshape(-1) / math.sqrt(r.numel()) for r in self._named(chunk).values()]
        return torch.cat(parts)

    def chunk(self, batch: Any, start: int) -> tuple[Tensor, Tensor]:
        """r, shape (rows,), and J, shape (rows, n), of the chunk that starts at an item; rows as in `rows`."""
        chunk, share = self._cut(batch, start)
        found = self._by_shared_pass(chunk) if self.shared is not False else None
        if self.shared is None:
            self.shared = found is not None and self._agrees(chunk, *found)
        rows, jacobian = found if self.shared and found is not None else self._by_one_hot_passes(chunk)
        return (rows, jacobian) if share == 1 else (rows.mul_(share), jacobian.mul_(share))

    def live(self, batch: Any) -> Tensor:
        """r of the whole batch with its graph to the parameters."""
        return torch.cat([r.reshape(-1) / math.sqrt(r.numel()) for r in self._named(batch).values()])

    def _width(self, batch: Any) -> int:
        """Items per chunk: as many as the memory for the rows of J allows, in chunks of nearly equal size."""
        items = count(batch)
        most = max(CHUNK_NUMBERS // self.flat.vector.numel(), ONE_HOT_ITEMS)
        return math.ceil(items / math.ceil(items / most))

    def _cut(self, batch: Any, start: int) -> tuple[Any, float]:
        """The chunk, and the factor by which its rows count in the whole."""
        width = self._width(batch)
        chunk = tree_map(lambda leaf: leaf[start : start + width], batch)
        return chunk, math.sqrt(count(chunk) / count(batch))

    def _named(self, chunk: Any) -> dict[str, Tensor]:
        with torch.enable_grad():
            named = dict(self.residuals(chunk))
        if not named or any(r.numel() == 0 for r in named.values()):
            raise InputError("Problem.least_squares returned no residuals; return at least one named tensor of them")
        return named

    def _by_shared_pass(self, chunk: Any) -> tuple[Tensor, Tensor] | None:
        """Every item with weights of its own; None if a parameter enters in a way that this cannot follow."""
        items, parameters = count(chunk), self.flat.parameters
        with _OwnWeights(parameters, items) as own:
            named = self._named(chunk)
        leaves = own.leaves
        rows = torch.cat([r.detach().reshape(-1) / math.sqrt(r.numel()) for r in named.values()])
        # Written in place, once: J is what this moves through memory, and every copy of it costs as much as a pass.
        jacobian = rows.new_empty(len(rows), self.flat.vector.numel())
        done, passes = 0, 0.0
        for r in named.values():
            scale = 1 / math.sqrt(r.numel())
            per_item = r.shape[0] == items if r.dim() else False
            columns = r.reshape(items, -1).unbind(1) if per_item else r.reshape(1, -1).unbind(1)
            target = jacobian[done : done + r.numel()].view(-1, len(columns), jacobian.shape[1])
            done += r.numel()
            for k, column in enumerate(columns):
                passes += 1 if per_item else 1 / items  # a residual of no item is worth one item
                wrt = [*leaves, *parameters] if per_item else parameters
                grads = torch.autograd.grad(column.sum() * scale, wrt, retain_graph=True, allow_unused=True)
                _place(grads[: len(parameters)], parameters, target[:, k])
                if per_item:
                    loose = [i for i, g in enumerate(grads[len(leaves) :]) if g is not None and bool(g.any())]
                    if sum(parameters[i].numel() for i in loose) > LOOSE_LIMIT:
                        return None
                    passes += 2 * self._add_loose_columns(target[:, k], column * scale, loose)
        self.cost = passes
        return rows, jacobian

    def _add_loose_columns(self, block: Tensor, column: Tensor, loose: list[int]) -> int:
        """Columns of parameters shared by all items, by forward mode (the reverse of the reverse); their number."""
        starts = torch.tensor([0, *(p.numel() for p in self.flat.parameters)]).cumsum(0).tolist()
        done = 0
        for index in loose:
            parameter = self.flat.parameters[index]
            weights = torch.zeros_like(column, requires_grad=True)
            (gradient,) = torch.autograd.grad(column, parameter, weights, create_graph=True)
            for k, entry in enumerate(gradient.reshape(-1)):
                (tangent,) = torch.autograd.grad(entry, weights, retain_graph=True)
                block[:, starts[index] + k] += tangent
                done += 1
        return done

    def _by_one_hot_passes(self, chunk: Any) -> tuple[Tensor, Tensor]:
        """The general way: a reverse pass per residual, batched, over few items at a time."""
        items = count(chunk)
        rows: dict[str, list[Tensor]] = {}
        jacobians: dict[str, list[Tensor]] = {}
        self.cost = 0.0
        for start in range(0, items, ONE_HOT_ITEMS):
            few = tree_map(lambda leaf, s=start: leaf[s : s + ONE_HOT_ITEMS], chunk)
            for name, r in self._named(few).items():
                if start and r.shape[:1] != (count(few),):
                    continue  # not the items' own: the same rows in every part
                basis = torch.eye(r.numel(), dtype=r.dtype, device=r.device)
                grads = torch.autograd.grad(
                    r.reshape(-1), self.flat.parameters, basis, is_grads_batched=True, retain_graph=True,
                    allow_unused=True,
                )  # fmt: skip
                rows.setdefault(name, []).append(r.detach().reshape(-1))
                jacobians.setdefault(name, []).append(_join(grads, self.flat.parameters, r.numel()))
                self.cost += r.numel() * count(few) / items
        scaled = lambda named: torch.cat([torch.cat(p) / math.sqrt(sum(map(len, p))) for p in named.values()])
        return scaled(rows), scaled(jacobians)

    def _agrees(self, chunk: Any, rows: Tensor, jacobian: Tensor) -> bool:
        """Compare J'u with a reverse pass for a random u: an item whose residual depends on others is found out."""
        direct = self.live(chunk)
        stream = torch.Generator().manual_seed(0)
        u = torch.randn(len(rows), generator=stream, dtype=torch.float64).to(rows)
        expected = self.flat.flatten(torch.autograd.grad(direct, self.flat.parameters, u, allow_unused=True))
        tolerance = torch.finfo(rows.dtype).eps ** 0.5
        limit = tolerance * float(jacobian.norm() * u.norm() / math.sqrt(len(rows)))
        return float((u @ jacobian - expected).norm()) <= limit


class _OwnWeights(TorchFunctionMode):
    """Linear layers use weights of which every item has its own; the items are the first rows of what they are applied
    to."""

    def __init__(self, parameters: list[Tensor], items: int) -> None:
        super().__init__()
        self.items = items
        self.leaves = [p.detach().expand(items, *p.shape).requires_grad_() for p in parameters]
        self.own = {id(p): leaf for p, leaf in zip(parameters, self.leaves, strict=True)}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.linear:
            return self._linear(*args, **{"values" if key == "input" else key: item for key, item in kwargs.items()})
        return func(*args, **kwargs)

    def _linear(self, values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if values.dim() < 2 or values.shape[0] < self.items or id(weight) not in self.own:
            return functional.linear(values, weight, bias)
        if values.shape[0] > self.items:  # other points behind the items: the conditions at some ends
            parts = values.split([self.items, values.shape[0] - self.items])
            return torch.cat([self._linear(parts[0], weight, bias), functional.linear(parts[1], weight, bias)])
        inner = values.reshape(self.items, -1, values.shape[-1])
        result = inner @ self.own[id(weight)].transpose(1, 2)
        if bias is not None:
            result = result + self.own.get(id(bias), bias).reshape(-1, 1, bias.shape[0])
        return result.reshape(*values.shape[:-1], weight.shape[0])


def _place(grads: Sequence[Tensor | None], parameters: list[Tensor], block: Tensor) -> None:
    """Write per-row gradients of all parameters beside each other into a block (rows, n); None counts as zero."""
    start = 0
    for grad, parameter in zip(grads, parameters, strict=True):
        part = block[:, start : start + parameter.numel()]
        part.zero_() if grad is None else part.copy_(grad.reshape(len(block), -1))
        start += parameter.numel()


def _join(grads: Sequence[Tensor | None], parameters: list[Tensor], rows: int) -> Tensor:
    """Per-row gradients of all parameters beside each other, shape (rows, n); None counts as zero."""
    pairs = zip(grads, parameters, strict=True)
    return torch.cat([p.new_zeros(rows, p.numel()) if g is None else g.reshape(rows, -1) for g, p in pairs], 1)
