"""The rate at which losses fall: against closed forms, and its error against the scatter of repeated draws."""

# pyright: reportOptionalMemberAccess=false

import math

import pytest
import torch

from sciml.watching.loss_rate import SHORTEST, loss_rate


def rate(losses, costs=None):
    costs = [0.5 * (step + 1) for step in range(len(losses))] if costs is None else costs
    return loss_rate(costs, losses, min(losses), max(losses))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_an_exponential_has_its_rate_whatever_the_scale(scale):
    found = rate([scale * math.exp(-0.1 * step) for step in range(80)])
    assert found.value == pytest.approx(0.2) and found.error == pytest.approx(0, abs=1e-9)
    assert found.high == found.value + found.error


def test_an_energy_is_measured_by_its_whole_decrease():
    """From 3 to -5: an eighth of the decrease is a unit of the loss."""
    found = rate([3 - 8 * step / 79 for step in range(80)])
    assert found.value == pytest.approx(2 / 79)


def test_few_losses_have_no_rate():
    assert rate([1.0] * (SHORTEST - 1)) is None
    assert rate([1.0] * SHORTEST).value == 0
    assert rate([1.0] * SHORTEST, costs=[1.0] * SHORTEST).value == math.inf  # at one cost there is no slope


def test_the_error_is_the_scatter_of_repeated_draws():
    draw = torch.Generator().manual_seed(0)
    found = [
        rate(torch.exp(-0.01 * torch.arange(400) + 0.3 * torch.randn(400, generator=draw)).tolist()) for _ in range(300)
    ]
    values = torch.tensor([f.value for f in found])
    assert float(values.mean()) == pytest.approx(0.02, abs=4 * float(values.std()) / math.sqrt(300))
    claimed = torch.tensor([f.error for f in found]).square().mean().sqrt()
    assert 0.8 < float(claimed / values.std()) < 1.25
