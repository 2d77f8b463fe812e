"""Networks start reproducibly, scale their inputs, kink where told, and keep essential conditions."""

import math

import pytest
import torch
from torch import nn

from sciml.errors import InputError
from sciml.pde import (
    MLP,
    Box,
    Disk,
    FourierFeatures,
    HardDirichlet,
    Interval,
    Kinks,
    PeriodicEmbedding,
    derivative,
)


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
    model = MLP(1, 1, (400, 400), steepness=None)
    middle = model.layers[1]
    assert isinstance(middle, nn.Linear)
    assert float(middle.weight.detach().std()) == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert all(float(layer.bias.detach().abs().max()) == 0 for layer in model.layers)  # type: ignore[union-attr]


def test_first_layer_bends_all_over_the_domain_as_steeply_as_asked() -> None:
    layer = MLP(2, 1, (300, 5), domain=Box((0.0, 0.0), (1.0, 3.0)), steepness=4.0, seed=1).layers[0]
    assert isinstance(layer, nn.Linear)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    assert float(weight.square().sum(1).mean().sqrt()) == pytest.approx(4.0, rel=0.1)
    # every unit is zero somewhere inside: |bias| is at most the reach of the unit over [-1, 1]^2
    assert bool((bias.abs() <= weight.abs().sum(1) + 1e-6).all())
    line = MLP(1, 1, (50, 5), steepness=2.0).layers[0]
    assert isinstance(line, nn.Linear)
    zeros = (-line.bias / line.weight[:, 0]).detach().sort().values
    assert float((zeros - torch.linspace(-0.98, 0.98, 50)).abs().max()) < 0.03  # one in each of 50 equal cells
    along = MLP(2, 1, (4000,), steepness=(1.0, 5.0)).layers[0]
    assert isinstance(along, nn.Linear)
    spread = along.weight.detach().square().mean(0).sqrt()
    assert torch.allclose(spread, torch.tensor([1.0, 5.0]), rtol=0.05)
    with pytest.raises(InputError, match="steepness"):
        MLP(2, 1, steepness=(1.0, -1.0))


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


def test_a_periodic_embedding_makes_every_field_periodic_with_its_derivatives() -> None:
    box = Box((1.0, 0.0), (4.0, 2.0))
    embedding = PeriodicEmbedding(box, {0: 3})
    u = nn.Sequential(embedding, MLP(embedding.outputs, 1, domain=embedding.domain, seed=1)).double()
    x = box.face(0, "lower", 20, torch.Generator().manual_seed(0))
    period = torch.tensor([3.0, 0.0], dtype=torch.float64)
    for order in range(3):
        assert torch.allclose(derivative(u, x, order), derivative(u, x + period, order), atol=1e-11)
    assert float((u(x) - u(x + period / 2)).detach().abs().max()) > 1e-3
    inside = box.sample(500, torch.Generator().manual_seed(1))
    assert embedding(inside).shape == (500, embedding.outputs) == (500, 7)
    assert bool(embedding.domain.contains(embedding(inside)).all())
    assert torch.equal(embedding(inside)[:, -1], inside[:, -1])  # time passes
    with pytest.raises(InputError, match="periodic axes"):
        PeriodicEmbedding(box, {2: 1})


def test_fourier_features_have_the_scale_and_the_seed_asked_for() -> None:
    domain = Disk((5.0, -1.0), 0.1)
    features = FourierFeatures(domain, 4000, scale=3.0, seed=2)
    low, high = (torch.tensor([corner], dtype=torch.float64) for corner in (domain.lower, domain.upper))
    assert torch.allclose(features((low + high) / 2)[:, 4000:], torch.zeros(1, 4000, dtype=torch.float64), atol=1e-12)
    # Across the domain (z from -1 to 1 along one axis) the phase changes by 2 w, w of standard deviation 3.
    side = torch.tensor([[domain.upper[0], -1.0]], dtype=torch.float64)
    phase = torch.atan2(*features(side).reshape(2, -1).flip(0))
    wanted = (features.frequencies[0] * 0.1 + torch.pi) % (2 * torch.pi) - torch.pi
    assert torch.allclose(phase, wanted, atol=1e-9)
    assert float((features.frequencies[0] * 0.1).std()) == pytest.approx(3.0, rel=0.05)
    assert torch.equal(features.frequencies, FourierFeatures(domain, 4000, scale=3.0, seed=2).frequencies)
    assert not torch.equal(features.frequencies, FourierFeatures(domain, 4000, scale=3.0, seed=3).frequencies)
    with pytest.raises(InputError, match="positive scale"):
        FourierFeatures(domain, 10, scale=0.0)
