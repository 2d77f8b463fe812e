"""Transforms, kept iterates, accumulation and schedules against closed forms, on chains simulated in parallel."""

import math
from itertools import pairwise

import pytest
import torch

import sciml
from sciml.batches import count, pieces
from sciml.loop.gradients import accumulate, evaluate
from sciml.optim import Average, Best, Clip, Normalize, Quantize
from sciml.optim.first_order import SGDRule
from sciml.parameters import FlatParameters
from sciml.schedules import Cosine, CosineRestarts, Exponential, Polynomial
from sciml.seeds import generator

FLOAT64 = torch.float64


def draw():
    return generator(0, "test")


def never():
    raise AssertionError("this transform is not random")


def test_clip_shortens_long_gradients_only():
    g = torch.tensor([3.0, -4.0], dtype=FLOAT64)
    assert torch.allclose(Clip(2.5)(g, never), g / 2)
    assert torch.equal(Clip(5.0)(g, never), g)
    assert torch.equal(Clip(1.0)(0 * g, never), 0 * g)


@pytest.mark.parametrize("norm", [0.5, 1.0, 2.0, 5.0])
def test_clipping_skewed_noise_moves_the_fixed_point_to_its_formula(norm):
    """E[clip(x + xi)] = 0 for xi = Exp(1) - 1, on 4000 independent chains x <- x - lr clip(x + xi)."""
    formula = 1 - math.log(2 * math.sinh(norm) / norm)
    if formula > 1 - norm:
        formula = 0.0
        for _ in range(200):
            formula = math.exp(formula - 1 - norm)
    stream, clip = torch.Generator().manual_seed(1), torch.vmap(lambda g: Clip(norm)(g, never))
    x, mean = torch.zeros(4000, dtype=FLOAT64), torch.zeros(())
    for step in range(1200):
        xi = torch.empty(4000, dtype=FLOAT64).exponential_(generator=stream) - 1
        x = x - 0.02 * clip((x + xi)[:, None])[:, 0]
        mean = mean + x.mean() / 800 if step >= 400 else mean
    assert float(mean) == pytest.approx(formula, abs=0.012)


def test_normalised_steps_do_not_depend_on_the_scale_and_have_the_length_of_the_step_size():
    def path(scale):
        x = torch.tensor([1.0, -2.0, 0.5], dtype=FLOAT64)
        curvature = torch.tensor([1.0, 10.0, 0.1], dtype=FLOAT64)
        rule, points = SGDRule(x, 0.0, False, None), []
        for _ in range(50):
            rule.apply(x, Normalize()(scale * curvature * x, never), 0.03)
            points.append(x.clone())
        return torch.stack(points)

    one = path(1.0)
    assert torch.allclose(path(1e-9), one, rtol=0, atol=1e-13)
    assert torch.allclose(path(1e-300), one, rtol=0, atol=1e-13)
    assert torch.allclose((one[1:] - one[:-1]).norm(dim=1), torch.tensor(0.03, dtype=FLOAT64), rtol=1e-12)
    assert torch.equal(Normalize()(torch.zeros(3), never), torch.zeros(3))


@pytest.mark.parametrize("value", [0.04, 0.15, -0.61, 7.3])
def test_quantised_gradients_are_unbiased_with_the_variance_of_the_formula(value):
    step, chains = 0.3, 400_000
    fraction = (value / step) % 1
    variance = step**2 * fraction * (1 - fraction)
    q = Quantize(step)(torch.full((chains,), value, dtype=FLOAT64), draw)
    assert torch.allclose(q / step, (q / step).round(), atol=1e-9)
    assert float(q.mean()) == pytest.approx(value, abs=5 * math.sqrt(variance / chains))
    assert float(q.var()) == pytest.approx(variance, rel=0.03)


def test_noise_floor_of_quantised_descent():
    """V = eta (s2 + v_q) / (2 - eta) for h = 1, v_q = D E|g| - E g^2 of the whole gradient when |g| < D."""
    eta, step, noise, chains = 0.1, 0.5, 0.1, 20_000
    stream, x = torch.Generator().manual_seed(0), torch.zeros(20_000, dtype=FLOAT64)
    moments = torch.zeros(3, dtype=FLOAT64)
    for k in range(400):
        g = x + noise * torch.randn(chains, generator=stream, dtype=FLOAT64)
        x = x - eta * Quantize(step)(g, lambda k=k: generator(0, "floor", counter=k))
        if k >= 200:
            moments += torch.stack([x.square().mean(), g.abs().mean(), g.square().mean()]) / 200
    v, size, energy = moments.tolist()
    assert v == pytest.approx(eta * (noise**2 + step * size - energy) / (2 - eta), rel=0.02)


