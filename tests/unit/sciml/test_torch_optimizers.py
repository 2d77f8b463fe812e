"""The methods as torch optimisers: the value returned, new samples between steps, state, what is refused."""

import copy
from typing import Any

import pytest
import torch

import sciml.optim
from sciml import InputError
from sciml.optim.quasi_newton import Status

KINDS: dict[str, Any] = {"lbfgs": sciml.optim.LBFGS, "self_scaled": sciml.optim.SelfScaled}


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def setting(kind, scale=1.0, **options):
    x = torch.nn.Parameter(torch.full((6,), -1.2, dtype=torch.float64))
    optimizer = KINDS[kind]([x], **options)

    def closure():
        optimizer.zero_grad()
        loss = scale * rosenbrock(x)
        loss.backward()
        return loss

    return x, optimizer, closure


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_it_minimises_and_returns_the_loss_after_the_step(kind, scale):
    x, optimizer, closure = setting(kind, scale)
    assert issubclass(KINDS[kind], torch.optim.Optimizer)
    for _ in range(12):
        loss = optimizer.step(closure)
        assert loss == pytest.approx(float(scale * rosenbrock(x.detach())), rel=1e-12)
        if optimizer.status is not Status.PROGRESS:
            break
    assert float((x.detach() - 1).abs().max()) < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_trained(kind):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1)).double()
    inputs = torch.linspace(0, 1, 60, dtype=torch.float64)[:, None]
    optimizer = KINDS[kind](model.parameters(), iterations=400)

    def closure():
        optimizer.zero_grad()
        loss = (model(inputs) - torch.sin(4 * inputs)).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss < {"lbfgs": 1e-5, "self_scaled": 1e-7}[kind]
    assert loss == pytest.approx(float(closure().detach()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_state_gives_the_identical_next_step(kind):
    x, optimizer, closure = setting(kind, iterations=15)
    optimizer.step(closure)
    other_x, other, other_closure = setting(kind, iterations=15)
    other_x.data.copy_(x.data)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.step(closure) == other.step(other_closure)
    assert torch.equal(x, other_x)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_may_change_between_steps(kind):
    stream = torch.Generator().manual_seed(1)
    truth = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = KINDS[kind]([x], iterations=5)
    for _ in range(8):
        rows = torch.randn(30, 5, generator=stream, dtype=torch.float64)

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = (rows @ (x - truth)).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
    assert torch.allclose(x.detach(), truth, atol=1e-8)


def test_what_is_refused():
    x, y = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    with pytest.raises(InputError, match="groups"):
        sciml.optim.LBFGS([{"params": [x]}, {"params": [y]}])
    with pytest.raises(InputError, match="closure"):
        sciml.optim.LBFGS([x]).step()
    with pytest.raises(InputError, match="history"):
        sciml.optim.LBFGS([x], history=0)
