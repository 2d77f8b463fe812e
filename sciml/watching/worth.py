"""What stochastic steps are worth beside full-batch steps of the same cost, from the signal-to-noise ratio."""

import math
from dataclasses import dataclass

from sciml.watching.noise import NoiseEstimate


@dataclass(frozen=True)
class Worth:
    """What one gradient of the fixed set buys if it is spent on stochastic steps.

    Attributes:
        steps: it buys N / B of them.
        snr: of the gradient, rho; None if it has not been measured, infinite if there is no noise.
        direction_snr: of the direction that the steps take, rho_dir: `snr` times the update rule's averaging.
        value: E, in steps along the noiseless direction; None if the SNR has not been measured.
        low: of the interval of E; 0 if nothing is known.
        high: of the interval of E; N / B if nothing is known, for E is never above it.
    """

    steps: float
    snr: float | None
    direction_snr: float | None
    value: float | None
    low: float
    high: float

    def __str__(self) -> str:
        """The worth with its interval, as reports print it."""
        bought = f"one more would buy {self.steps:.3g} steps"
        if self.value is None or self.snr is None or self.direction_snr is None:
            return f"{bought} (the SNR of their direction is not known yet)"
        if math.isinf(self.snr):
            return f"{bought} without noise, worth E = {self.value:.3g} full-batch steps"
        return (
            f"{bought} along a direction with an SNR of {self.direction_snr:.3g} (a single gradient: {self.snr:.3g}), "
            f"together worth E = {self.value:.3g} full-batch steps (95 % interval {self.low:.3g} to {self.high:.3g})"
        )

    def numbers(self) -> dict[str, float | None]:
        """For the record of a decision; no SNR where there is no noise."""
        clean = self.snr is not None and math.isinf(self.snr)
        return {
            "worth": self.value,
            "worth_low": self.low,
            "worth_high": self.high,
            "direction_snr": None if clean else self.direction_snr,
            "steps_per_gradient": self.steps,
        }


def worth(noise: NoiseEstimate | None, steps: float, averaging: float = 1.0) -> Worth:
    """Full-batch steps that one gradient of the fixed set is worth if it is spent on stochastic steps:

        E = (N / B) rho_dir / (1 + rho_dir),    rho_dir = averaging rho.

    It buys N / B steps, and rho_dir / (1 + rho_dir) is the share of their direction (of its energy) that is signal. E
    rises with rho, so the interval of rho gives that of E; an SNR below zero is taken for zero, where E is zero too.

    Args:
        noise: what is known of the gradient; None for nothing yet.
        steps: N / B, items of the fixed set over items of a batch.
        averaging: of the update rule; (1 + b) / (1 - b) for an average over steps with factor b, 19 for Adam.
    """
    if noise is None:
        return Worth(steps, None, None, None, 0.0, steps)
    if noise.snr is None:  # the batch is the whole problem, or all of its items agree
        return Worth(steps, math.inf, math.inf, steps, steps, steps)
    of = lambda rho: steps * _share(averaging * rho)
    low, high = (0.0 if noise.low is None else of(noise.low)), (steps if noise.high is None else of(noise.high))
    return Worth(steps, noise.snr, averaging * noise.snr, of(noise.snr), low, high)


def _share(snr: float) -> float:
    """Of the energy that is signal."""
    return max(snr, 0.0) / (1.0 + max(snr, 0.0))
