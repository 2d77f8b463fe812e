"""What the tables of a run, ours or RELION's, say about the maps beside them."""

from pathlib import Path

from sciml_cryoem.files.faults import FaultError
from sciml_cryoem.files.star import read_star

_TABLES = ("run_model.star", "run_half1_model.star", "run_data.star", "postprocess.star")
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
