"""STAR files as RELION writes them: strict to read, lossless to rewrite.

`gemmi.cif` parses the grammar. It counts values per loop, not per line, so a short row followed by a long one would
pass silently shifted; RELION has one row a line, and every row is counted here first. Every value stays the text that
stood in the file (`0012`, `1.2e-7`, quotes), so columns that this program does not know are written back unchanged.
"""

import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemmi import cif

from sciml.runs.files import write_atomic
from sciml_cryoem.files.faults import Fault, FaultError
from sciml_cryoem.files.foreign import identify, missing
from sciml_cryoem.files.table import REPAIR, Table

# A quoted token ends at a quote that is followed by white space; `#` begins a comment only at the start of a token.
_TOKEN = re.compile(rb"""'(?:[^']|'(?=\S))*'(?=\s|$)|"(?:[^"]|"(?=\S))*"(?=\s|$)|#.*|\S+""")
_TWO_TABLES = "block data_{} holds more than one table; RELION reads one a block."
_GEMMI_PLACE = re.compile(r"^data:(\d+):\d+\(\d+\): (.*)", re.DOTALL)


class _LoopColumns(Mapping[str, Sequence[str]]):
    """The columns of a parsed loop, turned into Python text only when asked for: a wide table stays small in memory."""

    def __init__(self, block: cif.Block, labels: list[str], escaped: bool) -> None:
        self._block = block
        self._labels = dict.fromkeys(labels)
        self._escaped = escaped

    def __getitem__(self, label: str) -> Sequence[str]:
        if label not in self._labels:
            raise KeyError(label)
        values = list(self._block.find_loop("_" + label))
        return [_restore(value) for value in values] if self._escaped else values

    def __iter__(self) -> Iterator[str]:
        return iter(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, label: object) -> bool:
        return label in self._labels


def read_star(path: str | Path) -> dict[str, Table]:
    """Read a STAR file: block name -> table, in the order of the file.

    Args:
        path: a regular file; UTF-8 text.

    Raises:
        InputError: missing, empty, binary or HTML file; a row with too many or too few values (with its line); a column
            or block that occurs twice; a block with more than one table; anything that is not STAR.
    """
    path = Path(path)
    data = _read_text(path)
    rows_by_block = _scan(path, data)
    try:
        document = cif.read_string(_ascii(data))
    except (ValueError, RuntimeError) as error:
        match = _GEMMI_PLACE.match(str(error))
        place, reason = (f"line {match[1]}", match[2]) if match else ("", str(error))
        raise _broken(path, place, f"not a valid STAR file ({reason}).") from None
    escaped = not data.isascii()
    return {rows.name: _table(path, block, rows, escaped) for block, rows in zip(document, rows_by_block, strict=True)}


def _ascii(data: bytes) -> bytes:
    """CIF is ASCII, file names are not: other characters are escaped for the parser and restored by `_restore`."""
    if data.isascii():
        return data
    return data.decode().replace("\\", "\\\\").encode("ascii", "backslashreplace")


def _restore(value: str) -> str:
    return value.encode("ascii").decode("unicode_escape") if "\\" in value else value


def _broken(path: Path, place: str, fault: str, remedy: str = REPAIR) -> FaultError:
    return FaultError(Fault(str(path), place, fault, remedy))


