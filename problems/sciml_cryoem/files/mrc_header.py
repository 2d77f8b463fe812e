"""The header of an MRC file, checked against the size of the file before anything is read or allocated."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from sciml_cryoem.files.faults import Fault, FaultError
from sciml_cryoem.files.foreign import COMPRESSED, identify, missing

HEADER_BYTES = 1024
Mode0 = Literal["auto", "signed", "unsigned"]
"""How the bytes of mode 0 are read. auto: as IMOD's flag in the header says; without one signed, as RELION and MRC2014
have it."""

_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_HINTS = {
    3: "Mode 3 (complex int16) holds a transform: save the real-space image instead.",
    4: "Mode 4 (complex float32) holds a transform: save the real-space image instead.",
    101: "Mode 101 (4-bit) is packed: convert it first, for example with IMOD's `newstack -mode 1`.",
}
DAMAGED = "The header is damaged or the file is of another kind: write it again."
OWN_LABEL = b"sciml"
"""The first label of the maps that this package writes."""

_IMOD_STAMP, _IMOD_BYTES = 1146047817, slice(40, 48)  # imodStamp and imodFlags: bytes 152 to 159, in `extra2`
_READABLE = "readable are 0 (int8), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16)"


@dataclass(frozen=True)
class Header:
    """What a checked header says.

    Attributes:
        path: the file.
        shape: sections, rows, columns (nz, ny, nx) as they lie in the file.
        mode: MRC mode number.
        dtype: the type of a value in the file, with its byte order.
        offset: bytes before the data.
        voxel: Angstrom along the file's x, y, z from the cell; 0 where the cell or the sampling is not set.
        axes: (mapc, mapr, maps): which of x (1), y (2), z (3) runs along columns, rows, sections.
        notes: what is unusual but usable, a sentence each.
        ours: whether this package wrote it.
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    offset: int
    voxel: tuple[float, float, float]
    axes: tuple[int, int, int]
    notes: tuple[str, ...]
    ours: bool = False

    @property
    def pixel_size(self) -> float | None:
        """Angstrom a pixel along x; None when it is unknown: 0, or the 1.0 that RELION writes when it was not set."""
        size = self.voxel[0]
        return None if size == 0 or (abs(size - 1.0) < 1e-6 and not self.ours) else size


def read_header(path: str | Path, mode0: Mode0 = "auto") -> Header:
    """Read and check the header of an MRC stack or volume. Reads 1,024 bytes, allocates nothing else.

    Args:
        path: a regular file.
        mode0: whether bytes of mode 0 are signed (RELION, MRC2014) or unsigned (cryoSPARC, cryoDRGN).

    Raises:
        InputError: missing file or device; shorter than a header; compressed; a mode that holds no real image;
            sizes that are not positive; a file shorter than its header says; extremes in the header that contradict
            how the bytes of mode 0 are read. The message names the header fields and both sizes.
    """
    path = Path(path)
    size, raw = _read_bytes(path)
    return parse_header(path, raw, size, mode0)


def parse_header(path: Path, raw: bytes, size: int, mode0: Mode0 = "auto") -> Header:
    """`read_header` of bytes that have been read.

    Args:
        path: where they come from.
        raw: the first 1,024 bytes.
        size: of the whole, in bytes.
        mode0: see `read_header`.

    Raises:
        InputError: see `read_header`.
    """
    header, note = _byte_order(path, raw, size)
    mode = int(header["mode"])
    if mode not in _TYPES:
        fault = f"mode {mode} cannot be read; {_READABLE}."
        raise _fault(path, "header field mode", fault, _HINTS.get(mode, DAMAGED))
    order = header.dtype["nx"].byteorder
    dtype = np.dtype(_TYPES[mode]).newbyteorder(order)
    if mode == 0 and _bytes_are_unsigned(path, header, mode0):
        dtype = np.dtype("u1")
    shape, offset = _geometry(path, header)
    notes = [note] if note else []
    notes += _check_size(path, shape, mode, offset, size)
    voxel = tuple(_voxel(header["cella"][axis], header[f"m{axis}"]) for axis in "xyz")
    axes = (int(header["mapc"]), int(header["mapr"]), int(header["maps"]))
    ours = bytes(header["label"][0]).startswith(OWN_LABEL)
    return Header(path, shape, mode, dtype, offset, voxel, axes, tuple(notes), ours)  # pyright: ignore[reportArgumentType]


def _fault(path: Path, place: str, fault: str, remedy: str) -> FaultError:
    return FaultError(Fault(str(path), place, fault, remedy, kind=f"MRC: {place}: {remedy}"))


