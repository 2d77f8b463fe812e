"""Is what is gained on the fixed set gained beside it: the verdicts, and what a solve makes of them."""

import json
import math

import pytest
import torch

import sciml
from sciml.loop import deterministic
from sciml.loop.fixed_set import FixedSet
from sciml.loop.gradients import loss_only
from sciml.watching.generalization import WINDOW, Generalization


def verdict(on, beside):
    watch = Generalization()
    for pair in zip(on, beside, strict=True):
        watch.look(*pair)
    return watch.verdict


FULL = WINDOW + 1
UP, FLAT, DOWN = (tuple(base**i for i in range(FULL)) for base in (3.0, 1.0, 0.1))


def test_no_verdict_before_the_window_is_full():
    watch = Generalization()
    for i in range(FULL):
        assert watch.verdict is None
        watch.look(0.1**i, 3.0**i)
    assert watch.verdict == "over-fitted"


def test_only_the_latest_looks_count():
    fallen = [1e6 * x for x in DOWN]
    assert verdict([*fallen, *DOWN], [*fallen, *FLAT]) == "over-fitted"
    assert verdict([*DOWN, *(1e-6 * x for x in DOWN)], [*FLAT, *DOWN]) is None


@pytest.mark.parametrize(
    ("on", "beside", "expected"),
    [
        (DOWN, [1.1 * x for x in DOWN], None),  # gained on the set and beside it
        (DOWN, FLAT, "over-fitted"),  # on the set only
        (DOWN, UP, "over-fitted"),
        (FLAT, [2.5] * FULL, "over-fitted"),  # over-fitted long ago
        (FLAT, [1.3] * FULL, "stalled"),
        (FLAT, [1.0] * FULL, None),  # a plateau of both
        (FLAT, [0.8] * FULL, None),
        (FLAT, [1.3, 1.3, 1.3, math.nan], "over-fitted"),
        (DOWN, [*DOWN[:-1], math.inf], "over-fitted"),
    ],
)
def test_losses_of_squares(on, beside, expected):
    assert verdict(on, beside) == expected
    scale = 1e-12  # no unit of the loss is special
    assert verdict([scale * x for x in on], [scale * x for x in beside]) == expected


def test_the_further_the_losses_are_apart_the_more_must_be_gained():
    beside = [1.0, 0.98, 0.96, 0.94]
    assert verdict([0.9 * x for x in beside], beside) is None
    assert verdict([1e-9 * x for x in beside], beside) == "over-fitted"


@pytest.mark.parametrize(
    ("on", "beside", "expected"),
    [
        ([-1.0, -1.2, -1.4, -1.6], [-1.0, -0.8, -0.6, -0.4], "over-fitted"),  # what the set gains, others lose
        ([-1.0, -1.2, -1.4, -1.6], [-1.0, -1.2, -1.4, -1.6], None),
        ([-1.6] * FULL, [-1.0] * FULL, "stalled"),
        ([-1.0] * FULL, [-1.0] * FULL, None),
        ([-1.0] * FULL, [-1.0, -1.0, -1.0, math.nan], "over-fitted"),
    ],
)
def test_energies(on, beside, expected):
    assert verdict(on, beside) == expected


def test_the_state_survives_a_checkpoint():
    for length in range(2 * FULL):
        watch, on = Generalization(), [0.1 * 0.7**i for i in range(length)]
        for i, loss in enumerate(on):
            watch.look(loss, 1 / 3 + i)
        again = Generalization(**json.loads(json.dumps(watch.state())))
        assert again == watch
        for one in (watch, again):
            one.look(0.05, 9.0)
        assert again == watch and again.verdict == watch.verdict


class Bump(sciml.Problem):
    """sin 3x and a bump of a given width, with noise on the labels; few points see the bump."""

    def __init__(self, declared, width, noise=0.0):
        self.declared, self.width, self.noise = declared, width, noise

    def truth(self, x):
        return torch.sin(3 * x) + torch.exp(-(((x - 0.6) / self.width) ** 2))

    def sample(self, size, generator):
        x = torch.rand(size or self.declared, 1, generator=generator, dtype=torch.float64)
        return x, self.truth(x) + self.noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)

    def least_squares(self, model, batch):
        return {"fit": model(batch[0]) - batch[1]}

    def held_out(self, model):
        """Root of the mean squared error against the truth, on a grid."""
        x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        with torch.no_grad():
            return float((model(x) - self.truth(x)).square().mean().sqrt())


