"""The folder in which a user works may hold anything: no name in it hides a package of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROBLEM = """
import torch, sciml

class Line(sciml.Problem):
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch - 1).square().mean()}

    def model(self):
        return torch.nn.Linear(1, 1).double()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a package and a module called `problems`, as ours is, and problems of the user's own."""
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "__init__.py").write_text("raise ImportError('not ours')\n")
    (tmp_path / "problems.py").write_text("raise ImportError('not ours')\n")
    (tmp_path / "my.py").write_text(PROBLEM)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "sciml", "pde", "list"),
        ("-m", "sciml", "solve", "my.py:Line", "--out", "run"),
        ("-c", "from sciml_cryoem import read_particles; print(read_particles)"),
    ],
)
def test_problems_of_the_user_do_not_hide_ours(folder: Path, words: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONPATH": "."}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
