"""Loss and flat gradient of a problem on a batch: the unit in which all costs are counted.

A large batch is summed in blocks, in pairs, then pairs of pairs. Where several processes share a run
(`sciml.distributed`), each evaluates some of the blocks, and the sums are taken in the same order: 1, 2, 4 and 8
processes give the same bits, so that the rounding which a quasi-Newton phase amplifies is the same, too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciml import distributed
from sciml.batches import count, weighted_part
from sciml.errors import InputError
from sciml.parameters import FlatParameters
from sciml.problem import Evaluation, Problem, Statistics

WORTH_SHARING = 1 << 23
"""Items times unknowns from which processes share a batch, unless the problem decides (`Problem.divides`).

With fewer, each process evaluates the whole batch: half of a small batch takes hardly less time than all of it, and a
sum over the processes takes a millisecond. Measured: no gain at half of this number, and 1.7 times less CPU time a
process at four times it."""

BLOCKS = 8
"""Blocks that a batch worth sharing is summed in, whether there are processes to share it or not; fewer where a batch
cannot be cut into so many."""


def total(terms: Mapping[Any, Any]) -> Tensor:
    """Sum of the named terms of a loss.

    Raises:
        InputError: this is no mapping, it is empty, or a term is not a real scalar tensor.
    """
    if not isinstance(terms, Mapping):
        given = f"a tensor of shape {tuple(terms.shape)}" if isinstance(terms, Tensor) else f"a {type(terms).__name__}"
        raise InputError(
            f'Problem.loss returned {given}; return named scalars, e.g. {{"pde": residual.square().mean()}}'
        )
    if not terms:
        raise InputError("Problem.loss returned no terms; return at least one named scalar")
    for name, term in terms.items():
        if not isinstance(name, str):
            raise InputError(f"Problem.loss names a term {name!r}; names are strings")
        if not isinstance(term, Tensor) or term.ndim or not term.is_floating_point():
            given = f"{term.dtype} {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
            raise InputError(
                f"loss term '{name}' is {given}; return a scalar tensor (shape ()) of real numbers, the mean over the "
                "batch's items"
            )
    values = list(terms.values())
    result = values[0]
    for term in values[1:]:
        result = result + term
    return result


def evaluate(problem: Problem, model: torch.nn.Module, flat: FlatParameters, batch: Any) -> Evaluation:
    """Loss and gradient on a batch, by the problem's own `gradient` if it has one, else by reverse-mode autograd.

    The processes of a run share the work.

    Args:
        problem: gives the loss.
        model: the module.
        flat: its parameters.
        batch: the items.

    Raises:
        InputError: the loss is not made of scalars, or does not depend on the parameters.
        RankError: a process is gone, or its parameters differ from those of the others.
    """
    cut = _blocks(problem, batch, flat.vector.numel())
    if cut is None:
        return _evaluate(problem, model, flat, batch)
    rows, mine = _mine(len(cut))
    own = [_evaluate(problem, model, flat, part) for part, _ in cut[mine]]
    packed = [weight * _packed(part) for part, (_, weight) in zip(own, cut[mine], strict=True)]
    template = own[0]
    sizes = [1 + len(template.terms), flat.vector.numel(), *(m.numel() for m in template.statistics.mean.values())]
    numbers, gradient, *means = _summed(packed, rows, distributed.fingerprint(flat.vector)).split(sizes)
    loss, *terms = numbers.to(template.loss.dtype).unbind()
    named = zip(template.statistics.mean.items(), means, strict=True)
    each = {
        name: _rows_of_all(torch.cat([part.statistics.each[name] for part in own]), batch, cut, mine)
        for name in template.statistics.each
    }
    statistics = Statistics({name: mean.reshape(before.shape).to(before) for (name, before), mean in named}, each)
    return Evaluation(loss, dict(zip(template.terms, terms, strict=True)), gradient.to(template.gradient), statistics)


def _packed(part: Evaluation) -> Tensor:
    """All numbers of an evaluation that are means over its items, shape (numbers,), in float64."""
    means = [value.double().reshape(-1) for value in part.statistics.mean.values()]
    return torch.cat([torch.stack([part.loss, *part.terms.values()]).double(), part.gradient.double(), *means])


def _summed(own: list[Tensor], rows: int, stamp: int) -> Tensor:
    """The sum over the blocks of all processes, in an order that does not depend on who has which block.

    Args:
        own: this process's blocks, weighted.
        rows: partial sums that travel, all processes together.
        stamp: a fingerprint that must be the same everywhere.
    """
    if distributed.size() == 1 or rows == 0:
        return _tree(own)
    here = distributed.share(rows)
    each = len(own) // (here.stop - here.start)
    table = own[0].new_zeros(rows, len(own[0]))
    for row in range(here.start, here.stop):
        first = (row - here.start) * each
        table[row] = _tree(own[first : first + each])
    checked = table.new_tensor([stamp, stamp**2])
    distributed.add(table, checked)
    distributed.check_equal(*checked.tolist())
    return _tree(list(table))


def _tree(parts: list[Tensor]) -> Tensor:
    """The sum in pairs, then pairs of pairs: a part of the tree is the same wherever it is summed."""
    while len(parts) > 1:
        parts = [parts[i] + parts[i + 1] if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


def _mine(blocks: int) -> tuple[int, slice]:
    """How many partial sums travel (0 for none), and which blocks are this process's."""
    if blocks < distributed.size():  # too few for all: every process takes all of them, in the same order
        return 0, slice(None)
    rows = distributed.size() if blocks % distributed.size() == 0 else blocks
    here, each = distributed.share(rows), blocks // rows
    return rows, slice(here.start * each, here.stop * each)


