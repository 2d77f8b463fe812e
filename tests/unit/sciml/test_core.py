"""The parts of the core: batches, seeds, parameters, checkpoints, switching rules, budgets, results."""

import math
from typing import NamedTuple

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import sciml
from sciml import batches, checkpoint
from sciml.checkpoint import Checkpoint
from sciml.errors import ConvergenceError, InputError
from sciml.noise import NoiseEstimate
from sciml.parameters import FlatParameters
from sciml.seeds import generator
from sciml.switching import AutoSwitch, SnrSwitch, grown_batch, rule_for


class Points(NamedTuple):
    inside: torch.Tensor
    weights: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(12.0),
        (torch.arange(12.0), torch.arange(24.0).reshape(12, 2)),
        {"a": torch.arange(12.0)},
        Points(torch.arange(12.0), torch.ones(12, 3)),
    ],
)
def test_splitting_and_joining_restores_the_batch(batch):
    parts = batches.split(batch, 4)
    assert [batches.count(part) for part in parts] == [3, 3, 3, 3]
    joined = batches.concatenate(parts)
    assert type(joined) is type(batch)
    for a, b in zip(batches.leaves(joined), batches.leaves(batch), strict=True):
        assert torch.equal(a, b)


def test_move_casts_numbers_but_not_indices():
    moved = batches.move((torch.ones(2), torch.arange(2)), torch.zeros(1, dtype=torch.float64))
    assert moved[0].dtype == torch.float64 and moved[1].dtype == torch.int64


def test_batches_that_cannot_be_cut_are_refused():
    with pytest.raises(InputError, match="cannot be cut"):
        batches.split(torch.ones(3), 4)
    with pytest.raises(InputError, match="a batch holds a str"):
        batches.count(["a"])


def test_streams_are_functions_of_seed_purpose_and_counter():
    def draw(*key, counter=0):
        return torch.rand(4, generator=generator(*key, counter=counter))

    assert torch.equal(draw(0, "batch", 1, counter=5), draw(0, "batch", 1, counter=5))
    distinct = [draw(0, "batch", 1), draw(1, "batch", 1), draw(0, "fixed", 1), draw(0, "batch", 2)]
    distinct += [draw(0, "batch", 1, counter=c) for c in (1, 2, 3)]
    assert len({tuple(d.tolist()) for d in distinct}) == len(distinct)


def test_flat_parameters_are_the_models_own():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = model(torch.ones(1, 2))
    flat = FlatParameters(model.parameters())
    assert torch.equal(model(torch.ones(1, 2)), before)
    flat.vector.zero_()
    assert torch.equal(model(torch.ones(1, 2)), torch.zeros(1, 1))
    assert flat.vector.shape == (13,)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(InputError, match="no trainable"):
        FlatParameters(torch.nn.Tanh().parameters())
    mixed = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).double()])
    with pytest.raises(InputError, match=r"float32 on cpu, torch\.float64 on cpu"):
        FlatParameters(mixed.parameters())


