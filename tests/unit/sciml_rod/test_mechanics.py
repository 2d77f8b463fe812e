"""What is no bar is refused, with words; what is one evaluates piece by piece."""

import pytest
import torch
from sciml_rod import CASES, Displacement, PointLoad, Rod, Traction, WeakForm, find_case
from sciml_rod.forms.weak import mesh
from sciml_rod.mechanics import nondimensional

from sciml.errors import InputError

FAULTS = {
    "length": {"length": 0.0},
    "inside the bar": {"breakpoints": (1.0,), "stiffness": (1.0, 2.0)},
    "must ascend": {"breakpoints": (0.6, 0.4)},
    "2 pieces, the bar 1 segments": {"stiffness": (1.0, 2.0)},
    "none is held": {"left": Traction(1.0), "right": Traction(-1.0)},
    "must be positive": {"stiffness": lambda x: x - 0.5},
    "point loads at": {"point_loads": (PointLoad(1.5, 1.0),)},
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_no_bar_is_refused(words: str) -> None:
    with pytest.raises(InputError, match=words):
        Rod(**FAULTS[words])


def test_pieces_are_evaluated_from_the_right_of_a_breakpoint() -> None:
    rod = Rod(2.0, (1.0, lambda x: 2 + x), (3.0, 0.0), breakpoints=(0.5,))
    x = torch.tensor([[0.0], [0.499], [0.5], [2.0]], dtype=torch.float64)
    assert rod.EA(x)[:, 0].tolist() == pytest.approx([1.0, 1.0, 2.5, 4.0])
    assert rod.f(x)[:, 0].tolist() == [3.0, 3.0, 0.0, 0.0]


def test_interfaces_are_jumps_of_stiffness_and_point_loads() -> None:
    rod = Rod(
        2.0, (1.0, 1.0, 4.0), point_loads=(PointLoad(1.5, 2.0), PointLoad(1.2, -1.0)), breakpoints=(0.5, 1.2)
    )  # at 0.5 nothing jumps
    assert [jump.position for jump in rod.interfaces] == [1.2, 1.5]
    assert str(rod.interfaces[0]) == "x = 1.2 m, where EA jumps from 1 N to 4 N and a point load of -1 N acts"
    assert rod.nodes == (0.0, 0.5, 1.2, 1.5, 2.0)


@pytest.mark.parametrize("name", CASES)
def test_the_unit_bar_has_displacements_and_forces_of_order_one(name: str) -> None:
    unit, scales = nondimensional(CASES[name].rod)
    form = WeakForm(CASES[name].rod)
    x = torch.linspace(0, 1, 201, dtype=torch.float64).numpy()
    assert abs(form.reference.displacement(x)).max() / scales.displacement == pytest.approx(1, rel=0.05)
    assert abs(form.reference.force(x)).max() / scales.force == pytest.approx(1, rel=0.05)
    assert unit.length == 1.0


def test_a_bar_without_loads_has_units_too() -> None:
    _, scales = nondimensional(Rod(3.0, 5.0, right=Displacement(0.0)))
    assert (scales.length, scales.displacement) == (3.0, 1.0)
    assert scales.stiffness == pytest.approx(5.0)


def test_the_mesh_has_all_nodes_of_the_bar() -> None:
    unit, _ = nondimensional(Rod(2.0, (1.0, 2.0), breakpoints=(0.3,), point_loads=(PointLoad(1.9, 1.0),)))
    nodes = mesh(unit, 10).tolist()
    assert {0.0, 0.15, 0.95, 1.0} <= set(nodes)
    assert nodes == sorted(nodes)


def test_forms_and_cases_are_known_by_name() -> None:
    with pytest.raises(InputError, match="choose one of smooth, oscillatory, bimaterial"):
        find_case("rough")
    with pytest.raises(InputError, match="choose one of strong, weak, energy"):
        CASES["smooth"].form("mixed")
    with pytest.raises(InputError, match="no interface condition"):
        CASES["bimaterial"].form("weak", interface=False)
    with pytest.raises(InputError, match="there are 64"):
        CASES["smooth"].form("weak").sample(65, torch.Generator())
