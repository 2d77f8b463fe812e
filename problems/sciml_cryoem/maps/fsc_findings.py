"""What a reader must know about the FSC of two half maps before believing its resolution."""

import numpy as np
from jaxtyping import Float

from sciml.findings import Finding
from sciml_cryoem.maps.fsc import GOLD_STANDARD, FSCCurves, last_shell_before

_LAST = 0.1  # share of the shells, the finest, in which the FSC of half maps should have fallen


def fsc_findings(curves: FSCCurves, curve: str = "corrected") -> list[Finding]:
    """What is odd about the FSC of two half maps.

    Args:
        curves: of the half maps.
        curve: which of them gives the resolution.
    """
    values = getattr(curves, curve)
    last = last_shell_before(values, GOLD_STANDARD)
    found = []
    if last <= 1:
        what = "The half maps do not correlate: this map holds no reproducible signal."
        found.append(Finding(what, "FSC", "severe", "Look at poses, CTF and contrast of the images."))
    elif finding := stays_high(values, 2 * curves.pixel_size):
        found.append(finding)
    shell = min(max(last, curves.randomized_from + 2), len(values) - 1)
    # Before the first random phases the mask takes no part in the resolution.
    if curves.mask_is_tight and curve != "unmasked" and last > curves.randomized_from:
        what = (
            f"The mask is too tight: with random phases it correlates the halves by {curves.randomized[shell]:.2f} at "
            f"the resolution (more than 0.1)."
        )
        found.append(Finding(what, "mask", "warning", "Widen it, or soften its edge."))
    return found


def stays_high(curve: Float[np.ndarray, " shells"], nyquist: float) -> Finding | None:
    """A finding if an FSC has not fallen below 0.143 at Nyquist, so that it gives no resolution; else None.

    Args:
        curve: an FSC.
        nyquist: Angstrom.
    """
    tail = float(curve[-max(2, round(_LAST * len(curve))) :].mean())
    below = last_shell_before(curve, GOLD_STANDARD) < len(curve) - 1
    if below and tail < GOLD_STANDARD:
        return None
    what = f"The FSC is {tail:.2f} in the last shells, up to Nyquist ({nyquist:.3g} Angstrom): it gives no resolution."
    remedy = "Look for images that both halves share, or a mask that is in both maps; else use smaller pixels."
    return Finding(what, "FSC", "severe" if tail > 0.5 else "warning", remedy)
