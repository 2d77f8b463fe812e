"""Gauss-Newton: the Jacobian against explicit gradients, the steps against linear algebra, the phase on problems."""

import math

import pytest
import torch
from sciml_pdes.equations.poisson import Poisson1D
from torch import nn

import sciml
from sciml.optim import jacobian as jacobians
from sciml.optim import linearization as linearizations
from sciml.optim.jacobian import ResidualJacobian
from sciml.optim.linearization import Dense, Linearization, Products, linearize, lower_gram
from sciml.optim.method import Status
from sciml.optim.natural_gradient import LevenbergMarquardt
from sciml.parameters import FlatParameters
from sciml.pde import MLP, derivatives


class Net(nn.Module):
    """A network and an unknown coefficient that is no layer's weight."""

    def __init__(self, matmul=False):
        super().__init__()
        self.mlp = MLP(1, 1, (5, 4), seed=1).double()
        self.coefficient = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.mix = nn.Parameter(torch.full((20, 1), 0.1, dtype=torch.float64)) if matmul else None

    def forward(self, x):
        u = self.mlp(x)
        return u if self.mix is None else u + torch.sin(x * torch.arange(20)) @ self.mix


def named_residuals(model):
    """A PDE-like residual, one with two components, and two conditions that belong to no item."""

    def residuals(x):
        behind = torch.cat([x, torch.tensor([[2.0], [3.0], [4.0]], dtype=torch.float64)])
        u, slope, curvature = (part[: len(x)] for part in derivatives(model, behind, order=2))
        beyond = derivatives(model, behind, order=1)[1][len(x) :]
        ends = model(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
        return {
            "pde": model.coefficient * curvature + u * slope,
            "pair": torch.cat([torch.sin(u), x * slope], 1),
            "ends": ends[:, 0] - 1,
            "beyond": beyond.T,
        }

    return residuals


def points(count=24):
    return torch.rand(count, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def explicit(flat, residuals, x):
    """The definition: one reverse pass per scaled residual over the whole batch."""
    r = torch.cat([v.reshape(-1) / math.sqrt(v.numel()) for v in residuals(x).values()])
    rows = [torch.autograd.grad(v, flat.parameters, retain_graph=True, allow_unused=True) for v in r]
    return r.detach(), torch.stack([flat.flatten(row) for row in rows])


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("count", [24, 70])
def test_rows_are_the_gradients_of_the_residuals(matmul, count):
    model, x = Net(matmul), points(count)
    flat, residuals = FlatParameters(model.parameters()), named_residuals(model)
    method = ResidualJacobian(flat, residuals)
    found, expected = method.chunk(x, 0), explicit(flat, residuals, x)
    assert method.shared is not matmul  # a matrix product with 20 weights is beyond the shared pass
    assert torch.allclose(found[0], expected[0], rtol=1e-12, atol=1e-14)
    assert torch.allclose(found[1], expected[1], rtol=1e-10, atol=1e-12)
    assert torch.allclose(method.rows(x), found[0], rtol=1e-12, atol=1e-14)


def test_chunks_add_up_to_the_loss_and_its_gradient(monkeypatch):
    model, x = Net(), points(70)
    flat, residuals = FlatParameters(model.parameters()), named_residuals(model)
    loss = torch.stack([r.square().mean() for r in residuals(x).values()]).sum()
    gradient = flat.flatten(torch.autograd.grad(loss, flat.parameters, allow_unused=True))
    monkeypatch.setattr(jacobians, "CHUNK_NUMBERS", 1)
    method = ResidualJacobian(flat, residuals)
    assert method.starts(x) == [0, 24, 48]
    parts = [method.chunk(x, start) for start in method.starts(x)]
    rows, jacobian = torch.cat([r for r, _ in parts]), torch.cat([j for _, j in parts])
    assert float(rows @ rows) == pytest.approx(float(loss.detach()), rel=1e-13)
    assert torch.allclose(2 * rows @ jacobian, gradient, rtol=1e-10, atol=1e-12)
    assert torch.allclose(method.rows(x), rows, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_a_product_is_the_lower_triangle_of_the_whole(dtype):
    a = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for matrix in (a, a.T, a.T.contiguous()):
        assert torch.allclose(lower_gram(matrix).tril(), (matrix.T @ matrix).tril(), rtol=1e-5)


def test_all_forms_of_the_linearization_solve_the_same_problem(monkeypatch):
    model, x = Net(), points(60)
    flat = FlatParameters(model.parameters())
    method = ResidualJacobian(flat, named_residuals(model))
    dense = linearize(method, x)
    assert isinstance(dense, Dense) and dense.narrow
    wide = Dense(dense.rows[:20], dense.jacobian[:20], 0.0)
    narrow = torch.linalg.solve(
        wide.jacobian.T @ wide.jacobian + 1e-3 * wide.scale * torch.eye(len(flat.vector), dtype=torch.float64),
        wide.jacobian.T @ wide.rows,
    )
    woodbury = wide.solve(wide.rows, 1e-3)
    assert not wide.narrow and woodbury is not None and torch.allclose(woodbury, narrow, rtol=1e-8)
    direct = dense.solve(dense.rows, 1e-3)
    assert direct is not None
    monkeypatch.setattr(linearizations, "KEPT_NUMBERS", 0)
    monkeypatch.setattr(jacobians, "CHUNK_NUMBERS", 1)
    chunked = linearize(method, x)
    assert isinstance(chunked, Products) and chunked.gram is not None
    monkeypatch.setattr(linearizations, "GRAM_LIMIT", 0)
    free = linearize(method, x)
    assert isinstance(free, Products) and free.gram is None
    free.accuracy = 1e-12
    for form in (chunked, free):
        step = form.solve(form.rows, 1e-3 * dense.scale / form.scale)
        assert step is not None and torch.allclose(step, direct, rtol=1e-7, atol=1e-9 * float(direct.norm()))
        assert torch.allclose(form.product(direct).square().sum(), dense.product(direct).square().sum())
        assert torch.allclose(form.adjoint(form.rows), dense.adjoint(dense.rows), rtol=1e-10)
    assert free.scale == pytest.approx(dense.scale, rel=1.0)  # an estimate of the trace: its magnitude counts
    assert free.cost > 20 and chunked.cost > 3


def least_squares(function, start, damping=1e-2, accelerated=True):
    """Levenberg-Marquardt on a plain function from theta to residual rows."""
    vector = start.clone()

    def closure():
        live = vector.clone().requires_grad_()
        value = function(live).square().sum()
        return value.detach(), torch.autograd.grad(value, live)[0]

    def linearization() -> Linearization:
        jacobian = torch.autograd.functional.jacobian(function, vector)
        return Dense(function(vector), jacobian, 1.0)  # pyright: ignore[reportArgumentType]

    rows = (lambda: function(vector)) if accelerated else None
    return vector, LevenbergMarquardt(vector, closure, linearization, rows, damping)


def rosenbrock(x):
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


@pytest.mark.rounding
@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-7])
def test_rosenbrock_to_the_last_digits_whatever_the_unit(accelerated, scale):
    start = torch.full((10,), -1.2, dtype=torch.float64)
    x, method = least_squares(lambda v: scale * rosenbrock(v), start, accelerated=accelerated)
    spent = 0
    for _ in range(100):
        iteration = method.iterate()
        spent += iteration.evaluations
        if iteration.value == 0 or iteration.status is not Status.PROGRESS:
            break
    assert float((x - 1).abs().max()) < 1e-13
    assert spent < 80


def test_a_linear_problem_is_solved_in_one_step():
    stream = torch.Generator().manual_seed(0)
    a = torch.randn(30, 8, generator=stream, dtype=torch.float64)
    b = torch.randn(30, generator=stream, dtype=torch.float64)
    x, method = least_squares(lambda v: a @ v - b, torch.zeros(8, dtype=torch.float64), damping=1e-14)
    iteration = method.iterate()
    best = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    assert torch.allclose(x, best, rtol=1e-12)
    assert iteration.decrement == pytest.approx(float(2 * (b.square().sum() - (a @ best - b).square().sum())), rel=1e-9)


@pytest.mark.rounding
@pytest.mark.parametrize("accelerated", [False, True])
def test_undamped_steps_do_not_depend_on_the_parametrisation(accelerated):
    """theta = B phi: the natural gradient takes the same path, which steepest descent does not."""
    stream = torch.Generator().manual_seed(1)
    b = torch.randn(4, 4, generator=stream, dtype=torch.float64) + 3 * torch.eye(4, dtype=torch.float64)
    t = torch.linspace(0, 2, 12, dtype=torch.float64)

    def model(v):
        return v[0] * torch.exp(-v[1] * t) + v[2] * torch.cos(v[3] * t) - torch.exp(-t) - torch.cos(1.2 * t)

    start = torch.tensor([0.9, 1.1, 1.1, 1.1], dtype=torch.float64)
    x, first = least_squares(model, start, 1e-13, accelerated)
    y, second = least_squares(lambda v: model(b @ v), torch.linalg.solve(b, start), 1e-13, accelerated)
    for _ in range(2):
        before = x.clone()
        assert first.iterate().status is Status.PROGRESS and second.iterate().status is Status.PROGRESS
        assert torch.allclose(x, b @ y, rtol=1e-8)
        assert float((x - before).norm()) > 1e-4


def test_the_correction_follows_a_circular_valley():
    """Residuals that are large off the unit circle and small along it: straight steps creep, curved ones do not."""

    def function(v):
        return torch.stack([1e3 * (v.square().sum() - 1), torch.atan2(v[1], v[0])])

    spent = {}
    for accelerated in (False, True):
        start = torch.tensor([math.cos(2.5), math.sin(2.5)], dtype=torch.float64)
        _, method = least_squares(function, start, accelerated=accelerated)
        spent[accelerated] = 0
        while True:
            iteration = method.iterate()
            spent[accelerated] += iteration.evaluations
            if iteration.value < 1e-12 or spent[accelerated] > 3000:
                break
    assert spent[True] * 2 < spent[False]


def test_failure_is_a_status_and_leaves_the_point():
    def liar(v):  # residuals that grow wherever one goes
        return torch.ones(3, dtype=torch.float64) + (v - v.detach()) + (v.detach() != 1) * 10

    x, method = least_squares(liar, torch.ones(3, dtype=torch.float64))
    assert method.iterate().status is Status.LINE_SEARCH_FAILED
    assert torch.equal(x, torch.ones(3, dtype=torch.float64))
    _, method = least_squares(lambda v: v * math.nan, torch.ones(3, dtype=torch.float64))
    assert method.iterate().status is Status.NONFINITE
    _, method = least_squares(lambda v: v * 0, torch.ones(3, dtype=torch.float64))
    assert method.iterate().status is Status.STATIONARY


@pytest.mark.rounding
def test_gauss_newton_solves_poisson_beyond_single_precision():
    problem = Poisson1D()
    solution = sciml.solve(problem, problem.model(0), [sciml.GaussNewton(steps=80)])
    assert solution.values["relative_l2"] < 1e-5
    assert solution.loss < 1e-9
    assert solution.evaluations < 320


class Line(sciml.Problem):
    size = 40
    factor = 1.0

    def sample(self, size, generator):
        x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None]
        return x if size is None else x[torch.randperm(40, generator=generator)[:size]]

    def loss(self, model, batch):
        return {"fit": (model(batch) - torch.sin(6 * batch)).square().mean()}


