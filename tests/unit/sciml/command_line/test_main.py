"""Every end of a command line has its exit code and its message."""

import subprocess
import sys
from pathlib import Path

import pytest

from sciml.command_line import main as cli
from sciml.errors import ConvergenceError, InputError
from sciml.runs.run import Run, served


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (InputError("p.star, line 3: short row."), 2, "p.star, line 3"),
        (ConvergenceError("NOISE_FLOOR"), 3, "NOISE_FLOOR"),
        (OSError(28, "No space left on device", "map.mrc"), 74, "map.mrc"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (SystemExit(5), 5, ""),
    ],
)
def test_every_end_has_its_code(
    raised: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise raised

    monkeypatch.setattr(cli, "_serve", fail)
    assert cli.main(["rod"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err
    assert served.get() is None


def test_our_own_faults_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_serve", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["rod"])


def test_interrupting_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(words: list[str]) -> int:
        Run.create(tmp_path / "run", options={})
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_serve", interrupted)
    assert cli.main(["rod", "solve"]) == 130
    assert f"sciml resume {tmp_path / 'run'}" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").command == ["rod", "solve"]


INTERRUPTED_IN_A_TEXT = """
import sys
from sciml.command_line import main as cli
def interrupted(words):
    exec("raise KeyboardInterrupt")
cli._serve = interrupted
sys.exit(cli.main(["rod"]))
"""


def test_an_interrupt_while_python_runs_a_text_keeps_its_code(tmp_path: Path) -> None:
    """CPython remembers such a one, and ends a process that was started with `-m` by SIGINT."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_A_TEXT, encoding="utf-8")
    words = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(words, cwd=tmp_path, check=False, capture_output=True).returncode == 130
