"""Resolve `000012@path.mrcs` to a checked stack and an image in it."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sciml.errors import InputError
from sciml.runs.files import read_json
from sciml_cryoem.files.faults import FaultError, Faults
from sciml_cryoem.files.foreign import missing
from sciml_cryoem.files.mrc_header import Header, Mode0, read_header
from sciml_cryoem.files.table import Table


@dataclass(frozen=True)
class Images:
    """Where the image of every particle lies.

    Attributes:
        stacks: checked headers.
        stack: which of them, one a particle.
        section: place in the stack, from 0.
    """

    stacks: tuple[Header, ...]
    stack: Int[np.ndarray, " n"]
    section: Int[np.ndarray, " n"]


def locate(table: Table, datadir: Path | None, mode0: Mode0, faults: Faults) -> Images | None:
    """Find and check the stacks that rlnImageName names. Every missing or bad stack is reported, not only the first.

    Returns:
        None when a fatal fault was found.
    """
    names = table.text("rlnImageName")
    parsed = [_split(name) for name in names]
    whole = np.array(["@" not in name for name in names])
    bad = [row for row, (index, stack) in enumerate(parsed) if index is None or not stack]
    if bad:
        fault = f"rlnImageName is {names[bad[0]]!r}, not like 000001@stack.mrcs{_more(len(bad))}."
        faults.error(table.path, table.place(bad[0]), fault, "Name an image of a stack.")
        return None
    paths = list(dict.fromkeys(stack for _, stack in parsed))
    number = {stack: place for place, stack in enumerate(paths)}
    which = np.array([number[stack] for _, stack in parsed], dtype=np.int64)
    first_row = {stack: row for row, (_, stack) in reversed(list(enumerate(parsed)))}
    roots = _roots(table.path, datadir)
    tried = {stack: _candidates(stack, roots, datadir) for stack in paths}
    headers = [_check_stack(stack, tried[stack], table, first_row[stack], mode0, faults) for stack in paths]
    section = np.array([index - 1 if index is not None else -1 for index, _ in parsed], dtype=np.int64)
    counts = np.array([header.shape[0] if header else np.iinfo(np.int64).max for header in headers])[which]
    _check_indices(table, names, section, counts, faults)
    _check_whole_files(table, names, whole, counts, faults)
    found = tuple(header for header in headers if header)
    return Images(found, which, section) if len(found) == len(headers) else None


def _more(count: int) -> str:
    return f" ({count} such rows)" if count > 1 else ""


def _split(name: str) -> tuple[int | None, str]:
    """Index (from 1) and path; a name without `@` is a file of one image."""
    index, at, stack = name.partition("@")
    if not at:
        return 1, name
    return (int(index) if re.fullmatch("-?[0-9]{1,18}", index) else None), stack


def _roots(star: Path, datadir: Path | None) -> list[Path]:
    """Folders that the path of a stack may start from: that of the STAR file, the working folder, --datadir, the RELION
    project, and those of the runs that the STAR file comes from."""
    roots = [star.parent, Path(), *([datadir] if datadir else [])]
    # A job's STAR file lies in PROJECT/JobType/job012/, and its paths start at PROJECT.
    project = star.resolve().parent.parents
    return roots + ([project[1]] if len(project) > 1 else []) + _roots_of_runs(star)


def _roots_of_runs(star: Path) -> list[Path]:
    """Where the run that wrote a STAR file found its stacks, and the run that wrote the one it read, and so on."""
    roots, seen = [], set()
    while (folder := star.parent) not in seen:
        seen.add(folder)
        try:
            options = read_json(folder / "experiment.json")["options"]
            place = Path(read_json(folder / "provenance.json")["directory"])
            star, given = place / options["particles"], options.get("datadir")
        except (InputError, OSError, KeyError, TypeError):
            break  # not a run, or not of particles
        roots += [star.parent, place, *([place / given] if given else [])]
    return roots


def _candidates(name: str, roots: list[Path], datadir: Path | None) -> list[Path]:
    """Where a stack may lie."""
    path = Path(name)
    return [root / path for root in ([Path()] if path.is_absolute() else roots)] + (
        [datadir / path.name] if datadir else []
    )


def _check_stack(name: str, tried: list[Path], table: Table, row: int, mode0: Mode0, faults: Faults) -> Header | None:
    found = next((path for path in tried if os.path.lexists(path) and path.exists()), None)
    if found is None:
        link = next((path for path in tried if path.is_symlink()), None)
        where = ", ".join(dict.fromkeys(str(path.absolute().parent) for path in tried))
        fault = f"the stack {name} does not exist; looked in {where}."
        remedy = "Give the folder that its path starts from with --datadir."
        if link is not None:
            fault, remedy = f"the stack {name} is {missing(link)}", "Link it to where the stack is now."
        faults.error(table.path, table.place(row), fault, remedy, kind=f"missing stack: {remedy}")
        return None
    if not stat.S_ISREG(found.stat().st_mode):
        fault = f"{found} is not a regular file."
        faults.error(table.path, table.place(row), fault, "Name a stack.", kind="no regular file")
        return None
    try:
        header = read_header(found, mode0)
    except FaultError as error:
        faults.found.append(error.fault)
        return None
    if header.axes not in ((1, 2, 3), (0, 0, 0)):
        fault = f"axes {header.axes} are not 1, 2, 3: not a stack of images."
        faults.error(found, "header fields mapc, mapr, maps", fault, "Write the stack again.", kind="axes")
        return None
    for note in header.notes:
        faults.note(found, "header", note)
    return header


def _check_indices(table: Table, names: list[str], section: np.ndarray, counts: np.ndarray, faults: Faults) -> None:
    low = np.flatnonzero(section < 0)
    if len(low):
        fault = f"rlnImageName {names[low[0]]!r}: images are counted from 1{_more(len(low))}."
        faults.error(table.path, table.place(int(low[0])), fault, "Add 1 to every index if the program counts from 0.")
    past = np.flatnonzero(section >= counts)
    if len(past):
        row = int(past[0])
        fault = f"rlnImageName {names[row]!r} is past the end: the stack has {counts[row]} images{_more(len(past))}."
        faults.error(table.path, table.place(row), fault, "Name the right stack, or extract the particles again.")


def _check_whole_files(table: Table, names: list[str], whole: np.ndarray, counts: np.ndarray, faults: Faults) -> None:
    """A name without `@` is a file of one image; a file of several may be a volume or the tilts of a particle."""
    several = np.flatnonzero(whole & (counts > 1) & (counts < np.iinfo(np.int64).max))
    if len(several):
        row = int(several[0])
        fault = f"rlnImageName {names[row]!r} names no image of a file of {counts[row]} sections{_more(len(several))}."
        remedy = "Name the image (000001@stack.mrcs). Volumes, and tilts of subtomograms, are not particle images."
        faults.error(table.path, table.place(row), fault, remedy)


def one_box(path: Path, images: Images, size: Float[np.ndarray, " n"] | None, faults: Faults) -> int:
    """The box of a set: every image square and of one size, equal to rlnImageSize where the optics table has it."""
    before = len(faults.errors)
    box = images.stacks[0].shape[1]
    for header in images.stacks:
        ny, nx = header.shape[1:]
        if ny != nx:
            fault = f"images of {nx} x {ny} pixels are not square."
            faults.error(header.path, "header fields nx, ny", fault, "Extract again.", kind="not square")
        elif nx != box:
            fault = f"images of {nx} x {nx} pixels, but those of {images.stacks[0].path} are {box} x {box}."
            remedy = "Extract all particles with one box size."
            faults.error(header.path, "header fields nx, ny", fault, remedy, kind="several boxes")
    if size is not None and len(faults.errors) == before and (size != box).any():
        wrong = float(size[size != box][0])
        fault = f"rlnImageSize is {wrong:g}, but {images.stacks[0].path} has images of {box} x {box} pixels."
        faults.error(path, "data_optics", fault, "Correct rlnImageSize, or name the right stack.")
    return box


def compare_pixel_sizes(images: Images, pixel_size: float, faults: Faults) -> None:
    """The pixel size of every stack header, where it is known, against the optics table."""
    for header in images.stacks:
        if header.pixel_size is None or header.pixel_size == pixel_size:
            continue
        off = abs(header.pixel_size / pixel_size - 1)
        fault = f"pixel size {header.pixel_size:.4f} Angstrom, but rlnImagePixelSize is {pixel_size:.4f}."
        remedy = "Correct whichever is wrong: the resolution scales with it."
        if off > 0.01:
            faults.error(header.path, "header field cella", fault, remedy, kind="pixel size")
        elif off > 0.001:
            faults.warning(header.path, "header field cella", fault, remedy, kind="pixel size")
