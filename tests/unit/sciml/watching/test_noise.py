"""GradientNoise against closed forms: unbiasedness, finite populations, scale, regrouping, and the interval's
coverage."""

import math

import pytest
import torch

from sciml import InputError
from sciml.watching.noise import GradientNoise


def linear_gradients(theta, inputs, targets):
    """Per-sample gradients of (x'theta - y)^2 / 2, shape (samples, n)."""
    return (inputs @ theta - targets)[:, None] * inputs


def population(size=512, n=12, seed=0):
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, n, generator=stream, dtype=torch.float64)
    targets = inputs @ torch.ones(n, dtype=torch.float64) + torch.randn(size, generator=stream, dtype=torch.float64)
    return inputs, targets, stream


def test_signal_and_noise_of_least_squares_without_replacement_are_unbiased():
    inputs, targets, stream = population()
    theta = 0.95 * torch.ones(12, dtype=torch.float64)
    samples = linear_gradients(theta, inputs, targets)
    truth = float(samples.mean(0).square().sum())
    trace = float(samples.var(0, unbiased=True).sum())
    noise = GradientNoise(window=4000)
    batch, parts = 384, 8
    for _ in range(4000):
        chosen = torch.randperm(512, generator=stream)[:batch]
        noise.measure(list(samples[chosen].reshape(parts, -1, 12).mean(1)), batch, 512)
    estimate = noise.estimate()
    assert estimate is not None and estimate.snr is not None
    assert estimate.noise == pytest.approx(trace / batch, rel=0.02)
    assert estimate.signal == pytest.approx(truth, rel=0.05)
    # without the factor the signal would be off by phi * noise: the test must see that
    phi = 1 - batch / 512
    assert abs(estimate.signal + phi * estimate.noise - estimate.noise - truth) > 5 * 0.05 * truth
    assert estimate.snr == pytest.approx(truth / (phi * trace / batch), rel=0.06)


def test_full_batch_has_no_sampling_noise():
    inputs, targets, _ = population()
    samples = linear_gradients(torch.zeros(12, dtype=torch.float64), inputs, targets)
    noise = GradientNoise()
    measurement = noise.measure(list(samples.reshape(8, -1, 12).mean(1)), 512, 512)
    estimate = noise.estimate()
    assert measurement.phi == 0
    assert measurement.signal == pytest.approx(float(samples.mean(0).square().sum()), rel=1e-12)
    assert estimate is not None and estimate.snr is None


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_ratio_does_not_depend_on_the_scale_of_the_loss(scale):
    stream = torch.Generator().manual_seed(3)
    gradients = [list(torch.randn(4, 30, generator=stream, dtype=torch.float64) + 0.3) for _ in range(20)]
    plain, scaled = GradientNoise(), GradientNoise()
    for parts in gradients:
        plain.measure(parts, 64)
        scaled.measure([scale * g for g in parts], 64)
    a, b = plain.estimate(), scaled.estimate()
    assert a is not None and b is not None
    for name in ("snr", "low", "high", "critical_batch"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9)


def test_regrouping_the_same_samples_agrees_within_the_error():
    stream = torch.Generator().manual_seed(5)
    few, many = GradientNoise(window=500), GradientNoise(window=500)
    for _ in range(500):
        samples = 0.2 + torch.randn(64, 10, generator=stream, dtype=torch.float64)
        few.measure(list(samples.reshape(2, 32, 10).mean(1)), 64)
        many.measure(list(samples.reshape(16, 4, 10).mean(1)), 64)
    a, b = few.estimate(), many.estimate()
    assert a is not None and b is not None
    assert a.noise == pytest.approx(10 / 64, rel=0.1)
    assert a.noise == pytest.approx(b.noise, rel=0.1)
    assert a.signal == pytest.approx(b.signal, rel=0.1)


def test_no_signal_follows_the_f_distribution():
    """P / N ~ F(d, (K-1) d) for white noise: the 5 % tail must hold 5 %."""
    from scipy.stats import f

    stream = torch.Generator().manual_seed(7)
    d, parts, trials = 10, 4, 2000
    limit = f.ppf(0.95, d, (parts - 1) * d)
    exceeded = 0
    for _ in range(trials):
        m = GradientNoise(1).measure(list(torch.randn(parts, d, generator=stream, dtype=torch.float64)), parts)
        exceeded += m.mean_energy / m.noise > limit
    assert 0.035 < exceeded / trials < 0.065


def test_metric_operator_and_diagonal_agree():
    stream = torch.Generator().manual_seed(9)
    parts = list(torch.randn(4, 6, generator=stream, dtype=torch.float64))
    diagonal = torch.linspace(0.5, 2, 6, dtype=torch.float64)
    a = GradientNoise().measure(parts, 16, metric=diagonal)
    b = GradientNoise().measure(parts, 16, metric=lambda g: diagonal * g)
    c = GradientNoise().measure([g * diagonal.sqrt() for g in parts], 16)
    assert a.noise == pytest.approx(b.noise, rel=1e-14)
    assert a.noise == pytest.approx(c.noise, rel=1e-12)


@pytest.mark.parametrize(("d", "parts", "snr"), [(10, 4, 1.0), (40, 2, 0.0), (20, 8, 4.0)])
def test_interval_covers_the_truth(d, parts, snr):
    """Nominal 95 %, 500 trials: between 90 and 99 %."""
    stream = torch.Generator().manual_seed(11)
    mean = torch.full((d,), math.sqrt(snr / parts), dtype=torch.float64)  # noise energy of gbar is d / parts
    covered = 0
    for _ in range(500):
        noise = GradientNoise(window=20)
        for _ in range(20):
            noise.measure(list(mean + torch.randn(parts, d, generator=stream, dtype=torch.float64)), parts)
        estimate = noise.estimate()
        assert estimate is not None and estimate.low is not None and estimate.high is not None
        covered += estimate.low <= snr <= estimate.high
    assert 0.90 <= covered / 500 <= 0.99


def test_critical_batch_is_where_the_snr_is_one():
    stream = torch.Generator().manual_seed(13)
    noise = GradientNoise(window=2000)
    for _ in range(2000):
        samples = 0.1 + torch.randn(32, 5, generator=stream, dtype=torch.float64)
        noise.measure(list(samples.reshape(4, 8, 5).mean(1)), 32)
    estimate = noise.estimate()
    assert estimate is not None
    assert estimate.critical_batch == pytest.approx(5 / (5 * 0.01), rel=0.1)


def test_state_round_trip():
    noise, other = GradientNoise(), GradientNoise()
    stream = torch.Generator().manual_seed(1)
    for _ in range(25):
        noise.measure(list(torch.randn(3, 4, generator=stream)), 12, 100)
    other.restore(noise.state())
    assert other.estimate() == noise.estimate()


def test_refuses_what_cannot_be_measured():
    with pytest.raises(InputError, match="at least 2"):
        GradientNoise().measure([torch.ones(3)], 4)
    with pytest.raises(InputError, match="cannot come from"):
        GradientNoise().measure([torch.ones(3), torch.ones(3)], 20, 10)
    with pytest.raises(InputError, match="window"):
        GradientNoise(window=0)
