"""Fixtures and settings of all tests: array shapes are checked at run time, one thread, no colors."""

import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy or torch are imported

from jaxtyping import install_import_hook

# The hook must stand before the packages are imported; it holds for the whole test session.
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook(["sciml", "sciml_rod", "sciml_pdes", "sciml_cryoem"], "shape_checks.check")

import pytest
import rounding

from sciml.runs.run import Run

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rounding.apply()


LACKS = {"shared data": "the shared data", "RELION": "RELION", "CUDA": "a CUDA device"}
"""Word in the reason of a skip, and what was lacking."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """After all else one line that says how many tests were skipped for lack of what."""
    yield
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        why = next((f"for lack of {lack}" for word, lack in LACKS.items() if word in said), "for other reasons")
        counts[why] = counts.get(why, 0) + 1
    if counts:
        terminalreporter.write_line("skipped: " + ", ".join(f"{count} {why}" for why, count in sorted(counts.items())))


@pytest.fixture(scope="session", autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The key that signs the runs of the tests lies in a folder of their own."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data and tools shared beside the repository; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SCIML_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared data: set SCIML_SHARED to its folder")
    return folder


@pytest.fixture
def watched_run(tmp_path: Path) -> Callable[..., Run]:
    """Makes a run directory whose metrics look like those of a watched solve: Adam, then a quasi-Newton phase."""

    def make(name: str = "run", finished: bool = True, energy: bool = False) -> Run:
        run = Run.create(
            tmp_path / name, command=["rod", "solve", "--form", "weak"], options={"form": "weak", "seed": 0}
        )
        stage = run.stage("weak")
        stage.append_metrics(_adam(450, offset=0.5 if energy else 0.0))
        if finished:
            stage.append_metrics(_finisher(120, offset=0.5 if energy else 0.0))
        stage.flush()
        if finished:
            run.write_summary({"result": "CONVERGED", "relative_l2": 3.2e-7, "loss": 1.1e-13, "evaluations": 180.0})
        return run

    return make


def _adam(steps: int, offset: float) -> list[dict[str, Any]]:
    draw = random.Random(0)
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = math.exp(-step / 80) + 1e-3 + 0.2 * math.exp(-step / 80) * draw.random() - offset
        common = {"phase": "Adam", "index": 0, "step": step, "evaluations": step / 8}
        sizes = {"batch": 64 if step < 300 else 128, "set": 512}
        records.append({"kind": "step", **common, "seconds": step / 800, "loss": loss, "terms": {"pde": loss}, **sizes})
        if step % 20 == 0:
            snr = 30 * math.exp(-step / 70) - 0.1
            band = {"snr": snr, "snr_low": snr - 0.5, "snr_high": snr + 0.5}
            records.append({"kind": "noise", **common, **band, "critical_batch": 64 / snr, "batch": 64})
        if step % 50 == 0:
            records.append({"kind": "evaluate", **common, "values": {"relative_l2": math.exp(-step / 160)}})
    reason = "its rate of progress fell to 0.013 +- 0.004 per evaluation, below the limit of 0.02"
    end = {"phase": "Adam", "index": 0, "step": steps, "evaluations": steps / 8, "reason": reason}
    return [*records, {"kind": "switch", **end, "snr": 0.2, "batch": 128, "set": 512, "details": {"rate": 0.013}}]


def _finisher(steps: int, offset: float) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = 1e-3 * math.exp(-step / 5) - offset
        common = {"phase": "SelfScaled", "index": 1, "step": step, "evaluations": 56.25 + step * 1.05}
        sizes = {"batch": 512, "set": 512}
        records.append({"kind": "step", **common, "seconds": 0.6 + step / 300, "loss": loss, "terms": {}, **sizes})
        if step % 20 == 0:
            records.append({"kind": "evaluate", **common, "values": {"relative_l2": 0.06 * math.exp(-step / 10)}})
    return [*records, {"kind": "end", "result": "CONVERGED", "loss": loss, "evaluations": 182.25, "seconds": 1.0}]
