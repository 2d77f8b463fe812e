"""The three bars that the commands, the notebooks and the tests solve."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sciml.errors import InputError
from sciml_rod.forms.energy import EnergyForm
from sciml_rod.forms.form import RodForm
from sciml_rod.forms.strong import StrongForm
from sciml_rod.forms.weak import WeakForm
from sciml_rod.mechanics import Rod, Traction

FORMS: dict[str, type[RodForm]] = {"strong": StrongForm, "weak": WeakForm, "energy": EnergyForm}


@dataclass(frozen=True)
class Case:
    """A bar with its exact solution and the network size that suits it.

    Attributes:
        name: what the command line calls it.
        rod: the bar.
        displacement: the exact u(x).
        force: the exact N(x) = EA u'.
        hidden: widths of the hidden layers.
        sizes: form -> numbers of points and cells (arguments of its class).
        tolerances: form -> where the finisher is content; see `sciml.SelfScaled`. A form not named has its default.
    """

    name: str
    rod: Rod
    displacement: Callable[[Tensor], Tensor]
    force: Callable[[Tensor], Tensor]
    hidden: tuple[int, ...]
    sizes: dict[str, dict[str, int]]
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def form(self, name: str, *, interface: bool = True) -> RodForm:
        """The case in `strong`, `weak` or `energy` form.

        Args:
            name: the form.
            interface: False leaves the interface condition out of the strong form, to see what happens.

        Raises:
            InputError: an unknown form, or `interface=False` where there is no such condition to leave out.
        """
        if name not in FORMS:
            raise InputError(f"form {name!r}: choose one of {', '.join(FORMS)}.")
        if interface:
            return FORMS[name](self.rod, **self.sizes[name])
        if name != "strong" or not self.rod.interfaces:
            raise InputError(f"no interface condition to leave out: {name} form, case {self.name}.")
        return StrongForm(self.rod, **self.sizes[name], interface=False)

    def network(self, form: RodForm, seed: int = 0) -> nn.Module:
        """The network that suits the case."""
        return form.network(self.hidden, seed=seed)


def _smooth() -> Case:
    """EA = 1 + x / 2, u = x exp(-x) + 0.3 sin(2 pi x); f = -(EA u')' and the end force follow."""
    wave = 2 * math.pi
    stiffness = lambda x: 1 + x / 2
    slope = lambda x: (1 - x) * torch.exp(-x) + 0.3 * wave * torch.cos(wave * x)
    curvature = lambda x: (x - 2) * torch.exp(-x) - 0.3 * wave**2 * torch.sin(wave * x)
    return Case(
        name="smooth",
        rod=Rod(
            stiffness=stiffness,
            load=lambda x: -(slope(x) / 2 + stiffness(x) * curvature(x)),
            right=Traction(0.9 * math.pi),
        ),
        displacement=lambda x: x * torch.exp(-x) + 0.3 * torch.sin(wave * x),
        force=lambda x: stiffness(x) * slope(x),
        hidden=(24, 24),
        sizes={"strong": {"points": 256}, "weak": {"cells": 64, "points": 4}, "energy": {"cells": 64, "points": 8}},
        tolerances={"strong": 1e-10},
    )


def _oscillatory() -> Case:
    """EA = 1, u = x + 0.05 sin(20 pi x): ten periods."""
    wave = 20 * math.pi
    return Case(
        name="oscillatory",
        rod=Rod(
            load=lambda x: 0.05 * wave**2 * torch.sin(wave * x),
            right=Traction(1 + 0.05 * wave),
        ),
        displacement=lambda x: x + 0.05 * torch.sin(wave * x),
        force=lambda x: 1 + 0.05 * wave * torch.cos(wave * x),
        hidden=(24, 24, 24),
        # Ten periods: fewer points than parameters leave room between them, and the network finds it.
        sizes={"strong": {"points": 800}, "weak": {"cells": 400, "points": 2}, "energy": {"cells": 96, "points": 8}},
        tolerances=dict.fromkeys(("strong", "weak", "energy"), 1e-7),
    )


def _bimaterial() -> Case:
    """EA = 1 left of x = 1/2 and 10 right of it, f = 10, end force 1: N = 11 - 10 x, minimum energy -18.9417."""
    left = lambda x: 11 * x - 5 * x**2
    return Case(
        name="bimaterial",
        rod=Rod(stiffness=(1.0, 10.0), load=10.0, right=Traction(1.0), breakpoints=(0.5,)),
        displacement=lambda x: torch.where(x < 0.5, left(x), 4.25 + (left(x) - 4.25) / 10),
        force=lambda x: 11 - 10 * x,
        hidden=(20, 20),
        sizes={"strong": {"points": 160}, "weak": {"cells": 48, "points": 4}, "energy": {"cells": 24, "points": 8}},
    )


CASES: dict[str, Case] = {case.name: case for case in (_smooth(), _oscillatory(), _bimaterial())}


def find_case(name: str) -> Case:
    """The case of that name.

    Raises:
        InputError: there is none.
    """
    if name not in CASES:
        raise InputError(f"case {name!r}: choose one of {', '.join(CASES)}.")
    return CASES[name]
