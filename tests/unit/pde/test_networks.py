"""Networks start reproducibly, scale their inputs, kink where told, and keep essential conditions."""

import math

import pytest
import torch
from torch import nn

from sciml.errors import InputError
from sciml.pde import MLP, Box, HardDirichlet, Interval, Kinks, derivative


def test_the_start_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = MLP(2, 3, (8, 8), seed=5)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    second, other = MLP(2, 3, (8, 8), seed=5), MLP(2, 3, (8, 8), seed=6)
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_glorot_normal_weights_and_zero_biases() -> None:
    model = MLP(1, 1, (400, 400))
    middle = model.layers[1]
    assert isinstance(middle, nn.Linear)
    assert float(middle.weight.detach().std()) == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in model.layers)  # type: ignore[union-attr]


def test_inputs_are_scaled_from_the_domain() -> None:
    plain, scaled = MLP(2, 1).double(), MLP(2, 1, domain=Box((0.0, 10.0), (2.0, 30.0))).double()
    unit = torch.rand(5, 2, dtype=torch.float64) * 2 - 1
    physical = unit * torch.tensor([1.0, 10.0]) + torch.tensor([1.0, 20.0])
    assert torch.allclose(scaled(physical), plain(unit), rtol=1e-12)
    with pytest.raises(InputError, match="3 inputs, its domain 2"):
        MLP(3, 1, domain=Box((0.0, 0.0), (1.0, 1.0)))


def test_kinks_jump_in_slope_at_their_positions_and_nowhere_else() -> None:
    kinks = Kinks(Interval(0, 1), [0.3, 0.7])
    model = nn.Sequential(kinks, MLP(kinks.outputs, 1, domain=kinks.domain)).double()
    for place, jumps in ((0.3, True), (0.5, False), (0.7, True)):
        at = torch.tensor([[place]], dtype=torch.float64)
        before, after = (derivative(model, torch.nextafter(at, torch.full_like(at, side))) for side in (0.0, 1.0))
        assert (float((after - before).detach().abs()) > 1e-3) == jumps
    assert kinks.domain == Box((0.0, 0.0, 0.0), (1.0, 0.7, 0.7))
    with pytest.raises(InputError, match="inside an interval"):
        Kinks(Interval(0, 1), [1.0])


@pytest.mark.parametrize(("left", "right"), [(1.5, None), (None, -2.0), (1.5, -2.0), (0.0, 0.0)])
def test_essential_conditions_hold_whatever_the_network_says(left: float | None, right: float | None) -> None:
    interval = Interval(-1, 3)
    condition = HardDirichlet(interval, left, right)
    model = MLP(1, 1, domain=interval).double()
    ends = condition(1e3 * model(interval.ends), interval.ends)
    for value, wanted in zip(ends[:, 0].tolist(), (left, right), strict=True):
        assert wanted is None or value == pytest.approx(wanted, abs=1e-12)
    inside = torch.full((1, 1), 1.0, dtype=torch.float64)
    assert float(condition(inside * 0 + 1, inside)) != float(condition(inside * 0, inside))


def test_a_condition_needs_an_end() -> None:
    with pytest.raises(InputError, match="at least one"):
        HardDirichlet(Interval(0, 1))