class Regression(sciml.Problem):
    """Finite least squares with noise in the targets."""

    def __init__(self, size=96, scale=1.0):
        self.size = self.count = size
        self.scale = scale
        stream = torch.Generator().manual_seed(5)
        self.x = torch.randn(size, 3, generator=stream, dtype=FLOAT64)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5], dtype=FLOAT64)
        self.y = self.y + 0.1 * torch.randn(size, generator=stream, dtype=FLOAT64)

    def sample(self, size, generator):
        pick = torch.arange(self.count) if size is None else torch.randperm(self.count, generator=generator)[:size]
        return self.x[pick], self.y[pick]

    def loss(self, model, batch):
        return {"fit": self.scale * (model(batch[0])[:, 0] - batch[1]).square().mean(), "ridge": 1e-3 * norm(model)}


def norm(model):
    return sum(p.square().sum() for p in model.parameters())


def linear():
    model = torch.nn.Linear(3, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    return model


def weights(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_accumulation_is_exact_for_unequal_parts():
    problem, model = Regression(31), linear()
    flat = FlatParameters(model.parameters())
    flat.vector.copy_(torch.tensor([0.3, 0.1, -0.2]))
    batch = problem.sample(None, torch.Generator())
    whole = evaluate(problem, model, flat, batch)
    parts = pieces(batch, 4)
    assert sorted({count(part) for part in parts}) == [7, 8] and sum(count(part) for part in parts) == 31
    lopsided = [tuple(leaf[:3] for leaf in batch), tuple(leaf[3:] for leaf in batch)]
    for cut in (parts, lopsided, pieces(batch, 100)):
        evaluations = [evaluate(problem, model, flat, part) for part in cut]
        found = accumulate(evaluations, [count(part) for part in cut])
        assert torch.allclose(found.gradient, whole.gradient, rtol=1e-13, atol=1e-15)
        assert float(found.loss) == pytest.approx(float(whole.loss), rel=1e-14)
        assert float(found.terms["fit"]) == pytest.approx(float(whole.terms["fit"]), rel=1e-14)
    naive = torch.stack([evaluate(problem, model, flat, part).gradient for part in lopsided]).mean(0)
    assert float((naive - whole.gradient).norm()) > 0.01 * float(whole.gradient.norm())


def test_a_phase_that_accumulates_takes_the_same_steps():
    found = []
    for parts in (1, 3, 7):
        phase = sciml.SGD(lr=0.05, momentum=0.9, nesterov=True, steps=60, batch=32, accumulate=parts)
        found.append(weights(sciml.solve(Regression(), linear(), [phase]).model))
    assert torch.allclose(found[1], found[0], rtol=1e-11) and torch.allclose(found[2], found[0], rtol=1e-11)


def test_noise_is_measured_before_the_transforms():
    """The first record is taken at the same point: a clipped gradient must not change it."""
    first = []
    for transforms in ((), (Clip(1e-3), Quantize(0.1), Normalize())):
        phase = sciml.SGD(lr=0.01, steps=10, batch=32, transforms=transforms)
        history = sciml.solve(Regression(), linear(), [phase]).history
        first.append(next(record for record in history if record["kind"] == "noise"))
    assert first[0]["signal"] == first[1]["signal"] and first[0]["noise"] == first[1]["noise"]


def test_transforms_reach_the_rule_in_their_order():
    """Normalised first, then clipped to a tenth: ten steps of length 0.1 lr; the other way round their length is lr."""
    lengths = []
    for transforms in ((Normalize(), Clip(0.1)), (Clip(0.1), Normalize())):
        phase = sciml.SGD(lr=1e-3, steps=10, batch=96, transforms=transforms)
        lengths.append(float(weights(sciml.solve(Regression(), linear(), [phase]).model).norm()))
    assert lengths[0] == pytest.approx(1e-3, rel=1e-3) and lengths[1] == pytest.approx(1e-2, rel=1e-3)


def test_quantised_steps_repeat_and_differ_from_step_to_step():
    phase = sciml.SGD(lr=0.01, steps=30, batch=32, transforms=(Quantize(1.0), Quantize(0.5)))
    one, two = (sciml.solve(Regression(), linear(), [phase], seed=3) for _ in range(2))
    other = sciml.solve(Regression(), linear(), [phase], seed=4)
    assert torch.equal(weights(one.model), weights(two.model))
    assert not torch.equal(weights(one.model), weights(other.model))


class Slope(Regression):
    """The gradient is 1/2 in every entry, everywhere."""

    def loss(self, model, batch):
        return {"slope": 0.5 * model.weight.sum() + 0 * batch[0].sum()}


def test_every_step_and_every_transform_rounds_by_draws_of_its_own():
    phase = sciml.SGD(lr=1.0, steps=60, batch=96, transforms=(Quantize(1.0),))
    ups = -weights(sciml.solve(Slope(), linear(), [phase]).model)
    assert bool(((ups > 15) & (ups < 45)).all())  # binomial: 30 +- 3.9; one draw for all steps gives 0 or 60
    # rounded up to 1 with probability 1/2, and that up to 2 with probability 1/2
    phase = sciml.SGD(lr=1.0, steps=400, batch=96, transforms=(Quantize(1.0), Quantize(2.0)))
    twice = -weights(sciml.solve(Slope(), linear(), [phase]).model) / 2
    assert bool(((twice > 60) & (twice < 140)).all())  # 100 +- 8.7; with the same draws for both, 200


class Kink(sciml.Problem):
    """|x| from one item: the standard non-smooth problem."""

    size = 4

    def sample(self, size, generator):
        return torch.zeros(size or 4, 1, dtype=FLOAT64)

    def loss(self, model, batch):
        return {"size": model.weight.abs().sum() + 0 * batch.sum()}


def kink(lr, steps, keep=None):
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(model.weight, 1.0)
    phase = sciml.SGD(lr=lr, steps=steps, batch=4, transforms=(Normalize(),), keep=keep)
    solution = sciml.solve(Kink(), model, [phase])
    losses = [record["loss"] for record in solution.history if record["kind"] == "step"]
    return float(weights(model)), losses, solution


@pytest.mark.parametrize("lr", [0.0345, Polynomial(0.3, power=0.5)])
def test_best_iterate_of_the_subgradient_method_meets_its_bound(lr):
    steps = 200
    x, losses, solution = kink(lr, steps, Best())
    sizes = [lr if isinstance(lr, float) else lr(k) for k in range(steps)]
    assert abs(x) == min(losses) == solution.loss
    assert abs(x) <= (1 + sum(size**2 for size in sizes)) / (2 * sum(sizes))
    last, _, _ = kink(lr, steps)
    assert abs(last) <= sizes[-1] * 1.0001
    assert abs(last) > abs(x)  # the last iterate is not the best one


def test_average_is_the_weighted_mean_of_the_iterates():
    """Power p: weights proportional to (t + p - 1 choose p), the discrete t^p."""
    xs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=FLOAT64)
    for power in (0, 1, 3):
        kept = Average(float(power)).start(xs[0])
        for x in xs:
            kept.observe(x, torch.zeros(()))
        w = torch.tensor([math.comb(t + power - 1, power) for t in range(1, 41)], dtype=FLOAT64)
        assert torch.allclose(kept.tensors()["vector"], (w[:, None] * xs).sum(0) / w.sum(), rtol=1e-12)


def test_averaged_iterates_have_the_best_variance_without_knowing_the_curvature():
    """T E xbar^2 -> s2 / h^2 for lr ~ t^-0.7 (Polyak and Juditsky), where the last iterate is far noisier."""
    h, steps, chains = 0.5, 4000, 4000
    schedule, stream = Polynomial(0.8, delay=10, power=0.7), torch.Generator().manual_seed(0)
    x = torch.zeros(chains, dtype=FLOAT64)
    kept = Average().start(x)
    for step in range(steps):
        kept.observe(x, torch.zeros(()))
        x = x - schedule(step) * (h * x + torch.randn(chains, generator=stream, dtype=FLOAT64))
    assert steps * float(kept.tensors()["vector"].square().mean()) == pytest.approx(1 / h**2, rel=0.1)
    assert steps * float(x.square().mean()) > 5 / h**2


def test_a_kept_average_is_what_the_phase_leaves_and_reports():
    """Summed over three seeds its loss is 9 times nearer to the least there is than that of the last iterate."""
    problem = Regression()
    batch = problem.sample(None, torch.Generator())
    full = lambda s: float(sum(term.detach() for term in problem.loss(s.model, batch).values()))
    least = full(sciml.solve(problem, linear(), [sciml.LBFGS()]))
    above = {"average": 0.0, "last": 0.0}
    for seed in range(3):
        solution = sciml.solve(problem, linear(), [sciml.SGD(lr=0.1, steps=200, batch=8, keep=Average(3.0))], seed=seed)
        last = sciml.solve(problem, linear(), [sciml.SGD(lr=0.1, steps=200, batch=8)], seed=seed)
        assert solution.loss == pytest.approx(full(solution), rel=1e-12)
        assert solution.evaluations == pytest.approx(200 * 8 / 96 + 1)
        above["average"] += full(solution) - least
        above["last"] += full(last) - least
    assert 0 < above["average"] < 0.5 * above["last"]


def test_best_is_refused_where_a_step_sees_only_a_sample():
    with pytest.raises(sciml.InputError, match="luckiest"):
        sciml.solve(Regression(), linear(), [sciml.SGD(batch=8, keep=Best())])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Clip(0.0),
        lambda: Quantize(-1.0),
        lambda: Average(-1.0),
        lambda: sciml.SGD(accumulate=0),
        lambda: Polynomial(1.0, power=0.0),
        lambda: Exponential(1.0, 10, factor=2.0),
        lambda: Cosine(1.0, 0),
        lambda: CosineRestarts(1.0, 10, growth=0.5),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(sciml.InputError):
        make()


def floor(schedule, steps, h=1.0):
    """Variance at the end of descent on h x^2 / 2 with unit noise: the exact recursion."""
    v = 0.0
    for step in range(steps):
        eta = schedule(step)
        v = (1 - eta * h) ** 2 * v + eta**2
    return v


def slope(make, low=2000, high=50_000):
    return math.log(floor(make(high), high) / floor(make(low), low)) / math.log(high / low)


def test_schedules_reach_the_rates_of_theory():
    """End-of-run variance against the number of steps; Robbins and Monro's 1/t with lr = 1/h gives s2 / (h^2 T)."""
    assert slope(lambda steps: Cosine(0.5, steps)) == pytest.approx(-2 / 3, abs=0.02)
    assert slope(lambda steps: Exponential(0.5, steps, 2 / steps)) == pytest.approx(-0.88, abs=0.04)
    assert slope(lambda steps: Polynomial(1.0)) == pytest.approx(-1, abs=0.01)
    assert slope(lambda steps: Polynomial(0.5, power=0.6)) == pytest.approx(-0.6, abs=0.01)
    assert 10_000 * floor(Polynomial(1.0), 10_000) == pytest.approx(1, rel=0.01)
    # lr delay = c / h with c = 2: T V -> c^2 / (2 c - 1)
    assert 20_000 * floor(Polynomial(1.0, delay=2.0), 20_000) == pytest.approx(4 / 3, rel=0.01)


def test_restarts_begin_hot_and_longer_cycles_end_lower():
    schedule = CosineRestarts(0.5, 100, growth=2.0, final=0.01)
    assert [schedule(step) for step in (0, 100, 300, 700)] == [0.5] * 4
    assert schedule(50) == pytest.approx(0.255) and schedule(200) == pytest.approx(0.255)
    assert schedule(299) < 0.0101
    assert CosineRestarts(0.5, 100, growth=1.0)(1_000_050) == pytest.approx(0.25)
    cold = CosineRestarts(0.5, 100, growth=2.0)
    ends = [floor(cold, steps) for steps in (100, 300, 700, 1500)]
    assert all(later < 0.7 * earlier for earlier, later in pairwise(ends))
    assert floor(cold, 1505) > 3 * ends[-1]


def test_exponential_and_cosine_values():
    assert Exponential(0.3, 100)(100) == pytest.approx(0.03) and Exponential(0.3, 100)(250) == pytest.approx(
        0.3 / 10**2.5
    )
    assert [Cosine(1.0, 10, 0.2)(step) for step in (0, 5, 10, 99)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
