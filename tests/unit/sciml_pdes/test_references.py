"""Every reference solves its equation and keeps its conditions; so does the field of an untrained network, conditions
only."""

import math
from collections.abc import Callable

import pytest
import torch
from sciml_pdes import CATALOG, make
from sciml_pdes.collocation import Collocation
from torch import Tensor

from sciml.errors import InputError
from sciml.pde import Box, derivative
from sciml.pde.domains import Side

ZERO: Callable[[Tensor], Tensor] = torch.zeros_like
PI = math.pi
HILL: Callable[[Tensor], Tensor] = lambda x: torch.exp(-((x - PI) ** 2) / (2 * (PI / 4) ** 2))

# name -> (axis, side, value as a function of the first coordinate), written down here a second time on purpose.
VALUES: dict[str, list[tuple[int, Side, Callable[[Tensor], Tensor]]]] = {
    "poisson_1d": [(0, "lower", ZERO), (0, "upper", ZERO)],
    "poisson_2d": [(0, "lower", ZERO), (0, "upper", ZERO), (1, "lower", ZERO), (1, "upper", ZERO)],
    "helmholtz": [(0, "lower", ZERO), (0, "upper", ZERO), (1, "lower", ZERO), (1, "upper", ZERO)],
    "heat": [
        (0, "lower", ZERO),
        (0, "upper", ZERO),
        (1, "lower", lambda x: torch.sin(PI * x) + 0.5 * torch.sin(3 * PI * x)),
    ],
    "klein_gordon": [(0, "lower", ZERO), (0, "upper", ZERO), (1, "lower", lambda x: torch.sin(PI * x))],
    "reaction": [(1, "lower", HILL)],
    "convection": [(1, "lower", torch.sin)],
    "wave": [
        (0, "lower", ZERO),
        (0, "upper", ZERO),
        (1, "lower", lambda x: torch.sin(PI * x) + 0.5 * torch.sin(5 * PI * x)),
    ],
    "allen_cahn": [(1, "lower", lambda x: x**2 * torch.cos(PI * x))],
    "burgers": [(0, "lower", ZERO), (0, "upper", ZERO), (1, "lower", lambda x: -torch.sin(PI * x))],
}

# The equations a second time, by central differences: u(dx, dt) gives the solution at shifted points.
Shifted = Callable[[float, float], Tensor]
H = 1e-4


def second(u: Shifted, axis: int) -> Tensor:
    """Second derivative, fourth order in H."""
    at = lambda k: u(k * H, 0.0) if axis == 0 else u(0.0, k * H)
    return (-at(-2) + 16 * at(-1) - 30 * at(0) + 16 * at(1) - at(2)) / (12 * H**2)


def first(u: Shifted, axis: int) -> Tensor:
    """First derivative, fourth order in H."""
    at = lambda k: u(k * H, 0.0) if axis == 0 else u(0.0, k * H)
    return (at(-2) - 8 * at(-1) + 8 * at(1) - at(2)) / (12 * H)


EQUATIONS: dict[str, Callable[[Shifted, Tensor, Tensor], Tensor]] = {
    "poisson_1d": lambda u, x, _: second(u, 0) + PI**2 * torch.sin(PI * x) + 4 * PI**2 * torch.sin(4 * PI * x),
    "poisson_2d": lambda u, x, y: second(u, 0) + second(u, 1) + 2 * PI**2 * torch.sin(PI * x) * torch.sin(PI * y),
    "helmholtz": lambda u, x, y: (
        second(u, 0) + second(u, 1) + u(0, 0) + (17 * PI**2 - 1) * torch.sin(PI * x) * torch.sin(4 * PI * y)
    ),
    "heat": lambda u, x, t: first(u, 1) - 0.1 * second(u, 0),
    "klein_gordon": lambda u, x, t: (
        second(u, 1)
        - second(u, 0)
        + u(0, 0) ** 3
        + 8 * PI**2 * torch.sin(PI * x) * torch.cos(3 * PI * t)
        - (torch.sin(PI * x) * torch.cos(3 * PI * t)) ** 3
    ),
    "reaction": lambda u, x, t: first(u, 1) - 5 * u(0, 0) * (1 - u(0, 0)),
    "convection": lambda u, x, t: first(u, 1) + 40 * first(u, 0),
    "wave": lambda u, x, t: second(u, 1) - 4 * second(u, 0),
    "allen_cahn": lambda u, x, t: first(u, 1) - 1e-4 * second(u, 0) - 5 * u(0, 0) + 5 * u(0, 0) ** 3,
    "burgers": lambda u, x, t: first(u, 1) + u(0, 0) * first(u, 0) - 0.01 / PI * second(u, 0),
}

PERIODIC = ("reaction", "convection")
AT_REST = ("klein_gordon", "wave")


# Domains with holes and coefficients to be found have tests of their own.
ELSEWHERE = ("poisson_hole", "plate", "rod_inverse")
TABULATED = ("allen_cahn",)  # references without derivatives


@pytest.fixture(params=[name for name in CATALOG if name not in ELSEWHERE])
def named(request: pytest.FixtureRequest) -> tuple[str, Collocation]:
    return request.param, make(request.param)


