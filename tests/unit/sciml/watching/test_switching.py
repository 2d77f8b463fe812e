"""When a stochastic phase ends, what its steps are worth, and how its batch grows: exact cases."""

# pyright: reportOptionalSubscript=false, reportOptionalMemberAccess=false, reportOptionalOperand=false
# pyright: reportOptionalIterable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false

import json
import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import sciml
from sciml.errors import InputError
from sciml.watching.batch_size import first_batch, grown_batch
from sciml.watching.noise import WINDOW, GradientNoise, NoiseEstimate
from sciml.watching.switching import (
    AutoSwitch,
    FixedSwitch,
    ProgressSwitch,
    SnrSwitch,
    SwitchRule,
    rule_for,
)
from sciml.watching.worth import worth

CHEAP = 1 / 128  # cost of a step: a batch of 128 out of 16384 items


def estimate(snr, low=None, high=None, measurements=WINDOW):
    """What a window says: SNR and interval."""
    low, high = (snr if low is None else low), (snr if high is None else high)
    return NoiseEstimate(snr, low, high, None, 1.0, 1.0, 128, measurements)


def clean():
    """What a window says without noise: the batch is the whole problem."""
    return NoiseEstimate(None, None, None, None, 1.0, 0.0, 128, 1)


def decided(rule, noise, cost=CHEAP, steps=10_000, block=1, fall=1.0):
    """Step and decision at which a rule ends a phase in which it is told the same noise at every block.

    The logarithm of the loss falls by `fall` for each factor of e in cost.
    """
    for step in range(1, steps + 1):
        rule.observe(cost, step**-fall)
        if step % block == 0 and (decision := rule.decide(step, noise)) is not None:
            return step, decision
    return None


def test_worth_is_the_steps_bought_times_the_share_of_signal_in_their_direction():
    # rho = 3/19 is a direction with SNR 3, three quarters of which is signal; 128 steps for one gradient
    now = worth(estimate(3 / 19, low=1 / 19, high=9 / 19), steps=128, averaging=19)
    assert (now.value, now.low, now.high) == pytest.approx((96, 64, 115.2))
    assert (now.snr, now.direction_snr, now.steps) == pytest.approx((3 / 19, 3, 128))
    # without averaging the direction is the gradient
    assert worth(estimate(3.0), steps=8).value == pytest.approx(6)
    # a clean gradient makes every step count, and no more
    assert worth(estimate(1e9), steps=8).value == pytest.approx(8)


def test_a_signal_below_zero_is_worth_nothing_and_keeps_its_interval():
    now = worth(estimate(-0.02, low=-0.2, high=1.0), steps=100, averaging=1)
    assert (now.value, now.low, now.high) == pytest.approx((0, 0, 50))
    assert now.direction_snr == -0.02  # the record holds what was measured


@pytest.mark.parametrize("noise", [None, estimate(0.1, measurements=1)])
def test_what_is_not_known_lies_between_nothing_and_the_ceiling(noise):
    if noise is not None:
        noise = NoiseEstimate(**{**vars(noise), "low": None, "high": None})
    now = worth(noise, steps=40, averaging=19)
    assert (now.low, now.high) == (0, 40)
    assert (now.value is None) == (noise is None)


def test_without_noise_every_step_counts():
    now = worth(clean(), steps=5, averaging=19)
    assert (now.value, now.low, now.high) == (5, 5, 5)
    json.dumps(now.numbers(), allow_nan=False)


