"""`Budget`: where a solve stops at the latest."""

from collections.abc import Mapping
from dataclasses import dataclass

from sciml.errors import InputError


@dataclass(frozen=True)
class Budget:
    """Where a solve stops at the latest.

    Attributes:
        seconds: wall-clock seconds of the solve. Earlier sessions of a resumed run count.
        evaluations: loss-and-gradient evaluations per item of the declared set. Those of line searches count.
        target: names of values of `Problem.evaluate`, and how small each must be for the answer to be good enough. With
            a target they are computed after every quasi-Newton iteration and every ten stochastic steps.

    Raises:
        InputError: a limit is not positive.
    """

    seconds: float | None = None
    evaluations: float | None = None
    target: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluations"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise InputError(f"Budget({name}={given}): must be positive, or None for no limit")

    def spent(self, seconds: float, evaluations: float) -> str | None:
        """The part of the budget that is spent, in words; None if none is."""
        if self.seconds is not None and seconds >= self.seconds:
            return f"the budget of {self.seconds:g} s"
        if self.evaluations is not None and evaluations >= self.evaluations:
            return f"the budget of {self.evaluations:g} evaluations"
        return None

    def reached(self, values: Mapping[str, float]) -> str | None:
        """The target in words if all values are at or below it, else None.

        Raises:
            InputError: the target names a value that the problem does not evaluate.
        """
        target = self.target or {}
        if missing := sorted(set(target) - set(values)):
            raise InputError(f"Budget(target=...) names {', '.join(missing)}; the problem gives {sorted(values)}")
        if not target or any(not values[name] <= limit for name, limit in target.items()):
            return None
        return "the target " + ", ".join(f"{name} <= {limit:g}" for name, limit in target.items())
