"""What the end of a solve is worth: an optimiser that came to rest need not have solved anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sciml.findings import Finding
from sciml.solution import Result

STALLED = 0.9
"""A loss, or a term of it that is most of what is left, above this share of its start has not been solved for."""
MOVED = 1e-3
"""Relative change of the parameters below which a solve began at rest, as from a good model."""
DIVERGED = 1e10
"""A loss so many times larger than at its start has no minimum that could be found."""
FLOOR = 1e-4
"""In single precision a line search that fails below this share of the start has met rounding."""


@dataclass(frozen=True)
class Verdict:
    """How a solve ended, and what to know about it.

    Attributes:
        result: of the solve, after the loss was looked at.
        findings: why it is another than the optimiser's, and how far the loss fell.
    """

    result: Result
    findings: list[Finding] = field(default_factory=list)


def shares(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of each named term in the last loss, by magnitude."""
    terms = _terms(history, -1)
    whole = sum(map(abs, terms.values()))
    return {name: abs(value) / whole for name, value in terms.items()} if whole > 0 else {}


def judge(
    result: Result, loss: float, history: Sequence[Mapping[str, Any]], moved: float, dtype: torch.dtype
) -> Verdict:
    """Look at what the loss did.

    Args:
        result: what the optimiser says.
        loss: at the end.
        history: records of the solve.
        moved: length of the change of the parameters, relative to theirs.
        dtype: of the parameters.
    """
    first, last = _terms(history, 0), _terms(history, -1)
    if not first or result in (Result.NONFINITE, Result.INTERRUPTED):
        return Verdict(result)
    start = sum(first.values())
    if abs(loss) > DIVERGED * max(abs(start), 1.0):
        what = f"The loss went from {start:.3g} to {loss:.3g}: it has no minimum here, or the steps are too large."
        remedy = "Look for a term that can fall for ever (a logarithm, a negative energy), or lower the step size."
        return Verdict(Result.DIVERGED, [Finding(what, "loss", "severe", remedy)])
    if result is Result.LINE_SEARCH_FAILED and dtype == torch.float32 and abs(loss) < FLOOR * abs(start):
        what = f"The loss fell to {abs(loss / start):.1g} of its start, where single precision resolves it no further."
        return Verdict(Result.CONVERGED, [Finding(what, "loss", "note", "For more digits use model.double().")])
    return _stalled(result, loss, first, last, moved)


def _stalled(result: Result, loss: float, first: dict[str, float], last: dict[str, float], moved: float) -> Verdict:
    """Whether a loss of terms that cannot be negative has hardly fallen, or one term that is most of it has not."""
    start, whole = sum(first.values()), sum(last.values())
    if not start > 0 or not whole > 0 or not math.isfinite(loss) or min(*first.values(), *last.values(), 0.0) < 0:
        return Verdict(result)
    stuck = [
        name for name, value in last.items() if value > 0.5 * whole and value >= STALLED * first.get(name, math.inf)
    ]
    if not stuck and loss < STALLED * start:
        return Verdict(result)
    where = f"loss term '{stuck[0]}'" if stuck and len(last) > 1 else "loss"
    before, after = (first[stuck[0]], last[stuck[0]]) if stuck and len(last) > 1 else (start, loss)
    what = f"It was {before:.3g} at the start and is {after:.3g} at the end"
    if moved < MOVED:
        return Verdict(result, [Finding(f"{what}: the solve began where the gradient vanishes.", where, "note")])
    remedy = (
        "Try another start or scale of the unknowns, more weight on this term, or a network that can represent the "
        "answer (wider, steeper, with sines)."
    )
    stalled = Result.STALLED if result in (Result.CONVERGED, Result.NOISE_FLOOR, Result.LINE_SEARCH_FAILED) else result
    return Verdict(stalled, [Finding(f"{what}: that is no solution.", where, "severe", remedy)])


def _terms(history: Sequence[Mapping[str, Any]], place: int) -> dict[str, float]:
    """The named terms of the first (0) or last (-1) step."""
    records = history if place == 0 else reversed(history)
    terms = next((record["terms"] for record in records if record.get("kind") == "step" and record.get("terms")), {})
    return {name: float(value) for name, value in terms.items() if isinstance(value, int | float)}
