"""Work in threads: every item once, in order, and no more threads than are allowed."""

import os
import threading

import pytest
from sciml_cryoem.imaging import threads
from sciml_cryoem.imaging.threads import cores, in_threads


@pytest.mark.parametrize("count", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("there", [1, 3, 8])
@pytest.mark.parametrize(("least", "block"), [(1, 1), (10, 4), (300, 16)])
def test_every_item_is_worked_on_once_in_order(
    count: int, there: int, least: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: there)
    parts = in_threads(count, least, lambda part: part, block)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.start % block == 0 for part in parts)
    assert len(parts) <= max(1, min(there, count // least))


def test_parts_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    meet = threading.Barrier(2, timeout=10.0)
    assert len(in_threads(10, 1, lambda _: meet.wait())) == 2


def test_the_environment_limits_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    for given, expected in (("1", 1), ("4", 4), ("99", 6), ("", 6), ("0", 6), ("2,4", 6)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert cores() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() == 6


def test_an_error_in_a_part_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)

    def work(part: slice) -> None:
        if part.start:
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        in_threads(8, 1, work)
