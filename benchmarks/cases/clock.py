"""The error of a solve against the CPU seconds it has spent, looked at now and then without being charged for it."""

import time
from collections.abc import Callable


class Curve:
    """Error against time for one solve.

    Args:
        error: the relative error of the present state.
        seconds: CPU seconds to spend.
        looks: how often to look, evenly in time.

    Attributes:
        points: (CPU seconds, error) pairs.
    """

    def __init__(self, error: Callable[[], float], seconds: float, looks: int = 60) -> None:
        self.error, self.seconds, self.looks = error, seconds, looks
        self.points: list[tuple[float, float]] = []
        self.began = time.process_time()

    @property
    def spent(self) -> float:
        """CPU seconds of the solve, looks excluded."""
        return time.process_time() - self.began

    def left(self) -> float:
        """CPU seconds that remain; looks at the error if it is time to. Not above zero means stop."""
        spent = self.spent
        if not self.points or spent >= min(self.points[-1][0] + self.seconds / self.looks, self.seconds):
            self.look()
        return self.seconds - spent

    def look(self) -> None:
        """Evaluate the error now; the time this takes is given back."""
        begin = time.process_time()
        self.points.append((begin - self.began, self.error()))
        self.began += time.process_time() - begin