def network(seed, width):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 1)).double()


def solved(problem, seed, width, budget, **options):
    phases = [sciml.SelfScaled(steps=2000, **options)]
    return sciml.solve(problem, network(seed, width), phases, seed=seed, budget=budget)


def grown(solution):
    return [record for record in solution.history if record["kind"] == "grow"]


class Judged(Bump):
    def evaluate(self, model):
        return {"held_out": self.held_out(model)}


@pytest.mark.rounding
def test_an_over_fitted_set_is_drawn_anew_and_the_answer_is_better_beside_it():
    """At the same cost the solve that watches reaches an error beside its set that the other one does not. Rounding
    decides the path of each solve, so two of three seeds are asked for: measured with three roundings of these seeds
    and of four more, 21 of 21, where the best of the other solve was 2 to 24 times the target."""
    target = {"held_out": 5e-3}
    anew, reached, missed = 0, 0, 0
    for seed in (7, 8, 9):
        problem = Judged(declared=32, width=0.02)
        watched = solved(problem, seed, 16, sciml.Budget(evaluations=800, target=target), check=10)
        blind = solved(problem, seed, 16, sciml.Budget(evaluations=watched.evaluations, target=target), check=10**9)
        for first in grown(watched)[:1]:
            renewed = first["set"] == 32 and first["reason"].endswith("32 new items")  # drawn anew, not enlarged
            anew += renewed and "falls on the set only" in first["reason"]
        reached += watched.result is sciml.Result.CONVERGED and watched.values["held_out"] <= 5e-3
        seen = [record["values"]["held_out"] for record in blind.history if record["kind"] == "evaluate"]
        missed += min(seen) > 5e-3 and blind.loss < 1e-6  # on its own set it is better by far
    assert min(anew, reached, missed) >= 2, (anew, reached, missed)


@pytest.mark.rounding
def test_a_set_that_says_it_all_is_never_drawn_anew():
    problem = Bump(declared=500, width=0.5)
    for seed in range(2):
        solution = solved(problem, seed, 8, sciml.Budget(evaluations=400), check=10)
        assert not grown(solution)
        assert sum(record["kind"] == "fresh" for record in solution.history) > 10  # it was looked at
        assert problem.held_out(solution.model) < 1e-4


@pytest.mark.rounding
def test_noisy_labels_make_the_set_grow_to_where_their_noise_averages_out():
    """Rounding decides the path of each solve, so two of three seeds are asked for. Measured with two roundings of
    these seeds and of five more, 16 of 16: last sets of 512 to 2048 items, two renewals at most, and errors of 0.10 to
    0.30 of the noise, where the bar is 0.49."""
    problem = Bump(declared=64, width=0.3, noise=0.1)
    grew, answered = 0, 0
    for seed in (2, 4, 7):
        solution = solved(problem, seed, 6, sciml.Budget(evaluations=5000))
        records = grown(solution)
        sizes = [record["set"] for record in records]
        renewed = sum("new items" in record["reason"] for record in records)
        grew += sizes == sorted(sizes) and sizes[-1] >= 512 and renewed <= 2
        # 61 parameters fitted to n labels miss the truth by sqrt(61 / n) of the noise: by half of what 64 of them give
        small = problem.held_out(solution.model) < 0.5 * 0.1 * math.sqrt(61 / 64)
        answered += small and solution.loss == pytest.approx(0.01, rel=0.3)
    assert min(grew, answered) >= 2, (grew, answered)


