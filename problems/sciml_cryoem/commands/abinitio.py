"""`sciml cryoem abinitio`: a start map and poses from particle images alone."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciml import distributed
from sciml.errors import InputError
from sciml.findings import Finding
from sciml_cryoem.commands.options import ImageOptions

if TYPE_CHECKING:
    import numpy as np

    from sciml.runs.run import Run
    from sciml.runs.stage import Stage
    from sciml_cryoem.figures.search import MapSnapshot
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.files.table import Table
    from sciml_cryoem.initial_model.start_map import StartMap
    from sciml_cryoem.validation.orientation_diagnostics import OrientationDiagnostics

HAND = (
    "Projections are the same for a structure and its mirror image, so either hand comes out, by chance: {this}. Where "
    "a refined map shows left-handed helices, run this again with {flag}."
)


@dataclass(frozen=True, kw_only=True)
class Options(ImageOptions):
    """Find a start map and poses from particle images alone: no reference, no angles."""

    symmetry: str = "C1"
    """Point group imposed from the beginning: C1, C2, ..., D2, ..., T, O, I1 to I4 (RELION's settings)."""
    classes: int = 1
    """Maps that the images are shared out among."""
    starts: int = 4
    """Random starts that are raced at low resolution; the likeliest goes on."""
    flip_hand: bool = False
    """Write the mirror image of what is found, and its poses."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where images are searched and polished (small draws are left to the CPU, so that the map is the same); auto: a
    GPU if there is one and 1,000 images or more, else the CPU."""
    dry_run: bool = False
    """Say what memory, reading and time it would take; compute and write nothing."""


def run(options: Options) -> int:
    """Run the command.

    Returns:
        0; 3 when resolution had not come to rest (the outputs are written).

    Raises:
        InputError: bad input; nothing was written.
        OSError: an output cannot be written.
        KeyboardInterrupt: the user stopped it; the same command goes on.
    """
    from sciml.command_line.console import DONE, conclude
    from sciml.runs.run import Run
    from sciml_cryoem.commands.parts import image_progress, peak_rss_mb, undone_if_refused
    from sciml_cryoem.initial_model.start_map import abinitio

    began = time.monotonic()
    particles = _read(options)
    engine = _engine_options(options, particles)
    if options.dry_run:
        from sciml_cryoem.commands.memory_plan import plan_abinitio, show_plan

        show_plan(plan_abinitio(particles, engine), options.json)
        return DONE
    files = options.files(particles, [*map(_map_name, range(options.classes)), "run_data.star"])
    run_folder = Run.create(options.out, options=options, overwrite=options.overwrite, files=files)
    with undone_if_refused(run_folder), image_progress("images", len(particles)) as watch:
        emerging = EmergingMaps(run_folder.stage("abinitio"), particles)
        found = abinitio(particles, engine, run_folder, watch, emerging.keep)
    distributed.followers_leave()
    if options.flip_hand:
        found = flipped(found)
    views = _diagnose(found, options.symmetry)
    outputs = _write(run_folder.path, particles, found)
    _draw(run_folder, particles, found, views, emerging.moments())
    summary: dict[str, Any] = {
        "result": "CONVERGED" if found.settled else found.solution.result.name,
        "particles": len(particles),
        "box": particles.box,
        "pixel_size": particles.pixel_size,
        "resolution": found.resolution,
        "resolution_0143": None,  # of half maps, and there are none
        "log_likelihood": float(found.log_likelihood.mean()),
        "evaluations": found.solution.evaluations,
        "symmetry": options.symmetry,
        "hand": "flipped" if options.flip_hand else "as found",
        "findings": _findings(options, particles, found, views),
        "race": found.race,
        "classes": _class_rows(found),
        "orientation": views.summary(),
        "switch": found.solution.switch,
        "seconds": time.monotonic() - began,
        "peak_rss_mb": peak_rss_mb(),
        "outputs": outputs,
    }
    return conclude(run_folder, summary, json=options.json)


def _read(options: Options) -> "Particles":
    """The particles, and every option checked against them.

    Raises:
        InputError: see `run`.
    """
    from sciml_cryoem.commands.parts import check_number
    from sciml_cryoem.imaging.symmetry import point_group

    point_group(options.symmetry)
    for name, most in (("starts", 64), ("classes", 16)):
        given = getattr(options, name)
        if not 1 <= given <= most:
            raise InputError(f"--{name} {given}: give 1 to {most}.")
    particles = options.read(())
    check_number(particles)
    return particles


def _engine_options(options: Options, particles: "Particles") -> Any:
    """The engine's options.

    Raises:
        InputError: a GPU that is not there.
    """
    from sciml_cryoem.commands.parts import PAYS, batch_mb, chosen_device
    from sciml_cryoem.initial_model import start_map

    device = chosen_device(options.device, gpu_pays=len(particles) >= PAYS)
    return start_map.AbInitioOptions(
        seed=options.seed,
        starts=options.starts,
        classes=options.classes,
        symmetry=options.symmetry,
        diameter=options.diameter,
        settings=options.settings(device, batch_mb=batch_mb(device)),
    )


class EmergingMaps:
    """The maps of the first class as they emerge, kept beside the metrics so that a resumed run still has them all."""

    def __init__(self, stage: "Stage", particles: "Particles") -> None:
        self.folder = stage.path / "emerging"
        self.extent = particles.box * particles.pixel_size

    def keep(self, moment: str, maps: "np.ndarray", resolution: float) -> None:
        """Write a map; of several processes the leader does."""
        if not distributed.leader():
            return
        from sciml.runs.files import make_folder, to_json, write_atomic
        from sciml_cryoem.files.mrc import write_map

        make_folder(self.folder)
        known = self._known()
        file = known.get(moment, {}).get("file") or f"{len(known) + 1:02d}.mrc"
        write_map(self.folder / file, maps[0], self.extent / len(maps[0]))
        known[moment] = {"file": file, "resolution": resolution}
        write_atomic(self.folder / "moments.json", to_json(known, indent=1) + "\n")

    def _known(self) -> dict[str, Any]:
        from sciml.runs.files import read_json

        file = self.folder / "moments.json"
        return read_json(file) if file.exists() else {}

    def moments(self) -> "list[MapSnapshot]":
        """All maps written so far, in their order."""
        from sciml_cryoem.figures.search import MapSnapshot
        from sciml_cryoem.files.mrc import read_map

        return [
            MapSnapshot(moment, read_map(self.folder / kept["file"]).array, kept["resolution"])
            for moment, kept in self._known().items()
        ]


def flipped(found: "StartMap") -> "StartMap":
    """The start map of the other hand: inverted about its origin, which keeps every point group in its setting.

    V'(r) = V(-r) has, seen by H A with H = diag(-1, -1, 1), the projections that V has seen by A: psi + 180 degrees.
    """
    import numpy as np

    from sciml_cryoem.imaging.orientations import HALF_TURN

    axes = (1, 2, 3)
    maps = np.flip(found.maps, axes)
    if maps.shape[-1] % 2 == 0:  # the origin n // 2 stays
        maps = np.roll(maps, 1, axes)
    return replace(found, maps=np.ascontiguousarray(maps), rotations=HALF_TURN @ found.rotations)


def _diagnose(found: "StartMap", symmetry: str) -> "OrientationDiagnostics":
    from sciml_cryoem.imaging.symmetry import point_group
    from sciml_cryoem.validation.orientation_diagnostics import diagnose

    return diagnose(found.rotations[:, 2], group=point_group(symmetry))


def _class_rows(found: "StartMap") -> list[dict[str, Any]]:
    """How the images are shared out, a row for each map."""
    import numpy as np

    count = np.bincount(found.classes, minlength=len(found.maps))
    return [
        {"class": number + 1, "particles": int(own), "share": float(own / count.sum()), "map": _map_name(number)}
        for number, own in enumerate(count)
    ]


def _map_name(number: int) -> str:
    return f"run_class{number + 1:03d}.mrc"


def _write(folder: Path, particles: "Particles", found: "StartMap") -> dict[str, Path]:
    """Maps and poses."""
    from sciml_cryoem.files.mrc import write_map
    from sciml_cryoem.files.star import write_star

    written = {}
    for number, volume in enumerate(found.maps):
        name = "map" if number == 0 else f"map_class{number + 1:03d}"
        written[name] = write_map(folder / _map_name(number), volume, particles.pixel_size)
    written["data"] = write_star(folder / "run_data.star", data_tables(particles, found))
    return written


def data_tables(particles: "Particles", found: "StartMap") -> "list[Table]":
    """The tables of the input, every column kept, with poses, origins, class and likelihood of every image."""
    from sciml_cryoem.imaging.rotations import euler_angles

    angles = euler_angles(found.rotations)
    columns = {
        "rlnAngleRot": angles[:, 0],
        "rlnAngleTilt": angles[:, 1],
        "rlnAnglePsi": angles[:, 2],
        "rlnOriginXAngst": found.offsets[:, 0],
        "rlnOriginYAngst": found.offsets[:, 1],
        "rlnLogLikeliContribution": found.log_likelihood,
    }
    table = particles.table
    for label, values in columns.items():
        table = table.with_column(label, [f"{value:.6f}" for value in values])
    return [particles.optics, table.with_column("rlnClassNumber", [str(int(own) + 1) for own in found.classes])]


def _draw(
    run_folder: "Run",
    particles: "Particles",
    found: "StartMap",
    views: "OrientationDiagnostics",
    moments: "list[MapSnapshot]",
) -> None:
    from sciml_cryoem.figures.maps import draw_slices
    from sciml_cryoem.figures.search import draw_emergence
    from sciml_cryoem.figures.trust import draw_orientation_sphere

    for number, volume in enumerate(found.maps):
        which = f" of class {number + 1}" if len(found.maps) > 1 else ""
        caption = f"Central slices of the start map{which}, at {found.resolution:.1f} Å."
        draw_slices(run_folder.figure(f"slices{number + 1}", caption), volume, particles.pixel_size)
    caption = "The map as it emerges: middle slice above, projection along z below. The turn of each start is its own."
    draw_emergence(run_folder.figure("emergence", caption), moments)
    caption = f"View directions: {views.verdict()}."
    draw_orientation_sphere(run_folder.figure("views", caption), views)


def _findings(
    options: Options, particles: "Particles", found: "StartMap", views: "OrientationDiagnostics"
) -> list[Finding]:
    """What to know about images, search and map."""
    from sciml_cryoem.poses.contrast import advice

    count = len(found.maps)
    maps = "a start map" if count == 1 else f"{count} start maps"
    sentences = [
        f"{maps[0].upper()}{maps[1:]} at {found.resolution:.1f} Angstrom from {len(particles):,} images, without a "
        "reference and without angles. It is not filtered by an FSC: refine it to learn its resolution."
    ]
    kept = [row for row in found.race if row["kept"]]
    if len(found.race) > 1:
        rounds = max(row["round"] for row in found.race)
        starts = sum(row["round"] == 1 for row in found.race)
        winner = next(row["start"] for row in kept if row["round"] == rounds)
        sentences.append(
            f"Of {starts} random starts, start {winner} was kept: the images held out were likeliest under its map."
        )
    if count > 1:
        shares = ", ".join(f"{row['share']:.0%}" for row in _class_rows(found))
        sentences.append(f"The images are shared out among the classes as {shares}.")
    this = "this is the mirror image of what was found" if options.flip_hand else "this map may be the mirror image"
    flag = "--no-flip-hand" if options.flip_hand else "--flip-hand (the same words otherwise, another folder)"
    sentences.append(HAND.format(this=this, flag=flag))
    sentences.append(f"Orientations: {views.verdict()}.")
    findings = [*found.findings, *(Finding(text, severity="note") for text in sentences)]
    if note := advice(found.maps[0]):
        findings.append(Finding(note))
    if not found.settled:
        findings.append(Finding(f"It had not come to rest: {found.solution.switch[-1]['reason']}."))
    return findings
