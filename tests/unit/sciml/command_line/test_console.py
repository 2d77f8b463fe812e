"""Options become dataclasses, subcommands are found, and a command ends with the right exit code."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import tyro

from sciml.command_line import console
from sciml.errors import InputError
from sciml.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Options:
    """Fit a line.

    More words.
    """

    points: tyro.conf.Positional[Path]
    step_size: float = 0.5
    form: Literal["weak", "strong"] = "weak"
    json: bool = False


def serve(word: str, *arguments: str) -> tuple[int, list[Options]]:
    seen: list[Options] = []
    return console.dispatch("sciml toy", {word: (Options, lambda options: seen.append(options) or 7)}, arguments), seen


def test_dispatch_fills_the_dataclass() -> None:
    code, seen = serve("fit", "fit", "p.star", "--step_size", "2", "--form", "strong", "--json")
    assert code == 7
    assert seen == [Options(Path("p.star"), 2.0, "strong", json=True)]
    assert serve("fit", "fit", "--step-size=2", "p.star")[1] == [Options(Path("p.star"), 2.0)]


def test_dispatch_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("fit", "--help") == (0, [])
    assert serve("fit") == (2, [])
    assert "fit  Fit a line." in capsys.readouterr().out


def test_dispatch_suggests() -> None:
    with pytest.raises(InputError, match="Did you mean fit"):
        serve("fit", "fti")


@pytest.mark.parametrize(
    "arguments", [["p.star", "--form", "odd"], [], ["p.star", "--step-size", "x"], ["p", "--wrong"]]
)
def test_wrong_options_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        serve("fit", "fit", *arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("result", "code"), [("CONVERGED", 0), (None, 0), ("MAX_STEPS", 3), ("NOISE_FLOOR", 3), ("NONFINITE", 3)]
)
def test_conclude(
    result: str | None, code: int, watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run(finished=False)
    summary = {"result": result, "loss": 1e-9, "switch": []} if result else {"rows": []}
    assert console.conclude(run, summary, json=True) == code
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == summary
    assert ("did not converge" in err) == (code == 3)
    assert run.summary == summary
    assert (run.path / "report.html").exists()


@dataclasses.dataclass(frozen=True)
class Seeded:
    """Has a seed."""

    seed: int = 0


@pytest.mark.parametrize("seed", ["-1", str(2**70)])
def test_a_seed_out_of_range_is_refused(seed: str) -> None:
    assert console.parse("sciml try", Seeded, ["--seed", "7"]).seed == 7
    with pytest.raises(InputError, match="whole number from 0"):
        console.parse("sciml try", Seeded, ["--seed", seed])


@pytest.mark.parametrize("threads", ["0", "x", "-1"])
def test_a_number_of_threads_that_is_none_is_refused(
    threads: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sciml.command_line.main import main

    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    assert main(["--version"]) == 2
    assert f"NUMBA_NUM_THREADS={threads}" in capsys.readouterr().err