def _read_bytes(path: Path) -> tuple[int, bytes]:
    """Size of the file and its first 1,024 bytes."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise _fault(path, "", "not a regular file.", "Name an MRC file.")
        with open(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise _fault(path, "", missing(path), "Check the path.") from None
    except OSError as error:
        raise _fault(path, "", f"cannot be read ({error.strerror}).", "Check the path and its permissions.") from None
    known = identify(path, raw)
    if known:
        why = " A stack is mapped into memory as it is." if raw.startswith(COMPRESSED) else ""
        raise _fault(path, "", f"this is {known[0]}, not an MRC file.{why}", known[1])
    if len(raw) < HEADER_BYTES:
        fault = f"{len(raw)} bytes, shorter than the 1024 bytes of an MRC header."
        raise _fault(path, "header", fault, "Copy or write the file again.")
    return status.st_size, raw


def _byte_order(path: Path, raw: bytes, size: int) -> tuple[np.void, str | None]:
    """The header in the byte order of its machine stamp; without one, in the order in which the sizes agree."""
    little = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder("<"))[0]
    big = np.frombuffer(raw, dtype=HEADER_DTYPE.newbyteorder(">"))[0]
    stamp = bytes(little["machst"][:2])
    named = bytes(little["map"])[:3] == b"MAP"
    if stamp in (b"\x44\x44", b"\x44\x41", b"\x11\x11"):
        chosen, other = (big, little) if stamp == b"\x11\x11" else (little, big)
        if named or _fits(chosen, size):
            wrong = "the machine stamp names the wrong byte order."
            return (other, wrong) if _only_fits(other, chosen, size) else (chosen, None)
    for header in (little, big):
        if _fits(header, size):
            missing = "no `MAP ` in the header" if not named else "no machine stamp in the header"
            return header, f"{missing}; read by its sizes, which match the file."
    if named:
        return little, "no machine stamp in the header; read as little-endian."
    fault = "not an MRC file: no `MAP ` in the header, and its sizes do not match the file."
    raise _fault(path, "header field map", fault, "Name an MRC file.")


def _only_fits(header: np.void, chosen: np.void, size: int) -> bool:
    return int(chosen["mode"]) not in _TYPES and int(chosen["mode"]) not in _HINTS and _fits(header, size)


def _fits(header: np.void, size: int) -> bool:
    """Whether the header's sizes give exactly the size of the file."""
    mode, extended = int(header["mode"]), int(header["nsymbt"])
    counts = [int(header[name]) for name in ("nx", "ny", "nz")]
    if mode not in _TYPES or min(counts) <= 0 or extended < 0:
        return False
    return size == HEADER_BYTES + extended + counts[0] * counts[1] * counts[2] * np.dtype(_TYPES[mode]).itemsize


def _geometry(path: Path, header: np.void) -> tuple[tuple[int, int, int], int]:
    for name in ("nx", "ny", "nz"):
        if int(header[name]) <= 0:
            fault = f"{name} is {int(header[name])}, not a positive size."
            raise _fault(path, f"header field {name}", fault, DAMAGED)
    if int(header["nsymbt"]) < 0:
        fault = f"nsymbt is {int(header['nsymbt'])}, not a number of bytes."
        raise _fault(path, "header field nsymbt", fault, DAMAGED)
    shape = (int(header["nz"]), int(header["ny"]), int(header["nx"]))
    return shape, HEADER_BYTES + int(header["nsymbt"])


def _check_size(path: Path, shape: tuple[int, int, int], mode: int, offset: int, size: int) -> list[str]:
    """Compare the product of the header with the size of the file, in integers that cannot overflow."""
    nz, ny, nx = shape
    section = ny * nx * np.dtype(_TYPES[mode]).itemsize
    needed = offset + nz * section
    if size < needed:
        fields = f"nx {nx}, ny {ny}, nz {nz}, mode {mode}, nsymbt {offset - HEADER_BYTES}"
        whole = max(0, (size - offset) // section)
        fault = (
            f"truncated: the header ({fields}) asks for {needed} bytes, the file has {size}: {whole} whole sections."
        )
        raise _fault(path, "header fields nx, ny, nz", fault, "Copy or write the file again.")
    if size > needed:
        return [f"{size - needed} bytes after the data are ignored."]
    return []


def _bytes_are_unsigned(path: Path, header: np.void, mode0: Mode0) -> bool:
    """How bytes are read: as asked for, else as IMOD's flag says, else signed.

    Raises:
        InputError: the extremes in the header do not fit to it.
    """
    stamp, flags = np.frombuffer(bytes(header["extra2"])[_IMOD_BYTES], header.dtype["nx"])
    marked = int(stamp) == _IMOD_STAMP
    unsigned = mode0 == "unsigned" or (mode0 == "auto" and marked and not int(flags) & 1)
    why = "as asked" if mode0 != "auto" else "as IMOD's flag says" if marked else "as RELION does"
    low, high = float(header["dmin"]), float(header["dmax"])
    if low < high and unsigned and low < 0:
        fault = f"mode 0 is read as unsigned bytes ({why}), but dmin in the header is {low:g}."
        raise _fault(path, "header fields mode, dmin", fault, "Try `--mode0 signed`, or write the header again.")
    if low < high and not unsigned and high > 127:
        fault = f"mode 0 is read as signed bytes ({why}), but dmax in the header is {high:g}."
        raise _fault(path, "header fields mode, dmax", fault, "Try `--mode0 unsigned`, or write the header again.")
    return unsigned


def _voxel(cell: np.floating, sampling: np.integer) -> float:
    """Cell length over sampling; 0 when either is not set or makes no sense."""
    if int(sampling) <= 0 or not np.isfinite(cell) or cell <= 0:
        return 0.0
    return float(cell) / int(sampling)
