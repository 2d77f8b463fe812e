"""When a stochastic phase ends, and how its batch grows."""

import math

import pytest
import torch

from sciml.errors import InputError
from sciml.watching.batch_size import first_batch, grown_batch
from sciml.watching.noise import NoiseEstimate
from sciml.watching.switching import ProgressSwitch, SnrSwitch, rule_for


def estimate(snr, high, critical=None):
    return NoiseEstimate(snr, 0.0, high, critical, 1.0, 1.0, 64, 20)


def fired_at(rule, losses, cost=1 / 32):
    """The cost at which a rule that sees these losses decides, and what it decides; asked after every step."""
    for step, loss in enumerate(losses):
        rule.observe(cost, loss)
        if (decision := rule.decide(step + 1, None)) is not None:
            return (step + 1) * cost, decision
    raise AssertionError(f"no decision in {len(losses)} steps")


def falling(rate, until, steps=4000, cost=1 / 32):
    """Losses whose logarithm falls by `rate` per unit of cost until `until`, then stays."""
    return [math.exp(-rate * min((step + 1) * cost, until)) for step in range(steps)]


def test_rate_gate_fires_when_progress_stops_and_not_before():
    cost, decision = fired_at(ProgressSwitch(at_most=math.inf), falling(0.1, until=60.0))
    assert 75 <= cost <= 120
    assert "per gradient of the fixed set" in decision.reason
    assert decision.details["rate"] + decision.details["rate_error"] <= 0.02
    cost, _ = fired_at(ProgressSwitch(), falling(0.1, until=6.0))
    assert 6 < cost < 12  # long before the limit


def test_progress_that_does_not_stop_is_followed_up_to_the_limit():
    cost, decision = fired_at(ProgressSwitch(), falling(0.1, until=math.inf))
    assert cost == 24 and "24 gradients of the fixed set are spent" in decision.reason
    assert decision.details["rate"] == pytest.approx(0.1)
    # the same for all cheap steps, less where a gradient buys few of them, but not less than the first checkpoint;
    # 1 / 10 is a cost of which rounding keeps the sum below 10
    for cost, limit in ((1 / 128, 24), (1 / 32, 24), (1 / 10, 10), (1 / 8, 8), (1 / 4, 4), (1.0, 4)):
        fired, decision = fired_at(ProgressSwitch(), falling(0.1, math.inf, cost=cost), cost=cost)
        assert fired == pytest.approx(limit) and decision.details["limit"] == pytest.approx(limit)
    assert fired_at(ProgressSwitch(at_most=12.0), falling(0.1, math.inf))[0] == 12


def test_noise_in_the_losses_is_no_reason_to_switch_early():
    """Batch losses that scatter by a factor of 1.6: at the first look a fall of 0.1 a unit has an error of 0.2."""
    draw = torch.Generator().manual_seed(0)
    early = {0.1: 0, 0.0: 0}
    for rate in early:
        for _ in range(20):
            scatter = torch.exp(0.5 * torch.randn(800, generator=draw)).tolist()
            losses = [loss * factor for loss, factor in zip(falling(rate, math.inf, 800), scatter, strict=True)]
            early[rate] += fired_at(ProgressSwitch(), losses)[0] < 24
    assert early[0.1] <= 8
    assert early[0.0] >= 8  # no progress at all is found out all the same


def test_rate_gate_does_not_depend_on_the_scale_of_the_loss_and_takes_energies():
    shapes = [
        [scale * (x + offset) for x in falling(0.1, until=40.0)] for scale, offset in ((1, 0), (1e-12, 0), (1, -5))
    ]
    fired = [fired_at(ProgressSwitch(at_most=math.inf), losses) for losses in shapes]
    assert fired[0][0] == fired[1][0]


def test_snr_rule_needs_both_a_low_snr_and_a_plateau():
    def run(snr, losses):
        rule = SnrSwitch()
        for step, loss in enumerate(losses):
            rule.observe(0.1, loss)
            if step % 10 == 9 and rule.decide(step + 1, estimate(snr, 2.0)):
                return step
        return None

    falling = [math.exp(-0.01 * k) for k in range(3000)]
    flat = [1.0] * 3000
    assert run(0.5, falling) is None
    assert run(5.0, flat) is None
    assert run(0.5, flat) is not None


def test_the_batch_grows_when_noise_drowns_the_direction():
    assert grown_batch(32, 1024, estimate(0.2, 0.8)) == 64
    assert grown_batch(32, 1024, estimate(0.2, 0.8), averaging=19.0) == 32
    assert grown_batch(32, 1024, estimate(0.01, 0.04), averaging=19.0) == 64
    assert grown_batch(32, 1024, estimate(0.2, 1.2)) == 32
    assert grown_batch(256, 1024, estimate(0.2, 0.8)) == 256


@pytest.mark.parametrize(
    ("declared", "batch", "suggested", "parts", "finite", "expected"),
    [
        (1000, None, None, 2, False, 128),
        (200, None, None, 2, False, 50),
        (40, None, None, 2, False, 32),
        (20, None, None, 3, True, 18),
        (1000, None, 7, 2, False, 6),
        (1000, 31, 7, 4, False, 28),
        (31, 31, None, 2, True, 31),
        (1, None, None, 2, True, 2),
    ],
)
def test_the_first_batch(declared, batch, suggested, parts, finite, expected):
    assert first_batch(declared, batch, suggested, parts, finite) == expected


def test_unknown_rules_are_refused():
    for wrong in ("soon", None, True, -1):
        with pytest.raises(InputError, match="switch="):
            rule_for(wrong)
