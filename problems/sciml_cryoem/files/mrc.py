"""MRC stacks and volumes: a strict reader that maps instead of loading, and writers that leave a whole file or none.

`mrcfile` writes, and its header layout is what is read; it does not open files here. Where a
reconstruction must stop (truncated data, wrong sizes, modes that hold no image) it warns and continues, or allocates
memory before it checks.
"""

import bz2
import gzip
import mmap
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
from jaxtyping import Float, Int

from sciml.runs.files import atomic_path, reserve
from sciml_cryoem.files.faults import Fault, FaultError
from sciml_cryoem.files.foreign import COMPRESSED
from sciml_cryoem.files.mrc_header import HEADER_BYTES, OWN_LABEL, Header, Mode0, parse_header, read_header

_ENDLESS = 2**62


@dataclass(frozen=True)
class Volume:
    """A map.

    Attributes:
        array: float32, axes z, y, x.
        pixel_size: Angstrom; None when the header does not know it.
        header: what the file said.
    """

    array: Float[np.ndarray, "nz ny nx"]
    pixel_size: float | None
    header: Header


class MappedStack:
    """The sections of a checked file, mapped into memory and read on demand.

    Pages that were read are handed back at once: the resident set of a reconstruction stays that of its arrays, however
    large the stack is, and the next pass finds the data in the system's cache.

    Attributes:
        header: the checked header.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        with open(header.path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        count = header.shape[0] * header.shape[1] * header.shape[2]
        self._sections = np.frombuffer(self._map, header.dtype, count, header.offset).reshape(header.shape)

    def read(self, which: Int[np.ndarray, " count"]) -> Float[np.ndarray, "count ny nx"]:
        """Sections (from 0) as native, contiguous float32; a run of neighbors is read in one piece."""
        count = len(which)
        if count and which[-1] - which[0] == count - 1 and bool((np.diff(which) == 1).all()):
            images = np.array(self._sections[which[0] : which[0] + count], dtype=np.float32, order="C")
        else:
            images = np.empty((count, *self.header.shape[1:]), dtype=np.float32)
            for place, section in enumerate(which):
                images[place] = self._sections[section]
        if count:
            self._release(int(which.min()), int(which.max()) + 1)
        return images

    def _release(self, first: int, last: int) -> None:
        """Give the whole pages between two sections back to the system (they stay in its cache)."""
        section = self._sections[0].nbytes
        start = -(-(self.header.offset + first * section) // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (self.header.offset + last * section) // mmap.PAGESIZE * mmap.PAGESIZE - start
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, length)


def read_map(path: str | Path, mode0: Mode0 = "auto") -> Volume:
    """Read a 3D map with axes z, y, x, whatever order the file has. It may be compressed by gzip or bzip2.

    Raises:
        InputError: a faulty header (see `read_header`), one section only, a voxel that is not a cube, a value that is
            not finite.
    """
    header, array = _decompressed(Path(path), mode0) or _mapped(path, mode0)
    if min(header.shape) < 2:
        fault = f"{header.shape[2]} x {header.shape[1]} x {header.shape[0]} values are no volume."
        raise _fault(header.path, "header fields nx, ny, nz", fault, "Name a 3D map.")
    if not np.isfinite(array).all():
        section, row, column = np.argwhere(~np.isfinite(array))[0]
        fault = f"a value is not finite (section {section}, row {row}, column {column}, from 0)."
        raise _fault(header.path, "data", fault, "Write the map again.")
    if sorted(header.axes) == [1, 2, 3]:
        # The file's axes (sections, rows, columns) carry maps, mapr, mapc; z y x asks for 3, 2, 1.
        carried = header.axes[::-1]
        array = np.ascontiguousarray(array.transpose([carried.index(axis) for axis in (3, 2, 1)]))
    sizes = [size for size in header.voxel if size]
    if sizes and max(sizes) > 1.01 * min(sizes):
        fault = f"the voxel is {' x '.join(f'{size:.4g}' for size in sizes)} Angstrom, not a cube."
        raise _fault(header.path, "header field cella", fault, "Resample the map, or correct its header.")
    return Volume(array, header.pixel_size, header)


def _mapped(path: str | Path, mode0: Mode0) -> tuple[Header, Float[np.ndarray, "nz ny nx"]]:
    header = read_header(path, mode0)
    return header, MappedStack(header).read(np.arange(header.shape[0]))


def _decompressed(path: Path, mode0: Mode0) -> tuple[Header, Float[np.ndarray, "nz ny nx"]] | None:
    """Header and values of a map compressed by gzip or bzip2, of which no more is unpacked than its header asks for.

    Returns:
        None when the file is not compressed, or is not there.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        if not start.startswith(COMPRESSED) or not path.is_file():
            return None
        with (gzip.open if start.startswith(COMPRESSED[0]) else bz2.open)(path, "rb") as file:
            raw = file.read(HEADER_BYTES)
            if len(raw) < HEADER_BYTES:
                fault = f"unpacks to {len(raw)} bytes, shorter than the {HEADER_BYTES} bytes of an MRC header."
                raise _fault(path, "header", fault, "Copy or write the file again.")
            # A size that no file has: the header alone must tell what follows, the end of the data is looked at below.
            header = parse_header(path, raw, _ENDLESS, mode0)
            file.read(header.offset - HEADER_BYTES)
            wanted = header.dtype.itemsize * header.shape[0] * header.shape[1] * header.shape[2]
            data = file.read(wanted)
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            return None  # said by `read_header`
        raise _fault(path, "", "the compressed data are damaged.", "Copy or write the file again.") from None
    if len(data) < wanted:
        fault = f"truncated: the header asks for {wanted} bytes of data, {len(data)} are there."
        raise _fault(path, "header fields nx, ny, nz", fault, "Copy or write the file again.")
    values = np.frombuffer(data, header.dtype).reshape(header.shape)
    notes = tuple(note for note in header.notes if "after the data" not in note)
    return replace(header, notes=notes), values.astype(np.float32)


