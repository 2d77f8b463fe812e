"""The three forms of the bar are satisfied by its exact solution, and by nothing else."""

import numpy as np
import pytest
import torch
from rod_solutions import RODS, Exact  # pyright: ignore[reportMissingImports]
from sciml_rod import FORMS, EnergyForm, MissingInterfaceCondition, Rod, StrongForm, Traction, WeakForm
from sciml_rod.forms.weak import take

from sciml.pde import derivatives


def total(form, model, batch=None) -> float:
    batch = form.sample(None, torch.Generator().manual_seed(0)) if batch is None else batch
    return sum(float(term.detach()) for term in form.loss(model, batch).values())


@pytest.mark.parametrize("name", RODS)
def test_the_exact_solution_has_no_strong_residual(name: str) -> None:
    form = StrongForm(RODS[name])
    assert total(form, Exact(form)) < 1e-18
    assert total(form, Exact(form, 1e-3)) > 1e-8


@pytest.mark.parametrize("name", RODS)
def test_the_exact_solution_does_no_missing_work(name: str) -> None:
    form = WeakForm(RODS[name], cells=32, points=8)
    batch = form.sample(None, torch.Generator())
    missing = [form.missing_work(Exact(form, wrong), batch).detach().abs().max() for wrong in (0.0, 1e-3)]
    assert float(missing[0]) < 1e-12
    assert float(missing[1]) > 1e-6


@pytest.mark.parametrize("name", RODS)
def test_the_whole_set_is_the_sum_of_its_test_functions(name: str) -> None:
    """The whole set is evaluated at shared points, a part of it is not."""
    form = WeakForm(RODS[name], cells=16)
    model, batch = form.network((6, 6)), form.sample(None, torch.Generator())
    alone = [form.missing_work(model, take(batch, torch.tensor([i]))) for i in range(len(batch.x))]
    assert torch.allclose(form.missing_work(model, batch), torch.cat(alone), rtol=1e-12, atol=1e-14)


def test_virtual_work_is_as_exact_as_its_quadrature() -> None:
    """Two Gauss points per half support: missing work per unit test function falls like h^4 sqrt(h)."""
    missing = []
    for cells in (8, 16, 32):
        form = WeakForm(RODS["pulled"], cells=cells, points=2)
        work = form.missing_work(Exact(form), form.sample(None, torch.Generator()))
        missing.append(float(work.detach().abs().max()))
    rates = np.log2(np.array(missing[:-1]) / np.array(missing[1:]))
    assert missing[-1] > 1e-14
    assert bool((rates > 3.7).all())


@pytest.mark.parametrize("name", RODS)
def test_the_energy_has_its_minimum_at_the_exact_solution(name: str) -> None:
    form = EnergyForm(RODS[name])
    unit = form.scales.force * form.scales.displacement
    lowest = total(form, Exact(form))
    assert lowest * unit == pytest.approx(form.reference.energy, rel=1e-9)
    small, large = (total(form, Exact(form, amount)) - lowest for amount in (1e-3, 2e-3))
    assert small > 0
    assert large / small == pytest.approx(4, rel=1e-3)


def test_hiding_between_the_quadrature_points_does_not_pay() -> None:
    """A displacement that jumps where no strain is counted lowers the energy on the rule, were it not for `unseen`."""
    form = EnergyForm(Rod(load=1.0), cells=8, points=4)
    batch = form.sample(None, torch.Generator())

    class Hidden(Exact):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            step = torch.sigmoid(1e6 * (x - 0.5001))  # flat at every point of the rule
            return super().forward(x) + 0.2 * step

    terms = {name: float(value.detach()) for name, value in form.loss(Hidden(form), batch).items()}
    honest = {name: float(value.detach()) for name, value in form.loss(Exact(form), batch).items()}
    assert terms["strain"] + terms["load"] < honest["strain"] + honest["load"] - 1e-3
    assert sum(terms.values()) > sum(honest.values()) + 1.0
    assert honest["unseen"] < 1e-20


@pytest.mark.parametrize("form_name", FORMS)
@pytest.mark.parametrize("name", RODS)
def test_the_checks_accept_the_exact_solution(form_name: str, name: str) -> None:
    form = FORMS[form_name](RODS[name])
    values = form.evaluate(Exact(form))
    assert values["relative_l2"] < 1e-11
    assert values["relative_force"] < 1e-11
    assert values["held_out_balance"] < 1e-11
    wrong = form.evaluate(Exact(form, 1e-2))
    assert wrong["held_out_balance"] > 1e-3


def test_the_checks_see_a_forgotten_interface() -> None:
    """The solution with continuous slope: no residual, none at the end either, but half of the force is missing."""
    rod = RODS["two materials"]
    with pytest.warns(MissingInterfaceCondition, match=r"x = 0\.5 m, where EA jumps from 1 N to 10 N"):
        form = StrongForm(rod, interface=False)

    class Smooth(torch.nn.Module):
        """Right of x = 1/2 the exact slope; left of it continued with the same slope at 1/2."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            slope = form.scales.displacement
            left = (5.6 * x - 5 * x**2) / slope
            right = (5.6 * 0.5 - 5 * 0.25) / slope + ((11 * (x - 0.5) - 5 * (x**2 - 0.25)) / 10) / slope
            return torch.where(x < 0.5, left, right) / x

    model = Smooth()
    model.dummy = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    assert total(form, model) < 1e-25
    values = form.evaluate(model)
    assert values["relative_l2"] == pytest.approx(0.61, abs=0.01)
    assert values["held_out_balance"] == pytest.approx(5.4 / 11, rel=0.01)


@pytest.mark.parametrize("form_name", FORMS)
def test_units_change_nothing(form_name: str) -> None:
    """The same bar in meters and newtons, and in millimeters and kilonewtons: one non-dimensional problem."""
    metric = Rod(2.0, lambda x: 3e6 + 1e6 * x, lambda x: 5e3 * torch.cos(x), right=Traction(4e3))
    other = Rod(2e3, lambda x: 3e3 + x, lambda x: 5e-3 * torch.cos(x / 1e3), right=Traction(4.0))
    losses, displacements = [], []
    for rod, unit in ((metric, 1.0), (other, 1e3)):
        form = FORMS[form_name](rod)
        model = form.network((8, 8))
        losses.append(total(form, model))
        x = torch.tensor([0.3, 1.9], dtype=torch.float64)
        displacements.append(form.displacement(model, x * unit) / unit)
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    assert torch.allclose(displacements[0], displacements[1], rtol=1e-10)


def test_displacement_and_force_speak_si() -> None:
    form = StrongForm(RODS["steel in SI units"])
    x = np.array([0.5, 2.2, 3.9])
    model = Exact(form)
    assert form.displacement(model, torch.from_numpy(x)).numpy() == pytest.approx(form.reference.displacement(x))
    assert form.force(model, torch.from_numpy(x)).numpy() == pytest.approx(form.reference.force(x))


def test_one_sided_slopes_at_an_interface_are_exact() -> None:
    form = StrongForm(RODS["two materials"])
    model = form.network()
    terms = form.loss(model, form.sample(16, torch.Generator().manual_seed(0)))
    at = 1e-7
    sides = torch.tensor([[0.5 - at], [0.5 + at]], dtype=torch.float64)
    _, slope, _ = derivatives(lambda x: form.field(model, x), sides, order=2)
    force = (form.unit.EA(sides) * slope).detach()
    assert float(terms["interface"].detach()) == pytest.approx(float((force[1] - force[0]) ** 2), rel=1e-4)
