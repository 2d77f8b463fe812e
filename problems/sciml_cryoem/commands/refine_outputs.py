"""What a refinement leaves: the final maps from its poses, how far to trust them, files and figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from sciml.errors import InputError
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.imaging import rotations
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.poses.pose_error import PoseError, pose_error
from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
from sciml_cryoem.reconstruction.direct import Reconstruction, reconstruct
from sciml_cryoem.refinement.half_agreement import CLEAR
from sciml_cryoem.refinement.image_set import RefineOptions
from sciml_cryoem.refinement.refine import Refined
from sciml_cryoem.validation.directional_fsc import ConicalFSC, conical_fsc
from sciml_cryoem.validation.local_resolution import LocalResolution, local_resolution
from sciml_cryoem.validation.orientation_diagnostics import OrientationDiagnostics, diagnose
from sciml_cryoem.validation.uncertainty import Uncertainty, uncertainty

if TYPE_CHECKING:
    from sciml.runs.run import Run

JUNK = 0.5
"""Weight below which an image is called junk and left out of the final maps."""


@dataclass(frozen=True)
class Outcome:
    """Maps, their diagnostics, and the refinement behind them.

    Attributes:
        refined: poses and record.
        result: half maps, full map, FSC. spread: its posterior standard deviation.
        junk: images that fit the map in no pose found. kept_anyway: whether they had to be used.
        views: orientation diagnostics of the images used. cones: FSC by direction.
        region: the molecule, where local resolution means something: the mask given, or one found in the map.
        local: local resolution; `local_quantiles` its 5th, 50th and 95th percentile inside the mask.
        error: distance to the poses of the input; None if it had none.
        symmetry: point group.
    """

    refined: Refined
    result: Reconstruction
    spread: Uncertainty
    junk: Bool[np.ndarray, " images"]
    kept_anyway: bool
    views: OrientationDiagnostics
    cones: ConicalFSC
    region: Float[np.ndarray, "n n n"]
    local: LocalResolution
    error: PoseError | None
    symmetry: str

    @property
    def shared(self) -> float:
        """Angstrom to which the halves share the reference."""
        particles = self.refined.particles
        return particles.box * particles.pixel_size / self.refined.iterations[0].radius

    @property
    def resolution(self) -> float:
        """Angstrom, FSC 0.143 of the half maps, corrected for the mask. No finer than what the halves share if it ends
        within two shells of that: a mask carries the agreement of shared shells into the next."""
        found, extent = self.result.prior.curves.resolution(), self.shared * self.refined.iterations[0].radius
        return max(found, self.shared) if extent / found < self.refined.iterations[0].radius + CLEAR else found

    @property
    def local_quantiles(self) -> tuple[float, float, float]:
        """Local resolution of the molecule: 5th percentile, median, 95th percentile, Angstrom."""
        return self.local.quantiles(self.region)


def conclude_maps(particles: Particles, refined: Refined, options: RefineOptions) -> Outcome:
    """Maps and diagnostics from refined poses: one more pass over the images, at full size.

    Args:
        particles: as they came in; if they have poses, the refined ones are compared with these.
        refined: what the refinement found.
        options: that it ran with; its settings say how the maps are made.

    Raises:
        InputError: no mask can be found in the map (mask="auto").
    """
    group = point_group(options.symmetry)
    posed = refined.particles
    junk = refined.poses.weights < JUNK
    kept, kept_anyway = _without(posed, junk)
    result = reconstruct(kept, ReconstructOptions(options.seed, options.symmetry, options.mask, options.settings))
    half1, half2 = result.half1, result.half2
    sphere = soft_sphere(posed.box)
    views = diagnose(kept.rotations[:, 2], group=group)
    cones = conical_fsc(half1, half2, posed.pixel_size, sphere if result.prior.mask is None else result.prior.mask)
    local = local_resolution(half1, half2, posed.pixel_size)
    error = _error(particles, refined, junk, group) if particles.has_poses else None
    spread = uncertainty(result)
    region = _region(result, options.mask)
    return Outcome(refined, result, spread, junk, kept_anyway, views, cones, region, local, error, options.symmetry)


def _region(result: Reconstruction, asked: str | np.ndarray) -> np.ndarray:
    """The molecule: its mask, or one found in the half maps; the sphere where none can be found."""
    box, pixel_size = result.half_sums.box, result.half_sums.pixel_size
    if result.prior.mask is not None and not (isinstance(asked, str) and asked == "sphere"):
        return result.prior.mask
    lowpass = 1.3 * result.prior.curves.resolution(0.5)
    try:
        return AutomaticMask(lowpass).find(0.5 * (result.half1 + result.half2), pixel_size)
    except InputError:
        return soft_sphere(box)


def _without(posed: Particles, junk: np.ndarray) -> tuple[Particles, bool]:
    """The set less its junk, unless a half set would then be left with fewer than two images."""
    if not junk.any():
        return posed, False
    assert posed.random_subset is not None
    left = posed.random_subset[~junk]
    if min(int((left == half).sum()) for half in (1, 2)) < 2:
        return posed, True
    return posed.select(np.flatnonzero(~junk)), False


def _error(particles: Particles, refined: Refined, junk: np.ndarray, group: np.ndarray) -> PoseError:
    """Against the poses of the input, over rotation, shift, hand and symmetry of the map; offsets in Angstrom."""
    posed = refined.particles
    found = rotations.matrices(posed.angles_deg)
    return pose_error(particles.rotations, particles.origins, found, posed.origins, ~junk, group)


def write(folder: Path, outcome: Outcome) -> dict[str, Path]:
    """The files of a reconstruction, local resolution, and the poses of all images.

    Raises:
        OSError: a file cannot be written.
    """
    from sciml_cryoem.commands.outputs import write_outputs
    from sciml_cryoem.files.mrc import write_volume

    posed = outcome.refined.particles
    written = write_outputs(folder, posed, outcome.result, outcome.spread)
    written["locres"] = write_volume(folder / "run_locres.mrc", outcome.local.resolution, posed.pixel_size)
    return written


def draw(run_folder: "Run", outcome: Outcome) -> None:
    """All figures of the report."""
    from sciml_cryoem.figures.maps import draw_fsc, draw_slices
    from sciml_cryoem.figures.search import draw_junk, draw_pose_errors, draw_refinement
    from sciml_cryoem.figures.trust import draw_conical_fsc, draw_local_resolution, draw_orientation_sphere

    particles, result = outcome.refined.particles, outcome.result
    pixel_size, curves = particles.pixel_size, result.prior.curves
    shown = {"unmasked": curves.unmasked}
    if result.prior.mask is not None:
        shown = {"corrected": curves.corrected, "masked": curves.masked, **shown, "random phases": curves.randomized}
    caption = f"FSC of the half maps: {curves.resolution():.2f} Å at 0.143 ({next(iter(shown))})."
    draw_fsc(run_folder.figure("fsc", caption), shown, curves.box, pixel_size)
    draw_slices(run_folder.figure("slices", "Central slices of the final map."), result.full, pixel_size)
    caption = "Central slices of the posterior standard deviation; brighter is less certain."
    draw_slices(run_folder.figure("uncertainty", caption), outcome.spread.std, pixel_size)
    low, middle, high = outcome.local_quantiles
    caption = f"Local resolution of the molecule: {middle:.2f} Å (median), {low:.2f} to {high:.2f} Å (5 to 95 %)."
    path = run_folder.figure("local_resolution", caption)
    draw_local_resolution(path, outcome.local, result.full, outcome.region)
    caption = "Course of the refinement: resolution reached and used, and how far poses still moved."
    extent = particles.box * pixel_size
    draw_refinement(run_folder.figure("iterations", caption), outcome.refined.iterations, extent)
    caption = f"View directions: {outcome.views.verdict(outcome.cones.cfar)}."
    draw_orientation_sphere(run_folder.figure("views", caption), outcome.views)
    caption = f"FSC of the half maps by direction: conical FSC area ratio {outcome.cones.cfar:.2f}."
    draw_conical_fsc(run_folder.figure("conical_fsc", caption), outcome.cones)
    caption = f"Weights of the images: {int(outcome.junk.sum()):,} of {len(particles):,} fit the map in no pose found."
    draw_junk(run_folder.figure("junk", caption), outcome.refined.poses.weights, JUNK)
    if outcome.error is not None:
        hand = "the opposite hand, " if outcome.error.flipped else ""
        caption = (
            "Distance of the refined poses from those of the input file. What no image can tell is taken out first: "
            f"{hand}one rotation and one shift of the map, found from the two pose sets alone."
        )
        draw_pose_errors(run_folder.figure("pose_errors", caption), outcome.error, pixel_size)
