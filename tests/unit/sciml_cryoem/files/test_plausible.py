"""Well-formed input that cannot be right is refused or named, each kind with its word; correct input passes in silence.

The table stands for kinds. Each case changes columns of a simulated set; what is asserted is the outcome of reading and
reconstructing it: refused, or a finding above a note that travels to the result.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem import read_particles, reconstruct
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.files.table import Table
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles

from sciml.errors import InputError

NUMBER, BOX, PIXEL = 200, 32, 5.0
EXTENT = BOX * PIXEL
Change = Callable[[Table, Table], tuple[Table, Table]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, simulated."""
    return make_set(tmp_path_factory.mktemp("plausible"))


def make_set(made: Path) -> Path:
    """200 images of 32 x 32, with coordinates on micrographs; into a folder, which is given back."""
    line = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    blobs = ((0, 0, 0, 1.0), (6, 2, -3, 0.7), (-3, 6, 4, 0.6), (2, -6, 5, 0.8))
    density = sum(w * np.exp(-((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) / 8.0) for a, b, c, w in blobs)
    simulation = Simulation(number=NUMBER, box=BOX, pixel_size=PIXEL, snr=0.1, shift=6.0)
    write_particles(simulation, scale_to_snr(simulation, np.asarray(density, np.float32)), made)
    return made


def _numbers(values: np.ndarray) -> list[str]:
    return [f"{value:.8g}" for value in values]


def _row(label: str, change: Callable[[np.ndarray], np.ndarray], every: int = 1) -> Change:
    """Change a column of the particles in every so many rows."""

    def apply(optics: Table, table: Table) -> tuple[Table, Table]:
        values = table.numbers(label).copy() if label in table else np.zeros(len(table))
        values[::every] = change(values[::every])
        return optics, table.with_column(label, _numbers(values))

    return apply


def _rows(*changes: Change) -> Change:
    def apply(optics: Table, table: Table) -> tuple[Table, Table]:
        for change in changes:
            optics, table = change(optics, table)
        return optics, table

    return apply


def _both(change: Callable[[np.ndarray], np.ndarray], every: int = 1) -> Change:
    return _rows(_row("rlnDefocusU", change, every), _row("rlnDefocusV", change, every))


def _angles(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return _rows(*(_row(f"rlnAngle{name}", change) for name in ("Rot", "Tilt", "Psi")))


def _optics(label: str, value: str) -> Change:
    return lambda optics, table: (optics.with_column(label, [value]), table)


def _tilted(mrad: str) -> Change:
    return _rows(_optics("rlnBeamTiltX", mrad), _optics("rlnBeamTiltY", "0"))


def _text(label: str, values: Callable[[int], str]) -> Change:
    return lambda optics, table: (optics, table.with_column(label, [values(row) for row in range(len(table))]))


def _without(*labels: str) -> Change:
    return lambda optics, table: (optics, table.without(labels))


def _taken(*rows: int) -> Change:
    return lambda optics, table: (optics, table.select(np.array(rows)))


def _same(rows: int) -> Change:
    """The first row many times."""
    return _taken(*[0] * rows)


def _picked(distance: float, spacing: float = 400.0) -> Change:
    """Pairs of picks so many pixels apart, the pairs far from each other."""
    pairs = _text("rlnCoordinateX", lambda row: f"{1000 + row // 2 % 5 * spacing + row % 2 * distance:.1f}")
    return _rows(
        pairs, _text("rlnCoordinateY", lambda row: "500"), _text("rlnMicrographName", lambda row: f"m{row // 10}")
    )


HALVES = _text("rlnRandomSubset", lambda row: str(1 + row % 2))
TILTS = _rows(
    _text("rlnGroupName", lambda row: f"particle{row // 20}"), _text("rlnMicrographName", lambda row: f"tilt{row % 20}")
)
TUBES = _rows(
    _text("rlnHelicalTubeID", lambda row: str(row // 10)), _text("rlnMicrographName", lambda row: f"m{row // 50}")
)

IMPLAUSIBLE: dict[str, tuple[Change, str]] = {
    "defocus in micrometers": (_both(lambda v: v * 1e-4), "looks like micrometers"),
    "half of the rows in micrometers": (_both(lambda v: v * 1e-4, 2), "looks like micrometers"),
    "defocus in meters": (_both(lambda v: v * 1e-10), "looks like meters"),
    "defocus in nanometers": (_both(lambda v: v * 0.1), "nanometers"),
    "half of the rows in nanometers": (_both(lambda v: v * 0.1, 2), "of two kinds"),
    "defocus in picometers": (_both(lambda v: v * 100), "allowed is"),
    "defocus of 30 um": (_both(lambda v: v * 0 + 3e5), "usual is"),
    "negative defocus": (_both(lambda v: -v), "reverse the sign"),
    "one row of negative defocus": (_both(lambda v: -v, 300), "reverse the sign"),
    "slight overfocus of all": (_both(lambda v: v * 0 - 2000), "overfocus"),
    "defocus 1e30": (_both(lambda v: v * 0 + 1e30), "allowed is"),
    "defocus 1e30 in one row": (_row("rlnDefocusU", lambda v: v * 0 + 1e30, 300), "allowed is"),
    "defocus 0": (_both(lambda v: v * 0), "hardly any"),
    "U 20000, V 200": (
        _rows(_row("rlnDefocusU", lambda v: v * 0 + 2e4), _row("rlnDefocusV", lambda v: v * 0 + 200)),
        "differ",
    ),
    "V negative": (_row("rlnDefocusV", lambda v: -v), "differ"),
    "defocus angle in radians": (_row("rlnDefocusAngle", np.radians), "look like radians"),
    "phase shift in radians": (_row("rlnPhaseShift", lambda v: v + np.pi / 2), "look like radians"),
    "phase shift 1e6": (_row("rlnPhaseShift", lambda v: v + 1e6), "allowed is"),
    "B factor 1e9": (_row("rlnCtfBfactor", lambda v: v + 1e9), "allowed is"),
    "B factor 20,000": (_row("rlnCtfBfactor", lambda v: v + 2e4), "usual is"),
    "B factor -2,000": (_row("rlnCtfBfactor", lambda v: v - 2000), "the CTF grows"),
    "scale 0": (_row("rlnCtfScalefactor", lambda v: v * 0), "is 0"),
    "scale -1": (_row("rlnCtfScalefactor", lambda v: v * 0 - 1), "usual is"),
    "scale 1000000": (_row("rlnCtfScalefactor", lambda v: v * 0 + 1e6), "allowed is"),
    "1 kV": (_optics("rlnVoltage", "1"), "allowed is"),
    "30 kV": (_optics("rlnVoltage", "30"), "usual is"),
    "volts": (_optics("rlnVoltage", "300000"), "looks like volts"),
    "Cs in micrometers": (_optics("rlnSphericalAberration", "2700"), "looks like micrometers"),
    "Cs in Angstrom": (_optics("rlnSphericalAberration", "27000000"), "looks like Angstrom"),
    "Cs 27 mm": (_optics("rlnSphericalAberration", "27"), "usual is"),
    "amplitude contrast in percent": (_optics("rlnAmplitudeContrast", "7"), "looks like percent"),
    "amplitude contrast 0.9": (_optics("rlnAmplitudeContrast", "0.9"), "usual is"),
    "amplitude contrast negative": (_optics("rlnAmplitudeContrast", "-0.1"), "allowed is"),
    "pixel in nanometers": (_optics("rlnImagePixelSize", "0.05"), "header field cella"),
    "pixel in picometers": (_optics("rlnImagePixelSize", "500"), "header field cella"),
    "beam tilt of 60 mrad": (_tilted("60"), "beam tilt"),
    "magnification 8 % off": (_optics("rlnMagMat00", "1.08"), "8.00% halves"),
    "angles in radians": (_angles(np.radians), "radians"),
    "angles all equal": (_angles(lambda v: v * 0 + 30), "have the angles 30, 30, 30"),
    "angles all zero": (_angles(lambda v: v * 0), "have the angles 0, 0, 0"),
    "tilt 0 in all rows": (_row("rlnAngleTilt", lambda v: v * 0), "one view"),
    "angle 1e30": (_row("rlnAngleRot", lambda v: v * 0 + 1e30, 300), "allowed is"),
    "angles beyond two turns": (_row("rlnAnglePsi", lambda v: v * 10), "usual is"),
    "views within a degree of an axis": (_row("rlnAngleTilt", lambda v: v / 180), "one view"),
    "origin far out": (_row("rlnOriginXAngst", lambda v: v + 3000), "outside of the box"),
    "origin out in one row": (_row("rlnOriginXAngst", lambda v: v * 0 + 120, 300), "outside of the box"),
    "only the x origin": (_without("rlnOriginYAngst"), "column rlnOriginYAngst is missing"),
    "one row 40 times": (_same(40), "another row names too"),
    "every row twice": (_taken(*[row // 2 for row in range(400)]), "another row names too"),
    "four particles": (_taken(0, 1, 2, 3), "no measure"),
    "several classes": (_text("rlnClassNumber", lambda row: str(1 + row % 3)), "3 classes"),
    "halves of 190 and 10": (_text("rlnRandomSubset", lambda row: str(1 + (row < 10))), "half sets have 190 and 10"),
    "picks 3 pixels apart": (_picked(3.0), "picked twice"),
    "picks 3 pixels apart, in both halves": (_rows(_picked(3.0), HALVES), "into both"),
    "tilts of one particle in both halves": (_rows(TILTS, HALVES), "tilts of a particle"),
    "one helix in both halves": (_rows(TUBES, HALVES), "neighbors on a helix"),
    "all of one helix": (
        _rows(_text("rlnHelicalTubeID", lambda row: "1"), _text("rlnMicrographName", lambda row: "m")),
        "200 of 200 images belong together",
    ),
    "images named without @": (_text("rlnImageName", lambda row: "particles.mrcs"), "names no image of a file of 200"),
}
"""Kind -> what is changed, and a word of the fault or finding that names it."""

CORRECT: dict[str, Change] = {
    "as simulated": lambda optics, table: (optics, table),
    "U and V exchanged": _rows(
        lambda optics, table: (
            optics,
            table.with_column("rlnDefocusU", table.columns["rlnDefocusV"]).with_column(
                "rlnDefocusV", table.columns["rlnDefocusU"]
            ),
        )
    ),
    "1,000 to 30,000 A": _both(lambda v: np.linspace(1000, 30000, len(v))),
    "near focus with a phase plate": _rows(_both(lambda v: v / 10), _row("rlnPhaseShift", lambda v: v + 90)),
    "phase plate": _row("rlnPhaseShift", lambda v: np.linspace(20, 140, len(v))),
    "8 um": _both(lambda v: v * 0 + 8e4),
    "one image in overfocus": _both(lambda v: v * 0 + 900, 300),
    "astigmatism of 2,000 A": _row("rlnDefocusV", lambda v: v - 2000),
    "no astigmatism, angle 0": _rows(_both(lambda v: v * 0 + 15000), _row("rlnDefocusAngle", lambda v: v * 0)),
    **{f"{kv} kV": _optics("rlnVoltage", str(kv)) for kv in (80, 100, 120, 200)},
    **{f"Cs {cs} mm": _optics("rlnSphericalAberration", str(cs)) for cs in (0, 0.001, 0.01, 1.6, 6)},
    "amplitude contrast 0": _optics("rlnAmplitudeContrast", "0"),
    "beam tilt of 0.2 mrad": _tilted("0.2"),
    "magnification 0.2 % off": _optics("rlnMagMat00", "1.002"),
    "B factors of 60": _row("rlnCtfBfactor", lambda v: v + 60),
    "scales of 0.5 to 1.5": _row("rlnCtfScalefactor", lambda v: np.linspace(0.5, 1.5, len(v))),
    "angles of 0 to 360": _row("rlnAngleRot", lambda v: v % 360),
    "half sets given": HALVES,
    "picks 16 pixels apart": _picked(16.0),
    "coordinates not set": _rows(*(_text(f"rlnCoordinate{axis}", lambda row: "0") for axis in "XY")),
    "groups that are micrographs": _rows(
        _text("rlnGroupName", lambda row: f"group{row // 20}"),
        _text("rlnMicrographName", lambda row: f"m{row // 20}"),
        HALVES,
    ),
    "tilts of one particle, halves to be drawn": TILTS,
    "tubes, halves to be drawn": TUBES,
}


def tables_of(folder: Path) -> tuple[Table, Table]:
    """Optics and particles of the set, without half sets and with all columns that a case changes."""
    tables = read_star(folder / "particles.star")
    table = tables["particles"].without(["rlnRandomSubset"])
    for label, value in {"rlnCtfScalefactor": "1", "rlnCtfBfactor": "0", "rlnPhaseShift": "0"}.items():
        table = table.with_column(label, [value] * len(table))
    return tables["optics"], table


def _words(folder: Path, change: Change) -> tuple[str, list[str]]:
    """What refuses a changed set, and the findings above a note of what is reconstructed from it."""
    path = write_star(folder / "changed.star", change(*tables_of(folder)))
    try:
        result = reconstruct(read_particles(path))
    except InputError as error:
        return str(error), []
    return "", [str(finding) for finding in result.findings if finding.severity != "note"]


@pytest.mark.parametrize("kind", IMPLAUSIBLE)
def test_what_cannot_be_right_is_refused_or_named(kind: str, folder: Path) -> None:
    change, word = IMPLAUSIBLE[kind]
    refused, findings = _words(folder, change)
    assert refused or findings, "an answer without a word"
    assert word in refused or any(word in finding for finding in findings), [refused, *findings]


@pytest.mark.parametrize("kind", CORRECT)
def test_what_is_right_passes_without_a_word(kind: str, folder: Path) -> None:
    assert _words(folder, CORRECT[kind]) == ("", [])