def test_checkpoint_keeps_every_bit_and_notices_damage(tmp_path):
    tensors = {"a": torch.randn(7, dtype=torch.float64), "b": torch.zeros(0), "c": torch.tensor([math.nan, math.inf])}
    numbers = {"x": 0.1 + 0.2, "inf": math.inf, "list": [1, None, "text"]}
    for number in (1, 2, 3):
        checkpoint.write(tmp_path, number, Checkpoint(tensors, {**numbers, "number": number}))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    state, damaged = checkpoint.newest(tmp_path)
    assert state is not None and state.numbers == {**numbers, "number": 3} and not damaged
    for name, tensor in tensors.items():
        assert torch.equal(state.tensors[name].nan_to_num(9), tensor.nan_to_num(9))
    newest = max(tmp_path.glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    state, damaged = checkpoint.newest(tmp_path)
    assert state is not None and state.numbers["number"] == 2 and damaged == [newest]
    newest.write_bytes(content[:40])
    assert checkpoint.read(newest) is None


def estimate(snr, high, critical=None):
    return NoiseEstimate(snr, 0.0, high, critical, 1.0, 1.0, 64, 20)


def fired_at(rule, losses, cost=1 / 32):
    """The cost at which a rule that sees these losses decides, and what it decides; asked after every step."""
    for step, loss in enumerate(losses):
        rule.observe(cost, loss)
        if (decision := rule.decide(step + 1, None)) is not None:
            return (step + 1) * cost, decision
    raise AssertionError(f"no decision in {len(losses)} steps")


def falling(rate, until, steps=4000, cost=1 / 32):
    """Losses whose logarithm falls by `rate` per unit of cost until `until`, then stays."""
    return [math.exp(-rate * min((step + 1) * cost, until)) for step in range(steps)]


def test_rate_gate_fires_when_progress_stops_and_not_before():
    cost, decision = fired_at(AutoSwitch(at_most=math.inf), falling(0.1, until=60.0))
    assert 75 <= cost <= 120
    assert "per gradient of the fixed set" in decision.reason
    assert decision.details["rate"] + decision.details["rate_error"] <= 0.02
    cost, _ = fired_at(AutoSwitch(), falling(0.1, until=6.0))
    assert 6 < cost < 12  # long before the limit


def test_progress_that_does_not_stop_is_followed_up_to_the_limit():
    cost, decision = fired_at(AutoSwitch(), falling(0.1, until=math.inf))
    assert cost == 24 and "24 gradients of the fixed set are spent" in decision.reason
    assert decision.details["rate"] == pytest.approx(0.1)
    # the same for all cheap steps, less where a gradient buys few of them, but not less than the first checkpoint;
    # 1 / 10 is a cost of which rounding keeps the sum below 10
    for cost, limit in ((1 / 128, 24), (1 / 32, 24), (1 / 10, 10), (1 / 8, 8), (1 / 4, 4), (1.0, 4)):
        fired, decision = fired_at(AutoSwitch(), falling(0.1, math.inf, cost=cost), cost=cost)
        assert fired == pytest.approx(limit) and decision.details["limit"] == pytest.approx(limit)
    assert fired_at(AutoSwitch(at_most=12.0), falling(0.1, math.inf))[0] == 12


def test_noise_in_the_losses_is_no_reason_to_switch_early():
    """Batch losses that scatter by a factor of 1.6: at the first look a fall of 0.1 a unit has an error of 0.2."""
    draw = torch.Generator().manual_seed(0)
    early = {0.1: 0, 0.0: 0}
    for rate in early:
        for _ in range(20):
            scatter = torch.exp(0.5 * torch.randn(800, generator=draw)).tolist()
            losses = [loss * factor for loss, factor in zip(falling(rate, math.inf, 800), scatter, strict=True)]
            early[rate] += fired_at(AutoSwitch(), losses)[0] < 24
    assert early[0.1] <= 8
    assert early[0.0] >= 8  # no progress at all is found out all the same


def test_rate_gate_does_not_depend_on_the_scale_of_the_loss_and_takes_energies():
    shapes = [
        [scale * (x + offset) for x in falling(0.1, until=40.0)] for scale, offset in ((1, 0), (1e-12, 0), (1, -5))
    ]
    fired = [fired_at(AutoSwitch(at_most=math.inf), losses) for losses in shapes]
    assert fired[0][0] == fired[1][0]


def test_snr_rule_needs_both_a_low_snr_and_a_plateau():
    def run(snr, losses):
        rule = SnrSwitch()
        for step, loss in enumerate(losses):
            rule.observe(0.1, loss)
            if step % 10 == 9 and rule.decide(step + 1, estimate(snr, 2.0)):
                return step
        return None

    falling = [math.exp(-0.01 * k) for k in range(3000)]
    flat = [1.0] * 3000
    assert run(0.5, falling) is None
    assert run(5.0, flat) is None
    assert run(0.5, flat) is not None


def test_the_batch_grows_when_noise_drowns_the_direction():
    assert grown_batch(32, 1024, estimate(0.2, 0.8)) == 64
    assert grown_batch(32, 1024, estimate(0.2, 0.8), averaging=19.0) == 32
    assert grown_batch(32, 1024, estimate(0.01, 0.04), averaging=19.0) == 64
    assert grown_batch(32, 1024, estimate(0.2, 1.2)) == 32
    assert grown_batch(256, 1024, estimate(0.2, 0.8)) == 256


def test_unknown_options_are_refused():
    for wrong in ("soon", None, True, -1):
        with pytest.raises(InputError, match="switch="):
            rule_for(wrong)
    with pytest.raises(InputError, match="positive"):
        sciml.Budget(seconds=0)
    with pytest.raises(InputError, match="step size"):
        sciml.Adam(lr=-1)
    with pytest.raises(InputError, match="at least one pair"):
        sciml.solve(LeastSquares(), Weights(), [sciml.LBFGS(history=0)])


class Weights(torch.nn.Module):
    def __init__(self, n=10):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.zeros(n, dtype=torch.float64))


