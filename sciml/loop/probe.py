"""Looks at a problem before the first step: what the loop relies on, tried on a few items.

Losses are means over items, functions of model and batch alone, and batches are functions of their generator. A problem
that breaks this gets a wrong answer without a word, so it is refused where the answer would be wrong, and told where
it would only be less than it could be. Costs a few evaluations of at most `ITEMS` items, draws from no stream of the
solve, and is skipped for problems with a `gradient` of their own, whose evaluations may be anything but cheap.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sciml.batches import count, leaves, move, tree_map, weighted_part
from sciml.errors import InputError
from sciml.findings import Finding
from sciml.loop.gradients import total
from sciml.problem import Problem

ITEMS = 16
"""Items that are looked at."""
COUPLED = (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU)


def check_arguments(problem: object, model: object, phases: object, seed: object) -> None:
    """Refuse arguments of `solve` that are not what they should be, each with one message.

    Raises:
        InputError: what was given, what is allowed, what to do.
    """
    from sciml.phases import Phase

    if isinstance(problem, type):
        raise InputError(f"problem is the class {problem.__name__}; give an instance: {problem.__name__}().")
    if not isinstance(problem, Problem):
        raise InputError(f"problem is a {type(problem).__name__}; give an instance of a subclass of sciml.Problem.")
    if isinstance(model, type) or not isinstance(model, nn.Module):
        given = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise InputError(f"model is {given}; give a torch.nn.Module, such as sciml.pde.MLP(1, 1).double().")
    if isinstance(phases, Phase) or (phases is not None and not isinstance(phases, (list, tuple))):
        name = type(phases).__name__
        raise InputError(f"phases is a {name}; give a list of phases, such as [sciml.Adam(), sciml.LBFGS()], or None.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**53:
        raise InputError(f"seed is {seed!r}; give an integer from 0 to 2^53 - 1.")
    if problem.size is not None and problem.size < 1:
        raise InputError(f"{type(problem).__name__}.size is {problem.size}; a finite set has at least one item.")
    _check_parameters(model)


def _check_parameters(model: nn.Module) -> None:
    spans: dict[int, list[tuple[int, int, str]]] = {}
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise InputError(
                f"parameter {name} has no shape yet; call the model once, so that its lazy layers get one."
            )
        if parameter.device.type == "meta":
            raise InputError(
                f"parameter {name} is on the meta device and has no values; use model.to_empty and initialise."
            )
        if not bool(torch.isfinite(parameter.detach()).all()):
            raise InputError(f"parameter {name} is NaN or infinite at the start; initialise the model anew.")
        if any(step == 0 and length > 1 for step, length in zip(parameter.stride(), parameter.shape, strict=True)):
            raise InputError(f"parameter {name} is an expanded tensor, one number shown many times; clone() it.")
        storage, width = parameter.untyped_storage().data_ptr(), parameter.element_size()
        begin = int(parameter.storage_offset()) * width
        spans.setdefault(storage, []).append((begin, begin + parameter.numel() * width, name))
    for parts in spans.values():
        parts.sort()
        for (_, end, first), (begin, _, second) in pairwise(parts):
            if begin < end:
                raise InputError(
                    f"parameters {first} and {second} share storage; to tie weights use one nn.Parameter in both places"
                )


def probe(problem: Problem, model: nn.Module) -> list[Finding]:
    """Try a problem on a few items.

    Args:
        problem: to be solved; may have no state that sampling or losses change.
        model: left as it is.

    Returns:
        What makes the answer less than it could be.

    Raises:
        InputError: what would make it wrong.
    """
    for name, module in model.named_modules():
        _check_module(name, module)
    if type(problem).gradient is not Problem.gradient:
        return []
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        batch, findings = _sampled(problem, model)
        before = {name: value.detach().clone() for name, value in model.state_dict().items()}
        first = _terms(problem, model, batch)
        torch.manual_seed(2)  # another state than that before the first evaluation
        second = _terms(problem, model, batch)
        _check_pure(problem, first, second)
        findings += _halves(problem, model, batch, first) + _broadcast(problem, model, batch)
        _check_unchanged(problem, model, before, "loss")
        judged = problem.evaluate(model)
        _check_unchanged(problem, model, before, "evaluate")
        findings += _nothing_beside(problem, model, judged)
    return findings


def _check_module(name: str, module: nn.Module) -> None:
    kind, where = type(module).__name__, f"{name or 'the model'} ({type(module).__name__})"
    own_statistics = isinstance(module, COUPLED[0]) and not module.track_running_stats  # the batch's, in eval mode too
    if not module.training and not own_statistics:
        return
    if isinstance(module, COUPLED[0]) or (isinstance(module, COUPLED) and module.track_running_stats):
        raise InputError(
            f"{where} standardises each item by the others of its batch: the loss is no mean "
            "over items, and the network that is evaluated is another than the trained one. Use nn.LayerNorm or "
            "nn.GroupNorm, or freeze its statistics with .eval()."
        )
    dropout = module.dropout if isinstance(module, nn.RNNBase | nn.MultiheadAttention) else 0.0
    if dropout > 0 or (isinstance(module, RANDOM) and getattr(module, "p", 1.0) > 0):
        raise InputError(
            f"{where} is in training mode and draws at random in every evaluation; a line search needs the same loss "
            f"for the same parameters. Remove {kind}, or switch it off with .eval()."
        )


def _sampled(problem: Problem, model: nn.Module) -> tuple[Any, list[Finding]]:
    """A small batch on the model's device, and whether it is a function of the generator."""
    name, parameter = type(problem).__name__, next(model.parameters())
    size = ITEMS if problem.size is None else min(ITEMS, problem.size)
    draws = []
    for other, seed in ((0, 0), (1, 0), (1, 1)):
        torch.manual_seed(other)  # torch's own generator must not matter
        draws.append(problem.sample(size, torch.Generator().manual_seed(seed)))
    try:
        tensors = leaves(draws[0])
    except InputError as error:
        raise InputError(f"{name}.sample: {error}") from None
    if not tensors or count(draws[0]) == 0:
        raise InputError(f"{name}.sample gives no items; it must draw the number that it is asked for.")
    same = all(torch.equal(a, b) for a, b in zip(tensors, leaves(draws[1]), strict=True))
    what = f"{name}.sample draws from another source than the generator that it is given."
    remedy = "Pass it on (torch.rand(..., generator=generator)); otherwise no seed repeats a solve, and none resumes."
    findings = [] if same else [Finding(what, "sample", "warning", remedy)]
    if same and size != problem.size and all(map(torch.equal, tensors, leaves(draws[2]))):
        what = f"{name}.sample ignores its generator: every batch is the same, and no points lie beside it to judge by."
        remedy = (
            "Draw the points from it; if they are all there is, set `size` to their number and draw batches of them."
        )
        findings.append(Finding(what, "sample", "warning", remedy))
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.dtype != parameter.dtype and not _is_mixed(tensors):
            findings += _other_precision(name, tensor, parameter)
            break
    even = min(count(draws[0]), ITEMS) // 2 * 2
    cut = tree_map(lambda leaf: leaf[:even] if even and leaf.ndim and len(leaf) == count(draws[0]) else leaf, draws[0])
    return move(cut, parameter), findings


