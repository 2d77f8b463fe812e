"""`sciml resume` from inside."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sciml.command_line.commands import resume_words
from sciml.command_line.main import main
from sciml.runs.run import Run


def test_resume_goes_on_in_the_given_folder() -> None:
    words = ["rod", "solve", "--out", "old", "--seed", "1", "--overwrite"]
    assert resume_words(words, Path("/new")) == ["rod", "solve", "--seed", "1", "--out", "/new"]
    assert resume_words(["demo", "--out=old"], Path("/new")) == ["demo", "--out", "/new"]


def test_resuming_a_finished_run_prints_its_numbers(
    watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run()
    here = os.getcwd()
    assert main(["resume", str(run.path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["relative_l2"] == 3.2e-7
    assert "finished" in err
    run.write_summary({"result": "MAX_STEPS"})
    assert main(["resume", str(run.path)]) == 3
    assert os.getcwd() == here


def test_resuming_a_run_of_a_python_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(tmp_path, options={"seed": 0})
    assert main(["resume", str(tmp_path)]) == 2
    assert "Python program" in capsys.readouterr().err
