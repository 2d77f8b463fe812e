"""Optics groups: RELION 3.0 tables brought into the form of 3.1, and the values of a group given to its particles."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.files.faults import FaultError, Faults
from sciml_cryoem.files.ranges import LooksLike, Range, Rows
from sciml_cryoem.files.table import Table, make_table

IMPORT_JOB = "It is set by RELION's Import job."
EXTRACT_JOB = "It is written by RELION's Extract job."
_MOVED = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnDetectorPixelSize", "rlnMagnification")
_MANUAL_NAMES = {
    "rlnOriginXAngstrom": "rlnOriginXAngst",
    "rlnOriginYAngstrom": "rlnOriginYAngst",
    **{f"rlnMagMatrix_{index}": f"rlnMagMat{index}" for index in ("00", "01", "10", "11")},
}
_RANGES = (
    Range(
        "rlnVoltage",
        "kV",
        (10.0, 3000.0),
        (60.0, 400.0),
        [LooksLike(1e4, 3e6, "volts", "Divide it by 1,000.")],
    ),
    Range(
        "rlnSphericalAberration",
        "mm",
        (-100.0, 100.0),
        (-0.1, 7.0),
        [
            LooksLike(100.0, 1e4, "micrometers", "Divide it by 1,000."),
            LooksLike(1e6, 1e8, "Angstrom", "Divide by 1e7."),
        ],
    ),
    Range(
        "rlnAmplitudeContrast",
        "a fraction",
        (0.0, 1.0),
        (0.0, 0.5),
        [LooksLike(1.0, 100.0, "percent", "Divide it by 100.")],
    ),
    Range(
        "rlnImagePixelSize",
        "Angstrom",
        (0.01, 1000.0),
        (0.2, 40.0),
        [
            LooksLike(0.01, 0.2, "nanometers", "Multiply it by 10."),
            LooksLike(40.0, 1000.0, "picometers", "Divide by 100."),
        ],
    ),
)


@dataclass(frozen=True)
class Optics:
    """The optics values of every particle.

    Attributes:
        group: number of the optics group of every particle, as in the file.
        pixel_size: Angstrom, one a particle.
        values: label -> one number a particle, for those of voltage (kV), spherical aberration (mm), amplitude
            contrast, and image size (pixels) that the file has.
    """

    group: Int[np.ndarray, " n"]
    pixel_size: Float[np.ndarray, " n"]
    values: dict[str, Float[np.ndarray, " n"]]


def rename_manual_labels(table: Table, faults: Faults) -> Table:
    """Accept the labels that RELION's manual prints for those that RELION writes."""
    found = [label for label in table.columns if label in _MANUAL_NAMES and _MANUAL_NAMES[label] not in table]
    if not found:
        return table
    faults.note(table.path, f"data_{table.name}", f"{', '.join(found)} read as RELION's {_MANUAL_NAMES[found[0]]} etc.")
    columns = {_MANUAL_NAMES[k] if k in found else k: v for k, v in table.columns.items()}
    return Table(table.path, table.name, columns, table.lines, table.loop)


def from_relion30(particles: Table, faults: Faults) -> tuple[Table, Table] | None:
    """Make the optics table of a RELION 3.0 file, whose CTF values stand in every row.

    The pixel size is rlnDetectorPixelSize (um) * 1e4 / rlnMagnification, or rlnImagePixelSize if the rows have it. Rows
    that agree in voltage, aberration, amplitude contrast and pixel size form a group.

    Returns:
        The optics table and the particle table with rlnOpticsGroup; None when the pixel size is not there.
    """
    try:
        if "rlnImagePixelSize" in particles:
            sizes = particles.numbers("rlnImagePixelSize")
        elif "rlnDetectorPixelSize" in particles and "rlnMagnification" in particles:
            sizes = particles.numbers("rlnDetectorPixelSize") * 1e4 / particles.numbers("rlnMagnification")
        else:
            return None
    except FaultError as error:
        faults.found.append(error.fault)
        return None
    moved = [label for label in _MOVED[:3] if label in particles]
    keys = list(zip([f"{size:.6f}" for size in sizes], *(particles.columns[label] for label in moved), strict=True))
    groups = {key: str(number) for number, key in enumerate(dict.fromkeys(keys), 1)}
    columns = {
        "rlnOpticsGroup": list(groups.values()),
        "rlnOpticsGroupName": [f"opticsGroup{number}" for number in groups.values()],
        **{label: [key[place] for key in groups] for place, label in enumerate(moved, 1)},
        "rlnImagePixelSize": [key[0] for key in groups],
    }
    optics = make_table("optics", columns)
    kept = particles.without([*_MOVED, "rlnImagePixelSize"])
    table = Table(kept.path, "particles", kept.columns, kept.lines)
    faults.note(
        particles.path, f"data_{particles.name}", f"RELION 3.0 table read as 3.1: {len(groups)} optics group(s)."
    )
    return Table(particles.path, "optics", optics.columns, optics.lines), table.with_column(
        "rlnOpticsGroup", [groups[key] for key in keys]
    )


