"""Ctrl-C and SIGTERM become a request that a loop honours between steps."""

import signal
import threading
from types import TracebackType
from typing import Any, Self

from sciml.runs.run import served


class Interrupts:
    """Turns the first Ctrl-C or SIGTERM into a request that the loop honours between steps. The second acts at once.

    Args:
        at_once: the first acts at once, too, because a step takes long and its end is saved in any case.

    Attributes:
        asked: whether there was one.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.asked, self.at_once = False, at_once
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if line := served.get():
            line.signal = number
        if self.asked or self.at_once:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
