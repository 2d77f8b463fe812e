"""Ends of a quasi-Newton phase that are about the precision and about new sets that bring nothing."""

import math

import pytest
import torch

import sciml
from sciml.loop.deterministic import DeterministicRunner
from sciml.loop.fixed_set import FixedSet
from sciml.loop.setting import Setting
from sciml.parameters import FlatParameters


class Line(sciml.Problem):
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch - 1).square().mean()}


def runner(dtype=torch.float64, reference=math.inf):
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1).to(dtype)
    flat = FlatParameters(model.parameters())
    setting = Setting(Line(), model, flat, FixedSet(Line(), 0, flat.vector), 0)
    return DeterministicRunner(setting, sciml.LBFGS(), 1.0, reference)


@pytest.mark.parametrize(
    ("sets", "reference", "idle"),
    [
        ([0.5, 0.5, 0.49, 0.5], 1.0, True),
        ([0.5, 0.5, 0.49], 1.0, False),  # not yet
        ([0.5, 0.5, 0.4, 0.5], 1.0, False),  # one set helped
        ([0.3, 0.3, 0.3, 0.3], 1.0, False),  # far below the start: noise, which a larger set averages out
        ([0.5, 0.5, 0.5, 0.5], math.inf, False),  # the start is not known
    ],
)
def test_new_sets_that_bring_nothing_are_noticed(sets, reference, idle):
    running = runner(reference=reference)
    running.state.sets = sets
    assert running._idle() == idle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_told_from_a_loss_that_can_still_fall(dtype):
    """Where the fit is exact all that is left is rounding; with an error of 0.1 the loss is far above it."""
    running = runner(dtype)
    model = running.setting.model
    for error, rounding in ((0.0, True), (0.1, False)):
        with torch.no_grad():
            model.get_parameter("weight").fill_(2.0 + 3 * torch.finfo(dtype).eps)
            model.get_parameter("bias").fill_(1.0 + error)
        vector = running.setting.flat.vector.clone()
        running.state.loss = float(running.method.refresh())
        running.state.decrement = 2 * running.state.loss
        assert running._at_rounding() is rounding
        assert torch.equal(running.setting.flat.vector, vector)