def test_worth_does_not_depend_on_the_batch_while_noise_drowns_the_direction():
    # ten times the batch: a tenth of the steps, ten times the SNR
    small, large = worth(estimate(1e-6), 1000, 19), worth(estimate(1e-5), 100, 19)
    assert small.value == pytest.approx(large.value, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_worth_does_not_depend_on_the_scale_of_the_loss(scale):
    noise, draw = GradientNoise(), torch.Generator().manual_seed(0)
    for _ in range(WINDOW):
        noise.measure([scale * (1 + torch.randn(8, generator=draw, dtype=torch.float64)) for _ in range(4)], 64, 4096)
    now, snr = worth(noise.estimate(), 64, 19), noise.estimate().snr
    assert 0 < now.low < now.value < now.high < 64
    assert now.value == pytest.approx(64 * 19 * snr / (1 + 19 * snr), rel=1e-12)


def test_few_steps_for_a_gradient_end_the_phase_at_the_first_look_after_the_least():
    """Curvature is the limit: eight steps for a gradient, however clean they are, and even if nothing is known."""
    for noise in (estimate(1e6), None, estimate(0.0), clean()):
        step, decision = decided(AutoSwitch(enough=30, least=8, most=16), noise, cost=1 / 8)
        assert step == 64
        assert decision.details["worth_high"] <= 8 == decision.details["steps_per_gradient"]
        assert "surely fewer than the 30" in decision.reason


def test_noise_ends_the_phase_once_it_makes_a_gradient_worth_too_little():
    """Noise is the limit: 128 steps for a gradient; E = 30 is a direction with an SNR of 30 / 98."""
    at = 30 / 98
    for snr, spent in ((at * 0.99, 8), (at * 1.01, 16)):
        step, decision = decided(AutoSwitch(enough=30, least=8, most=16), estimate(snr))
        assert step * CHEAP == spent
        assert (decision.details["worth"] < 30) == (spent == 8)
    # the rule's averaging is part of it: with Adam's a nineteenth of that SNR is enough
    rule = AutoSwitch(enough=30, least=8, most=16)
    rule.averaging = 19.0
    assert decided(rule, estimate(at * 1.01 / 19))[0] * CHEAP == 16


def test_a_signal_that_fades_ends_the_phase_when_it_has_faded():
    rule, snr = AutoSwitch(enough=30, least=8, most=math.inf), lambda step: 100 * 2.0 ** (-step * CHEAP)
    for step in range(1, 10_000):
        rule.observe(CHEAP, 1 / step)
        if (decision := rule.decide(step, estimate(snr(step)))) is not None:
            break
    # E crosses 30 where the SNR is 30 / 98, at 8.35 gradients; the looks are at 8 and 8 sqrt 2
    assert step * CHEAP == pytest.approx(8 * math.sqrt(2), abs=2 * CHEAP)
    assert decision.details["worth"] < 30


def test_the_sentence_says_whether_the_whole_interval_is_below():
    sure = decided(AutoSwitch(enough=30), estimate(0.1, low=0.05, high=0.2))[1]
    unsure = decided(AutoSwitch(enough=30), estimate(0.1, low=-0.5, high=0.7))[1]
    late = decided(AutoSwitch(enough=30), estimate(1.0, low=0.1, high=2.0))[1]
    assert "surely fewer than the 30" in sure.reason
    assert "probably fewer than the 30" in unsure.reason
    assert "not fewer than 30 as far as is known, but 16 gradients are the limit" in late.reason
    assert "E = 64 full-batch steps (95 % interval 11.6 to 85.3)" in late.reason
    for decision in (sure, unsure, late):
        assert "gradients of the fixed set are spent, on" in decision.reason
        assert "one more would buy 128 steps" in decision.reason
        names = {
            "worth",
            "worth_low",
            "worth_high",
            "direction_snr",
            "steps_per_gradient",
            "fall",
            "fall_error",
            "dry",
            "threshold",
            "spent",
            "limit",
        }
        assert names == set(decision.details)
    unknown = decided(AutoSwitch(enough=30), None)[1]
    assert "not known yet" in unknown.reason and unknown.details["worth"] is None


def test_a_window_that_is_not_full_decides_nothing():
    low = estimate(0.0, measurements=WINDOW - 1)
    assert decided(AutoSwitch(enough=30, least=8, most=16), low)[0] * CHEAP == 16
    assert decided(AutoSwitch(enough=30, least=8, most=16), estimate(0.0))[0] * CHEAP == 8


def test_a_loss_that_no_longer_falls_ends_the_phase_although_a_swing_looks_like_signal():
    """At the noise floor of many cheap steps E stays high, and only the loss tells."""
    swing = estimate(1.0, low=0.9, high=1.1)
    rule = lambda dry: AutoSwitch(enough=30, least=8, most=16, dry=dry)
    step, decision = decided(rule(0.05), swing, fall=0.0)
    assert step * CHEAP == 2  # at the first look, long before the least that E has to wait for
    assert decision.details["worth"] == 64 and decision.details["fall"] == pytest.approx(0, abs=1e-12)
    assert "worth E = 64" in decision.reason and ", but the loss no longer falls (" in decision.reason
    # the measure is a factor of e in cost: a loss that is a power of the cost is judged alike, early and late
    assert decided(rule(0.05), swing, fall=0.045)[0] * CHEAP == 2
    assert decided(rule(0.05), swing, fall=0.055)[0] * CHEAP == 16
    assert decided(rule(-math.inf), swing, fall=0.0)[0] * CHEAP == 16


def test_a_loss_that_stops_falling_later_ends_the_phase_then():
    rule, swing = AutoSwitch(enough=30, least=8, most=math.inf), estimate(1.0)
    for step in range(1, 10_000):
        rule.observe(CHEAP, math.exp(-0.1 * min(step * CHEAP, 20.0)))
        if (decision := rule.decide(step, swing)) is not None:
            break
    # the last quarter of the cost is flat from 20 / 0.75 = 26.7 on; the next look is at 32
    assert step * CHEAP == pytest.approx(32, abs=2 * CHEAP)
    assert decision.details["fall"] + decision.details["fall_error"] < 0.05


def test_a_fall_that_scatter_hides_is_waited_for():
    """Batch losses that scatter by a factor of 1.3: the fall must be low with its standard error added."""
    draw, at = torch.Generator().manual_seed(0), []
    for _ in range(20):
        rule, scatter = AutoSwitch(), torch.exp(0.3 * torch.randn(3000, generator=draw)).tolist()
        for step, factor in enumerate(scatter, 1):
            rule.observe(CHEAP, factor)
            if (decision := rule.decide(step, estimate(1.0))) is not None:
                break
        at.append(decision.details["spent"])
        low = decision.details["fall"] + decision.details["fall_error"] < decision.details["dry"]
        assert low or at[-1] >= rule.most
    assert sum(spent > 2.1 for spent in at) >= 5  # some have to wait
    assert sum(spent < 16 for spent in at) >= 10  # few for long


def test_few_losses_say_nothing_about_their_fall():
    """Eight gradients of four steps: 32 losses are no rate."""
    step, decision = decided(AutoSwitch(enough=1.0, least=8, most=9), clean(), cost=1 / 4, fall=0.0)
    assert step == 36 and decision.details["fall"] is None
    json.dumps(decision.details, allow_nan=False)


def test_between_looks_nothing_is_decided():
    rule = AutoSwitch(enough=30, least=8, most=16)
    for step in range(1, 8 * 128 + 2):
        rule.observe(CHEAP, 1 / step)
    assert rule.decide(1025, estimate(10.0)) is None and rule.looked
    rule.observe(CHEAP, 1 / 1026)
    assert rule.decide(1026, estimate(0.0)) is None and not rule.looked


def test_the_most_and_the_least_hold_however_the_costs_add_up():
    for cost in (1 / 128, 1 / 100, 1 / 10, 1 / 3, 1.0):
        far = decided(AutoSwitch(enough=0.0, least=8, most=16), estimate(1e9), cost=cost)
        assert far[0] * cost == pytest.approx(16, abs=cost)
        near = decided(AutoSwitch(enough=1e9, least=8, most=16), estimate(1e9), cost=cost)
        assert near[0] * cost == pytest.approx(8, abs=cost)
    assert decided(AutoSwitch(enough=0.0, most=math.inf), estimate(1e9)) is None


def test_the_batch_grows_at_a_look_and_only_there():
    noise = estimate(0.001, low=-0.01, high=0.02)
    for rule, looks in ((AutoSwitch(), [2, 2.828, 4, 5.657]), (ProgressSwitch(), [4, 5.657])):
        grown = []
        for step in range(1, 6 * 128):
            rule.observe(CHEAP, 1.0)
            rule.decide(step, noise)
            if rule.next_batch(128, 16384, noise, 19.0) != 128:
                grown.append(step * CHEAP)
        assert grown == pytest.approx(looks, abs=2 * CHEAP)
    for rule in (SnrSwitch(), FixedSwitch(3)):
        rule.observe(CHEAP, 1.0)
        assert rule.next_batch(128, 16384, noise, 19.0) == 128


def test_growth_lowers_the_ceiling_of_worth():
    """Where noise drowns the direction, growth and hand-over come of the same estimate."""
    rule, noise = AutoSwitch(enough=30, least=8, most=math.inf), estimate(1.0, low=0.2, high=0.9)
    assert decided(rule, noise, steps=10 * 128) is None
    assert rule.worth(noise).high == pytest.approx(128 * 0.9 / 1.9)
    batch = grown_batch(128, 16384, noise)
    assert batch == 256
    rule.observe(batch / 16384, 1.0)
    assert rule.worth(None).high == 64


@pytest.mark.parametrize("make", [AutoSwitch, ProgressSwitch, SnrSwitch])
def test_a_rule_goes_on_from_its_state(make):
    """Saved half way, as JSON, and taken back by another: the same decision at the same step."""
    losses = [math.exp(-0.001 * step) for step in range(6000)]
    noise = estimate(0.9, low=0.1, high=2.0)

    def run(rule, first):
        for step, loss in enumerate(losses[first:], first):
            rule.observe(CHEAP, loss)
            if step % 10 == 9 and (decision := rule.decide(step + 1, noise)) is not None:
                return step, decision
        return None

    whole, half, other = make(), make(), make()
    for step, loss in enumerate(losses[:777]):
        half.observe(CHEAP, loss)
        if step % 10 == 9:
            assert half.decide(step + 1, noise) is None
    other.restore(json.loads(json.dumps(half.state())))
    assert run(other, 777) == run(whole, 0)


def test_every_rule_is_known_by_name():
    assert type(rule_for("auto")) is AutoSwitch
    assert type(rule_for("progress")) is ProgressSwitch
    assert type(rule_for("snr")) is SnrSwitch
    assert type(rule_for(7)) is FixedSwitch
    own = AutoSwitch(enough=5.0)
    assert rule_for(own) is own
    with pytest.raises(InputError, match="'auto', 'progress', 'snr'"):
        rule_for("soon")


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
            if step % 10 == 9 and rule.decide(step + 1, estimate(snr, 0.0, 2.0)):
                return step
        return None

    falling = [math.exp(-0.01 * k) for k in range(3000)]
    flat = [1.0] * 3000
    assert run(0.5, falling) is None
    assert run(5.0, flat) is None
    assert run(0.5, flat) is not None


def test_the_batch_grows_when_noise_drowns_the_direction():
    assert grown_batch(32, 1024, estimate(0.2, 0.0, 0.8)) == 64
    assert grown_batch(32, 1024, estimate(0.2, 0.0, 0.8), averaging=19.0) == 32
    assert grown_batch(32, 1024, estimate(0.01, 0.0, 0.04), averaging=19.0) == 64
    assert grown_batch(32, 1024, estimate(0.2, 0.0, 1.2)) == 32
    assert grown_batch(256, 1024, estimate(0.2, 0.0, 0.8)) == 256


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


class Noisy(sciml.Problem):
    """Least squares with noisy values: 8 unknowns, 4096 rows."""

    size = 4096

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.rows = torch.randn(self.size, 8, generator=draw, dtype=torch.float64)
        self.values = self.rows.sum(1) + torch.randn(self.size, generator=draw, dtype=torch.float64)

    def sample(self, size: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = slice(None) if size is None else torch.randperm(self.size, generator=generator)[:size]
        return self.rows[chosen], self.values[chosen]

    def loss(self, model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Float[Tensor, ""]]:
        return {"misfit": (model(batch[0])[:, 0] - batch[1]).square().mean()}


class Kept(SwitchRule):
    """Decides nothing, and remembers what it was told."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, float]] = []

    def observe(self, cost, loss):
        pass

    def decide(self, step, noise):
        return None

    def next_batch(self, batch, fixed_set, noise, averaging):
        self.batches.append((batch, fixed_set, averaging))
        return 2 * batch if step_of(self) == 3 else batch

    def state(self):
        return {}

    def restore(self, state):
        pass


def step_of(rule):
    return len(rule.batches)


def solved(phase, rule):
    model = torch.nn.Linear(8, 1, bias=False).double()
    torch.nn.init.zeros_(model.weight)
    return sciml.solve(Noisy(), model, [phase, sciml.LBFGS(steps=2)], switch=rule, seed=0)


@pytest.mark.parametrize(
    ("phase", "averaging"),
    [
        (sciml.Adam(steps=60), 19.0),
        (sciml.SGD(lr=1e-3, momentum=0.5, steps=60), 3.0),
        (sciml.SGD(lr=1e-3, steps=60), 1.0),
    ],
)
def test_the_loop_tells_every_rule_its_averaging_and_lets_it_choose_the_batch(phase, averaging):
    rule = Kept()
    history = solved(phase, rule).history
    assert rule.averaging == pytest.approx(averaging)
    assert [batch for batch, *_ in rule.batches[:5]] == [128, 128, 128, 256, 256]
    assert {told for *_, told in rule.batches} == {rule.averaging}
    noise = [record for record in history if record["kind"] == "noise"]
    assert noise
    for record in noise:  # worth is recorded whatever the rule
        share = averaging * record["snr"] / (1 + averaging * record["snr"]) if record["snr"] > 0 else 0
        assert record["worth"] == pytest.approx(4096 / record["batch"] * share)
        assert 0 <= record["worth_low"] <= record["worth"] <= record["worth_high"] <= 4096 / record["batch"]


def test_a_batch_that_was_given_is_kept():
    rule = Kept()
    solved(sciml.Adam(steps=60, batch=64), rule)
    assert rule.batches == []


def test_the_record_of_the_default_hand_over_holds_what_decided():
    solution = solved(sciml.Adam(lr=1e-3), "auto")
    record = solution.switch[0]
    details = record["details"]
    # 32 steps for a gradient, and one that is nearly all signal: 8 to 16 gradients, whatever the draw
    assert 8 <= details["spent"] <= 16.5
    assert details["steps_per_gradient"] == pytest.approx(4096 / record["batch"])
    assert details["threshold"] == AutoSwitch().enough
    assert details["worth_low"] <= details["worth"] <= details["worth_high"]
    assert f"E = {details['worth']:.3g} full-batch steps" in record["reason"]
    assert details["direction_snr"] == pytest.approx(19 * record["snr"])
