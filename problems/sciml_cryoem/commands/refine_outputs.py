"""Files and figures that a refinement leaves."""

from pathlib import Path
from typing import TYPE_CHECKING

from sciml_cryoem.commands import outputs
from sciml_cryoem.refinement.conclusion import JUNK, RefinedMaps

if TYPE_CHECKING:
    from sciml.runs.run import Run

OUTPUTS = (*outputs.OUTPUTS, "run_locres.mrc")
"""Names of all that `write` writes."""


def write(folder: Path, maps: RefinedMaps) -> dict[str, Path]:
    """The files of a reconstruction, local resolution, and the poses of all images.

    Raises:
        OSError: a file cannot be written.
    """
    from sciml_cryoem.files.mrc import write_map

    posed = maps.particles
    written = outputs.write_outputs(folder, posed, maps.reconstruction, maps.uncertainty)
    written["locres"] = write_map(folder / "run_locres.mrc", maps.local.resolution, posed.pixel_size)
    return written


def draw(run_folder: "Run", maps: RefinedMaps) -> None:
    """All figures of the report."""
    from sciml_cryoem.figures.maps import draw_fsc, draw_slices
    from sciml_cryoem.figures.search import draw_junk, draw_pose_errors, draw_refinement
    from sciml_cryoem.figures.trust import draw_conical_fsc, draw_local_resolution, draw_orientation_sphere

    particles, result = maps.particles, maps.reconstruction
    pixel_size, curves = particles.pixel_size, result.prior.curves
    shown = {"unmasked": curves.unmasked}
    if result.prior.mask is not None:
        shown = {"corrected": curves.corrected, "masked": curves.masked, **shown, "random phases": curves.randomized}
    caption = f"FSC of the half maps: {curves.resolution():.2f} Å at 0.143 ({next(iter(shown))})."
    draw_fsc(run_folder.figure("fsc", caption), shown, curves.box, pixel_size)
    draw_slices(run_folder.figure("slices", "Central slices of the final map."), result.full, pixel_size)
    caption = "Central slices of the posterior standard deviation; brighter is less certain."
    draw_slices(run_folder.figure("uncertainty", caption), maps.uncertainty.std, pixel_size)
    low, middle, high = maps.local_quantiles
    caption = f"Local resolution of the molecule: {middle:.2f} Å (median), {low:.2f} to {high:.2f} Å (5 to 95 %)."
    path = run_folder.figure("local_resolution", caption)
    draw_local_resolution(path, maps.local, result.full, maps.molecule)
    caption = "Course of the refinement: resolution reached and used, and how far poses still moved."
    extent = particles.box * pixel_size
    draw_refinement(run_folder.figure("iterations", caption), maps.iterations, extent)
    caption = f"View directions: {maps.orientation.verdict(maps.cones.cfar)}."
    draw_orientation_sphere(run_folder.figure("views", caption), maps.orientation)
    caption = f"FSC of the half maps by direction: conical FSC area ratio {maps.cones.cfar:.2f}."
    draw_conical_fsc(run_folder.figure("conical_fsc", caption), maps.cones)
    caption = f"Weights of the images: {int(maps.junk.sum()):,} of {len(particles):,} fit the map in no pose found."
    draw_junk(run_folder.figure("junk", caption), maps.refined.poses.weights, JUNK)
    if maps.pose_error is not None:
        hand = "the opposite hand, " if maps.pose_error.flipped else ""
        caption = (
            "Distance of the refined poses from those of the input file. What no image can tell is taken out first: "
            f"{hand}one rotation and one shift of the map, found from the two pose sets alone."
        )
        draw_pose_errors(run_folder.figure("pose_errors", caption), maps.pose_error, pixel_size)
