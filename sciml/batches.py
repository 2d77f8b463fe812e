"""Batches are trees of tensors whose leading dimension counts items: count, cut, join, move them, choose among them."""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciml.errors import InputError


def tree_map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Apply a function to each tensor of a batch, or to the matching tensors of batches of equal structure.

    Args:
        function: takes one tensor of each batch.
        *trees: the batches: tensors, or tuples, named tuples, lists, dicts or dataclasses of them.

    Raises:
        InputError: a batch holds something else.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        return {key: tree_map(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(tree_map(function, *parts) for parts in zip(*trees, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(tree_map(function, *parts) for parts in zip(*trees, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return dataclasses.replace(
            first, **{name: tree_map(function, *(getattr(tree, name) for tree in trees)) for name in names}
        )
    remedy = "; convert NumPy data by torch.as_tensor(...)" if type(first).__module__.startswith("numpy") else ""
    raise InputError(
        f"a batch holds a {type(first).__name__}; allowed are tensors, and tuples, lists, dicts or dataclasses of them"
        + remedy
    )


def leaves(batch: Any) -> list[Tensor]:
    """All tensors of a batch, in order."""
    found: list[Tensor] = []
    tree_map(lambda leaf: (found.append(leaf), leaf)[1], batch)
    return found


def count(batch: Any) -> int:
    """The number of items: the leading dimension of the batch's first tensor.

    Raises:
        InputError: there is no tensor, or that tensor has no dimensions.
    """
    found = leaves(batch)
    if not found:
        raise InputError("a batch holds no tensor; Problem.sample must return at least one, whose rows are the items")
    first = found[0]
    if first.ndim == 0:
        raise InputError("a batch holds a tensor without dimensions; its leading dimension must count the items")
    return first.shape[0]


def split(batch: Any, parts: int) -> list[Any]:
    """Cut a batch into equal micro-batches. A remainder is dropped, as the noise estimator demands.

    Raises:
        InputError: the batch has fewer items than parts.
    """
    if not divisible(batch, parts):
        smallest = min(leaf.shape[0] for leaf in leaves(batch))
        raise InputError(f"a batch of {smallest} items cannot be cut into {parts} micro-batches; draw at least {parts}")

    def part(index: int) -> Any:
        def cut(leaf: Tensor) -> Tensor:
            width = leaf.shape[0] // parts
            return leaf[index * width : (index + 1) * width]

        return tree_map(cut, batch)

    return [part(index) for index in range(parts)]


def divisible(batch: Any, parts: int) -> bool:
    """Whether `split` can cut the batch into so many micro-batches."""
    return min(leaf.shape[0] for leaf in leaves(batch)) >= parts


def pieces(batch: Any, parts: int) -> list[Any]:
    """Cut a batch into at most `parts` pieces of nearly equal size; nothing is dropped."""
    items = count(batch)
    edges = [items * index // parts for index in range(parts + 1)]
    cut = lambda low, high: tree_map(lambda leaf: leaf[low:high], batch)
    return [cut(low, high) for low, high in pairwise(edges) if high > low]


def weighted_part(batch: Any, index: int, parts: int) -> tuple[Any, float] | None:
    """One of several parts of a batch, and the share of the items in it.

    The mean over all items is the mean over the parts weighted by their shares. None where this does not work: where
    there are fewer items than parts, or where tensors of different lengths (points and the ends beside them) do not
    divide evenly.

    Args:
        batch: is cut into parts of nearly equal size.
        index: of the part.
        parts: how many there are.
    """
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves(batch)}
    if min(lengths) < parts or (len(lengths) > 1 and any(length % parts for length in lengths)):
        return None

    def cut(leaf: Tensor) -> Tensor:
        return leaf[leaf.shape[0] * index // parts : leaf.shape[0] * (index + 1) // parts]

    part = tree_map(cut, batch)
    return part, count(part) / count(batch)


def concatenate(batches: Sequence[Any]) -> Any:
    """Join batches of equal structure along the items."""
    if len(batches) == 1:
        return batches[0]
    return tree_map(lambda *parts: torch.cat(parts), *batches)


def move(batch: Any, like: Tensor) -> Any:
    """Move a batch to the device of `like`, and its floating-point tensors to the dtype of `like`."""

    def one(leaf: Tensor) -> Tensor:
        return leaf.to(device=like.device, dtype=like.dtype if leaf.is_floating_point() else None)

    return tree_map(one, batch)


def adaptive_choice(
    density: Float[Tensor, "candidates"], size: int, generator: torch.Generator, uniform_fraction: float = 0.5
) -> Int[Tensor, "points"]:
    """Choose items where a density is large, without losing sight of the rest: their indices, on the CPU.

    Arguments, errors and source as for `sciml.pde.residual_adaptive`.
    """
    if not 1 <= size <= len(density):
        raise InputError(f"{size} points out of {len(density)} candidates: at least 1, at most all of them.")
    if not 0 <= uniform_fraction <= 1:
        raise InputError(f"uniform_fraction = {uniform_fraction}: it must lie in [0, 1].")
    density = density.detach().to("cpu", torch.float64)
    if not bool((density.isfinite() & (density >= 0)).all()):
        raise InputError("the density of adaptive points has negative or non-finite values: give |residual|^k.")
    mean = density.mean()
    weight = (1 - uniform_fraction) * density / mean + uniform_fraction if mean > 0 else torch.ones_like(density)
    # The first arrivals of independent exponential clocks with these rates are a weighted draw without replacement.
    arrival = torch.empty_like(weight).exponential_(generator=generator) / weight
    chosen = arrival.topk(size, largest=False, sorted=False).indices
    return chosen[torch.randperm(size, generator=generator)]