def spread(optics: Table, particles: Table, need_ctf: bool, faults: Faults) -> Optics | None:
    """Look up the optics values of every particle.

    Returns:
        None when a fatal fault was found.
    """
    before = len(faults.errors)
    wanted = {"rlnOpticsGroup": IMPORT_JOB, "rlnImagePixelSize": EXTRACT_JOB}
    if need_ctf:
        wanted |= dict.fromkeys(("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"), IMPORT_JOB)
    missing_columns(optics, wanted, faults, "data_optics" if any(optics.lines) else "rows of a RELION 3.0 file")
    if not len(optics):
        faults.error(optics.path, "data_optics", "the table has no rows.", IMPORT_JOB)
    if len(faults.errors) > before:
        return None
    try:
        ids = optics.integers("rlnOpticsGroup")
        labels = (*(known.label for known in _RANGES), "rlnImageSize")
        numbers = {label: optics.numbers(label) for label in labels if label in optics}
        group = _groups(optics, particles, ids, faults)
        rows = _rows_of_groups(optics, particles, ids, group, faults)
        if rows is None:
            return None
        used = np.unique(rows)
        for known in _RANGES:
            if known.label in numbers:
                known.check(numbers[known.label][used], Rows(optics, used.tolist(), faults))
        _check_features(optics, used, faults)
    except FaultError as error:
        faults.found.append(error.fault)
    if len(faults.errors) > before:
        return None
    values = {label: column[rows] for label, column in numbers.items()}
    return Optics(group, values.pop("rlnImagePixelSize"), values)


def missing_columns(table: Table, wanted: Mapping[str, str], faults: Faults, place: str | None = None) -> None:
    """Report each missing column with the remedy given for it; `place` is the name of the block if not given."""
    for label, job in wanted.items():
        if label not in table:
            faults.error(table.path, place or f"data_{table.name}", f"column {label} is missing.", job)


def _groups(optics: Table, particles: Table, ids: np.ndarray, faults: Faults) -> np.ndarray:
    if "rlnOpticsGroup" in particles:
        return particles.integers("rlnOpticsGroup")
    if len(ids) == 1:
        faults.note(
            particles.path, f"data_{particles.name}", "no column rlnOpticsGroup; there is one group, all belong to it."
        )
    else:
        missing_columns(particles, {"rlnOpticsGroup": EXTRACT_JOB}, faults)
    return np.full(len(particles), ids[0] if len(ids) else 0)


def _rows_of_groups(
    optics: Table, particles: Table, ids: np.ndarray, group: np.ndarray, faults: Faults
) -> Int[np.ndarray, " n"] | None:
    """The row of the optics table for every particle."""
    if len(np.unique(ids)) != len(ids):
        row = next(row for row in range(len(ids)) if ids[row] in ids[:row])
        faults.error(
            optics.path, optics.place(row), f"optics group {ids[row]} occurs twice.", "Number the groups apart."
        )
        return None
    order = np.argsort(ids)
    places = np.minimum(np.searchsorted(ids[order], group), len(ids) - 1)
    rows = order[places]
    unknown = np.flatnonzero(ids[rows] != group)
    if len(unknown):
        fault = f"rlnOpticsGroup {group[unknown[0]]} is not in data_optics ({len(unknown)} such rows)."
        faults.error(particles.path, particles.place(int(unknown[0])), fault, "Add the group, or remove the rows.")
        return None
    return rows


def _check_features(optics: Table, used: np.ndarray, faults: Faults) -> None:
    """Report what images cannot be read as, or are not supported as."""
    for label, what in (
        ("rlnCtfDataAreCtfPremultiplied", "multiplied with their CTF"),
        ("rlnCtfDataArePhaseFlipped", "phase-flipped"),
    ):
        for row in used if label in optics else ():
            if optics.integers(label)[row]:
                fault = f"the images are {what} ({label} = 1), which is not supported."
                faults.error(optics.path, optics.place(int(row)), fault, "Extract them without it.")
    if "rlnImageDimensionality" in optics:
        for row in used:
            if (dimension := optics.integers("rlnImageDimensionality")[row]) != 2:
                fault = f"rlnImageDimensionality is {dimension}; only 2D images are read."
                faults.error(optics.path, optics.place(int(row)), fault, "Use a program for subtomograms.")


def one_pixel_size(path: Path, optics: Optics, faults: Faults) -> float:
    """The pixel size of a set; a set with several is refused."""
    sizes = optics.pixel_size
    if sizes.max() > 1.0001 * sizes.min():
        pairs = sorted({(int(group), float(size)) for group, size in zip(optics.group, sizes, strict=True)})
        listed = ", ".join(f"{size:g} (group {group})" for group, size in pairs)
        fault = f"rlnImagePixelSize differs between groups: {listed} Angstrom."
        faults.error(path, "data_optics", fault, "Extract all groups at one pixel size, or select one group.")
    return float(sizes[0])
