"""`solve`: minimisers, budgets, costs, batches, results."""

import math

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import sciml
from sciml.errors import ConvergenceError, InputError
from sciml.loop import solver


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="switch='soon'"):
        sciml.solve(LeastSquares(), Weights(), switch="soon")
    with pytest.raises(InputError, match="positive"):
        sciml.Budget(seconds=0)
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


@pytest.fixture
def unprobed(monkeypatch):
    """Nothing is tried before the first step, so that a test sees the batches of the steps alone."""
    monkeypatch.setattr(solver, "probe", lambda problem, model: [])


@pytest.mark.usefixtures("unprobed")
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
    assert list(plain) == [
        "result", "relative_l2", "loss", "loss_relative_to_start", "loss_shares", "evaluations", "seconds", "findings",
        "switch",
    ]  # fmt: skip
    assert plain["loss_relative_to_start"] == pytest.approx(solution.loss / solution.start_loss)
    assert plain["loss_shares"] == {"squares": 1.0}
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


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize("size", [None, 256])
def test_batches_differ_from_step_to_step_and_are_the_same_in_every_run(size):
    runs = []
    for _ in range(2):
        problem = Recording(size=size)
        sciml.solve(problem, Weights(), [sciml.Adam(steps=25, batch=32)])
        steps = 2 * 21 + 4
        assert len(problem.seen) - steps in (0, 2)  # start and end may be compared once it is over
        runs.append(problem.seen[:steps])  # two parts a step while the noise is measured (0 to 19 and 20), else one
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert len({float(batch.sum()) for batch in runs[0]}) == len(runs[0])


@pytest.mark.usefixtures("unprobed")
def test_micro_batches_of_a_finite_set_are_disjoint():
    problem = Recording(size=64)
    sciml.solve(problem, Weights(), [sciml.Adam(steps=1, batch=64)])
    rows = torch.cat(problem.seen[:2])
    assert rows.shape[0] == 64
    assert torch.equal(rows.sort(0).values, problem.data[0].sort(0).values)


class Independent(LeastSquares):
    """Draws the halves of a batch independently of each other, each without replacement."""

    population = None  # type: ignore[assignment]

    def sample(self, size, generator):
        if size is None:
            return self.data
        chosen = torch.cat([torch.randperm(self.size, generator=generator)[: size // 2] for _ in range(2)])  # type: ignore[arg-type]
        return self.data[0][chosen], self.data[1][chosen]


@pytest.mark.parametrize(("kind", "together"), [(LeastSquares, 32), (Independent, 16)])
def test_the_snr_of_a_finite_set_is_right_for_disjoint_and_for_independent_parts(kind, together):
    """At rest, where that of a batch gradient is known: so many of the 64 items are drawn together without
    replacement."""
    problem, model = kind(size=64, noise=3.0), Weights()
    phases = [sciml.SGD(lr=1e-12, steps=2000, batch=32, window=200), sciml.LBFGS(steps=1)]
    record = sciml.solve(problem, model, phases, switch=2000).switch[0]
    x, y = problem.data
    each = -x * y[:, None]  # at zero
    mean = each.mean(0)
    noise = float((each - mean).square().sum()) / 63 / 32 * (1 - together / 64)
    assert record["snr"] == pytest.approx(float(mean.square().sum()) / noise, rel=0.25)


class Liar(LeastSquares):
    """The gradient over the whole set points uphill, so that no line search along it succeeds."""

    def gradient(self, model, batch):
        x, y = batch
        residual = x @ model.theta.detach() - y
        sign = -1.0 if len(y) == self.size else 1.0
        return {"squares": 0.5 * residual.square().mean()}, sign * x.T @ residual / len(y)


def test_a_finisher_that_cannot_move_says_so():
    solution = sciml.solve(Liar(size=256), Weights(), [sciml.Adam(lr=0.1, steps=2000), sciml.LBFGS()])
    assert solution.switch[0]["step"] == 40  # a gradient of the set buys four steps: eight gradients, in blocks of ten
    assert solution.result is sciml.Result.LINE_SEARCH_FAILED or solution.loss < 1e-12


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
