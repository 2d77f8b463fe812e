"""`GradientNoise`: signal and noise of a stochastic gradient, measured without bias from micro-batches.

At one parameter vector, K disjoint micro-batches of equal size have mean gradients g_k, whose mean is gbar. In the
metric M

    P = ||gbar||^2,   Q = mean_k ||g_k||^2,   N = (Q - P) / (K - 1),   S = P - phi N,

N is unbiased for tr(M Sigma) / B (the noise energy of gbar under independent sampling), S is unbiased for
||grad F||^2, and phi = 1 - B / population is the finite-population factor of sampling without replacement (1 for a
stream). S may be negative and is never clamped. The signal-to-noise ratio over a window is the ratio of the window's
sums, never a mean of ratios:

    snr = sum S / (phi sum N),      critical batch = B sum N / sum S.

Source: McCandlish et al. 2018 (arXiv 1812.06162) for the noise scale; the interval is that of a ratio estimator.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.special import stdtrit
from torch import Tensor

from sciml.errors import InputError

WINDOW = 20
"""Measurements that an estimate rests on: intervals whose coverage is close to nominal."""

Metric = Callable[[Tensor], Tensor] | Tensor | None
"""A diagonal (tensor of shape (n,)), an operator on flat vectors, or None for the identity. Fixed before the batch is
seen."""


def energy(vector: Tensor, metric: Metric = None) -> Tensor:
    """The energy x' M x, accumulated in float64: a scalar tensor on the vector's device."""
    if metric is None:
        image = vector
    elif isinstance(metric, Tensor):
        image = metric * vector
    else:
        image = metric(vector)
    if vector.dtype == torch.float64:
        return torch.dot(vector, image)
    return torch.sum(vector.double() * image.double())


@dataclass(frozen=True)
class Measurement:
    """The statistic of one step.

    Attributes:
        mean_energy: P.
        micro_energy: Q.
        micro_batches: K.
        batch: items in all K micro-batches together.
        phi: the finite-population factor.
    """

    mean_energy: float
    micro_energy: float
    micro_batches: int
    batch: int
    phi: float

    @property
    def noise(self) -> float:
        """N, unbiased for tr(M Sigma) / batch."""
        return (self.micro_energy - self.mean_energy) / (self.micro_batches - 1)

    @property
    def signal(self) -> float:
        """S, unbiased for the squared norm of the true gradient; may be negative."""
        return self.mean_energy - self.phi * self.noise


@dataclass(frozen=True)
class NoiseEstimate:
    """The estimate over the window, for gradients of `batch` items.

    Attributes:
        snr: signal energy over noise energy of the batch gradient. None where it is not defined: the batch is the
            population.
        low: lower end of the confidence interval of `snr`; None with fewer than two measurements.
        high: upper end of it.
        critical_batch: the batch at which snr would be 1 in an endless stream, tr(Sigma) / ||grad F||^2. None if the
            estimate of the signal is not positive: the window cannot resolve it.
        signal: window mean of S.
        noise: window mean of tr(M Sigma) / batch.
        batch: items per gradient.
        measurements: steps in the window.
    """

    snr: float | None
    low: float | None
    high: float | None
    critical_batch: float | None
    signal: float
    noise: float
    batch: int
    measurements: int


class GradientNoise:
    """A window of measurements and the estimate over it.

    Args:
        window: measurements kept; with 20, the coverage of the intervals is close to nominal.
        confidence: two-sided level of the interval.
    """

    def __init__(self, window: int = WINDOW, confidence: float = 0.95) -> None:
        if window < 1 or not 0 < confidence < 1:
            raise InputError(f"window={window}, confidence={confidence}: need window >= 1 and 0 < confidence < 1")
        self.confidence = confidence
        self.measurements: deque[Measurement] = deque(maxlen=window)

    def measure(
        self, gradients: Sequence[Tensor], batch: int, population: int | None = None, metric: Metric = None
    ) -> Measurement:
        """Add one step's micro-batch gradients to the window.

        Args:
            gradients: K >= 2 mean gradients, each of shape (n,), of disjoint micro-batches of equal size, unclipped.
            batch: items in all K micro-batches together.
            population: number of items the batch was drawn from without replacement; None for a stream.
            metric: the metric M, chosen before the batch was drawn.

        Raises:
            InputError: fewer than two micro-batches, or a batch larger than the population.
        """
        parts = len(gradients)
        if parts < 2:
            raise InputError(f"{parts} micro-batch gradient given; the noise of a gradient needs at least 2")
        if population is not None and batch > population:
            raise InputError(f"a batch of {batch} items cannot come from {population} without replacement")
        mean = torch.stack(list(gradients)).mean(0)
        numbers = [energy(mean, metric), torch.stack([energy(g, metric) for g in gradients]).mean()]
        p, q = torch.stack(numbers).tolist()
        phi = 1.0 if population is None else 1.0 - batch / population
        measurement = Measurement(p, q, parts, batch, phi)
        self.measurements.append(measurement)
        return measurement

    def estimate(self) -> NoiseEstimate | None:
        """The estimate over the window at the latest batch size; None if nothing was measured."""
        if not self.measurements:
            return None
        last = self.measurements[-1]
        signals = [m.signal for m in self.measurements]
        noises = [m.noise * m.batch / last.batch for m in self.measurements]
        count = len(signals)
        signal, noise = math.fsum(signals) / count, math.fsum(noises) / count
        critical = last.batch * noise / signal if signal > 0 else None
        snr = low = high = None
        if last.phi > 0 and noise > 0:
            snr = signal / (last.phi * noise)
            if count >= 2:
                half = self._half_width(signals, noises, signal / noise) / last.phi
                low, high = snr - half, snr + half
        return NoiseEstimate(snr, low, high, critical, signal, noise, last.batch, count)

    def _half_width(self, signals: list[float], noises: list[float], ratio: float) -> float:
        """Half width of the interval of sum S / sum N by the residuals S_t - ratio N_t (Student t, W - 1 degrees of
        freedom)."""
        count = len(signals)
        residuals = [s - ratio * n for s, n in zip(signals, noises, strict=True)]
        variance = math.fsum(r * r for r in residuals) / (count - 1)
        mean_noise = math.fsum(noises) / count
        t = float(stdtrit(count - 1, 0.5 + self.confidence / 2))
        return t * math.sqrt(variance / count) / mean_noise

    def reset(self) -> None:
        """Forget the window: the batches or the metric have changed their meaning."""
        self.measurements.clear()

    def state(self) -> list[list[float]]:
        """The window as plain numbers, for a checkpoint."""
        return [[m.mean_energy, m.micro_energy, m.micro_batches, m.batch, m.phi] for m in self.measurements]

    def restore(self, state: list[list[float]]) -> None:
        """Go back to the window that `state` gave."""
        self.measurements.clear()
        for p, q, parts, batch, phi in state:
            self.measurements.append(Measurement(float(p), float(q), int(parts), int(batch), float(phi)))