class Uphill(sciml.Problem):
    """A noisy bowl. The gradient of 64 items or more points uphill, so that no search along it succeeds; that of fewer
    does too, once a finisher was there, with `after` = -1."""

    def __init__(self, after=1.0, size=None):
        self.after, self.size = after, size
        self.stalled: torch.Tensor | None = None
        self.parts: list[float] = []

    def sample(self, size, generator):
        return torch.randn(size or 64, 4, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"bowl": 0.5 * (model.weight.reshape(-1) - 1 - 0.1 * batch).square().sum(1).mean()}

    def gradient(self, model, batch):
        theta = model.weight.detach().reshape(-1)
        if len(batch) < 64:
            self.parts.append(float(batch.sum()))
            sign = 1.0 if self.stalled is None else self.after
        else:
            sign = -1.0
            self.stalled = theta.clone() if self.stalled is None else self.stalled
        return {"bowl": self.loss(model, batch)["bowl"].detach()}, sign * (theta - 1 - 0.1 * batch).mean(0)


def handed_back(problem, monkeypatch, *, limit=4):
    monkeypatch.setattr(deterministic, "GROWTH_LIMIT", limit)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1, bias=False).double()
    return sciml.solve(problem, model, [sciml.SGD(lr=0.05, batch=32), sciml.LBFGS()], switch=20)


@pytest.mark.parametrize("after", [1.0, -1.0])
def test_a_stalled_finisher_hands_back_once_and_the_better_answer_is_kept(monkeypatch, after):
    problem = Uphill(after)
    solution = handed_back(problem, monkeypatch)
    assert [record["phase"] for record in solution.switch] == ["SGD", "LBFGS", "SGD", "LBFGS"]
    assert solution.result is sciml.Result.LINE_SEARCH_FAILED
    assert "no decrease" in solution.switch[1]["reason"] and solution.switch[1]["set"] == 256  # after growing
    rates = [r["lr"] for r in solution.history if r["kind"] == "step" and r["phase"] == "SGD"]
    assert rates == pytest.approx([0.05] * 20 + [0.005] * 20)
    at_stall = torch.nn.Linear(4, 1, bias=False).double()
    assert problem.stalled is not None
    with torch.no_grad():
        at_stall.weight.copy_(problem.stalled.reshape(1, 4))
    held = FixedSet(problem, 1, problem.stalled).beside
    stalled, final = (loss_only(problem, model, held) for model in (at_stall, solution.model))
    if after > 0:
        assert final < 0.9 * stalled
    else:
        assert torch.equal(solution.model.get_parameter("weight"), at_stall.weight)
        assert final == pytest.approx(solution.loss, rel=0.1)  # the loss is that of the answer
    assert len(set(problem.parts)) == len(problem.parts)  # no batch came twice


def test_data_that_are_all_there_is_are_not_handed_back(monkeypatch):
    solution = handed_back(Uphill(size=64), monkeypatch)
    assert [record["phase"] for record in solution.switch] == ["SGD", "LBFGS"]
    assert solution.result is sciml.Result.LINE_SEARCH_FAILED


def test_a_finisher_that_arrives_does_not_hand_back():
    problem = Bump(declared=256, width=0.5)
    phases = [sciml.Adam(lr=1e-2), sciml.SelfScaled(steps=30)]
    solution = sciml.solve(problem, network(0, 8), phases, switch=20)
    assert [record["phase"] for record in solution.switch] == ["Adam", "SelfScaled"]


@pytest.mark.rounding
def test_a_finisher_in_the_noise_of_the_largest_set_ends_there(monkeypatch):
    monkeypatch.setattr(deterministic, "GROWTH_LIMIT", 2)
    problem = Bump(declared=64, width=0.3, noise=0.1)
    phases = [sciml.Adam(lr=1e-2), sciml.SelfScaled(check=5)]
    budget = sciml.Budget(evaluations=3000)
    solution = sciml.solve(problem, network(4, 6), phases, switch=20, budget=budget, seed=4)
    assert [record["phase"] for record in solution.switch] == ["Adam", "SelfScaled"]
    assert solution.result is sciml.Result.NOISE_FLOOR
    assert [record["set"] for record in solution.switch] == [64, 128]
    assert problem.held_out(solution.model) < 0.1  # 0.02 with each of three roundings, 0.02 to 0.06 with other seeds
