"""`sciml cryoem postprocess`: mask, corrected FSC, sharpening, and the files for a deposition, from two half maps."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from sciml.errors import InputError
from sciml.findings import Finding

if TYPE_CHECKING:
    from sciml.runs.run import Run
    from sciml_cryoem.files.table import Table
    from sciml_cryoem.postprocessing.deposition import Contour
    from sciml_cryoem.postprocessing.halves import HalfMaps
    from sciml_cryoem.postprocessing.postprocess import PostprocessOptions, PostprocessResult

Device = Literal["auto", "cpu", "cuda"]

OUTPUTS = (
    *("postprocess.mrc", "postprocess_masked.mrc", "mask.mrc", "postprocess.star", "fsc.xml", "postprocess_fsc.xml"),
    "deposition",
)
"""Names of all that the command writes."""


@dataclass(frozen=True)
class Options:
    """Mask, corrected FSC, sharpening and a deposition bundle from two half maps."""

    halves: tyro.conf.Positional[Path]
    """A run folder (ours or RELION's) with run_half1_class001_unfil.mrc, or the first half map itself."""
    out: Path | None = None
    """Folder of the results; `postprocess` beside the half maps if not given."""
    half2: Path | None = None
    """The second half map, where its name does not follow from that of the first."""
    mask: str = "auto"
    """auto (found in the map), sphere (radius 0.40 of the box), none, or a mask (MRC, 0 to 1)."""
    bfactor: Literal["auto", "masked", "none"] | float = "auto"
    """Angstrom^2, negative sharpens; auto: Guinier fit from 10 Angstrom on as in RELION, none where the map is worse
    than that; masked: the same fitted inside the mask, where solvent noise does not weaken it."""
    lowpass: float | None = None
    """Angstrom of the final filter, if not the resolution."""
    mass: float | None = None
    """Of the molecule, kDa: sets the suggested contour level."""
    pixel: float | None = None
    """Angstrom; needed where the headers do not know it."""
    seed: int = 0
    """Of the random phases that measure what the mask correlates."""
    device: Device = "auto"
    """Not used: this command runs on the CPU."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def run(options: Options) -> int:
    """Run the command.

    Returns:
        0.

    Raises:
        InputError: bad input; nothing was written.
        OSError: an output cannot be written.
    """
    from sciml.command_line.console import conclude, say
    from sciml.runs.beginning import Files
    from sciml.runs.run import Run
    from sciml_cryoem.commands.parts import mask_file, undone_if_refused
    from sciml_cryoem.postprocessing.deposition import suggest_contour, write_deposition
    from sciml_cryoem.postprocessing.halves import doubts, find_halves, read_halves
    from sciml_cryoem.postprocessing.postprocess import postprocess

    began = time.monotonic()
    paths = find_halves(options.halves, options.half2)
    halves = read_halves(paths, options.pixel)
    engine = _engine_options(options, halves)
    folder = options.out or paths[0].parent / "postprocess"
    files = Files([*paths, *mask_file(options.mask)], OUTPUTS)
    run_folder = Run.create(folder, options=options, overwrite=options.overwrite, files=files)
    with undone_if_refused(run_folder):
        result = postprocess(halves.first, halves.second, halves.pixel_size, engine)
    contour = suggest_contour(result.map, result.mask, halves.pixel_size, options.mass)
    findings = [*doubts(halves), *result.findings]
    say(f"postprocess: {result.sharpening}.")
    outputs = _write(run_folder.path, halves, result, options.mask)
    manifest = write_deposition(run_folder.path / "deposition", halves, result, contour)
    outputs["deposition"] = run_folder.path / "deposition"
    _draw(run_folder, halves, result, contour, options.bfactor == "masked")
    summary = _summary(halves, result, contour, findings)
    bundle = [{key: entry[key] for key in ("file", "what", "bytes")} for entry in manifest["files"]]
    summary |= {"deposition": bundle, "seconds": time.monotonic() - began, "outputs": outputs}
    return conclude(run_folder, summary, json=options.json)


def _engine_options(options: Options, halves: "HalfMaps") -> "PostprocessOptions":
    from sciml_cryoem.maps.masks import read_mask
    from sciml_cryoem.postprocessing.postprocess import PostprocessOptions

    if options.mass is not None and not 0.1 <= options.mass <= 1e6:
        raise InputError(f"--mass {options.mass:g}: give the mass of the molecule in kDa, 0.1 to 1,000,000.")
    mask: Any = options.mask
    if mask not in ("auto", "sphere", "none"):
        mask = read_mask(Path(options.mask), halves.box)
    return PostprocessOptions(mask, options.bfactor, options.lowpass, options.seed)


def _summary(
    halves: "HalfMaps", result: "PostprocessResult", contour: "Contour", findings: list[Finding]
) -> dict[str, Any]:
    curves, fits = result.curves, (result.guinier.fit, result.guinier_masked.fit)
    return {
        "result": "CONVERGED",
        "box": halves.box,
        "pixel_size": halves.pixel_size,
        "resolution_0143": result.resolution(),
        "resolution_05": result.resolution(0.5),
        "resolution_0143_unmasked": curves.resolution(curve="unmasked"),
        "resolution_0143_masked": curves.resolution(curve="masked"),
        "final_resolution": result.final_resolution,
        "fsc": result.chosen,
        "randomized_from": curves.box * curves.pixel_size / curves.randomized_from,
        "bfactor": result.filter.bfactor,
        "bfactor_fitted": fits[0] and fits[0].bfactor,
        "bfactor_fitted_error": fits[0] and 4.0 * fits[0].error,
        "bfactor_fitted_masked": fits[1] and fits[1].bfactor,
        "bfactor_fitted_masked_error": fits[1] and 4.0 * fits[1].error,
        "sharpening": result.sharpening,
        "lowpass": result.filter.resolution,
        "mask_fraction": float(result.mask.mean()),
        "mask_is_tight": curves.mask_is_tight,
        "contour": contour.level,
        "contour_rms": contour.rms,
        "contour_volume": contour.volume,
        "contour_reason": contour.reason,
        "findings": findings,
    }


def _write(folder: Path, halves: "HalfMaps", result: "PostprocessResult", mask: str) -> dict[str, Path]:
    """The files under the names of RELION's postprocess, and fsc.xml as every command here writes it."""
    from sciml_cryoem.files.mrc import write_map
    from sciml_cryoem.files.table import quote
    from sciml_cryoem.maps.fsc_files import write_fsc_star, write_fsc_xml

    pixel_size, box = halves.pixel_size, halves.box
    maps = {
        "map": ("postprocess.mrc", result.map),
        "masked": ("postprocess_masked.mrc", result.map * result.mask),
        "mask": ("mask.mrc", result.mask),
    }
    written = {name: write_map(folder / file, volume, pixel_size) for name, (file, volume) in maps.items()}
    general = {
        "rlnFinalResolution": f"{result.final_resolution:.6f}",
        "rlnBfactorUsedForSharpening": f"{result.filter.bfactor:.6f}",
        "rlnUnfilteredMapHalf1": quote(str(halves.paths[0])),
        "rlnUnfilteredMapHalf2": quote(str(halves.paths[1])),
        "rlnMaskName": quote("mask.mrc" if mask in ("auto", "sphere", "none") else mask),
    }
    fit = result.guinier.fit
    if fit is not None:
        general |= {
            "rlnFittedSlopeGuinierPlot": f"{fit.slope:.6f}",
            "rlnFittedInterceptGuinierPlot": f"{fit.intercept:.6f}",
            "rlnCorrelationFitGuinierPlot": f"{fit.correlation:.6f}",
        }
    table = _guinier_table(result)
    written["star"] = write_fsc_star(folder / "postprocess.star", result.curves, general, table)
    title = f"FSC of the half maps, {'masked, corrected' if result.chosen == 'corrected' else 'unmasked'}"
    for name, file in {"fsc": "fsc.xml", "postprocess_fsc": "postprocess_fsc.xml"}.items():
        written[name] = write_fsc_xml(folder / file, result.curve, box, pixel_size, title)
    return written


def _guinier_table(result: "PostprocessResult") -> "Table":
    from sciml_cryoem.files.table import make_table

    guinier = result.guinier
    columns = {
        "rlnResolutionSquared": [f"{value:.6g}" for value in guinier.inverse_square],
        "rlnLogAmplitudesOriginal": [f"{value:.6f}" for value in guinier.original],
        "rlnLogAmplitudesWeighted": [f"{value:.6f}" for value in guinier.weighted],
    }
    if result.filter.bfactor:
        values = guinier.sharpened(result.filter.bfactor)
        columns["rlnLogAmplitudesSharpened"] = [f"{value:.6f}" for value in values]
    if guinier.fit is not None:
        columns["rlnLogAmplitudesIntercept"] = [f"{guinier.fit.intercept:.6f}"] * len(guinier.original)
    return make_table("guinier", columns)


def _draw(run_folder: "Run", halves: "HalfMaps", result: "PostprocessResult", contour: "Contour", masked: bool) -> None:
    from sciml.runs.files import write_atomic
    from sciml_cryoem.figures.maps import draw_fsc, draw_guinier, draw_slices

    curves, pixel_size = result.curves, halves.pixel_size
    shown = {"corrected": curves.corrected, "unmasked": curves.unmasked, "masked": curves.masked}
    shown["random phases"] = curves.randomized
    caption = (
        f"FSC of the half maps: {result.resolution():.2f} Å at 0.143 ({result.chosen}). Phases are random from "
        f"{curves.box * pixel_size / curves.randomized_from:.1f} Å on; what then correlates is the mask's doing."
    )
    draw_fsc(run_folder.figure("fsc", caption), shown, curves.box, pixel_size)
    where = "inside the mask" if masked else "without mask, as RELION has it"
    caption = f"Guinier plot of the mean of the half maps, {where}: {result.sharpening}."
    plot = result.guinier_masked if masked else result.guinier
    draw_guinier(run_folder.figure("guinier", caption), plot, result.filter.bfactor, result.final_resolution)
    caption = "Central slices of the final map; the outline is the mask at 0.5."
    draw_slices(run_folder.figure("slices", caption), result.map, pixel_size, result.mask)
    caption = "Central slices of the mean of the half maps, as they came."
    draw_slices(run_folder.figure("before", caption), 0.5 * (halves.first + halves.second), pixel_size)
    caption = f"The final map at {contour.level:.4g} ({contour.rms:.1f} rms), seen along z: the level {contour.reason}."
    picture = (run_folder.path / "deposition" / "image.png").read_bytes()
    write_atomic(run_folder.figure("surface", caption), picture)
