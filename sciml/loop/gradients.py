"""Loss and flat gradient of a problem on a batch: the unit in which all costs are counted.

Where several processes share a run (`sciml.distributed`), each evaluates its part of the batch, and one sum over the
processes brings loss, terms and gradient together.
"""

from collections.abc import Sequence
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


def total(terms: dict[str, Tensor]) -> Tensor:
    """Sum of the named terms of a loss.

    Raises:
        InputError: the mapping is empty, or a term is not a scalar tensor.
    """
    if not terms:
        raise InputError("Problem.loss returned no terms; return at least one named scalar")
    for name, term in terms.items():
        if not isinstance(term, Tensor) or term.numel() != 1:
            shape = tuple(term.shape) if isinstance(term, Tensor) else type(term).__name__
            raise InputError(f"loss term '{name}' is {shape}; return a scalar tensor, the mean over the batch's items")
    values = list(terms.values())
    result = values[0]
    for term in values[1:]:
        result = result + term
    return result.reshape(())


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
    mine = _part(problem, batch, flat.vector.numel())
    if mine is None:
        return _evaluate(problem, model, flat, batch)
    part, weight = mine
    own = _evaluate(problem, model, flat, part)
    numbers = torch.stack([own.loss, *own.terms.values()]).double()
    stamp = distributed.fingerprint(flat.vector)
    checked = numbers.new_tensor([stamp, stamp**2])
    means = [value.double().reshape(-1) for value in own.statistics.mean.values()]
    sizes = [len(numbers), 2, flat.vector.numel(), *map(len, means)]
    packed = torch.cat([weight * numbers, checked, *(weight * part for part in (own.gradient.double(), *means))])
    distributed.add(packed)
    numbers, checked, gradient, *means = packed.split(sizes)
    distributed.check_equal(*checked.tolist())
    loss, *terms = numbers.to(own.loss.dtype).unbind()
    named = zip(own.statistics.mean.items(), means, strict=True)
    statistics = Statistics(
        {name: mean.reshape(before.shape).to(before) for (name, before), mean in named},
        {name: _rows_of_all(rows, count(batch)) for name, rows in own.statistics.each.items()},
    )
    return Evaluation(loss, dict(zip(own.terms, terms, strict=True)), gradient.to(own.gradient), statistics)


def _rows_of_all(rows: Tensor, items: int) -> Tensor:
    """The rows of all processes, in order, from those of this one."""
    whole = rows.new_zeros((items, *rows.shape[1:]))
    begin = items * distributed.rank() // distributed.size()
    whole[begin : begin + len(rows)] = rows
    distributed.add(whole)
    return whole


def _part(problem: Problem, batch: Any, unknowns: int) -> tuple[Any, float] | None:
    """This process's part of a batch, and the share of the items in it. None where every process takes all items."""
    if distributed.size() == 1 or problem.divides is False:
        return None
    if problem.divides is None and count(batch) * unknowns < WORTH_SHARING:
        return None
    return weighted_part(batch, distributed.rank(), distributed.size())


def _evaluate(problem: Problem, model: torch.nn.Module, flat: FlatParameters, batch: Any) -> Evaluation:
    own = problem.gradient(model, batch)
    if own is not None:
        terms = {name: torch.as_tensor(term).detach() for name, term in own[0].items()}
        return Evaluation(total(terms), terms, own[1].detach(), own[2] if len(own) == 3 else Statistics())
    with torch.enable_grad():
        live = dict(problem.loss(model, batch))
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
    mine = _part(problem, batch, sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad))
    part, weight = mine or (batch, 1.0)
    with torch.enable_grad():
        loss = float(total(dict(problem.loss(model, part))).detach())
    if mine is None:
        return loss
    whole = torch.tensor([weight * loss], dtype=torch.float64)
    distributed.add(whole)
    return float(whole)
