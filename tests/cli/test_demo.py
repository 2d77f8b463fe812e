"""The demo's own work: parts are run, judged, reported, and not repeated without need."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sciml.command_line import demo
from sciml.command_line import main as cli
from sciml.runs.run import Run

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
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the parts by small solves, each with its own options."""
    file = tmp_path / "my_pde.py"
    file.write_text(PROBLEM)

    def use(**named: tuple[str, ...]) -> None:
        parts = [demo.Part(name, f"part {name}", ("solve", f"{file}:Line", *words)) for name, words in named.items()]
        monkeypatch.setattr(demo, "parts", lambda options: parts)

    return use


def test_all_parts_succeed(
    small_parts: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_parts(first=(), second=("--seed", "1"))
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    out, err = capsys.readouterr()
    assert "part first" in out
    assert str(tmp_path / "demo" / "report.html") in out.replace("\n", "")
    assert "[2/2] part second" in err
    text = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert text.count("<h2") == 3
    assert Run.open(tmp_path / "demo" / "second").command[:4] == ["solve", f"{tmp_path}/my_pde.py:Line", "--seed", "1"]


def test_a_part_that_fails_is_told_and_hides_no_other(
    small_parts: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_parts(weak=("--evaluations", "0.5"), wrong=("--switch", "never"), good=())
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 3
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["result"] for row in summary["rows"]] == ["MAX_STEPS", "exit 2", "CONVERGED"]
    assert summary["result"] == "FAILED"


def test_finished_parts_are_kept_unless_overwritten(small_parts: Callable[..., None], tmp_path: Path) -> None:
    small_parts(only=())
    summary = tmp_path / "demo" / "only" / "summary.json"
    words = ["demo", "--out", str(tmp_path / "demo")]
    assert cli.main(words) == 0
    first = summary.stat().st_mtime_ns
    assert cli.main(words) == 0
    assert summary.stat().st_mtime_ns == first
    assert cli.main([*words, "--overwrite"]) == 0
    assert summary.stat().st_mtime_ns > first


def test_the_parts_are_commands_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in demo.parts(demo.Options(out=tmp_path)):
        assert cli.main([*part.words, "--out", str(tmp_path / part.name), "--help"]) == 0, part
    assert capsys.readouterr().err == ""
