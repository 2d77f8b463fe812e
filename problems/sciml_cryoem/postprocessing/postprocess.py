"""From two half maps to a map that can be interpreted: mask, corrected FSC, weighting, sharpening, low-pass filter.

Functions on arrays; files and the command line are elsewhere. Definitions are those of `relion_postprocess` (see `fsc`
and `sharpening`), with two differences, both on the side of caution: the line of the Guinier plot ends at the
resolution (RELION's goes on for as long as the FSC is positive), and a map that does not reach 10 Angstrom is not
sharpened.

RELION's Guinier plot is that of the map without mask, its weights those of the FSC inside: what solvent noise is left
flattens the plot, and the fitted B-factor is too weak, the more so the smaller the molecule in its box (-77 and -93 in
simulations with -120). The plot of the masked map gives -128 and -136 there. Both are computed; RELION's is the
default, for it is what users compare with, and it errs on the side of too little.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.fft
from jaxtyping import Float

from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.maps.fsc import (
    GOLD_STANDARD,
    HALF_BIT,
    FSCCurves,
    corrected_fsc,
    fsc,
    last_shell_before,
    resolution,
)
from sciml_cryoem.maps.fsc_findings import fsc_findings
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.postprocessing.sharpening import (
    FEWEST_SHELLS,
    FIT_FROM,
    Guinier,
    MapFilter,
    fsc_weights,
    guinier_plot,
)


@dataclass(frozen=True)
class PostprocessOptions:
    """How half maps are postprocessed.

    Attributes:
        mask: "auto" (found in the map), "sphere" (radius 0.40 of the box), "none", or an array in 0 ... 1.
        bfactor: Angstrom^2, negative sharpens; "auto" fits it as RELION does, "masked" fits it to the map inside the
            mask, "none" leaves the amplitudes.
        lowpass: Angstrom; None takes the resolution.
        seed: of the random phases.
    """

    mask: Literal["auto", "sphere", "none"] | np.ndarray = "auto"
    bfactor: Literal["auto", "masked", "none"] | float = "auto"
    lowpass: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class PostprocessResult:
    """A postprocessed map, with the FSC and the plots behind it.

    Attributes:
        map: weighted, sharpened, low-passed mean of the half maps, not masked; float32.
        mask: in which the FSC was measured; 0 ... 1.
        curves: FSC without and with it.
        chosen: the curve that counts: "corrected", or "unmasked" where the mask made it worse.
        guinier: the Guinier plot of the mean of the half maps, with the line if one could be fitted.
        guinier_masked: the same inside the mask.
        filter: what was done to the mean of the half maps.
        sharpening: in words, where the B-factor comes from or why there is none.
        findings: what the reader must know.
    """

    map: Float[np.ndarray, "n n n"]
    mask: Float[np.ndarray, "n n n"]
    curves: FSCCurves
    chosen: Literal["corrected", "unmasked"]
    guinier: Guinier
    guinier_masked: Guinier
    filter: MapFilter
    sharpening: str
    findings: tuple[Finding, ...]

    @property
    def curve(self) -> Float[np.ndarray, " shells"]:
        """The FSC that counts."""
        return getattr(self.curves, self.chosen)

    @property
    def final_resolution(self) -> float:
        """Angstrom of the last shell before that curve falls below 0.143, as RELION states it."""
        return _reached(self.curves, self.chosen)

    def resolution(self, threshold: float = GOLD_STANDARD) -> float:
        """Angstrom at which the FSC that counts falls below a threshold, linear between shells."""
        return self.curves.resolution(threshold, self.chosen)


def postprocess(
    first: Float[np.ndarray, "n n n"],
    second: Float[np.ndarray, "n n n"],
    pixel_size: float,
    options: PostprocessOptions | None = None,
) -> PostprocessResult:
    """Postprocess two half maps.

    Args:
        first: a half map, unfiltered and unmasked.
        second: the other.
        pixel_size: Angstrom.
        options: mask, sharpening and filter.

    Raises:
        InputError: maps that are no cubes of one size or not finite, no molecule found for an automatic mask, a
            low-pass filter beyond Nyquist, a B-factor that is not a number.
    """
    options = options or PostprocessOptions()
    _check(first, second, options, pixel_size)
    average = 0.5 * (first + second)
    finder = _finder(first, second, pixel_size)
    mask = _mask(options.mask, average, finder, pixel_size)
    curves = corrected_fsc(first, second, mask, pixel_size, options.seed)
    shell = {name: last_shell_before(getattr(curves, name), GOLD_STANDARD) for name in ("corrected", "unmasked")}
    masking = bool(mask.min() < 1.0)
    chosen = "unmasked" if shell["unmasked"] > shell["corrected"] or not masking else "corrected"
    weights = fsc_weights(getattr(curves, chosen))
    reached = _reached(curves, chosen)
    spectrum = np.asarray(scipy.fft.rfftn(np.asarray(average, dtype=np.float32)))
    guinier = guinier_plot(spectrum, weights, pixel_size, reached)
    guinier_masked = guinier_plot(np.asarray(scipy.fft.rfftn(average * mask)), weights, pixel_size, reached)
    used = guinier_masked if options.bfactor == "masked" else guinier
    bfactor, sharpening = _bfactor(options.bfactor, used, reached)
    filters = MapFilter(weights, bfactor, options.lowpass or reached)
    return PostprocessResult(
        map=filters.apply(spectrum, pixel_size),
        mask=mask,
        curves=curves,
        chosen=chosen,
        guinier=guinier,
        guinier_masked=guinier_masked,
        filter=filters,
        sharpening=sharpening,
        findings=(
            *fsc_findings(curves, chosen),
            *_about_mask(chosen, mask),
            *_left_out(mask, average, finder, pixel_size),
        ),
    )


def _reached(curves: FSCCurves, curve: str) -> float:
    shell = last_shell_before(getattr(curves, curve), GOLD_STANDARD)
    return curves.box * curves.pixel_size / max(1, shell)


def _check(first: np.ndarray, second: np.ndarray, options: PostprocessOptions, pixel_size: float) -> None:
    mask = () if isinstance(options.mask, str) else (options.mask,)
    shapes = [array.shape for array in (first, second, *mask)]
    if len({size for shape in shapes for size in shape}) != 1:
        listed = ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise InputError(f"The half maps and the mask must be cubes of one size, not {listed}.")
    if options.lowpass is not None and not 2.0 * pixel_size <= options.lowpass < 1e4:
        raise InputError(
            f"A low-pass filter at {options.lowpass:g} Angstrom: give {2 * pixel_size:g} (Nyquist) or more."
        )
    if not isinstance(options.bfactor, str) and not abs(options.bfactor) <= 2000.0:
        raise InputError(f"A B-factor of {options.bfactor:g} Angstrom^2: give -2000 to 2000; negative sharpens.")


def _finder(first: Float[np.ndarray, "n n n"], second: Float[np.ndarray, "n n n"], pixel_size: float) -> AutomaticMask:
    # Noise in the corners of the box would hide how fine the map is.
    sphere = soft_sphere(len(first))
    known = resolution(fsc(first * sphere, second * sphere), len(first), pixel_size, HALF_BIT)
    return AutomaticMask.for_resolution(known, pixel_size)


def _mask(
    wanted: str | np.ndarray, average: Float[np.ndarray, "n n n"], finder: AutomaticMask, pixel_size: float
) -> Float[np.ndarray, "n n n"]:
    if not isinstance(wanted, str):
        return np.asarray(wanted, dtype=np.float32)
    if wanted == "none":
        return np.ones(average.shape, np.float32)
    return soft_sphere(len(average)) if wanted == "sphere" else finder.find(average, pixel_size)


def _left_out(
    mask: Float[np.ndarray, "n n n"], average: Float[np.ndarray, "n n n"], finder: AutomaticMask, pixel_size: float
) -> list[Finding]:
    """A finding if the mask cuts the molecule: the resolution of its best part is not that of the map."""
    try:
        region = finder.region(average, pixel_size)
    except InputError:  # too noisy to tell
        return []
    share = float((mask[region] < 0.5).mean())
    if share <= 0.05:
        return []
    what = f"The mask leaves out {share:.0%} of what rises above the solvent; the FSC says nothing about that."
    return [Finding(what, "mask", "warning", "Widen the mask, or name the part that the resolution is of.")]


def _bfactor(wanted: str | float, guinier: Guinier, reached: float) -> tuple[float, str]:
    """The B-factor to apply, and why in words."""
    if not isinstance(wanted, str):
        blurs = "; a positive one blurs the map" if wanted > 0 else ""
        return float(wanted), f"B-factor {wanted:g} Å² as given{blurs}"
    if wanted == "none":
        return 0.0, "not sharpened, as asked"
    if reached > FIT_FROM:
        why = f"the resolution of {reached:.1f} Å is worse than {FIT_FROM:g} Å, where a Guinier plot begins to be valid"
        return 0.0, f"not sharpened: {why}; give --bfactor to do it anyway"
    fit = guinier.fit
    if fit is None:
        count = int(guinier.fitted.sum())
        why = f"{count} shells from {FIT_FROM:g} to {reached:.1f} Å are fewer than the {FEWEST_SHELLS} of a fair line"
        return 0.0, f"not sharpened: {why}; give --bfactor to do it anyway"
    if fit.bfactor >= 0:
        return 0.0, f"not sharpened: the Guinier plot does not fall (B = {fit.bfactor:.0f} Å²)"
    how = f"{fit.shells} shells from {FIT_FROM:g} to {reached:.1f} Å, standard error {4 * fit.error:.0f}"
    return fit.bfactor, f"B-factor {fit.bfactor:.0f} Å² by Guinier fit ({how})"


def _about_mask(chosen: str, mask: Float[np.ndarray, "n n n"]) -> list[Finding]:
    found = []
    if chosen == "unmasked" and mask.min() < 1.0:
        what = "The mask makes the FSC worse than none; the unmasked curve is used, as RELION does."
        found.append(Finding(what, "mask", "warning", "Check the mask."))
    hard = float(((mask > 0.05) & (mask < 0.95)).sum() / max(1, (mask >= 0.95).sum()))
    if mask.min() < 0.5 and hard < 0.02:
        what = "The mask has a hard edge, which correlates the half maps."
        found.append(Finding(what, "mask", "warning", "Give it a soft edge of 5 voxels or more."))
    return found
