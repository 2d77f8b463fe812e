"""What every Problem must keep to, as tests that a test class of its own inherits.

    from problem_contract import ProblemContract

    class TestMyProblem(ProblemContract):
        def make(self) -> tuple[Problem, nn.Module]:
            return MyProblem(), MyModel()

The core relies on all of this: accumulation, noise measurement, growth of the batch and sharding are correct because
losses are means over items and batches are functions of a generator.
"""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sciml import Problem
from sciml.batches import concatenate, count, leaves, move, split, tree_map
from sciml.loop.gradients import evaluate, total
from sciml.parameters import FlatParameters


class ProblemContract:
    """Inherit, and define `make`.

    Attributes:
        batch_size: items of a batch; divisible by `chunks`.
        chunks: micro-batches that it is cut into.
        tolerance: relative, for sums in another order.
        step: relative length of the finite difference.
        derivative_tolerance: relative error of the directional derivative.
    """

    batch_size = 12
    chunks = 4
    tolerance = 1e-9
    step = 1e-5
    derivative_tolerance = 1e-6

    def make(self) -> tuple[Problem, nn.Module]:
        raise NotImplementedError

    @pytest.fixture
    def pair(self) -> tuple[Problem, nn.Module]:
        return self.make()

    def batch(self, problem: Problem, model: nn.Module, seed: int = 0, size: int | None = None) -> Any:
        drawn = problem.sample(size or self.batch_size, torch.Generator().manual_seed(seed))
        return move(drawn, next(model.parameters()))

    def loss(self, problem: Problem, model: nn.Module, batch: Any) -> float:
        return float(total(dict(problem.loss(model, batch))).detach())

    def test_a_batch_has_the_items_asked_for_in_every_tensor(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        for size in (self.batch_size, 2 * self.batch_size):
            batch = self.batch(problem, model, size=size)
            assert {leaf.shape[0] for leaf in leaves(batch)} == {size}

    def test_the_full_set_has_the_declared_size(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, _ = pair
        full = problem.sample(None, torch.Generator().manual_seed(0))
        assert count(full) == (problem.size or count(full))
        assert len({leaf.shape[0] for leaf in leaves(full)}) == 1

    def test_a_batch_is_a_function_of_the_generator_alone(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        first = leaves(self.batch(problem, model, seed=3))
        torch.manual_seed(99)  # torch's global generator must not matter
        again, other = leaves(self.batch(problem, model, seed=3)), leaves(self.batch(problem, model, seed=4))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))

    def test_sampling_draws_only_from_its_generator(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        state = torch.random.get_rng_state()
        self.batch(problem, model)
        assert torch.equal(state, torch.random.get_rng_state())

    def test_the_loss_is_made_of_named_finite_scalars(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        terms = problem.loss(model, self.batch(problem, model))
        assert terms
        assert all(isinstance(name, str) for name in terms)
        assert all(term.numel() == 1 and bool(torch.isfinite(term).all()) for term in terms.values())

    def test_mean_of_chunk_losses_is_the_whole_loss(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        batch = self.batch(problem, model)
        whole = self.loss(problem, model, batch)
        parts = [self.loss(problem, model, part) for part in split(batch, self.chunks)]
        assert sum(parts) / self.chunks == pytest.approx(whole, rel=self.tolerance)

    def test_mean_of_chunk_gradients_is_the_whole_gradient(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        flat = FlatParameters(model.parameters())
        batch = self.batch(problem, model)
        whole = evaluate(problem, model, flat, batch).gradient
        parts = [evaluate(problem, model, flat, part).gradient for part in split(batch, self.chunks)]
        difference = torch.stack(parts).mean(0) - whole
        assert float(difference.norm()) <= self.tolerance * max(float(part.norm()) for part in parts)

    def test_the_order_of_the_items_does_not_matter(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        batch = self.batch(problem, model)
        order = torch.randperm(count(batch), generator=torch.Generator().manual_seed(1))
        shuffled = tree_map(lambda leaf: leaf[order.to(leaf.device)], batch)
        expected = self.loss(problem, model, batch)
        assert self.loss(problem, model, shuffled) == pytest.approx(expected, rel=self.tolerance)

    def test_batches_of_equal_size_can_be_joined(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        first, second = self.batch(problem, model, seed=1), self.batch(problem, model, seed=2)
        mean = (self.loss(problem, model, first) + self.loss(problem, model, second)) / 2
        joined = self.loss(problem, model, concatenate([first, second]))
        assert joined == pytest.approx(mean, rel=self.tolerance)

    def test_the_gradient_is_the_derivative_of_the_loss(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        flat = FlatParameters(model.parameters())
        batch = self.batch(problem, model)
        origin = flat.vector.clone()
        gradient = evaluate(problem, model, flat, batch).gradient
        noise = torch.randn(origin.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(origin)
        direction = gradient / gradient.norm() + noise / noise.norm()
        length = self.step * max(float(origin.norm()), 1.0)
        values = []
        for sign in (-2, -1, 1, 2):
            flat.vector.copy_(origin + sign * length * direction)
            values.append(self.loss(problem, model, batch))
        flat.vector.copy_(origin)
        slope = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * length)
        assert slope == pytest.approx(float(gradient @ direction), rel=self.derivative_tolerance)

    def test_an_own_gradient_equals_autograd(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        batch = self.batch(problem, model)
        own = problem.gradient(model, batch)
        if own is None:
            return
        loss = total(dict(problem.loss(model, batch)))
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        zeros = [torch.zeros_like(p) for p in model.parameters()]
        flat = torch.cat([(z if g is None else g).reshape(-1) for g, z in zip(parts, zeros, strict=True)])
        assert float((own[1] - flat).norm()) <= 1e-5 * float(flat.norm())

    def test_loss_and_gradient_are_functions_of_model_and_batch(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        flat = FlatParameters(model.parameters())
        batch, other = self.batch(problem, model), self.batch(problem, model, seed=7)
        before = copy.deepcopy(model.state_dict())
        loss, first = self.loss(problem, model, batch), evaluate(problem, model, flat, batch)
        evaluate(problem, model, flat, other)  # what another batch left behind would show below
        again = evaluate(problem, model, flat, batch)
        assert self.loss(problem, model, batch) == loss
        assert torch.equal(first.loss, again.loss)
        assert torch.equal(first.gradient, again.gradient)
        for kind in ("mean", "each"):
            named, repeated = getattr(first.statistics, kind), getattr(again.statistics, kind)
            assert named.keys() == repeated.keys()
            assert all(torch.equal(value, repeated[name]) for name, value in named.items())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_mean_squares_of_the_residuals_are_the_loss_terms(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        batch = self.batch(problem, model)
        residuals = problem.least_squares(model, batch)
        if residuals is None:
            return
        terms = problem.loss(model, batch)
        assert set(residuals) == set(terms)
        for name, term in terms.items():
            assert float(residuals[name].detach().square().mean()) == pytest.approx(
                float(term.detach()), rel=self.tolerance
            )

    def test_evaluating_changes_nothing(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        batch = self.batch(problem, model)
        before = copy.deepcopy(model.state_dict())
        loss, state = self.loss(problem, model, batch), torch.random.get_rng_state()
        values = problem.evaluate(model)
        assert dict(problem.evaluate(model)) == dict(values)
        assert all(isinstance(value, float) for value in values.values())
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
        assert torch.equal(state, torch.random.get_rng_state())
        assert self.loss(problem, model, batch) == loss
        again = self.batch(problem, model)
        assert all(torch.equal(a, b) for a, b in zip(leaves(batch), leaves(again), strict=True))

    def test_a_finite_set_is_drawn_without_replacement(self, pair: tuple[Problem, nn.Module]) -> None:
        problem, model = pair
        if problem.size is None:
            return
        batch = self.batch(problem, model)
        rows = torch.cat([leaf.reshape(leaf.shape[0], -1).double() for leaf in leaves(batch)], dim=1)
        assert len(torch.unique(rows, dim=0)) == len(rows)
