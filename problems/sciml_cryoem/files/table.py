"""`Table`: one block of a STAR file, every value kept as the text that stood there."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from gemmi import cif
from jaxtyping import Float, Int

from sciml_cryoem.files.faults import Fault, FaultError

_SPECIAL = re.compile(r"""[_#'";$\[\]]|data_|loop_|save_""", re.IGNORECASE)
REPAIR = "Write the table again with the program that made it, or repair the file in a text editor."


@dataclass(frozen=True)
class Table:
    """One `data_` block of a STAR file.

    Attributes:
        path: the file it came from; named in errors.
        name: block name without `data_`; empty for an unnamed block.
        columns: label (without the leading underscore) -> the raw text of every row.
        lines: the line number (from 1) of every row.
        loop: False for a block of single values, which is a table of one row.
    """

    path: Path
    name: str
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    loop: bool = True

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def place(self, row: int) -> str:
        """Where a row (from 0) stands, in words."""
        line = self.lines[row]
        return f"line {line} (row {row + 1} of data_{self.name})" if line else f"row {row + 1} of data_{self.name}"

    def text(self, label: str) -> list[str]:
        """A column as text, without quotes.

        Raises:
            KeyError: no such column.
        """
        return [cif.as_string(value) if value[:1] in "'\"" else value for value in self.columns[label]]

    def numbers(self, label: str) -> Float[np.ndarray, " rows"]:
        """A column as float64.

        Raises:
            KeyError: no such column.
            InputError: a value is not a finite number; the message names its line.
        """
        values = self.columns[label]
        text = "".join(values)
        try:
            if "_" in text or not text.isascii():  # Python reads 1_0 and other scripts' digits, RELION does not
                raise ValueError(label)
            numbers = np.array(values, dtype=np.float64)
        except ValueError:
            numbers = np.array([_number(value) for value in values], dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            raise self._bad_value(label, int(bad[0]), len(bad), "a finite number")
        return numbers

    def integers(self, label: str) -> Int[np.ndarray, " rows"]:
        """A column as int64; `3.000000` is an integer, as some programs write it.

        Raises:
            KeyError: no such column.
            InputError: a value is not a whole number; the message names its line.
        """
        numbers = self.numbers(label)
        bad = np.flatnonzero((numbers != np.rint(numbers)) | (np.abs(numbers) > 2**53))
        if len(bad):
            raise self._bad_value(label, int(bad[0]), len(bad), "a whole number")
        return numbers.astype(np.int64)

    def _bad_value(self, label: str, row: int, count: int, wanted: str) -> FaultError:
        value = self.columns[label][row]
        more = f" ({count} such rows)" if count > 1 else ""
        return FaultError(Fault(str(self.path), self.place(row), f"{label} is {value!r}, not {wanted}{more}.", REPAIR))

    def with_column(self, label: str, values: Sequence[str]) -> "Table":
        """The table with a column replaced, or added at the end.

        Raises:
            ValueError: the number of values is not the number of rows.
        """
        if len(values) != len(self):
            raise ValueError(f"{label}: {len(values)} values for {len(self)} rows")
        return replace(self, columns={**self.columns, label: values})

    def without(self, labels: Iterable[str]) -> "Table":
        """The table without some columns; labels it does not have are ignored."""
        dropped = set(labels) & self.columns.keys()
        if not dropped:
            return self  # the columns of a file stay unread
        return replace(self, columns={k: v for k, v in self.columns.items() if k not in dropped})

    def select(self, rows: Int[np.ndarray, " kept"]) -> "Table":
        """The table with these rows (from 0), in this order."""
        picked = rows.tolist()
        columns = {label: [values[row] for row in picked] for label, values in self.columns.items()}
        return replace(self, columns=columns, lines=[self.lines[row] for row in picked])


def make_table(name: str, columns: Mapping[str, Sequence[str]], loop: bool = True) -> Table:
    """A table that comes from no file; values are text that is already quoted where it must be (`quote`)."""
    rows = len(next(iter(columns.values()), ()))
    return Table(Path(), name, dict(columns), [0] * rows, loop)


def quote(value: str) -> str:
    """Text as one STAR token: quoted when it is empty, holds white space, or begins like something else.

    Raises:
        ValueError: a line break, or both kinds of quotes: STAR as RELION reads it cannot hold them.
    """
    if value and not _SPECIAL.match(value) and not re.search(r"\s", value):
        return value
    mark = '"' if '"' not in value else "'"
    if mark in value or re.search(r"[\r\n]", value):
        raise ValueError(f"{value!r} cannot be written as one STAR value")
    return f"{mark}{value}{mark}"


def _number(value: str) -> float:
    """A number, or NaN for what is none."""
    text = cif.as_string(value)
    try:
        return float(text) if text.isascii() and "_" not in text else float("nan")
    except ValueError:
        return float("nan")
