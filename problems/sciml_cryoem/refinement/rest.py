"""When a refinement goes over from batches to all images, and when it has come to rest."""

from collections.abc import Sequence
from typing import Any

from sciml.watching.noise import NoiseEstimate
from sciml.watching.switching import Decision, SwitchRule
from sciml.watching.worth import worth
from sciml_cryoem.refinement.half_maps import HalfMaps, Iteration

RESTED = 0.2
"""Median turn of a step, over the median standard deviation of a pose, below which poses are at rest: a further step
would turn them by about a third of that, a two-hundredth of their variance."""
WORTH = 8.0
"""Steps on all images that a batch's step must be worth, per unit of cost, for batches to go on. A step on all images
costs N / B times as much, and leaves every image with a pose, which the next one has not to search for again."""


def settled(iterations: Sequence[Iteration]) -> bool:
    """Whether steps on all images have come to rest: poses hardly move, resolution does not gain, and a further step
    would compare the same shells.

    The first step that refines defocus is a new beginning: only the next uses it.
    """
    if len(iterations) < 2 or iterations[-1].searched:
        return False
    last, before = iterations[-1], iterations[:-1]
    if last.refocused and not before[-1].refocused:
        return False
    gained = last.resolution < 0.995 * min(record.resolution for record in before)
    return not gained and last.next_radius < last.radius + 0.5 and last.turn_deg < RESTED * last.pose_error_deg


class RefinementSwitch(SwitchRule):
    """Batches as long as they are worth it, then all images until they are at rest.

    Per unit of cost (a gradient over all images) a step on a batch of B of N images is worth E = (N / B) rho /
    (1 + rho) steps on all images: N / B steps for the price of one, each worth the share of its direction that is
    signal. Where noise drowns the direction (rho < 1), the batch is doubled; once E falls below `WORTH`, all images
    come in. rho is that of the latest step alone: a density has so many unknowns that one step tells it well, and the
    maps change too fast for a mean over several.

    Args:
        model: its record says what each step has reached.
        size: number of images.
    """

    ends_the_last = True

    def __init__(self, model: HalfMaps, size: int) -> None:
        self._model, self._size = model, size

    def limit(self, step: int) -> int | None:
        """Asked after every step: each is a pass over many images."""
        return 1

    def observe(self, cost: float, loss: float) -> None:
        """Nothing: the model's record says it."""

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Whether batches have had their time, or all images are at rest."""
        iterations = self._model.iterations
        if not iterations or step == 0:
            return None
        last = iterations[-1]
        if last.images == self._size:
            whole = [record for record in iterations if record.images == self._size]
            if not settled(whole):
                return None
            reason = (
                f"a pass without gain, after which no further shells would be compared; poses turned by "
                f"{last.turn_deg:.2g} degrees (median), and are known to {last.pose_error_deg:.2g}"
            )
            return Decision(reason, {"resolution": last.resolution, "turn_deg": last.turn_deg})
        now = worth(noise, self._size / last.images, self.averaging)
        if now.value is None or now.snr is None or now.value >= WORTH:
            return None
        reason = (
            f"the SNR of the gradient of {last.images:,} images is {now.snr:.3g}, so that steps on them are worth "
            f"{now.value:.2g} steps on all {self._size:,} images at equal cost (limit {WORTH:g})"
        )
        return Decision(reason, {**now.numbers(), "threshold": WORTH, "resolution": last.resolution})

    def next_batch(self, batch: int, fixed_set: int, noise: NoiseEstimate | None, averaging: float) -> int:
        """Twice as many images where noise drowns the direction."""
        drowned = noise is not None and noise.snr is not None and noise.snr < 1.0
        return min(2 * batch, fixed_set // 2 * 2) if drowned else batch

    def state(self) -> dict[str, Any]:
        """Nothing: the model holds it."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""
