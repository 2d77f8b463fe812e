"""The end of a solve is judged by what the loss did."""

import pytest
import torch

from sciml.loop.verdict import judge, shares
from sciml.solution import Result


def _history(*terms: dict[str, float]) -> list[dict]:
    return [{"kind": "step", "terms": each} for each in terms]


CASES = {
    "solved": (Result.CONVERGED, 1e-8, [{"pde": 1.0, "norm": 1.0}, {"pde": 1e-9, "norm": 9e-9}], 0.5, Result.CONVERGED),
    "as at the start": (Result.CONVERGED, 1.0, [{"fit": 1.0}, {"fit": 1.0}], 0.5, Result.STALLED),
    "one term left": (Result.CONVERGED, 1.0, [{"a": 9e2, "b": 1.0}, {"a": 1e-6, "b": 1.0}], 1.0, Result.STALLED),
    "a small term grew": (Result.CONVERGED, 2e-2, [{"a": 1.0, "b": 0.0}, {"a": 0.01, "b": 0.01}], 1.0, Result.CONVERGED),
    "half of it is noise": (Result.CONVERGED, 0.5, [{"fit": 1.0}, {"fit": 0.5}], 1.0, Result.CONVERGED),
    "began at rest": (Result.CONVERGED, 1e-9, [{"fit": 1e-9}, {"fit": 1e-9}], 1e-9, Result.CONVERGED),
    "an energy": (Result.CONVERGED, -0.3, [{"energy": -0.29}, {"energy": -0.3}], 1.0, Result.CONVERGED),
    "ran out of steps": (Result.MAX_STEPS, 1.0, [{"fit": 1.0}, {"fit": 1.0}], 0.5, Result.MAX_STEPS),
    "grew": (Result.MAX_STEPS, 2e179, [{"fit": 1.0}, {"fit": 2e179}], 1e9, Result.DIVERGED),
    "fell for ever": (Result.MAX_STEPS, -2e116, [{"energy": 0.1}, {"energy": -2e116}], 1e9, Result.DIVERGED),
    "not a number": (Result.NONFINITE, float("nan"), [{"fit": 1.0}, {"fit": 1.0}], 0.1, Result.NONFINITE),
    "no step": (Result.MAX_STEPS, 1.0, [], 0.0, Result.MAX_STEPS),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_what_the_loss_did(case: str) -> None:
    result, loss, terms, moved, expected = CASES[case]
    verdict = judge(result, loss, _history(*terms), float(moved), torch.float64)
    assert verdict.result is expected
    severe = [finding for finding in verdict.findings if finding.severity == "severe"]
    assert bool(severe) == (expected in (Result.STALLED, Result.DIVERGED) or case == "ran out of steps")


def test_a_failed_line_search_at_the_floor_of_single_precision_is_an_end() -> None:
    history = _history({"fit": 1.0}, {"fit": 1e-7})
    assert judge(Result.LINE_SEARCH_FAILED, 1e-7, history, 1.0, torch.float32).result is Result.CONVERGED
    assert judge(Result.LINE_SEARCH_FAILED, 1e-7, history, 1.0, torch.float64).result is Result.LINE_SEARCH_FAILED
    assert judge(Result.LINE_SEARCH_FAILED, 0.3, _history({"fit": 1.0}, {"fit": 0.3}), 1.0, torch.float32).result is (
        Result.LINE_SEARCH_FAILED
    )


def test_shares_are_of_the_last_step() -> None:
    assert shares(_history({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 3.0})) == {"a": 0.25, "b": 0.75}
    assert shares([]) == {}