def _fault(path: Path, place: str, fault: str, remedy: str) -> FaultError:
    return FaultError(Fault(str(path), place, fault, remedy))


def write_map(path: str | Path, array: Float[np.ndarray, "nz ny nx"], pixel_size: float) -> Path:
    """Write a map as MRC2014 mode 2: space group 1, mz = nz, origin 0, statistics and pixel size in the header.

    The same array gives the same bytes. The file is whole or not there.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as file:
        file.set_data(np.ascontiguousarray(array, dtype=np.float32))
        file.set_volume()
        _finish(file, pixel_size)
    return Path(path)


def write_stack(
    path: str | Path,
    batches: Iterable[Float[np.ndarray, "count ny nx"]],
    shape: tuple[int, int, int],
    pixel_size: float,
    mode: Literal[2, 12] = 2,
) -> Path:
    """Write an image stack (space group 0, mz 1) batch by batch: only one batch is in memory.

    Args:
        path: a name in `.mrcs`, by which RELION knows a stack.
        batches: images in order; together exactly `shape[0]` of them.
        shape: images, rows, columns.
        pixel_size: Angstrom.
        mode: 2 (float32), or 12 (float16: half the size; RELION reads it from version 4).

    Raises:
        ValueError: the batches do not add up to the shape.
        OSError: it cannot be written.
    """
    with atomic_path(path) as temporary, mrcfile.new_mmap(temporary, shape, mrc_mode=mode, overwrite=True) as file:
        reserve(temporary, temporary.stat().st_size)
        file.set_image_stack()
        data: Any = file.data
        done = 0
        for batch in batches:
            if batch.shape[1:] != shape[1:] or done + len(batch) > shape[0]:
                raise ValueError(f"a batch of shape {batch.shape} after {done} images does not fit into {shape}")
            data[done : done + len(batch)] = batch
            done += len(batch)
        if done != shape[0]:
            raise ValueError(f"{done} images for a stack of {shape[0]}")
        _finish(file, pixel_size)
    return Path(path)


def _finish(file: Any, pixel_size: float) -> None:
    """Statistics, pixel size and label; mrcfile's own label holds the time, which would make equal maps differ."""
    data = file.data
    section = max(1, 2**24 // max(1, data[0].size))
    sums = np.zeros(2)
    for start in range(0, len(data), section):  # mrcfile's own statistics would hold a float64 copy of a whole stack
        part = np.asarray(data[start : start + section], dtype=np.float64)
        sums += part.sum(), np.square(part).sum()
    mean = sums[0] / data.size
    file.voxel_size = pixel_size
    header: Any = file.header
    header.dmin, header.dmax, header.dmean = data.min(), data.max(), mean
    header.rms = np.sqrt(max(sums[1] / data.size - mean**2, 0.0))
    header["label"] = b""
    header["label"][0] = OWN_LABEL
    header.nlabl = 1
