"""One solve inside a run: its metrics, one JSON object a line, and the folder of its checkpoints."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sciml import distributed
from sciml.errors import InputError
from sciml.runs.files import make_folder, naming, to_json, write_atomic

BUFFERED_RECORDS = 256
BUFFERED_SECONDS = 2.0

INTEGERS = frozenset({"index", "step"})
NUMBERS = frozenset({
    "evaluations", "seconds", "loss", "batch", "set", "snr", "snr_low", "snr_high", "critical_batch", "worth",
    "worth_low", "worth_high", "threshold", "relative_l2", "resolution",
})  # fmt: skip
"""Fields of a metrics record that figures are drawn from."""


class Stage:
    """The folder of one solve inside a run: its metrics and its checkpoints.

    Of several processes that share a run only the leader writes; the others read.

    Attributes:
        name: the stage's name, a plain folder name.
        path: the folder.
        metrics: metrics.jsonl, one JSON object a line.
        checkpoints: the folder of checkpoints; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        make_folder(self.checkpoints)
        if not (path / "stage.json").exists():
            write_atomic(path / "stage.json", to_json({"name": self.name, "created": time.time()}) + "\n")
        self._lines: list[str] = []
        self._flushed = time.monotonic()

    def append_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Queue records. They reach the file every few seconds, every few hundred records, and on `flush`."""
        self._lines.extend(to_json(record) + "\n" for record in records)
        if len(self._lines) >= BUFFERED_RECORDS or time.monotonic() - self._flushed > BUFFERED_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the queued records.

        Raises:
            OSError: the disk is full or the folder is gone; the records stay queued.
        """
        if self._lines and distributed.leader():
            with naming(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
                file.write("".join(self._lines))
        self._lines.clear()
        self._flushed = time.monotonic()

    def metrics_offset(self) -> int:
        """Bytes of metrics so far, for a checkpoint. Queued records are written first."""
        self.flush()
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def truncate_metrics(self, offset: int) -> None:
        """Forget every record after `offset` bytes. A resumed solve does so, lest a step be recorded twice.

        Raises:
            InputError: the file is shorter than `offset`, so it is not the one that the checkpoint belongs to.
        """
        self._lines.clear()
        if not distributed.leader():
            return
        size = self.metrics.stat().st_size if self.metrics.exists() else 0
        if size < offset:
            raise InputError(
                f"{self.metrics}: {size} bytes, but the checkpoint saw {offset}. Delete {self.path} to start it anew."
            )
        if size > offset:
            os.truncate(self.metrics, offset)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All records. A last line cut short by a crash is left out; a broken line elsewhere is an error.

        Raises:
            InputError: a line that is not JSON; the message names file and line.
        """
        self.flush()
        return read_metrics(self.metrics)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; empty when there is no file. See `Stage.read_metrics`."""
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # no newline after it: a crash while writing
                break
            raise InputError(f"{path}, line {number}: not valid JSON ({error}).") from None
        if odd := _odd(record):
            raise InputError(f"{path}, line {number}: {odd}; this program writes no such record.")
        records.append(record)
    return records


def _odd(record: Any) -> str | None:
    """What in a record this program would not have written; None for a sound one. Fields of other names may be any."""
    if not isinstance(record, dict):
        return "no object"
    if not isinstance(record.get("kind", ""), str):
        return "`kind` is no text"
    inner = {name: record.get(name) or {} for name in ("terms", "values", "details")}
    if odd := next((name for name, value in inner.items() if not isinstance(value, dict)), None):
        return f"`{odd}` is no object"
    for name, value in [*record.items(), *inner["values"].items(), *inner["details"].items()]:
        if name in INTEGERS and not _is_number(value, int):
            return f"`{name}` is no integer"
        if name in NUMBERS and value is not None and not _is_number(value, int | float):
            return f"`{name}` is no number"
    return None


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
