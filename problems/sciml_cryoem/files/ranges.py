"""Which values a column can have, which are usual, and which look like another unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.table import Table

_FEW = 0.01
"""Share of rows up to which implausible values are a warning: a few bad fits among many particles ruin no map."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table that are judged, each kind of complaint once.

    Attributes:
        table: where they stand.
        numbers: which rows of it (from 0).
        faults: to which complaints are added.
    """

    table: Table
    numbers: Sequence[int]
    faults: Faults

    def report(
        self,
        bad: Bool[np.ndarray, " rows"],
        what: str,
        remedy: str,
        how: Literal["fault", "severe", "by share"] = "by share",
    ) -> None:
        """Add what is wrong with some rows, if there are any; it names the first and their number.

        Args:
            bad: which of the rows.
            what: what is wrong with the first, a sentence without its full stop.
            remedy: a sentence.
            how: as what; "by share": a warning where it is at most 1 % of the rows, else severe.
        """
        if not bad.any():
            return
        count, place = int(bad.sum()), self.table.place(int(self.numbers[int(np.argmax(bad))]))
        if how == "by share":
            add = self.faults.severe if count > _FEW * len(bad) else self.faults.warning
        else:
            add = self.faults.error if how == "fault" else self.faults.severe
        more = f" ({count:,} of {len(bad):,} rows)" if len(bad) > 1 else ""
        add(self.table.path, place, f"{what}{more}.", remedy)


@dataclass(frozen=True)
class LooksLike:
    """Values that make sense in another unit.

    Attributes:
        low: smallest of them, in magnitude, exclusive.
        high: largest of them, in magnitude, inclusive.
        unit: the unit in which they would make sense.
        remedy: how to convert them.
    """

    low: float
    high: float
    unit: str
    remedy: str


@dataclass(frozen=True)
class Range:
    """The values of a column.

    Attributes:
        label: of the column.
        unit: in words.
        allowed: lowest and highest value with which an image can be used at all.
        usual: lowest and highest value that microscopes and programs give.
        readings: values that look like another unit.
    """

    label: str
    unit: str
    allowed: tuple[float, float]
    usual: tuple[float, float]
    readings: Sequence[LooksLike] = ()

    def check(self, values: Float[np.ndarray, " rows"], rows: Rows) -> None:
        """Report values that cannot be, values in another unit, and unusual ones.

        Args:
            values: of the rows.
            rows: that are judged.
        """
        outside = (values < self.allowed[0]) | (values > self.allowed[1])
        rest = np.ones(len(values), bool)
        for reading in self.readings:
            alike = (np.abs(values) > reading.low) & (np.abs(values) <= reading.high)
            rest &= ~alike
            what = f"{self._first(values, alike)}: this looks like {reading.unit}; wanted is {self.unit}"
            rows.report(alike, what, reading.remedy, "fault" if (outside & alike).any() else "severe")
        unusual = ~outside & ((values < self.usual[0]) | (values > self.usual[1]))
        impossible, unusual = outside & rest, unusual & rest
        for bad, word, (low, high) in ((impossible, "allowed", self.allowed), (unusual, "usual", self.usual)):
            what = f"{self._first(values, bad)}; {word} is {low:g} to {high:g} ({self.unit})"
            rows.report(bad, what, "Check the value and its unit.", "fault" if word == "allowed" else "by share")

    def _first(self, values: np.ndarray, which: np.ndarray) -> str:
        return f"{self.label} is {values[np.argmax(which)]:g}"