def _is_mixed(tensors: list[Tensor]) -> bool:
    return len({tensor.dtype for tensor in tensors if tensor.is_floating_point()}) > 1


def _other_precision(name: str, tensor: Tensor, parameter: Tensor) -> list[Finding]:
    """Points are moved to the precision of the model, which loses digits where that is the lower one."""
    if tensor.dtype != torch.float64 or parameter.dtype != torch.float32:
        return []
    what = f"{name}.sample gives {tensor.dtype}, and the network has {parameter.dtype}: batches are rounded to it."
    return [Finding(what, "sample", "note", "For more than six digits use model.double().")]


def _terms(problem: Problem, model: nn.Module, batch: Any) -> dict[str, float]:
    """The named loss terms.

    Raises:
        InputError: the loss is not a mapping of names to real scalars.
    """
    name = type(problem).__name__
    residuals = problem.least_squares(model, batch) if type(problem).loss is Problem.loss else None
    if residuals is not None and not isinstance(residuals, Mapping):
        raise InputError(f"{name}.least_squares returned a {type(residuals).__name__}; return {{name: residuals}}.")
    try:
        live = problem.loss(model, batch)
    except (RuntimeError, TypeError) as error:
        if not re.search(r"dtype|scalar type|numpy|ndarray|same device", str(error)):
            raise
        own = next(model.parameters())
        raise InputError(
            f"{name}.loss mixes kinds of numbers ({str(error).splitlines()[0]}): the network has {own.dtype} on "
            f"{own.device}, as its batches have. Move data of the problem's own by .to(batch), or use model.double()."
        ) from error
    if not isinstance(live, Mapping):
        given = "nothing" if live is None else f"a {type(live).__name__}"
        raise InputError(f"{name}.loss returned {given}; return a dictionary of named terms: {{'pde': loss}}.")
    for term, value in live.items():
        if not isinstance(term, str):
            raise InputError(f"{name}.loss names a term {term!r}; names are strings.")
        if isinstance(value, Tensor) and value.is_complex():
            raise InputError(
                f"loss term '{term}' is complex; return a real scalar, such as its .abs().square().mean()."
            )
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
            raise InputError(f"loss term '{term}' is {value.dtype}; return a floating-point scalar.")
    if not total(dict(live)).requires_grad:
        raise InputError(f"{name}.loss does not depend on the model's parameters; use the model that it is given.")
    return {term: float(value.detach()) for term, value in live.items()}