def _read_text(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _broken(path, "", "not a regular file.", "Name a STAR file.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise _broken(path, "", missing(path), "Check the path.") from None
    except OSError as error:
        raise _broken(path, "", f"cannot be read ({error.strerror}).", "Check the path and its permissions.") from None
    known = identify(path, data[:200])
    if known:
        raise _broken(path, "", f"this is {known[0]}, not a STAR file.", known[1])
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise _broken(path, "", "the file is empty.", "Name a STAR file with a table of particles.")
    if data.lstrip()[:1] == b"<":
        raise _broken(path, "line 1", "this is HTML or XML, not STAR.", "Download the file itself, not its web page.")
    if b"\0" in data:
        raise _broken(path, "", "this is a binary file, not STAR text.", "Name the STAR file, not the stack.")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _broken(path, f"line {line}", "not UTF-8 text.", "Name a STAR file, or save it as UTF-8.") from None
    if b"\r" in data and b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return data


def _tokens(line: bytes) -> list[bytes]:
    """The values on a line, without a comment at its end."""
    tokens = _TOKEN.findall(line) if b"'" in line or b'"' in line else line.split()
    if b"#" in line:
        for index, token in enumerate(tokens):
            if token.startswith(b"#"):
                return tokens[:index]
    return tokens


@dataclass
class _Block:
    """What the scan keeps of a block: its labels, the width of its table, the line of each row."""

    name: str
    labels: list[str]
    lines: list[int]
    width: int = 0
    loop: bool = False
    reading_labels: bool = False


def _scan(path: Path, data: bytes) -> list[_Block]:
    """One pass over the lines: count the values of every row, note its line, find what occurs twice."""
    blocks: list[_Block] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if line[:1] == b";":
            raise _broken(path, f"line {number}", "a text field (`;`), which RELION's tables do not have.")
        tokens = _tokens(line)
        if not tokens:
            continue
        head = tokens[0].lower()
        if head.startswith(b"data_"):
            blocks.append(_new_block(path, blocks, tokens[0], number))
        elif not blocks:
            raise _broken(path, f"line {number}", "expected a block header (`data_particles`).")
        elif head == b"loop_":
            if blocks[-1].labels:
                raise _broken(path, f"line {number}", _TWO_TABLES.format(blocks[-1].name))
            blocks[-1].loop, blocks[-1].reading_labels = True, True
            _add_labels(path, blocks[-1], tokens[1:], number)
        elif tokens[0].startswith(b"_"):
            _add_labels(path, blocks[-1], tokens, number)
        else:
            _add_row(path, blocks[-1], len(tokens), number)
    if not blocks:
        raise _broken(path, "", "no `data_` block: this is not a STAR file.")
    return blocks


def _new_block(path: Path, blocks: list[_Block], token: bytes, number: int) -> _Block:
    name = token[5:].decode()
    if any(block.name.lower() == name.lower() for block in blocks):
        raise _broken(path, f"line {number}", f"block data_{name} occurs twice.")
    return _Block(name, [], [])


def _add_labels(path: Path, block: _Block, tokens: list[bytes], number: int) -> None:
    if block.loop and not block.reading_labels:
        raise _broken(path, f"line {number}", _TWO_TABLES.format(block.name))
    for token in tokens if block.loop else tokens[:1]:
        if not token.startswith(b"_"):
            raise _broken(path, f"line {number}", f"{token.decode()!r} stands among the column labels.")
        label = token[1:].decode()
        if label in block.labels:
            raise _broken(path, f"line {number}", f"column {label} occurs twice in data_{block.name}.")
        block.labels.append(label)
    if block.loop:
        block.width = len(block.labels)
    else:
        if len(tokens) != 2:
            raise _broken(path, f"line {number}", f"{len(tokens) - 1} values for {block.labels[-1]}, not 1.")
        block.lines = [number]


def _add_row(path: Path, block: _Block, count: int, number: int) -> None:
    if not block.loop:
        raise _broken(path, f"line {number}", "a value without a label.")
    block.reading_labels = False
    block.lines.append(number)
    if count != block.width:
        row = len(block.lines)
        fault = f"row {row} of data_{block.name} has {count} values, its table has {block.width} columns."
        raise _broken(path, f"line {number}", fault)


def _table(path: Path, block: cif.Block, scanned: _Block, escaped: bool) -> Table:
    if scanned.loop:
        columns = _LoopColumns(block, scanned.labels, escaped)
        return Table(path, scanned.name, columns, scanned.lines)
    values = {label: block.find_value("_" + label) or "?" for label in scanned.labels}
    pairs = {label: [_restore(value) if escaped else value] for label, value in values.items()}
    return Table(path, scanned.name, pairs, scanned.lines, loop=False)


def format_star(tables: Iterable[Table]) -> str:
    """The text of a STAR file in the form of RELION 3.1 (`# version 30001`, labels numbered)."""
    parts: list[str] = []
    for table in tables:
        parts.append(f"\n# version 30001\n\ndata_{table.name}\n\n")
        if not table.loop:
            width = max((len(label) for label in table.columns), default=0) + 2
            parts += [f"_{label:<{width}}{values[0]}\n" for label, values in table.columns.items()] + [" \n"]
            continue
        parts.append("loop_ \n")
        parts += [f"_{label} #{index} \n" for index, label in enumerate(table.columns, 1)]
        padded = [_aligned(values) for values in table.columns.values()]
        parts += [" ".join(row) + " \n" for row in zip(*padded, strict=True)] + [" \n"]
    return "".join(parts)


def _aligned(values: Sequence[str]) -> list[str]:
    """All values right-aligned to the longest."""
    width = max(map(len, values), default=0)
    return [value.rjust(width) for value in values]


def write_star(path: str | Path, tables: Iterable[Table]) -> Path:
    """Write tables as one STAR file, whole or not at all. RELION reads it back.

    Raises:
        OSError: it cannot be written.
    """
    return write_atomic(path, format_star(tables))
