"""The metric records of a solve: kept in memory, and appended to the metrics of its stage."""

import time
from typing import Any

from sciml.runs.stage import Stage


class Records:
    """The metric records of a solve, and its clock.

    Attributes:
        history: all records, oldest first.
        before: seconds that earlier sessions of a resumed solve took.
    """

    def __init__(self, stage: Stage | None) -> None:
        self.stage = stage
        self.history: list[dict[str, Any]] = []
        self.before = 0.0
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds so far."""
        return self.seconds_at(time.monotonic())

    def seconds_at(self, clock: float) -> float:
        """Wall-clock seconds at a reading of `time.monotonic`."""
        return self.before + clock - self.began

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add records to the history and to the stage's metrics."""
        self.history.extend(records)
        if self.stage is not None:
            self.stage.append_metrics(records)

    def flush(self) -> None:
        """Write to the stage what still waits."""
        if self.stage is not None:
            self.stage.flush()