def _check_pure(problem: Problem, first: dict[str, float], second: dict[str, float]) -> None:
    for term, value in first.items():
        again = second.get(term, float("nan"))
        if value != again and not (value != value and again != again):
            if abs(value - again) <= 1e-5 * abs(value) and torch.cuda.is_available():
                continue  # sums of a GPU may come in another order
            raise InputError(
                f"{type(problem).__name__}.loss gave {value:.9g} and then {again:.9g} for term '{term}' with the same "
                "model and batch. It may not draw at random or remember: draw in sample, remember in learn."
            )


def _halves(problem: Problem, model: nn.Module, batch: Any, whole: dict[str, float]) -> list[Finding]:
    """Whether the halves of a batch average to the whole.

    Raises:
        InputError: a term is a sum over the items.
    """
    cut = [weighted_part(batch, index, 2) for index in (0, 1)]
    if count(batch) % 2 or any(part is None for part in cut):
        return []
    parts = [_terms(problem, model, part[0]) for part in cut if part is not None]
    single = next(model.parameters()).dtype != torch.float64
    tolerance = (1e-3 if single else 1e-7) * max(1e-30, sum(map(abs, whole.values())))
    findings = []
    for term, value in whole.items():
        mean = 0.5 * sum(part.get(term, float("nan")) for part in parts)
        if abs(mean - value) <= tolerance or value != value or mean != mean:
            continue
        if abs(2 * mean - value) <= tolerance:
            raise InputError(
                f"loss term '{term}' is a sum over the batch: its halves add up to it. Return the mean over the items, "
                "so that it does not depend on the size of the batch."
            )
        what = f"Half batches average to {mean:.4g}, not to the {value:.4g} of the whole: items of a batch are coupled."
        remedy = (
            "Its gradient is biased on mini-batches, and its noise is not what is measured. Make it a mean over items: "
            "compute what all items share (an integral) from fixed points of the problem. Is it one? Then look for "
            "shapes that broadcast, as (n,) with (n, 1)."
        )
        findings.append(Finding(what, f"loss term '{term}'", "warning", remedy))
    return findings


def _broadcast(problem: Problem, model: nn.Module, batch: Any) -> list[Finding]:
    """Residuals of as many columns as rows, whatever the number of items: every value met the data of every other."""
    if type(problem).loss is not Problem.loss:
        return []
    residuals = lambda part: problem.least_squares(model, part) or {}
    square = lambda residual: residual.dim() == 2 and residual.shape[0] == residual.shape[1] > 2
    half, findings = weighted_part(batch, 0, 2), []
    for name, residual in residuals(batch).items():
        if square(residual) and (half is None or square(residuals(half[0])[name])):
            what = f"Residuals of shape {tuple(residual.shape)}: each value seems to be compared with the data of all."
            remedy = "Data of shape (n,) meet values of shape (n, 1) so; write data[:, None]. Data in one row: .T."
            findings.append(Finding(what, f"residual '{name}'", "warning", remedy))
    return findings


def _nothing_beside(problem: Problem, model: nn.Module, judged: Mapping[str, float]) -> list[Finding]:
    """A finite set that the model can fit point by point, and nothing else to judge it by."""
    unknowns = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if problem.size is None or judged or unknowns < problem.size:
        return []
    what = (
        f"The set has {problem.size:,} items, the model {unknowns:,} unknowns: a small loss says nothing between them."
    )
    remedy = "Hold some items out and return their error from `evaluate`, or draw new points in `sample` (size None)."
    return [Finding(what, "size", "note", remedy)]


def _check_unchanged(problem: Problem, model: nn.Module, before: dict[str, Tensor], where: str) -> None:
    for name, value in model.state_dict().items():
        old = before[name]
        if not torch.equal(value, old) and not (value.isnan() & old.isnan()).any():
            with torch.no_grad():
                for own, back in before.items():
                    model.state_dict()[own].copy_(back)
            raise InputError(
                f"{type(problem).__name__}.{where} changes '{name}' of the model. It may only read it; what is to be "
                "remembered from a step belongs into learn."
            )
