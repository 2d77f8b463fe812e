"""Phases are values: abstract or final, checked when they are made."""

import pytest

import sciml
from sciml.errors import InputError
from sciml.phases import Deterministic, Stochastic
from sciml.schedules import Cosine


@pytest.mark.parametrize("abstract", [Stochastic, Deterministic])
def test_what_only_declares_cannot_be_made(abstract: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        abstract()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="step size"):
        sciml.Adam(lr=-1)
    with pytest.raises(InputError, match="micro_batches >= 2"):
        sciml.SGD(micro_batches=1)
    with pytest.raises(InputError, match="a factor above 1"):
        sciml.LBFGS(payoff=1.0)


def test_a_slower_phase_differs_in_its_step_size_alone() -> None:
    phase = sciml.Adam(lr=0.5, steps=7)
    assert phase.slower(0.1) == sciml.Adam(lr=0.05, steps=7)
    scheduled = sciml.Adam(lr=Cosine(0.5, 10))
    assert scheduled.slower(0.1) is scheduled
