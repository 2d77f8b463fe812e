"""What the files of a run, ours or RELION's, say about the maps beside them."""

from collections.abc import Sequence
from pathlib import Path

from sciml.errors import InputError
from sciml.findings import Finding
from sciml.runs.files import read_json
from sciml_cryoem.files.faults import FaultError
from sciml_cryoem.files.star import read_star

_TABLES = ("run_model.star", "run_half1_model.star", "run_data.star", "postprocess.star")
_USUAL = (0.2, 40.0)
_LABELS = ("rlnPixelSize", "rlnImagePixelSize")


def pixel_size_beside(path: Path) -> float | None:
    """The pixel size of a map whose header does not know it, from the tables of the run that wrote it.

    RELION writes 1.0 where it does not know, and where it is 1.0; its tables know.

    Args:
        path: a map, in the folder of its run.

    Returns:
        Angstrom; None where no table beside it says.
    """
    for table in (path.parent / name for name in _TABLES):
        try:
            blocks = read_star(table).values() if table.is_file() else ()
            sizes = [float(block.numbers(label)[0]) for block in blocks for label in _LABELS if label in block]
        except (FaultError, IndexError):
            continue  # a damaged table beside a map says nothing about it
        if sizes and sizes[0] > 0:
            return sizes[0]
    return None


def findings_beside(paths: Sequence[Path]) -> list[Finding]:
    """The warnings of the runs of ours that wrote some maps, each once: they hold for whatever is made of these maps.

    Args:
        paths: maps, each in the folder of its run.
    """
    found: dict[str, Finding] = {}
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            entries = read_json(folder / "summary.json")["findings"]
        except (InputError, OSError, KeyError, TypeError):
            continue  # not a run of ours
        for finding in map(Finding.from_record, entries if isinstance(entries, list) else []):
            if finding.severity != "note":
                found.setdefault(finding.what, finding)
    return list(found.values())


def check_given_pixel(given: float, known: Sequence[float | None]) -> list[Finding]:
    """What is odd about a pixel size that the user gives: no map has it, or the maps say something else.

    Args:
        given: Angstrom.
        known: of the maps, Angstrom; None where one does not know.

    Raises:
        InputError: it is no pixel size.
    """
    if not 0 < given < 1e4:
        raise InputError(f"--pixel is {given:g}, not a pixel size in Angstrom.")
    found = []
    if not _USUAL[0] <= given <= _USUAL[1]:
        what = f"A pixel of {given:g} Angstrom is given; usual is {_USUAL[0]:g} to {_USUAL[1]:g}."
        found.append(Finding(what, "--pixel", "severe", "Check the unit."))
    others = sorted({size for size in known if size and abs(given / size - 1) > 0.01})
    if others:
        listed = ", ".join(f"{size:g}" for size in others)
        what = f"A pixel of {given:g} Angstrom is given, and the maps say {listed}: the resolution scales with it."
        found.append(Finding(what, "--pixel", "warning", "Leave out --pixel, unless the header is known to be wrong."))
    return found