class LeastSquares(sciml.Problem):
    """Mean of (x'theta - y)^2 / 2; a stream, or a finite set with known minimiser."""

    def __init__(self, n=10, size=None, noise=0.0, condition=10.0, declared=512):
        self.n, self.size, self.noise, self.declared = n, size, noise, declared
        self.scales = torch.logspace(0, -0.5 * math.log10(condition), n, dtype=torch.float64)
        self.truth = torch.linspace(-1, 1, n, dtype=torch.float64)
        if size is not None:
            self.data = self._draw(size, torch.Generator().manual_seed(0))
            x, y = self.data
            self.minimum = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]

    def _draw(self, size, stream):
        x = torch.randn(size, self.n, generator=stream, dtype=torch.float64) * self.scales
        return x, x @ self.truth + self.noise * torch.randn(size, generator=stream, dtype=torch.float64)

    def sample(self, size, generator):
        if self.size is None:
            return self._draw(size or self.declared, generator)
        if size is None:
            return self.data
        chosen = torch.randperm(self.size, generator=generator)[:size]
        return self.data[0][chosen], self.data[1][chosen]

    def loss(self, model, batch):
        x, y = batch
        return {"squares": 0.5 * (x @ model.theta - y).square().mean()}


@pytest.mark.rounding
@pytest.mark.parametrize("phases", [None, [sciml.Adam(lr=0.1), sciml.LBFGS()], [sciml.LBFGS()], [sciml.SelfScaled()]])
def test_finite_sum_reaches_its_minimiser(phases):
    problem, model = LeastSquares(size=1000, noise=0.5), Weights()
    solution = sciml.solve(problem, model, phases)
    assert solution.result is sciml.Result.CONVERGED
    assert torch.allclose(model.theta, problem.minimum, atol=1e-7)
    assert [r["phase"] for r in solution.switch][-1] in ("SelfScaled", "LBFGS")
    assert all(r["reason"] for r in solution.switch)


@pytest.mark.rounding
def test_noisy_stream_enlarges_its_set_until_the_noise_floor_or_budget():
    problem, model = LeastSquares(noise=1.0, declared=128), Weights()
    solution = sciml.solve(problem, model, budget=sciml.Budget(evaluations=3000))
    grown = [r for r in solution.history if r["kind"] == "grow"]
    assert grown and "fresh samples" in grown[0]["reason"]
    assert solution.result is sciml.Result.NOISE_FLOOR
    excess = 0.5 * float(((model.theta.detach() - problem.truth) * problem.scales).square().sum())
    final = max(r["set"] for r in solution.history if r["kind"] == "step")
    # the minimiser of n noisy samples has expected excess d / (2 n): within a factor 4 of what the largest set allows
    assert excess < 4 * 10 / (2 * final)


def test_the_set_is_handed_over_as_it_is_however_noisy_the_gradients_were():
    phases = [sciml.Adam(lr=0.1, batch=32), sciml.LBFGS(steps=3)]
    solution = sciml.solve(LeastSquares(noise=100.0, declared=256), Weights(), phases)
    first, last = solution.switch
    assert first["details"]["high"] * 256 / 32 < 4  # on the whole set, noise holds a quarter of the energy or more
    assert first["set"] == last["set"] == 256
    steps = [r for r in solution.history if r["kind"] == "step"]
    assert {r["set"] for r in steps} == {256} and {r["phase"] for r in steps} == {"Adam", "LBFGS"}


