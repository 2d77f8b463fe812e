"""Problems of the user are imported by file or module, and what is wrong with them is said."""

from pathlib import Path

import pytest

from sciml.command_line import user_problem
from sciml.errors import InputError

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
    problem, digest = user_problem.load(f"{file}:Modelled"), user_problem.digest(f"{file}:Modelled")
    assert type(problem).__name__ == "Modelled"
    assert digest is not None
    assert len(digest) == 64
    assert user_problem.model_of(problem).weight.shape == (1, 1)
    assert user_problem.load(f"{file}:ready").model() is not None


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
        user_problem.model_of(user_problem.load(f"{file}:Line"))
    with pytest.raises(InputError, match="returned int"):
        user_problem.model_of(user_problem.load(f"{file}:Mistaken"))


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
