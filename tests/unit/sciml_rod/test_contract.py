"""Every form of the bar keeps the contract of a Problem."""

import pytest
from problem_contract import ProblemContract  # pyright: ignore[reportMissingImports]
from sciml_rod import CASES, Displacement, EnergyForm, PointLoad, Rod, StrongForm, WeakForm
from torch import nn

from sciml import Problem

HELD = Rod(2.0, (1.0, 3.0), 1.0, right=Displacement(0.1), point_loads=(PointLoad(0.4, 2.0),), breakpoints=(1.2,))


class TestStrongForm(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = StrongForm(CASES["smooth"].rod)
        return form, form.network((8, 8))


class TestStrongFormWithInterfaces(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = StrongForm(HELD)
        return form, form.network((8, 8))


class TestWeakForm(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = WeakForm(CASES["smooth"].rod, cells=48)
        return form, form.network((8, 8))


class TestWeakFormWithPointLoad(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = WeakForm(HELD, cells=48)
        return form, form.network((8, 8))


class TestEnergyForm(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = EnergyForm(CASES["bimaterial"].rod, cells=48)
        return form, form.network((8, 8))


class TestEnergyFormHeldAtBothEnds(ProblemContract):
    def make(self) -> tuple[Problem, nn.Module]:
        form = EnergyForm(HELD, cells=48)
        return form, form.network((8, 8))


@pytest.mark.parametrize("case", ["smooth", "bimaterial"])
@pytest.mark.parametrize("name", ["strong", "weak", "energy"])
def test_single_precision_follows_the_model(case: str, name: str) -> None:
    """A float32 model is evaluated in float32 and gives about the same numbers."""
    form = CASES[case].form(name)
    double = form.evaluate(CASES[case].network(form))
    single = form.evaluate(CASES[case].network(form).float())
    assert single["relative_l2"] == pytest.approx(double["relative_l2"], rel=1e-4)
    assert single["held_out_loss"] == pytest.approx(double["held_out_loss"], rel=1e-3)
