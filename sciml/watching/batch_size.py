"""The batch of a stochastic phase: how large its first one is, and when it grows."""

from sciml.watching.noise import WINDOW, NoiseEstimate


def grown_batch(batch: int, fixed_set: int, noise: NoiseEstimate | None, averaging: float = 1.0) -> int:
    """Twice the batch when noise drowns the direction and the set allows it, else the same batch.

    Noise drowns the direction when the upper bound of the direction's SNR is below 1. An SNR below 1 in single batches
    is the normal state of a method that averages.

    Args:
        batch: items of a step.
        fixed_set: items of the set; a batch takes at most a quarter of it.
        noise: of the batch's gradient.
        averaging: the SNR of the direction relative to that of the gradient. It is (1 + b) / (1 - b) for a running
            average over the steps with factor b.
    """
    high = None if noise is None or noise.measurements < WINDOW else noise.high
    return 2 * batch if high is not None and high * averaging < 1 and 2 * batch <= fixed_set // 4 else batch


def first_batch(declared: int, batch: int | None, suggested: int | None, micro_batches: int, finite: bool) -> int:
    """Items of a stochastic phase's first step: a multiple of its micro-batches, or the whole of a finite set.

    Args:
        declared: items of the fixed set before it grows.
        batch: the batch that the caller asked for, or None.
        suggested: the batch that the problem suggests; None takes a quarter of the set, 32 to 128 items.
        micro_batches: parts in which the noise is measured. The whole set is not cut: it has no sampling noise.
        finite: whether the set is all there is; the batch is then no larger.
    """
    size = batch or suggested or min(max(declared // 4, 32), 128)
    if finite:
        if (batch or 0) >= declared:
            return declared
        size = min(size, declared)
    return max(size // micro_batches, 1) * micro_batches
