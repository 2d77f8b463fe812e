"""`sciml cryoem reconstruct`: a map from particles with known poses, with half maps, FSC and uncertainty."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sciml import distributed
from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.commands.options import ImageOptions

if TYPE_CHECKING:
    from sciml.runs.run import Run
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.reconstruction.accumulation import HalfSetSums, ReconstructOptions
    from sciml_cryoem.reconstruction.direct import Reconstruction
    from sciml_cryoem.validation.uncertainty import Uncertainty

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """Reconstruct a density from particles with known poses."""

    solver: Literal["direct", "stochastic"] = "direct"
    """direct: one pass over the images, then a division; stochastic: watched gradient steps on mini-batches."""
    symmetry: str = "C1"
    """Point group (direct solver only): C1, C2, ..., D2, ..., T, O, I1 to I4, with the axes where RELION has them."""
    mask: str = "auto"
    """For final map and resolution: auto (found in the map), sphere (radius 0.42 of the box), none, or a map (MRC)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the direct solver on the CPU (memory-bound, no start-up), the stochastic one on a GPU."""
    dry_run: bool = False
    """Say what memory, reading and time it would take; compute and write nothing."""


def run(options: Options) -> int:
    """Run the command.

    Returns:
        0; 3 when the stochastic solver did not converge, or the images show one view only (the outputs are written).

    Raises:
        InputError: bad input; nothing was written.
        OSError: an output cannot be written.
    """
    from sciml.command_line.console import DONE, conclude
    from sciml.runs.run import Run
    from sciml_cryoem.commands.outputs import OUTPUTS, write_outputs
    from sciml_cryoem.commands.parts import image_progress, mask_file, peak_rss_mb, undone_if_refused
    from sciml_cryoem.reconstruction.accumulation import accumulate
    from sciml_cryoem.validation.uncertainty import uncertainty

    began = time.monotonic()
    particles = options.read(("poses", "halves"))
    engine = _engine_options(options, particles)
    if options.dry_run:
        from sciml_cryoem.commands.memory_plan import plan_reconstruct, show_plan

        show_plan(plan_reconstruct(particles, engine, options.solver), options.json)
        return DONE
    files = options.files(particles, OUTPUTS, mask_file(options.mask))
    run_folder = Run.create(options.out, options=options, overwrite=options.overwrite, files=files)
    with undone_if_refused(run_folder), image_progress("insertion", len(particles)) as watch:
        half_sums = accumulate(particles, engine, watch)
    _say_noise(half_sums)
    if options.solver == "direct":
        distributed.followers_leave()
    result, extra = _solve(options, particles, engine, half_sums, run_folder)
    distributed.followers_leave()
    spread = uncertainty(result)
    outputs = write_outputs(run_folder.path, particles, result, spread)
    _draw(run_folder, particles, result, spread)
    summary = {
        **_summary(options, particles, result, spread),
        "findings": _findings(result),
        "switch": [],
        **extra,
        "seconds": time.monotonic() - began,
        "peak_rss_mb": peak_rss_mb(),
        "outputs": outputs,
    }
    return conclude(run_folder, summary, json=options.json)


def _findings(result: "Reconstruction") -> list[Finding]:
    """What to know about images and map."""
    from sciml_cryoem.poses.contrast import advice

    note = advice(result.full)
    return [*result.findings, *([Finding(note)] if note else [])]


def _summary(
    options: Options, particles: "Particles", result: "Reconstruction", spread: "Uncertainty"
) -> dict[str, Any]:
    return {
        "result": result.result,
        "particles": len(particles),
        "box": particles.box,
        "pixel_size": particles.pixel_size,
        "resolution_0143": result.resolution,
        "resolution_0143_unmasked": result.curves.resolution(curve="unmasked"),
        "noise_rms": spread.noise,
        "noise_rms_predicted": spread.predicted_noise,
        "missing_signal_rms": spread.missing,
        "symmetry": options.symmetry,
        "solver": options.solver,
    }


def _engine_options(options: Options, particles: "Particles") -> "ReconstructOptions":
    """The options in the terms of the engine, checked against the particles.

    Raises:
        InputError: an unknown point group, a mask that does not fit, or a GPU that is not there.
    """
    from sciml_cryoem.commands.parts import chosen_device, read_mask_option
    from sciml_cryoem.imaging.symmetry import point_group
    from sciml_cryoem.reconstruction.accumulation import ReconstructOptions

    if len(point_group(options.symmetry)) > 1 and options.solver == "stochastic":
        raise InputError(
            f"--symmetry {options.symmetry}: the stochastic solver knows no symmetry; use --solver direct."
        )
    device = chosen_device(options.device, gpu_pays=options.solver == "stochastic")
    return ReconstructOptions(
        seed=options.seed,
        symmetry=options.symmetry,
        mask=read_mask_option(options.mask, particles.box),
        settings=options.settings(device),
    )


def _solve(
    options: Options, particles: "Particles", engine: "ReconstructOptions", half_sums: "HalfSetSums", run_folder: "Run"
) -> tuple["Reconstruction", dict[str, Any]]:
    """The maps, and the entries of the summary that depend on the solver."""
    from sciml_cryoem.reconstruction.direct import regularize

    if options.solver == "direct":
        return regularize(half_sums, engine), {}
    from sciml_cryoem.reconstruction.stochastic import agreement, reconstruct_stochastic

    found = reconstruct_stochastic(particles, engine, run_folder, half_sums=half_sums)
    covered = found.reconstruction.half_sums.coverage.enough
    return found.reconstruction, {
        "result": found.result.name if covered else found.reconstruction.result,
        "switch": found.switch,
        "evaluations": sum(solution.evaluations for solution in found.solutions.values()),
        "agreement_with_direct": agreement(found.reconstruction),
    }


def _draw(run_folder: "Run", particles: "Particles", result: "Reconstruction", spread: "Uncertainty") -> None:
    from sciml_cryoem.figures.maps import draw_fsc, draw_orientations, draw_slices

    curves = result.prior.curves
    shown = {"unmasked": curves.unmasked}
    if result.prior.mask is not None:
        shown = {"corrected": curves.corrected, "masked": curves.masked, **shown, "random phases": curves.randomized}
    caption = f"FSC of the half maps: {curves.resolution():.2f} Å at 0.143 ({next(iter(shown))})."
    draw_fsc(run_folder.figure("fsc", caption), shown, curves.box, curves.pixel_size)
    draw_slices(run_folder.figure("slices", "Central slices of the final map."), result.full, particles.pixel_size)
    caption = "Central slices of the posterior standard deviation; brighter is less certain."
    draw_slices(run_folder.figure("uncertainty", caption), spread.std, particles.pixel_size)
    draw_orientations(run_folder.figure("views", "View directions of the particles."), particles.angles_deg)


def _say_noise(half_sums: "HalfSetSums") -> None:
    """Report what was done to the images besides subtracting their background."""
    noise = half_sums.noise
    if noise.note:
        _say(noise.note)
    if noise.reference is not None:
        _say(f"noise levels differ by {noise.spread:.0%} between images; each image is scaled to the median level.")


def _say(text: str) -> None:
    from sciml.command_line.console import say

    say(f"reconstruct: {text}")
