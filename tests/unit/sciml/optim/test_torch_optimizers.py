"""The methods as torch optimisers: the value returned, new samples between steps, state, what is refused."""

import copy
from typing import Any

import pytest
import torch

import sciml.optim
from sciml import InputError
from sciml.optim.method import Status
from sciml.optim.quasi_newton import Noise

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


@pytest.mark.rounding
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_trained(kind):
    torch.manual_seed(2)  # L-BFGS ends between 4e-8 and 1e-7 whatever the rounding; from seed 0, between 1e-7 and 3e-6
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


@pytest.mark.parametrize("kind", KINDS)
def test_state_survives_a_file(kind, tmp_path):
    x, optimizer, closure = setting(kind, iterations=9)
    optimizer.step(closure)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other_x, other, other_closure = setting(kind, iterations=9)
    other_x.data.copy_(x.data)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    optimizer.step(closure)
    other.step(other_closure)
    assert torch.equal(x, other_x)


def test_a_state_of_another_kind_is_refused():
    (_, dense, closure), (_, compact, _) = setting("self_scaled"), setting("lbfgs")
    dense.step(closure)
    with pytest.raises(InputError, match="SelfScaled"):
        compact.load_state_dict(dense.state_dict())
    _, short, _ = setting("lbfgs", history=3)
    with pytest.raises(InputError, match="history"):
        short.load_state_dict(compact.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_the_loss_changes_no_iterate(kind):
    paths = []
    for scale in (1.0, 2.0**-40):  # a power of two: not even the rounding differs
        x, optimizer, closure = setting(kind, scale, iterations=3)
        path = []
        for _ in range(8):
            optimizer.step(closure)
            path.append(x.detach().clone())
        paths.append(torch.stack(path))
    assert torch.equal(*paths)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_weights_stay_shared(kind):
    torch.manual_seed(1)
    first, last = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    last.weight = first.weight
    model = torch.nn.Sequential(first, torch.nn.Tanh(), last).double()
    inputs = torch.randn(50, 4, dtype=torch.float64)
    optimizer = KINDS[kind](model.parameters(), iterations=50)

    def closure():
        loss = (model(inputs) - inputs).square().mean()
        loss.backward()
        return loss

    before = float(closure().detach())
    assert optimizer.step(closure) < 0.2 * before
    assert first.weight.data_ptr() == last.weight.data_ptr()
    assert optimizer.state_dict()["numbers"]["unknowns"] == 16 + 4 + 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_closure_may_return_a_number_and_need_not_zero_gradients(kind):
    x, optimizer, _ = setting(kind, iterations=90)

    def closure():
        for half in (0, 1):  # gradients of two parts add up
            ((0.25 if half else 0.75) * rosenbrock(x)).backward()
        return float(rosenbrock(x.detach()))

    assert optimizer.step(closure) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_after_another_optimizer_on_the_same_parameters(kind):
    x, optimizer, closure = setting(kind, iterations=2)
    optimizer.step(closure)
    other = KINDS[kind]([x], iterations=2)  # gives the parameter new storage
    other.step(closure)
    value = float(rosenbrock(x.detach()))
    assert optimizer.step(closure) <= value
    assert optimizer.step(closure) == pytest.approx(float(rosenbrock(x.detach())), rel=1e-12)


def test_noise_told_ends_the_step():
    stream = torch.Generator().manual_seed(0)
    x, optimizer, _ = setting("lbfgs", iterations=500)
    optimizer.noise = Noise(value=1e-3, gradient=1e-2)

    def closure():
        loss = (x - 1).square().sum() + 1e-3 * torch.randn((), generator=stream, dtype=torch.float64)
        loss.backward()
        assert x.grad is not None
        x.grad.add_(torch.randn(6, generator=stream, dtype=torch.float64), alpha=1e-2 / 6**0.5)
        return loss

    optimizer.step(closure)
    assert optimizer.status is Status.NOISE_FLOOR
    assert float((x.detach() - 1).norm()) < 2e-2
    with pytest.raises(InputError, match="errors"):
        Noise(gradient=-1.0)


def test_what_is_refused():
    x, y = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    with pytest.raises(InputError, match="group"):
        sciml.optim.LBFGS([{"params": [x]}, {"params": [y]}])
    optimizer = sciml.optim.SelfScaled([x])
    with pytest.raises(InputError, match="group"):
        optimizer.add_param_group({"params": [y]})
    with pytest.raises(InputError, match="backward"):
        optimizer.step(lambda: x.detach().sum())
    with pytest.raises(InputError, match="closure"):
        sciml.optim.LBFGS([x]).step()
    with pytest.raises(InputError, match="history"):
        sciml.optim.LBFGS([x], history=0)