def test_costs_are_counted_per_item():
    problem, model = LeastSquares(size=400), Weights()
    calls = {"items": 0}
    original = problem.loss

    def counting(model, batch):
        calls["items"] += batch[0].shape[0]
        return original(model, batch)

    problem.loss = counting
    solution = sciml.solve(problem, model, [sciml.Adam(steps=37, batch=40), sciml.LBFGS(steps=5)], switch=20)
    assert solution.evaluations * 400 == calls["items"]
    assert solution.switch[0]["step"] == 20 and solution.switch[0]["reason"] == "fixed at step 20"


def test_default_batches_do_not_depend_on_monitoring():
    paths = []
    for parts in (2, 4):
        model = Weights()
        sciml.solve(LeastSquares(size=256), model, [sciml.Adam(lr=0.01, steps=60, batch=64, micro_batches=parts)])
        paths.append(model.theta.detach().clone())
    assert torch.allclose(paths[0], paths[1], rtol=1e-10)


def test_budget_in_evaluations_and_steps_are_kept():
    solution = sciml.solve(LeastSquares(), Weights(), [sciml.Adam(steps=50)])
    assert solution.result in (sciml.Result.MAX_STEPS, sciml.Result.NOISE_FLOOR)
    assert sum(r["kind"] == "step" for r in solution.history) == 50
    solution = sciml.solve(LeastSquares(), Weights(), [sciml.Adam()], budget=sciml.Budget(evaluations=10))
    assert 10 <= solution.evaluations < 15
    assert "budget" in solution.switch[-1]["reason"]


@pytest.mark.rounding
def test_a_target_ends_the_solve_at_the_first_look_that_meets_it():
    class Judged(LeastSquares):
        def evaluate(self, model):
            return {"excess": 0.5 * float(((model.theta.detach() - self.truth) * self.scales).square().sum())}

    for switch in (0, 30):
        solution = sciml.solve(Judged(), Weights(), switch=switch, budget=sciml.Budget(target={"excess": 1e-6}))
        seen = [r["values"]["excess"] for r in solution.history if r["kind"] == "evaluate"]
        assert solution.result is sciml.Result.CONVERGED
        assert "excess <= 1e-06" in solution.switch[-1]["reason"]
        assert solution.values["excess"] <= 1e-6
        assert all(value > 1e-6 for value in seen[:-2])  # the last two are of the same parameters
    with pytest.raises(InputError, match="names error"):
        sciml.solve(Judged(), Weights(), budget=sciml.Budget(target={"error": 1.0}))


def test_summary_has_the_keys_that_scripts_rely_on():
    solution = sciml.solve(LeastSquares(size=64), Weights())
    plain = solution.summary({})
    assert list(plain) == ["result", "relative_l2", "loss", "evaluations", "seconds", "switch"]
    assert plain["result"] == "CONVERGED"
    assert plain["relative_l2"] is None
    full = solution.summary({"relative_l2": 0.25, "held_out": 0.5})
    assert (full["relative_l2"], full["held_out"]) == (0.25, 0.5)


class Exploding(LeastSquares):
    def loss(self, model, batch):
        x, y = batch
        return {"squares": torch.exp(1e3 * (x @ model.theta - y)).mean()}


def test_nonfinite_loss_is_a_result_and_the_last_finite_parameters_stay():
    model = Weights()
    solution = sciml.solve(Exploding(), model, [sciml.SGD(lr=1.0)])
    assert solution.result is sciml.Result.NONFINITE
    assert torch.isfinite(model.theta).all()
    with pytest.raises(ConvergenceError, match="NONFINITE"):
        sciml.solve(Exploding(), Weights(), [sciml.SGD(lr=1.0)], throw=True)


def test_terms_must_be_scalars():
    problem = LeastSquares()
    problem.loss = lambda model, batch: {"per_item": (batch[0] @ model.theta).square()}
    with pytest.raises(InputError, match="per_item"):
        sciml.solve(problem, Weights())


