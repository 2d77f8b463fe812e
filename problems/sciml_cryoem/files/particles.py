"""`read_particles`: a RELION STAR file, 3.0 or 3.1, and its stacks, checked before anything is computed."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from sciml_cryoem.files.aberrations import check_aberrations
from sciml_cryoem.files.faults import FaultError, Faults
from sciml_cryoem.files.half_sets import Places, belonging_together, check_half_sets
from sciml_cryoem.files.mrc_header import Mode0
from sciml_cryoem.files.optics import (
    EXTRACT_JOB,
    Optics,
    from_relion30,
    missing_columns,
    one_pixel_size,
    rename_manual_labels,
    spread,
)
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.plausible import check_ctf, check_poses, check_set
from sciml_cryoem.files.stacks import Images, compare_pixel_sizes, locate, one_box
from sciml_cryoem.files.star import read_star
from sciml_cryoem.files.table import Table

__all__ = ["Need", "Particles", "read_particles"]

Need = Literal["poses", "ctf", "halves"]
ALL_NEEDS: tuple[Need, ...] = ("poses", "ctf", "halves")

_REFINE_JOB = "It is written by RELION's Refine3D or Class3D job."
_CTF_JOB = "It is written by RELION's CTF estimation job and carried over by Extract."
_ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
_log = logging.getLogger(__name__)


def read_particles(
    path: str | Path,
    datadir: str | Path | None = None,
    mode0: Mode0 = "auto",
    needs: Collection[Need] = ALL_NEEDS,
    class_number: int | None = None,
) -> Particles:
    """Read a particle STAR file and check everything that can be checked without reading pixels.

    RELION 3.0 tables are converted to 3.1. Relative stack paths are looked up beside the STAR file, under the working
    folder, under `datadir`, in the RELION project that holds the STAR file, and where the run that wrote it found them.
    Findings are kept, and logged unless they are only notes.

    Args:
        path: the STAR file.
        datadir: a further folder in which stacks may lie.
        mode0: how the bytes of 8-bit stacks are read; see `Mode0`.
        needs: what the caller cannot do without: "poses", "ctf", "halves" (two half sets of at least two particles).
            Only their values are checked for being plausible.
        class_number: read only the images of this class (rlnClassNumber).

    Raises:
        InputError: a fault; it names file and line, row or header field. `sciml cryoem check` lists all of them.
    """
    faults = Faults()
    source = Source(Path(path), Path(datadir) if datadir else None, mode0, class_number)
    particles = load(source, needs, faults)
    faults.raise_errors(path)
    if particles is None:
        raise AssertionError("no particles, and no fault says why")
    for finding in particles.findings:
        if finding.severity != "note":
            _log.warning("%s", finding)
    return particles


@dataclass(frozen=True)
class Source:
    """Which images, and how they are read. Fields as the arguments of `read_particles`."""

    path: Path
    datadir: Path | None = None
    mode0: Mode0 = "auto"
    class_number: int | None = None


def load(source: Source, needs: Collection[Need], faults: Faults) -> Particles | None:
    """`read_particles` that collects the faults instead of raising them; None when a fatal one was found."""
    path = source.path
    tables = find_tables(path, faults)
    if tables is None:
        return None
    optics_table, table = tables
    if source.class_number is not None:
        chosen = _of_class(table, source.class_number, faults)
        if chosen is None:
            return None
        table = chosen
    missing_columns(table, _wanted(needs), faults)
    optics = spread(optics_table, table, "ctf" in needs, faults)
    images = locate(table, source.datadir, source.mode0, faults)
    box = one_box(path, images, optics.values.get("rlnImageSize") if optics else None, faults) if images else 0
    pixel_size = one_pixel_size(path, optics, faults) if optics else 0.0
    if optics and "ctf" in needs:
        side = box or float(optics.values.get("rlnImageSize", np.zeros(1))[0])
        used = np.flatnonzero(np.isin(optics_table.integers("rlnOpticsGroup"), optics.group))
        check_aberrations(optics_table, used.tolist(), side * pixel_size, pixel_size, faults)
    if optics and images:
        compare_pixel_sizes(images, pixel_size, faults)
        optics_table = _with_image_size(optics_table, box)
    table = _origins_in_angstrom(table, optics, faults)
    columns = _columns(table, faults)
    subset = _random_subset(table, "halves" in needs, faults)
    if faults.errors or optics is None or images is None:
        return None
    particles = _assemble(path, box, pixel_size, _Parts(optics_table, table, optics, images, columns, subset))
    return _judged(particles, needs, faults)


def _judged(particles: Particles, needs: Collection[Need], faults: Faults) -> Particles | None:
    """The particles with the groups of those that belong together, and with all findings about their values."""
    where = Places(
        np.stack([particles.stack, particles.section], 1),
        _on_micrograph(particles),
        particles.box * particles.pixel_size,
    )
    together = belonging_together(particles.table, where, faults)
    check_set(particles, faults)
    if particles.has_ctf and "ctf" in needs:
        check_ctf(particles, faults)
    if particles.has_poses and "poses" in needs:
        check_poses(particles, faults)
    if "halves" in needs:
        check_half_sets(particles.table, particles.random_subset, together, faults)
    if faults.errors:
        return None
    return replace(particles, groups=together.groups, findings=faults.findings)


def _on_micrograph(particles: Particles) -> np.ndarray | None:
    """x and y of every particle on its micrograph, Angstrom; None where the table does not say.

    The pixel of the micrograph is taken for that of the images where the table has none.
    """
    table, optics = particles.table, particles.optics
    if "rlnCoordinateX" not in table or "rlnCoordinateY" not in table:
        return None
    pixel = particles.pixel_size
    try:
        places = np.stack([table.numbers("rlnCoordinateX"), table.numbers("rlnCoordinateY")], 1)
        for label in ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize"):
            if label in optics:
                pixel = float(optics.numbers(label)[0]) or pixel
                break
    except FaultError:
        return None  # columns that are needed for nothing else may hold anything
    unset = not np.ptp(places, axis=0).any()
    return None if unset else places * pixel - particles.origins


def _of_class(table: Table, number: int, faults: Faults) -> Table | None:
    """The rows of one class; None, with a fault, where there are none."""
    if "rlnClassNumber" not in table:
        fault = f"column rlnClassNumber is missing, and images of class {number} are wanted."
        faults.error(table.path, f"data_{table.name}", fault, "Leave out --class.")
        return None
    try:
        classes = table.integers("rlnClassNumber")
    except FaultError as error:
        faults.found.append(error.fault)
        return None
    rows = np.flatnonzero(classes == number)
    if not len(rows):
        listed = ", ".join(map(str, np.unique(classes)[:20].tolist()))
        fault = f"no row has rlnClassNumber {number}; there are {listed}."
        faults.error(table.path, f"data_{table.name}", fault, "Choose one of these with --class.")
        return None
    return table.select(rows)


def _wanted(needs: Collection[Need]) -> dict[str, str]:
    """Columns that must be there, and the job that makes each."""
    wanted: dict[str, str] = {}
    if "poses" in needs:
        wanted |= dict.fromkeys(map(str, _ANGLES), _REFINE_JOB)
    if "ctf" in needs:
        wanted |= dict.fromkeys(map(str, _DEFOCUS), _CTF_JOB)
    return wanted


def find_tables(path: Path, faults: Faults) -> tuple[Table, Table] | None:
    """The optics and the particle table, in the form of RELION 3.1."""
    try:
        tables = read_star(path)
    except FaultError as error:
        faults.found.append(error.fault)
        return None
    with_images = [table for table in tables.values() if "rlnImageName" in table]
    table = tables.get("particles") or next(iter(with_images), None)
    if _is_of_subtomograms(tables, table):
        fault = "this is a table of subtomograms (rlnTomo... columns), whose images are volumes or tilt stacks."
        faults.error(path, "", fault, "Use a program for subtomogram averaging; single-particle tables are read here.")
        return None
    if any(label.startswith("cisTEM") for one in tables.values() for label in one.columns):
        faults.error(path, "", "this is a table of cisTEM.", "Export the particles from cisTEM to RELION.")
        return None
    if table is None or "rlnImageName" not in table:
        name = f"data_{table.name}" if table is not None else "all blocks"
        fault = f"column rlnImageName is missing (blocks of the file: {', '.join(tables)})."
        faults.error(path, name, fault, EXTRACT_JOB)
        return None
    if len(table) == 0:
        faults.error(path, f"data_{table.name}", "the table has no rows.", "Name a STAR file with particles.")
        return None
    table = rename_manual_labels(table, faults)
    if "optics" in tables:
        return rename_manual_labels(tables["optics"], faults), table
    before = len(faults.errors)
    converted = from_relion30(table, faults)
    if converted is None and len(faults.errors) == before:
        fault = "neither data_optics (RELION 3.1) nor rlnDetectorPixelSize and rlnMagnification (3.0): no pixel size."
        faults.error(path, f"data_{table.name}", fault, EXTRACT_JOB)
    return converted


def _is_of_subtomograms(tables: dict[str, Table], table: Table | None) -> bool:
    """Whether a file holds subtomograms, of RELION 4 or 5, or of Warp; not where each row names one 2D image."""
    labels = {label for one in tables.values() for label in one.columns}
    if "rlnTomoSubTomosAre2DStacks" in labels:
        return True
    names = table.columns["rlnImageName"] if table is not None and "rlnImageName" in table else ()
    return any(label.startswith("rlnTomo") for label in labels) and not any("@" in name for name in names[:1])


def _with_image_size(optics: Table, box: int) -> Table:
    """Add the image size of each group, which RELION 3.1 needs."""
    count = len(optics)
    if "rlnImageSize" not in optics:
        optics = optics.with_column("rlnImageSize", [str(box)] * count)
    if "rlnImageDimensionality" not in optics:
        optics = optics.with_column("rlnImageDimensionality", ["2"] * count)
    return optics


def _origins_in_angstrom(table: Table, optics: Optics | None, faults: Faults) -> Table:
    """Origins in Angstrom. RELION 3.0 has them in pixels; where a file has both, those of RELION 3.1 count."""
    pixels = [f"rlnOrigin{axis}" for axis in "XY"]
    if optics and all(old in table and f"{old}Angst" not in table for old in pixels):
        try:
            for old in pixels:
                values = table.numbers(old) * optics.pixel_size
                table = table.with_column(f"{old}Angst", [f"{value:.6f}" for value in values])
        except FaultError as error:
            faults.found.append(error.fault)
            return table
        faults.note(table.path, f"data_{table.name}", "rlnOriginX, rlnOriginY (pixels) converted to Angstrom.")
    for stem in ("rlnOriginX", "rlnOriginY"):
        other = stem[:-1] + ("Y" if stem[-1] == "X" else "X")
        for ending in ("Angst", ""):
            if stem + ending in table and not {other, f"{other}Angst"} & set(table.columns):
                fault = f"column {other}{ending} is missing, while {stem}{ending} is there."
                faults.error(table.path, f"data_{table.name}", fault, "Add the other coordinate, or remove this one.")
    return table.without(pixels) if "rlnOriginXAngst" in table else table


def _columns(table: Table, faults: Faults) -> dict[str, np.ndarray]:
    """Every number column that is used and present; a value that is no number is a fault."""
    labels = (*_ANGLES, "rlnOriginXAngst", "rlnOriginYAngst", *_DEFOCUS)
    columns: dict[str, np.ndarray] = {}
    for label in (*labels, "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor"):
        if label in table:
            try:
                columns[label] = table.numbers(label)
            except FaultError as error:
                faults.found.append(error.fault)
    if "rlnAngleRot" in table and not {"rlnOriginXAngst", "rlnOriginX"} & set(table.columns):
        faults.note(table.path, f"data_{table.name}", "no origins (rlnOriginXAngst, rlnOriginYAngst): taken as 0.")
    if "rlnClassNumber" in table:
        try:
            columns["rlnClassNumber"] = table.integers("rlnClassNumber")
        except FaultError as error:
            faults.found.append(error.fault)
    return columns


def _random_subset(table: Table, needed: bool, faults: Faults) -> np.ndarray | None:
    """Half sets as the file has them: 1 or 2 in every row, or none at all."""
    count = len(table)
    if needed and count < 4:
        fault = f"{count} particle(s); two half sets need at least two each."
        faults.error(table.path, f"data_{table.name}", fault, "Name a file with more particles.")
    if "rlnRandomSubset" not in table:
        return None
    try:
        subset = table.integers("rlnRandomSubset")
    except FaultError as error:
        faults.found.append(error.fault)
        return None
    if not subset.any():
        return None
    wrong = np.flatnonzero((subset != 1) & (subset != 2))
    if len(wrong):
        fault = f"rlnRandomSubset is {subset[wrong[0]]}; all rows must be 1 or 2, or none set ({len(wrong)} such rows)."
        faults.error(table.path, table.place(int(wrong[0])), fault, "Set it in all rows, or remove the column.")
        return None
    sizes = [int((subset == half).sum()) for half in (1, 2)]
    if needed and min(sizes) < 2 <= count // 2:
        fault = (
            f"rlnRandomSubset puts {sizes[0]} particle(s) in half 1 and {sizes[1]} in half 2; each needs at least two."
        )
        faults.error(table.path, f"data_{table.name}", fault, "Remove the column to have halves drawn at random.")
    return subset


@dataclass(frozen=True)
class _Parts:
    """What the steps of `load` found."""

    optics_table: Table
    table: Table
    optics: Optics
    images: Images
    columns: dict[str, np.ndarray]
    subset: np.ndarray | None


def _assemble(path: Path, box: int, pixel_size: float, parts: _Parts) -> Particles:
    count = len(parts.table)
    values, columns = parts.optics.values, parts.columns

    def column(label: str, default: float = 0.0) -> np.ndarray:
        return columns.get(label, np.full(count, default))

    u, v, angle = (column(label) for label in _DEFOCUS)
    swapped = u < v
    has_ctf = all(label in columns for label in _DEFOCUS) and "rlnVoltage" in values
    has_ctf = has_ctf and "rlnSphericalAberration" in values and "rlnAmplitudeContrast" in values
    nothing = np.zeros(count)
    return Particles(
        path=path,
        box=box,
        pixel_size=pixel_size,
        angles_deg=np.stack([column(label) for label in _ANGLES], axis=1),
        origins=np.stack([column("rlnOriginXAngst"), column("rlnOriginYAngst")], axis=1),
        defocus_u=np.maximum(u, v),
        defocus_v=np.minimum(u, v),
        defocus_angle_deg=np.where(swapped, angle + 90.0, angle),
        phase_shift_deg=column("rlnPhaseShift"),
        bfactor=column("rlnCtfBfactor"),
        scale=column("rlnCtfScalefactor", 1.0),
        voltage_kv=values.get("rlnVoltage", nothing),
        cs_mm=values.get("rlnSphericalAberration", nothing),
        amplitude_contrast=values.get("rlnAmplitudeContrast", nothing),
        optics_group=parts.optics.group,
        class_number=columns.get("rlnClassNumber", np.ones(count, dtype=np.int64)),
        random_subset=parts.subset,
        stacks=parts.images.stacks,
        stack=parts.images.stack,
        section=parts.images.section,
        optics=parts.optics_table,
        table=parts.table,
        has_poses=all(label in columns for label in _ANGLES),
        has_ctf=has_ctf,
        groups=np.arange(count),
    )