class Squares(Line):
    def least_squares(self, model, batch):
        return {"fit": self.factor * (model(batch) - torch.sin(6 * batch))}


def test_a_problem_without_residuals_is_refused():
    with pytest.raises(sciml.InputError, match="least_squares gives none"):
        sciml.solve(Line(), MLP(1, 1, (4,)).double(), [sciml.GaussNewton()])


def test_residuals_of_another_loss_are_refused():
    problem = Squares()
    problem.factor = 2.0
    with pytest.raises(sciml.InputError, match="mean squares"):
        sciml.solve(problem, MLP(1, 1, (4,)).double(), [sciml.GaussNewton()])


def test_cost_counts_the_jacobians():
    solution = sciml.solve(Squares(), MLP(1, 1, (4,)).double(), [sciml.GaussNewton(steps=5, acceleration=False)])
    closures = sum(record["line_search"] for record in solution.history if record["kind"] == "step") + 1
    assert solution.evaluations == closures + 5  # one reverse pass per item and Jacobian


def test_a_residual_of_no_item_costs_one_item():
    model = MLP(1, 1, (4,)).double()
    ends = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    jacobian = ResidualJacobian(FlatParameters(model.parameters()), lambda x: {"in": model(x), "ends": model(ends)})
    jacobian.chunk(points(24), 0)
    assert jacobian.cost == pytest.approx(1 + 3 / 24)  # one pass over the items, three over a single point


def test_state_round_trip_gives_the_identical_next_iterate():
    start = torch.full((6,), -1.2, dtype=torch.float64)
    x, method = least_squares(rosenbrock, start)
    for _ in range(6):
        method.iterate()
    y, other = least_squares(rosenbrock, x)
    other.restore({key: t.clone() for key, t in method.tensors().items()}, method.numbers())
    for _ in range(3):
        method.iterate()
        other.iterate()
    assert torch.equal(x, y)