def interior(problem: Collocation, size: int = 200) -> Tensor:
    """Points at least one hundredth away from the faces."""
    unit = torch.rand(size, problem.domain.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    low, high = (torch.tensor(side, dtype=torch.float64) for side in (problem.domain.lower, problem.domain.upper))
    return low + (high - low) * (0.01 + 0.98 * unit)


def test_the_reference_leaves_no_residual(named: tuple[str, Collocation]) -> None:
    name, problem = named
    if name in TABULATED:
        pytest.skip("finite differences say it below")
    points = interior(problem)
    residual = problem.residual_of(problem.reference, points).detach()
    assert float(residual.abs().max()) < 1e-9
    # The same residual sees a solution that is wrong by a percent.
    error = lambda x: 0.01 * torch.cos(3 * x[:, :1]) * (1 + x[:, -1:])
    wrong = problem.residual_of(lambda x: problem.reference(x) + error(x), points).detach()
    assert float(wrong.abs().max()) > 1e-4, name


def test_the_reference_solves_the_equation_by_finite_differences(named: tuple[str, Collocation]) -> None:
    name, problem = named
    points = interior(problem)

    def shifted(dx: float, dt: float) -> Tensor:
        return problem.reference(points + torch.tensor([dx, dt], dtype=torch.float64)[: problem.domain.dim])

    missing = EQUATIONS[name](shifted, points[:, :1], points[:, -1:])
    largest = max(float(second(shifted, 0).abs().max()), 1.0)
    assert float(missing.abs().max()) < 1e-5 * largest


@pytest.mark.parametrize("trained", [False, True], ids=["network", "reference"])
def test_conditions_hold_by_construction(named: tuple[str, Collocation], trained: bool) -> None:
    name, problem = named
    model = problem.model(seed=2)
    field = problem.reference if trained else lambda x: problem.field(model, x)
    box, generator = problem.domain, torch.Generator().manual_seed(0)
    assert isinstance(box, Box)
    for axis, side, value in VALUES[name]:
        points = box.face(axis, side, 50, generator)
        tolerance = 1e-4 if trained and name in TABULATED else 2e-12
        assert torch.allclose(field(points), value(points[:, :1]), rtol=0, atol=tolerance), (axis, side)
    start = box.face(problem.domain.dim - 1, "lower", 50, generator)
    if name in AT_REST:
        assert float(derivative(field, start, dim=1).detach().abs().max()) < 1e-12
    if name in PERIODIC:
        left = box.face(0, "lower", 50, generator)
        right = left + torch.tensor([2 * PI, 0.0], dtype=torch.float64)
        assert torch.allclose(field(left), field(right), rtol=0, atol=1e-12)


def test_burgers_reference_is_odd_and_agrees_with_a_fine_trapezoid() -> None:
    problem, viscosity = make("burgers"), 0.01 / PI
    points = torch.tensor([[0.003, 0.4], [0.1, 1.0], [0.5, 0.7], [0.9, 0.05]], dtype=torch.float64)
    mirrored = points * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(problem.reference(mirrored), -problem.reference(points), rtol=0, atol=1e-13)
    for x, t in points.tolist():
        z = torch.linspace(-25, 25, 60_001, dtype=torch.float64) * math.sqrt(2 * viscosity * t)
        weights = torch.softmax(-torch.cos(PI * (x - z)) / (2 * PI * viscosity) - z**2 / (4 * viscosity * t), dim=0)
        expected = -float((weights * torch.sin(PI * (x - z))).sum())
        assert float(problem.reference(torch.tensor([[x, t]], dtype=torch.float64))) == pytest.approx(
            expected, abs=1e-9
        )


def test_allen_cahn_reference_is_even_and_agrees_with_one_of_other_resolution() -> None:
    from sciml_pdes.equations import allen_cahn

    problem = make("allen_cahn")
    points = interior(problem)
    mirrored = points * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    assert torch.allclose(problem.reference(mirrored), problem.reference(points), rtol=0, atol=1e-10)
    coarse = allen_cahn._history(1600, 1200).at(points[:, 0].numpy(), points[:, 1].numpy())
    assert float((torch.from_numpy(coarse)[:, None] - problem.reference(points)).abs().max()) < 1e-5


def test_allen_cahn_rounding_has_the_slope_that_the_start_lacks() -> None:
    problem = make("allen_cahn")
    edge = torch.tensor([[1.0, 0.1], [1.0, 0.9]], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(problem.field(problem.model(0), edge).sum(), edge)[0][:, 0]
    assert float(slope.abs().max()) < 1e-12  # even about x = 1, so that the periodic continuation is smooth


def test_the_error_of_a_known_field_is_what_it_is(named: tuple[str, Collocation]) -> None:
    _, problem = named
    model = problem.model(seed=0)
    field = problem.field
    problem.field = lambda model, x: 1.25 * problem.reference(x) + 0 * field(model, x)
    values = problem.evaluate(model)
    assert values["relative_l2"] == pytest.approx(0.25, rel=1e-9)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'navier': choose one of poisson_1d, poisson_2d"):
        make("navier")