def test_single_precision_model_solves_in_single_precision():
    model = Weights().float()
    solution = sciml.solve(LeastSquares(size=500), model)
    assert model.theta.dtype == torch.float32
    assert solution.loss < 1e-10
    assert torch.allclose(model.theta.double(), torch.linspace(-1, 1, 10, dtype=torch.float64), atol=1e-4)


class Recording(LeastSquares):
    """Keeps the inputs of every batch that the loss sees."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def loss(self, model, batch):
        self.seen.append(batch[0].clone())
        return super().loss(model, batch)


@pytest.mark.parametrize("size", [None, 256])
def test_batches_differ_from_step_to_step_and_are_the_same_in_every_run(size):
    runs = []
    for _ in range(2):
        problem = Recording(size=size)
        sciml.solve(problem, Weights(), [sciml.Adam(steps=25, batch=32)])
        runs.append(problem.seen)
    assert len(runs[0]) == 2 * 21 + 4  # two parts a step while the noise is measured (0 to 19 and 20), else one
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert len({float(batch.sum()) for batch in runs[0]}) == len(runs[0])


def test_micro_batches_of_a_finite_set_are_disjoint():
    problem = Recording(size=64)
    sciml.solve(problem, Weights(), [sciml.Adam(steps=1, batch=64)])
    rows = torch.cat(problem.seen)
    assert rows.shape[0] == 64
    assert torch.equal(rows.sort(0).values, problem.data[0].sort(0).values)


class Liar(LeastSquares):
    """The gradient over the whole set points uphill, so that no line search along it succeeds."""

    def gradient(self, model, batch):
        x, y = batch
        residual = x @ model.theta.detach() - y
        sign = -1.0 if len(y) == self.size else 1.0
        return {"squares": 0.5 * residual.square().mean()}, sign * x.T @ residual / len(y)


def test_a_finisher_that_cannot_move_says_so():
    solution = sciml.solve(Liar(size=256), Weights(), [sciml.Adam(lr=0.1, steps=2000), sciml.LBFGS()])
    assert solution.switch[0]["step"] == 20  # a gradient of the set buys four steps: four gradients, in blocks of ten
    assert solution.result is sciml.Result.LINE_SEARCH_FAILED or solution.loss < 1e-12


def test_residuals_alone_make_a_loss() -> None:
    class Residuals(sciml.Problem):
        def sample(self, size: int | None, generator: torch.Generator) -> torch.Tensor:
            return torch.arange(1.0, 1.0 + (size or 4))

        def least_squares(self, model: torch.nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": batch, "b": batch.new_tensor([3.0])}

    class Nothing(sciml.Problem):
        def sample(self, size: int | None, generator: torch.Generator) -> torch.Tensor:
            return torch.zeros(1)

    model = torch.nn.Linear(1, 1)
    terms = Residuals().loss(model, torch.tensor([1.0, 2.0]))
    assert {name: float(term) for name, term in terms.items()} == {"a": 2.5, "b": 9.0}
    with pytest.raises(InputError, match="Nothing has neither a method `loss` nor `least_squares`"):
        Nothing().loss(model, torch.zeros(1))


def test_the_blas_keeps_to_one_thread_while_torch_works() -> None:
    """Both pools spinning for the same cores made a solve on two cores four times slower."""
    import scipy.linalg.blas  # noqa: F401  brings its OpenBLAS

    seen: list[list[int]] = []

    class Watched(sciml.Problem):
        def sample(self, size, generator):
            return torch.rand(size or 8, 1, generator=generator)

        def loss(self, model, batch):
            seen.append(_blas_threads())
            return {"fit": (model(batch) - 1.0).square().mean()}

    with threadpool_limits(2, "blas"):
        before = _blas_threads()
        sciml.solve(Watched(), torch.nn.Linear(1, 1), [sciml.SGD(lr=0.1, steps=2)], switch=2)
        assert _blas_threads() == before
    assert before
    assert seen[-1] == [1] * len(before)


def _blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
