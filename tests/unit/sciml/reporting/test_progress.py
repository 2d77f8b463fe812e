"""The progress line: silent elsewhere, cheap everywhere."""

import time

import pytest

from sciml.reporting.progress import Progress, duration


def test_nothing_is_shown_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("rod") as progress:
        progress.update(phase="Adam", step=1, loss=0.5)
    assert capfd.readouterr() == ("", "")


def test_the_line_holds_the_newest_value_of_everything(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress("rod", quiet=False) as progress:
        progress.update(phase="Adam", step=1, loss=0.5, snr=3.25)
        progress.update(step=1234, loss=1.5e-7, snr=None, rate=812.0, left=75.0)  # throttled: shown on leaving
    out, err = capfd.readouterr()
    assert out == ""
    for text in ("rod", "Adam", "step 1,234", "1.500e-07", "SNR 3.25", "812 steps/s"):
        assert text in err


@pytest.mark.parametrize("quiet", [True, False])
def test_an_update_is_cheap(quiet: bool) -> None:
    progress = Progress("rod", quiet=quiet)
    best = min(_seconds(progress) for _ in range(5))
    assert best / 2000 < 50e-6  # about 1 us unchecked; the tests' type checker and a busy machine take the rest


def _seconds(progress: Progress) -> float:
    begin = time.perf_counter()
    for step in range(2000):
        progress.update(phase="Adam", step=step, loss=0.1, snr=None, rate=800.0)
    return time.perf_counter() - begin


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0:00"), (7.4, "0:07"), (750, "12:30"), (3750, "1:02:30")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
