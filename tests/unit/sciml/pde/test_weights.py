"""Balanced terms have gradients of one norm."""

import pytest
import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.pde import MLP, gradient_balance, weighted


def norms(terms: dict[str, Tensor], model: MLP) -> dict[str, float]:
    parameters = list(model.parameters())
    found = {}
    for name, term in terms.items():
        parts = torch.autograd.grad(term, parameters, retain_graph=True)
        found[name] = float(torch.cat([part.flatten() for part in parts]).norm())
    return found


def test_weighted_terms_pull_equally() -> None:
    model, x = MLP(1, 1, seed=1).double(), torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    terms = {"equation": 1e4 * (model(x) - x).square().mean(), "wall": 1e-3 * (model(x[:1]) - 1).square().mean()}
    before = norms(terms, model)
    assert before["equation"] > 1e4 * before["wall"]
    weights = gradient_balance(terms, model.parameters())
    after = norms(weighted(terms, weights), model)
    mean = sum(before.values()) / 2
    assert after == pytest.approx({"equation": mean, "wall": mean})
    # Equal already: nothing changes. Nothing to balance: weight one.
    assert gradient_balance({"a": terms["wall"], "b": terms["wall"]}, model.parameters()) == {"a": 1.0, "b": 1.0}
    constant = {"equation": terms["equation"], "fixed": torch.zeros(())}
    assert gradient_balance(constant, model.parameters())["fixed"] == 1.0
    assert torch.equal(weighted({"other": terms["wall"]}, weights)["other"], terms["wall"])


def test_no_terms_and_no_finite_gradients_are_refused() -> None:
    model = MLP(1, 1).double()
    with pytest.raises(InputError, match="no loss terms"):
        gradient_balance({}, model.parameters())
    term = model(torch.zeros(1, 1, dtype=torch.float64)).sum() * float("inf")
    with pytest.raises(InputError, match="not finite"):
        gradient_balance({"bad": term}, model.parameters())
