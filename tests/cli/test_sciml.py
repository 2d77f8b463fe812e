"""The command as a person types it: processes, exit codes, streams, and how long `--help` takes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sciml.runs.run import Run

Line = Callable[..., subprocess.CompletedProcess[str]]

PROBLEM = """
import torch, sciml

class Line(sciml.Problem):
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch - 1).square().mean()}

    def evaluate(self, model):
        return {"relative_l2": abs(model.weight.item() - 2) + abs(model.bias.item() - 1)}

    def model(self):
        return torch.nn.Linear(1, 1).double()
"""


@pytest.fixture
def sciml(tmp_path: Path) -> Line:
    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sciml", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    return call


def test_help_names_every_word(sciml: Line) -> None:
    done = sciml("--help")
    assert done.returncode == 0
    for word in ("demo", "solve", "resume", "report", "rod", "cryoem"):
        assert f"\n  {word} " in done.stdout
    assert done.stderr == ""


def test_help_is_quick_and_does_not_load_torch() -> None:
    code = textwrap.dedent("""
        import sys
        from sciml.command_line.main import main
        for words in (["--help"], ["solve", "--help"], ["rod", "--help"], ["cryoem", "--help"]):
            assert main(words) == 0, words
        assert "torch" not in sys.modules
        """)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    # beside an import of torch, so that a slow or busy machine does not matter: measured a sixteenth of it
    spent: dict[str, list[float]] = {"help": [], "torch": []}
    for _ in range(3):
        for name, words in (("help", ["-m", "sciml", "--help"]), ("torch", ["-c", "import torch"])):
            begin = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, capture_output=True, timeout=60)
            spent[name].append(time.perf_counter() - begin)
    assert min(spent["help"]) < 0.25 * min(spent["torch"]), spent


def test_no_word_is_wrong_usage(sciml: Line) -> None:
    assert sciml().returncode == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slove"], "Did you mean solve?"),
        (["xyzzy"], "The commands are: demo, solve"),
        (["rod", "slove"], "Did you mean solve?"),
        (["resume", "missing"], "missing: no such folder"),
        (["resume", "."], "not a run directory"),
        (["report", "."], "not a run directory"),
        (["report"], "at least one"),
        (["solve", "none.py:Line", "--out", "run"], "none.py: no such file"),
        (["solve", "json:JSONDecoder", "--out", "run"], "not a subclass of sciml.Problem"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(sciml: Line, tmp_path: Path, words: list[str], message: str) -> None:
    done = sciml(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_end_with_2_and_a_suggestion(sciml: Line) -> None:
    done = sciml("solve", "a.py:B", "--out", "run", "--swich", "snr")
    assert done.returncode == 2
    assert "--switch" in done.stdout + done.stderr


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    words = f"{sys.executable} -m sciml --help | true"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_ends_with_74(sciml: Line, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    (tmp_path / "my_pde.py").write_text(PROBLEM)
    assert sciml("solve", "my_pde.py:Line", "--out", "run").returncode == 74


def test_a_full_disk_ends_with_74(sciml: Line, watched_run: Callable[..., Run]) -> None:
    done = sciml("report", watched_run().path, "--out", "/proc/report.html")
    assert done.returncode == 74
    assert "Traceback" not in done.stderr


def test_solve_report_and_resume(sciml: Line, tmp_path: Path) -> None:
    (tmp_path / "my_pde.py").write_text(PROBLEM)
    done = sciml("solve", "my_pde.py:Line", "--out", "run", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["result"] == "CONVERGED"
    assert summary["relative_l2"] < 1e-4
    assert all({"phase", "step", "reason", "snr", "batch"} <= set(record) for record in summary["switch"])
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8")) == summary
    assert {"experiment.json", "provenance.json", "report.html", "stages", "model.safetensors"} <= set(
        os.listdir(tmp_path / "run")
    )
    assert sciml("report", "run", "--out", "page.html").returncode == 0
    assert "ended at step" in (tmp_path / "page.html").read_text(encoding="utf-8")
    again = sciml("resume", "run", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == summary
    other = sciml("solve", "my_pde.py:Line", "--out", "run", "--seed", "1")
    assert other.returncode == 2
    assert "seed: 0 there, 1 now" in other.stderr


def test_a_budget_too_small_ends_with_3_and_outputs(sciml: Line, tmp_path: Path) -> None:
    (tmp_path / "my_pde.py").write_text(PROBLEM)
    done = sciml("solve", "my_pde.py:Line", "--out", "run", "--evaluations", "0.5")
    assert done.returncode == 3, done.stderr
    assert "did not converge" in done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_a_killed_solve_goes_on_to_the_same_result(sciml: Line, tmp_path: Path) -> None:
    slow = PROBLEM.replace("return {", "__import__('time').sleep(0.004)\n        return {")
    (tmp_path / "my_pde.py").write_text(slow)
    command = [sys.executable, "-m", "sciml", "solve", "my_pde.py:Line", "--out", "killed"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "stages" / "solve" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert sciml("resume", "killed").returncode == 0
    assert sciml("solve", "my_pde.py:Line", "--out", "whole").returncode == 0
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert models[0] == models[1]
