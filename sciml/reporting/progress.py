"""One line on a terminal that shows how a solve is doing. Elsewhere nothing is printed."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from sciml import distributed

REFRESH_SECONDS = 0.1


class Progress:
    """A line on standard error: title, phase, step, loss, gradient SNR, rate and time left.

        with Progress("rod, weak form") as progress:
            progress.update(phase="Adam", step=17, loss=loss, rate=812.0, left=4.2)

    The line is drawn at most ten times a second. In between, and without a terminal, an update costs about a
    microsecond. The last line stays on the screen.
    """

    def __init__(self, title: str, quiet: bool | None = None) -> None:
        """Prepare the line.

        Args:
            title: what is being solved.
            quiet: whether to show nothing. None is quiet when standard error is no terminal or another process leads.
        """
        self.title = title
        self.quiet = (
            not (distributed.leader() and sys.stderr is not None and sys.stderr.isatty()) if quiet is None else quiet
        )
        self._values: dict[str, Any] = {}
        self._drawn = 0.0
        self._live: Any = None

    def __enter__(self) -> Self:
        if not self.quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._values.pop("left", None)
            self._draw()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, **values: Any) -> None:
        """Give new values. A value that is not named, or None, stays as it was.

        Args:
            **values: `phase` (text); `step`, `loss`, `snr` (numbers, or scalar tensors, which are read only when the
                line is drawn); `rate` (per second) and the `unit` that it counts ("steps"); `left` (seconds); `note`
                (text).
        """
        if self.quiet:
            return
        self._values.update((name, value) for name, value in values.items() if value is not None)
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS and self._live is not None:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        parts = [(self.title, "bold"), *self._parts()]
        line = Text("  ", no_wrap=True, overflow="ellipsis").join(Text(text, style) for text, style in parts)
        try:
            self._live.update(line, refresh=True)
        except OSError:  # the terminal is gone; the solve goes on
            self._live = None

    def _parts(self) -> list[tuple[str, str]]:
        values = self._values
        parts = []
        if "phase" in values:
            parts.append((str(values["phase"]), "cyan"))
        if "step" in values:
            parts.append((f"step {int(values['step']):,}", ""))
        if "loss" in values:
            parts.append((f"loss {float(values['loss']):.3e}", "green"))
        if "snr" in values:
            parts.append((f"SNR {float(values['snr']):.3g}", "magenta"))
        if "rate" in values:
            parts.append((f"{float(values['rate']):,.4g} {values.get('unit', 'steps')}/s", ""))
        if "left" in values:
            parts.append((f"{duration(float(values['left']))} left", "yellow"))
        if "note" in values:
            parts.append((str(values["note"]), "dim"))
        return parts


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `0:07`, `12:30`, `1:02:30`."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