def _rows_of_all(rows: Tensor, batch: Any, cut: list[tuple[Any, float]], mine: slice) -> Tensor:
    """The rows of all processes, in order, from those of this one."""
    whole = rows.new_zeros((count(batch), *rows.shape[1:]))
    if len(rows) == len(whole):
        return rows
    begin = sum(count(part) for part, _ in cut[: mine.start])
    whole[begin : begin + len(rows)] = rows
    distributed.add(whole)
    return whole


def _blocks(problem: Problem, batch: Any, unknowns: int) -> list[tuple[Any, float]] | None:
    """The blocks that a batch is summed in, with their shares of the items; None where every process takes it whole.

    A problem with a `gradient` of its own, which may cost as much for a part as for the whole, is cut only where there
    are processes to share it.
    """
    processes, own = distributed.size(), type(problem).gradient is not Problem.gradient
    if problem.divides is False or (processes == 1 and own):
        return None
    if problem.divides is None and count(batch) * unknowns < WORTH_SHARING:
        return None
    for number in (processes,) if own or processes > BLOCKS else (BLOCKS, BLOCKS // 2, BLOCKS // 4):
        parts = [weighted_part(batch, index, number) for index in range(number)]
        if all(part is not None for part in parts):
            return [part for part in parts if part is not None]
    return None


def _evaluate(problem: Problem, model: torch.nn.Module, flat: FlatParameters, batch: Any) -> Evaluation:
    own = problem.gradient(model, batch)
    if own is not None:
        terms = {name: torch.as_tensor(term).detach() for name, term in own[0].items()}
        return Evaluation(total(terms), terms, own[1].detach(), own[2] if len(own) == 3 else Statistics())
    with torch.enable_grad():
        live = problem.loss(model, batch)
        loss = total(live)
        if not loss.requires_grad:
            raise InputError("the loss does not depend on the model's parameters; use the model passed to Problem.loss")
        gradients = torch.autograd.grad(loss, flat.parameters, allow_unused=True)
    terms = {name: term.detach() for name, term in live.items()}
    return Evaluation(loss.detach(), terms, flat.flatten(gradients))


def accumulate(evaluations: Sequence[Evaluation], items: Sequence[int]) -> Evaluation:
    """The evaluation of a whole batch from those of its parts.

    Means are weighted by the items of each part; for parts of unequal size a plain mean of means would be wrong.

    Args:
        evaluations: of the parts.
        items: how many items each part has.
    """
    if len(evaluations) == 1:
        return evaluations[0]
    whole = sum(items)
    mean = lambda values: torch.stack([v * (n / whole) for v, n in zip(values, items, strict=True)]).sum(0)
    terms = {name: mean([part.terms[name] for part in evaluations]) for name in evaluations[0].terms}
    gradient = torch.zeros_like(evaluations[0].gradient)
    for part, n in zip(evaluations, items, strict=True):
        gradient.add_(part.gradient, alpha=n / whole)
    parts = [part.statistics for part in evaluations]
    statistics = Statistics(
        {name: mean([part.mean[name] for part in parts]) for name in parts[0].mean},
        {name: torch.cat([part.each[name] for part in parts]) for name in parts[0].each},
    )
    return Evaluation(mean([part.loss for part in evaluations]), terms, gradient, statistics)


def loss_only(problem: Problem, model: torch.nn.Module, batch: Any) -> float:
    """The loss on a batch, without its gradient. The work is shared as in `evaluate`.

    Derivatives with respect to the inputs work as usual.
    """
    unknowns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    cut = _blocks(problem, batch, unknowns)
    with torch.enable_grad():
        if cut is None:
            return float(total(problem.loss(model, batch)).detach())
        rows, mine = _mine(len(cut))
        losses = [weight * total(problem.loss(model, part)).detach().double() for part, weight in cut[mine]]
    return float(_summed([loss.reshape(1) for loss in losses], rows, 0))
