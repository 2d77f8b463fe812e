"""The command line from inside: words, options, ends."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import tyro

from sciml.command_line import main as cli
from sciml.command_line import user_problem
from sciml.command_line.commands import resume_words
from sciml.errors import ConvergenceError, InputError
from sciml.runs.run import Run, served


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
    return cli.dispatch("sciml toy", {word: (Options, lambda options: seen.append(options) or 7)}, arguments), seen


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


@pytest.mark.parametrize(
    ("result", "code"), [("CONVERGED", 0), (None, 0), ("MAX_STEPS", 3), ("NOISE_FLOOR", 3), ("NONFINITE", 3)]
)
def test_conclude(
    result: str | None, code: int, watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run(finished=False)
    summary = {"result": result, "loss": 1e-9, "switch": []} if result else {"rows": []}
    assert cli.conclude(run, summary, json=True) == code
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == summary
    assert ("did not converge" in err) == (code == 3)
    assert run.summary == summary
    assert (run.path / "report.html").exists()


def test_resume_goes_on_in_the_given_folder() -> None:
    words = ["rod", "solve", "--out", "old", "--seed", "1", "--overwrite"]
    assert resume_words(words, Path("/new")) == ["rod", "solve", "--seed", "1", "--out", "/new"]
    assert resume_words(["demo", "--out=old"], Path("/new")) == ["demo", "--out", "/new"]


def test_resuming_a_finished_run_prints_its_numbers(
    watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run()
    here = os.getcwd()
    assert cli.main(["resume", str(run.path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["relative_l2"] == 3.2e-7
    assert "finished" in err
    run.write_summary({"result": "MAX_STEPS"})
    assert cli.main(["resume", str(run.path)]) == 3
    assert os.getcwd() == here


def test_resuming_a_run_of_a_python_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(tmp_path, options={"seed": 0})
    assert cli.main(["resume", str(tmp_path)]) == 2
    assert "Python program" in capsys.readouterr().err


PROBLEMS = """
import torch, sciml
BODY
class Line(sciml.Problem):
    def sample(self, size, generator):
        return torch.rand(size or 8, 1, generator=generator)
    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch).square().mean()}
class Odd:
    pass
class Abstract(sciml.Problem):
    def loss(self, model, batch):
        return {"value": torch.zeros(())}
class Modelled(Line):
    def model(self):
        return torch.nn.Linear(1, 1)
class Mistaken(Line):
    def model(self):
        return 3
ready = Modelled()
"""


def problem_file(folder: Path, body: str) -> str:
    file = folder / "my_pde.py"
    file.write_text(PROBLEMS.replace("BODY", body))
    return str(file)


def test_a_problem_of_the_user(tmp_path: Path) -> None:
    file = problem_file(tmp_path, "")
    problem, digest = user_problem.load(f"{file}:Modelled")
    assert type(problem).__name__ == "Modelled"
    assert digest is not None
    assert len(digest) == 64
    assert user_problem.model_of(problem).weight.shape == (1, 1)
    assert user_problem.load(f"{file}:ready")[0].model() is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "names no problem"),
        (":Beam", "Beam is not there. Problems in it: Line, Abstract, Modelled, Mistaken"),
        (":Odd", "not a subclass of sciml.Problem"),
        (":Abstract", "cannot be made without arguments"),
        (":two words", "names no problem"),
    ],
)
def test_a_problem_that_cannot_be_loaded(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        user_problem.load(problem_file(tmp_path, "") + name)


def test_a_problem_without_a_network(tmp_path: Path) -> None:
    file = problem_file(tmp_path, "")
    with pytest.raises(InputError, match="def model"):
        user_problem.model_of(user_problem.load(f"{file}:Line")[0])
    with pytest.raises(InputError, match="returned int"):
        user_problem.model_of(user_problem.load(f"{file}:Mistaken")[0])


@pytest.mark.parametrize(
    ("body", "message"),
    [("x = = 1", r"my_pde.py, line 3"), ("1 / 0", "line 3: ZeroDivisionError"), ("import nothing", "line 3")],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        user_problem.load(problem_file(tmp_path, body) + ":Line")


def test_missing_files_and_modules() -> None:
    with pytest.raises(InputError, match=r"none.py: no such file"):
        user_problem.load("none.py:Line")
    with pytest.raises(InputError, match="cannot be imported"):
        user_problem.load("no_such_module:Line")
