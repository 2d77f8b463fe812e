"""Weights of loss terms, chosen so that no term's gradient drowns the others'."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from sciml.errors import InputError


def gradient_balance(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, float]:
    """Weights that give every term a gradient of the same norm: w_i = sum_j ||g_j|| / (n ||g_i||).

    Compute them once, from the loss of the untrained (or half trained) network on a batch, and keep them fixed while a
    phase runs: a quasi-Newton method needs one function to minimise. The rule is Algorithm 1 of Wang, Sankaran, Wang
    and Perdikaris (2023, arXiv 2308.08468), divided by the number n of terms so that equal gradients give weights of
    one; it follows the learning-rate annealing of Wang, Teng and Perdikaris (2021, SIAM J. Sci. Comput. 43, A3055).

    Args:
        terms: named scalars, as `Problem.loss` returns them, with their graph.
        parameters: of the model.

    Returns:
        The weight of every term. A term without gradient gets 1: no weight could balance it.

    Raises:
        InputError: no terms, or a gradient that is not finite.
    """
    if not terms:
        raise InputError("no loss terms to balance.")
    chosen = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {}
    for name, term in terms.items():
        parts = torch.autograd.grad(term, chosen, retain_graph=True, allow_unused=True) if term.requires_grad else ()
        norms[name] = float(sum(part.double().square().sum() for part in parts if part is not None)) ** 0.5
    if any(not norm < float("inf") for norm in norms.values()):
        raise InputError(f"gradients of the loss terms are not finite: {norms}.")
    mean = sum(norms.values()) / len(norms)
    return {name: mean / norm if norm > 0 else 1.0 for name, norm in norms.items()}


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The terms times their weights; a term that has none keeps 1."""
    return {name: weights.get(name, 1.0) * term for name, term in terms.items()}
