"""What is wrong with a problem is said before the first step, once, and nothing is said of what is right."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sciml
from sciml.errors import InputError
from sciml.loop.probe import check_arguments, probe
from sciml.pde import MLP


class Fit(sciml.Problem):
    """A curve; what a test wants otherwise it passes as functions."""

    def __init__(self, **others: Callable[..., Any]) -> None:
        for name, function in others.items():
            setattr(self, name, function)

    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"fit": (model(batch) - torch.sin(3 * batch)).square().mean()}


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), *middle, nn.Tanh(), nn.Linear(8, 1)).double()


def squares(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return (model(batch) - batch).square()


def _moving(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    return {"fit": squares(model, batch).mean()}


def _evaluate_moving(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        next(model.parameters()).mul_(2.0)
    return {}


def _spoil(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.constant_(module.weight, float("nan"))


def _expanded() -> nn.Module:
    model = network()
    model.extra = nn.Parameter(torch.zeros(1).double().expand(3))
    return model


REFUSED: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "batch normalisation": (lambda: (Fit(), network(nn.BatchNorm1d(8))), "BatchNorm1d.*LayerNorm"),
    "dropout": (lambda: (Fit(), network(nn.Dropout(0.1))), "Dropout.*at random"),
    "alpha dropout": (lambda: (Fit(), network(nn.AlphaDropout(0.1))), "at random"),
    "random slopes": (lambda: (Fit(), network(nn.RReLU())), "at random"),
    "a loss that is a sum": (
        lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b).sum()}), network()),
        "'fit' is a sum over the batch",
    ),
    "a loss that draws": (
        lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b + torch.rand_like(b)).mean()}), network()),
        "gave .* and then",
    ),
    "a loss that moves parameters": (lambda: (Fit(loss=_moving), network()), "gave .* and then|changes"),
    "an evaluation that moves parameters": (lambda: (Fit(evaluate=_evaluate_moving), network()), "evaluate changes"),
    "a loss without a name": (lambda: (Fit(loss=lambda m, b: squares(m, b).mean()), network()), "returned a Tensor"),
    "a loss that is a number": (lambda: (Fit(loss=lambda m, b: 1.0), network()), "returned a float"),
    "no loss": (lambda: (Fit(loss=lambda m, b: None), network()), "returned nothing"),
    "no terms": (lambda: (Fit(loss=lambda m, b: {}), network()), "no terms"),
    "a complex loss": (
        lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b).mean() * 1j}), network()),
        "complex",
    ),
    "an integer loss": (lambda: (Fit(loss=lambda m, b: {"fit": torch.tensor(1)}), network()), "int64"),
    "a loss for each item": (lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b)}), network()), "scalar tensor"),
    "a loss of shape (1, 1)": (
        lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b).mean(0, True)}), network()),
        "scalar",
    ),
    "a term that is a number": (lambda: (Fit(loss=lambda m, b: {"fit": 1}), network()), "'fit' is int"),
    "a term named by a number": (lambda: (Fit(loss=lambda m, b: {3: squares(m, b).mean()}), network()), "are strings"),
    "a loss without a gradient": (
        lambda: (Fit(loss=lambda m, b: {"fit": squares(m, b).mean().detach()}), network()),
        "does not depend on the model",
    ),
    "data in double precision": (
        lambda: (Fit(loss=lambda m, b: {"fit": m(torch.ones(4, 1).double()).square().mean()}), network().float()),
        r"mixes kinds of numbers.*float32.*model.double\(\)",
    ),
    "statistics of the batch in eval mode": (
        lambda: (Fit(), network(nn.BatchNorm1d(8, track_running_stats=False)).eval()),
        "LayerNorm",
    ),
    "dropout of attention": (lambda: (Fit(), network(nn.MultiheadAttention(8, 1, dropout=0.1))), "at random"),
    "a batch without tensors": (lambda: (Fit(sample=lambda n, g: ()), network()), "no tensor"),
    "no batch": (lambda: (Fit(sample=lambda n, g: None), network()), "NoneType"),
    "parameters that are NaN": (lambda: (Fit(), network().apply(_spoil)), "NaN or infinite at the start"),
    "an expanded parameter": (lambda: (Fit(), _expanded()), "expanded tensor"),
    "NumPy points": (lambda: (Fit(sample=lambda n, g: np.zeros((n or 8, 1))), network()), "ndarray"),
    "no points": (lambda: (Fit(sample=lambda n, g: torch.zeros(0, 1).double()), network()), "no items"),
    "a class for a problem": (lambda: (Fit, network()), r"Fit\(\)"),
    "no problem": (lambda: (3, network()), "sciml.Problem"),
    "a class for a model": (lambda: (Fit(), MLP), "torch.nn.Module"),
    "a function for a model": (lambda: (Fit(), lambda x: x), "torch.nn.Module"),
    "a model without values": (lambda: (Fit(), nn.Linear(1, 1, device="meta")), "meta"),
    "a model without parameters": (lambda: (Fit(), nn.Tanh()), "no trainable parameters"),
    "a frozen model": (lambda: (Fit(), network().requires_grad_(False)), "no trainable parameters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_give_a_wrong_answer_is_refused_in_one_message(kind: str) -> None:
    make, message = REFUSED[kind]
    problem, model = make()

    def solve() -> None:
        check_arguments(problem, model, None, 0)
        sciml.solve(problem, model, [sciml.Adam(steps=5)])

    with pytest.raises(InputError, match=message) as caught:
        solve()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": sciml.Adam()}, "list of phases"),
        ({"phases": "Adam"}, "list of phases"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**70}, "seed is"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_arguments(Fit(), network(), arguments.get("phases"), arguments.get("seed", 0))


def test_residuals_without_names_are_refused() -> None:
    class Listed(sciml.Problem):
        def sample(self, size, generator):
            return torch.rand(size or 8, 1, generator=generator, dtype=torch.float64)

        def least_squares(self, model, batch):
            return [model(batch)]

    with pytest.raises(InputError, match="least_squares returned a list"):
        sciml.solve(Listed(), network(), [sciml.Adam(steps=1)])


def test_parameters_that_overlap_are_refused_and_tied_ones_are_not() -> None:
    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.zeros(3, dtype=torch.float64)
            self.a, self.b = nn.Parameter(whole[:2]), nn.Parameter(whole[1:])

        def forward(self, x):
            return self.a.sum() * x + self.b.sum()

    with pytest.raises(InputError, match="share storage"):
        sciml.solve(Fit(), Overlapping(), [sciml.Adam(steps=1)])
    tied = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)).double()
    tied[1].weight = tied[0].weight
    assert probe(Fit(), tied) == []


def test_coupled_items_and_foreign_randomness_are_warned_of() -> None:
    coupled = Fit(loss=lambda m, b: {"norm": (m(b).square().mean() - 1).square(), "fit": squares(m, b).mean()})
    (finding,) = probe(coupled, network())
    assert finding.severity == "warning" and "'norm'" in finding.where and "coupled" in finding.what
    own = Fit(sample=lambda n, g: torch.rand(n or 8, 1, dtype=torch.float64))
    (finding,) = probe(own, network())
    assert finding.severity == "warning" and "generator" in finding.what


def test_a_sample_that_ignores_its_generator_is_warned_of() -> None:
    fixed = lambda n, g: torch.linspace(0, 1, n or 64, dtype=torch.float64)[:, None]
    (finding,) = probe(Fit(sample=fixed), network())
    assert finding.severity == "warning" and "ignores its generator" in finding.what and "`size`" in finding.remedy
    finite = Fit(sample=fixed, evaluate=lambda model: {"held out": 0.1})
    finite.size = 8  # all of them are asked for, and given
    assert probe(finite, network()) == []


def test_tensors_of_other_lengths_are_halved_with_the_items() -> None:
    two = lambda n, g: (
        torch.rand(n or 64, 1, generator=g).double(),
        torch.rand((n or 64) // 2, 1, generator=g).double(),
    )
    mean = lambda m, b: {"fit": squares(m, b[0]).mean() + squares(m, b[1]).mean()}
    assert probe(Fit(sample=two, loss=mean), network()) == []
    coupled = lambda m, b: {"fit": squares(m, b[0]).mean() * squares(m, b[1]).mean()}
    assert "coupled" in probe(Fit(sample=two, loss=coupled), network())[0].what
    broadcast = lambda m, b: {"fit": (m(b[0])[:, 0] - torch.sin(b[0])).square().mean()}
    assert "broadcast" in probe(Fit(sample=two, loss=broadcast), network())[0].remedy


def test_frozen_statistics_and_layer_norm_are_fine() -> None:
    frozen = network(nn.BatchNorm1d(8))
    frozen.get_submodule("1").eval()
    assert probe(Fit(), frozen) == []
    assert probe(Fit(), network(nn.LayerNorm(8), nn.Dropout(0.0))) == []
    assert probe(Fit(), network(nn.Dropout(0.5)).eval()) == []


def test_the_probe_leaves_no_trace() -> None:
    model, state = network(), torch.random.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(Fit(), model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Well(sciml.Problem):
    """A particle in a well whose energy is unknown: u = 0 solves the equation, whatever the energy."""

    def sample(self, size, generator):
        return torch.rand(size or 300, 1, generator=generator, dtype=torch.float64)

    def least_squares(self, model, batch):
        from sciml.pde import derivative

        u = lambda x: x * (1 - x) * model.net(x)
        nodes = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
        norm = torch.trapezoid(u(nodes).square()[:, 0], nodes[:, 0])
        return {"pde": 0.5 * derivative(u, batch, order=2) + model.energy * u(batch), "norm": norm - 1.0}


class WellModel(nn.Module):
    def __init__(self, energy: float) -> None:
        super().__init__()
        self.net, self.energy = MLP(1, 1).double(), nn.Parameter(torch.tensor(energy, dtype=torch.float64))


def test_an_answer_that_solves_nothing_is_not_converged() -> None:
    """The norm asked for is never approached: u falls to zero, and the loss to that of no solution at all."""
    stalled = 0
    for seed in range(3):
        torch.manual_seed(seed)
        solution = sciml.solve(Well(), WellModel(40.0), seed=seed, budget=sciml.Budget(evaluations=600))
        if solution.loss > 0.5:
            stalled += 1
            assert solution.result is not sciml.Result.CONVERGED
            severe = [finding for finding in solution.findings if finding.severity == "severe"]
            assert severe and solution.shares["norm"] > 0.9
    assert stalled >= 1


def test_a_good_start_is_kept() -> None:
    """A second solve from a good model: the steps of Adam would throw it away."""
    torch.manual_seed(0)
    model = network()
    first = sciml.solve(Fit(), model, seed=0)
    second = sciml.solve(Fit(), model, seed=1)
    assert [record["phase"] for record in second.switch] == ["SelfScaled"]
    assert any("good already" in finding.what for finding in second.findings)
    assert second.result is sciml.Result.CONVERGED and second.evaluations < first.evaluations
    assert second.loss <= max(2.0 * first.loss, 1e-12)
    assert first.loss < 1e-5


def test_a_loss_without_a_minimum_diverges() -> None:
    falling = Fit(loss=lambda m, b: {"energy": -m(b).square().mean().pow(2)})
    solution = sciml.solve(falling, network(), seed=0, budget=sciml.Budget(evaluations=3000))
    assert solution.result in (sciml.Result.DIVERGED, sciml.Result.NONFINITE)
    assert not solution.loss > -1e3 or math.isnan(solution.loss)


def test_another_problem_in_the_same_folder_is_refused(tmp_path) -> None:
    class Scaled(Fit):
        def __init__(self, factor: float, points: torch.Tensor) -> None:
            self.factor, self.points = factor, points

        def loss(self, model, batch):
            return {"fit": (model(batch) - self.factor * batch).square().mean()}

    points = torch.arange(4.0)
    run = lambda: sciml.Run.create(tmp_path / "run", command=["test"])
    phases = [sciml.Adam(steps=20)]
    sciml.solve(Scaled(1.0, points), network(), phases, run=run())
    sciml.solve(Scaled(1.0, points.clone()), network(), phases, run=run())
    with pytest.raises(InputError, match="attribute factor differ"):
        sciml.solve(Scaled(2.0, points), network(), phases, run=run())
    with pytest.raises(InputError, match="attribute points differ"):
        sciml.solve(Scaled(1.0, points + 1e-6), network(), phases, run=run())
    with pytest.raises(InputError, match=r"problem.*source differ"):
        sciml.solve(Fit(), network(), phases, run=run())


@pytest.mark.parametrize("fixed", [True, False])
def test_data_that_meet_the_values_of_all_points_are_named(fixed: bool) -> None:
    places = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]

    class Sensors(sciml.Problem):
        def __init__(self, data: Callable[[torch.Tensor], torch.Tensor]) -> None:
            self.data = data

        def sample(self, size, generator):
            return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

        def least_squares(self, model, batch):
            x = places if fixed else batch
            residual = model(x) - self.data(x)
            return {"equation": model(batch) - batch, "data": residual.mT if fixed else residual}

    (found,) = probe(Sensors(lambda x: x[:, 0]), network())[-1:]
    assert "write data[:, None]" in found.remedy
    assert found.where == "residual 'data'"
    assert probe(Sensors(lambda x: x), network()) == []


def test_a_finite_set_with_nothing_beside_it_is_noted() -> None:
    class Own(Fit):
        size = 20

    (found,) = probe(Own(), network())
    assert found.severity == "note"
    assert "Hold some items out" in found.remedy
    assert probe(Own(evaluate=lambda model: {"held_out": 0.1}), network()) == []
    assert probe(Own(), nn.Linear(1, 1).double()) == []
