"""`sciml cryoem refine`: poses and two independent half maps from a reference, to the limit of the data."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciml import distributed
from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.commands.options import ImageOptions

if TYPE_CHECKING:
    import numpy as np

    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.refinement.conclusion import RefinedMaps
    from sciml_cryoem.refinement.half_maps import Iteration
    from sciml_cryoem.refinement.refine import Refined


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """Gold-standard refinement: poses and half maps from a reference map, halves apart from the first iteration."""

    reference: Path
    """Start map (MRC), of any box and pixel size; all that is shared by the halves is its density below
    --start-resolution."""
    start_resolution: float | None = None
    """Angstrom to which the reference is filtered. Default: 10 Fourier shells of a particle that fills the box."""
    symmetry: str = "C1"
    """Point group: C1, C2, ..., D2, ..., T, O, I1 to I4; the axes of the reference lie where RELION has them."""
    mask: str = "auto"
    """For final map and resolution: auto (found in the map), sphere (radius 0.42 of the box), none, or a map (MRC)."""
    iterations: int = 15
    """At most; it ends by itself when resolution and poses have come to rest."""
    defocus: bool = False
    """Refine the defocus of every particle as well, about the value in the file, once the map reaches 11 Angstrom (at
    300 kV); the new values go to run_data.star."""
    scratch: Path | None = None
    """Folder on a fast disk: the images are copied there once, as float16, read from there in every iteration, and
    removed at the end."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where poses are searched and polished, and the final maps summed; auto: a GPU if there is one and 1,000 images or
    more, else the CPU."""
    dry_run: bool = False
    """Say what memory, reading and time it would take; compute and write nothing."""


def run(options: Options) -> int:
    """Run the command.

    Returns:
        0; 3 when it had not come to rest after the last iteration (the outputs are written).

    Raises:
        InputError: bad input; nothing was written.
        OSError: an output cannot be written.
        KeyboardInterrupt: the user stopped it; the same command goes on.
    """
    from sciml.command_line.console import DONE, conclude
    from sciml.runs.run import Run
    from sciml_cryoem.commands.parts import mask_file, undone_if_refused
    from sciml_cryoem.commands.refine_outputs import OUTPUTS, draw, write
    from sciml_cryoem.refinement.conclusion import conclude as conclude_maps
    from sciml_cryoem.refinement.refine import refine

    began = time.monotonic()
    particles, start, engine = _read(options)
    if options.dry_run:
        from sciml_cryoem.commands.memory_plan import plan_refine, show_plan

        show_plan(plan_refine(particles, engine), options.json)
        return DONE
    files = options.files(particles, OUTPUTS, [options.reference, *mask_file(options.mask)])
    run_folder = Run.create(options.out, options=options, overwrite=options.overwrite, files=files)
    with ExitStack() as leaving:
        with undone_if_refused(run_folder):
            particles = _on_scratch(options, particles, leaving)
            stage = run_folder.stage("refine")
            refined = refine(particles, start, engine, lambda record: _say_iteration(particles, record), stage)
        maps = conclude_maps(particles, refined, engine)
    distributed.followers_leave()
    outputs = write(run_folder.path, maps)
    draw(run_folder, maps)
    summary = {
        **_summary(maps),
        "findings": _findings(options, maps),
        **_records(maps),
        **_costs(began),
        "outputs": outputs,
    }
    return conclude(run_folder, summary, json=options.json)


def _read(options: Options) -> "tuple[Particles, np.ndarray, Any]":
    """Particles, the reference on their grid, and the engine's options, all checked.

    Raises:
        InputError: see `run`.
    """
    from sciml_cryoem.commands.parts import (
        PAYS,
        batch_mb,
        check_number,
        chosen_device,
        read_mask_option,
    )
    from sciml_cryoem.files.reference_map import read_reference
    from sciml_cryoem.imaging.symmetry import point_group
    from sciml_cryoem.refinement.image_set import RefineOptions

    point_group(options.symmetry)
    if options.iterations < 1:
        raise InputError(f"--iterations {options.iterations}: give at least 1.")
    if options.defocus and not options.ctf:
        raise InputError("--defocus: without a CTF (--no-ctf) there is none; leave out one of the two.")
    particles = options.read(("halves",))
    check_number(particles)
    _check_start_resolution(options.start_resolution, particles)
    device = chosen_device(options.device, gpu_pays=len(particles) >= PAYS)
    mask = read_mask_option(options.mask, particles.box)
    start, note = read_reference(options.reference, particles.box, particles.pixel_size)
    if note:
        _say(f"{note}.")
    engine = RefineOptions(
        seed=options.seed,
        start_resolution=options.start_resolution,
        diameter=options.diameter,
        symmetry=options.symmetry,
        iterations=options.iterations,
        defocus=options.defocus,
        mask=mask,
        settings=options.settings(device, batch_mb=batch_mb(device)),
    )
    return particles, start, engine


def _on_scratch(options: Options, particles: "Particles", leaving: ExitStack) -> "Particles":
    """The particles with a copy of their images on the scratch disk, which is removed on leaving."""
    from sciml_cryoem.commands.parts import image_progress
    from sciml_cryoem.files.scratch import copy_images, scratch_file

    if options.scratch is None:
        return particles
    path = scratch_file(options.scratch, options.out)
    if distributed.leader():
        leaving.callback(path.unlink, missing_ok=True)
    with image_progress("copy", len(particles)) as watch:
        return copy_images(path, particles, watch)


def _check_start_resolution(resolution: float | None, particles: "Particles") -> None:
    extent = particles.box * particles.pixel_size
    if resolution is not None and not 2 * particles.pixel_size < resolution <= extent / 3:
        raise InputError(
            f"--start-resolution {resolution:g}: give Angstrom between {2 * particles.pixel_size:g} (Nyquist) and "
            f"{extent / 3:.4g} (a third of the box)."
        )


def _summary(maps: "RefinedMaps") -> dict[str, Any]:
    curves, particles = maps.reconstruction.prior.curves, maps.particles
    return {
        "result": maps.refined.solution.result.name,
        "particles": len(particles),
        "box": particles.box,
        "pixel_size": particles.pixel_size,
        "resolution_0143": maps.resolution,
        "resolution_05": curves.resolution(threshold=0.5),
        "resolution_0143_unmasked": curves.resolution(curve="unmasked"),
        "junk": int(maps.junk.sum()),
        "cfar": maps.cones.cfar,
        "local_resolution": dict(zip(("p5", "median", "p95"), maps.local_quantiles, strict=True)),
        "noise_rms": maps.uncertainty.noise,
        "missing_signal_rms": maps.uncertainty.missing,
        "symmetry": maps.symmetry,
        "defocus": _defocus(maps.refined),
    }


def _defocus(refined: "Refined") -> dict[str, float] | None:
    """How far defoci came to lie from the values in the file, Angstrom; None where they were not refined."""
    import numpy as np

    poses = refined.poses
    done = (poses.defocus_deviation > 0) & (poses.weights >= 0.5)
    if not done.any():
        return None
    offset = poses.defocus[done]
    return {
        "rms_change": float(np.sqrt(np.mean(np.square(offset)))),
        "mean_change": float(offset.mean()),
        "median_deviation": float(np.median(poses.defocus_deviation[done])),
    }


def _records(maps: "RefinedMaps") -> dict[str, Any]:
    """Orientation, errors of poses, and what happened in which iteration."""
    refined = maps.refined
    extent = refined.particles.box * refined.particles.pixel_size
    rows = [
        {
            "iteration": record.number + 1,
            "images": record.images,
            "searched": record.searched,
            "compared_to": extent / record.radius,
            "resolution_0143": record.resolution,
            "turn_deg": None if record.number == 0 else record.turn_deg,
            "move_pixels": None if record.number == 0 else record.move,
            "junk": record.junk,
            "log_likelihood": record.log_likelihood,
        }
        for record in refined.iterations
    ]
    error = None
    if maps.pose_error is not None:
        error = {**maps.pose_error.summary, "unit_of_shift": "Angstrom", "against": "the poses of the input file"}
    orientation = {**maps.orientation.summary(), "cfar": maps.cones.cfar}
    orientation["verdict"] = maps.orientation.verdict(maps.cones.cfar)
    return {"orientation": orientation, "pose_error": error, "iterations": rows, "switch": refined.solution.switch}


def _findings(options: Options, maps: "RefinedMaps") -> list[Finding]:
    """What to know about images, refinement and maps."""
    import numpy as np

    refined, last = maps.refined, maps.iterations[-1]
    state = "came to rest" if refined.converged else "had NOT come to rest when it had to end (--iterations)"
    findings = [
        *maps.findings,
        Finding(
            f"Half maps agree to {maps.resolution:.2f} Angstrom (FSC 0.143, corrected for the mask). They share "
            f"nothing but the reference below {maps.shared:.1f} Angstrom and a mask of that resolution. The "
            f"refinement {state} after {len(refined.iterations)} iterations; poses then turned by {last.turn_deg:.2g} "
            f"degrees (median).",
            severity="note",
        ),
    ]
    if maps.resolution >= maps.shared:
        findings.append(Finding("That is no further than what they share: the images have added no resolution."))
    if refined.tells_nothing:
        findings.append(
            Finding(
                f"The images say next to nothing about the map: half of its projections explain less than "
                f"{np.median(refined.poses.expected):.1f} in log-likelihood, which the best of many poses explains of "
                f"pure noise. Poses and junk cannot be told.",
                severity="severe",
            )
        )
    if maps.junk_kept:
        findings.append(Finding("Without junk a half set would be too small, so the maps hold it after all."))
    return [*findings, *(Finding(text, severity="note") for text in _remarks(options, maps))]


def _remarks(options: Options, maps: "RefinedMaps") -> list[str]:
    """What else is good to know, a sentence each."""
    particles = maps.particles
    sentences = ["The hand of the map is that of the reference; the images cannot tell it."]
    junk = int(maps.junk.sum())
    share = f"{junk:,} of {len(particles):,} images ({junk / len(particles):.1%})"
    sentences.append(
        f"{share} fit the map in no pose found (weight below 0.5: junk, or a particle whose pose was missed) and are "
        f"left out of the maps."
        if junk
        else "No image looks like junk; all are in the maps."
    )
    if options.defocus:
        changed = _defocus(maps.refined)
        sentences.append(
            "The resolution reached does not tell the defocus of a particle; it is that of the file."
            if changed is None
            else f"Defoci differ from those of the file by {changed['rms_change']:.0f} Angstrom (rms; mean "
            f"{changed['mean_change']:.0f}); a single one is known to {changed['median_deviation']:.0f} Angstrom."
        )
    sentences.append(f"Orientations: {maps.orientation.verdict(maps.cones.cfar)}.")
    if maps.pose_error is not None:
        error = maps.pose_error.summary
        hand = ", of the opposite hand" if maps.pose_error.flipped else ""
        sentences.append(
            f"Poses differ from those of the input file by {error['median_deg']:.2f} degrees and "
            f"{error['median_shift'] / particles.pixel_size:.2f} pixels (medians), after one rotation and shift of the "
            f"map{hand}, which were found from the two pose sets alone."
        )
    return sentences


def _costs(began: float) -> dict[str, float]:
    from sciml_cryoem.commands.parts import peak_rss_mb

    return {"seconds": time.monotonic() - began, "peak_rss_mb": peak_rss_mb()}


def _say_iteration(particles: "Particles", record: "Iteration") -> None:
    how = "searched" if record.searched else "local"
    compared = particles.box * particles.pixel_size / record.radius
    moved = "" if record.number == 0 else f", poses turned by {record.turn_deg:.2g} degrees"
    _say(
        f"iteration {record.number + 1} ({record.images:,} images, {how}, to {compared:.1f} Angstrom): "
        f"FSC 0.143 at {record.resolution:.2f} Angstrom{moved}"
    )


def _say(text: str) -> None:
    from sciml.command_line.console import say

    say(f"refine: {text}")
