"""Commands killed at random moments and resumed: the outputs are those of a run that nobody disturbed, bit for bit."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mutations import Tally

from sciml.runs import checkpoint

ROOT = Path(__file__).resolve().parents[1]
USER = """
import math, torch, sciml
from sciml.pde import MLP, Interval, derivative

class Beam(sciml.Problem):
    def model(self):
        return MLP(1, 1).double()
    def sample(self, size, generator):
        return Interval(0.0, 1.0).sample(size or 256, generator)
    def loss(self, model, batch):
        u = lambda x: x * (1 - x) * model(x)
        residual = derivative(u, batch, order=2) + math.pi**2 * torch.sin(math.pi * batch)
        return {"pde": residual.square().mean()}
"""
COMPARED = ("*.mrc", "*.mrcs", "*.star", "*.safetensors", "*.csv")
"""Outputs that hold numbers and no times."""


def commands(folder: Path) -> dict[str, list[str]]:
    """Every kind of command that goes on after a kill, at its smallest.

    Args:
        folder: what they need is written here.
    """
    problem = folder / "beam.py"
    problem.write_text(USER, encoding="utf-8")
    star = str(ROOT / "data/particles/particles.star")
    few = folder / "few"
    model = str(ROOT / "data/model.cif")
    _sciml("cryoem", "simulate", model, "--number", "400", "--box", "32", "--pixel", "7", "--out", str(few))
    reference = str(few / "truth.mrc")
    small = str(few / "particles.star")
    return {
        "solve": ["solve", f"{problem}:Beam", "--evaluations", "4000"],
        "rod solve": ["rod", "solve", "--form", "energy", "--case", "smooth"],
        "pde solve": ["pde", "solve", "poisson_1d"],
        "cryoem simulate": ["cryoem", "simulate", model, "--number", "3000", "--box", "48", "--pixel", "4.7"],
        "cryoem reconstruct": ["cryoem", "reconstruct", star],
        "cryoem reconstruct --solver stochastic": ["cryoem", "reconstruct", small, "--solver", "stochastic"],
        "cryoem abinitio": ["cryoem", "abinitio", small, "--diameter", "150"],
        "cryoem refine": ["cryoem", "refine", small, "--reference", reference],
    }


def _start(*words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sciml", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _sciml(*words: str) -> int:
    return _start(*words).wait()


def outputs(folder: Path) -> dict[str, str]:
    """Hash of every output that is compared, and of the parameters that every solve ended with."""
    files = [file for pattern in COMPARED for file in folder.glob(pattern)]
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for stage in folder.glob("stages/*/"):
        state, _ = checkpoint.newest(stage / "checkpoints")
        if state is not None:
            found[stage.name] = hashlib.sha256(state.tensors["parameters"].numpy().tobytes()).hexdigest()
    return found


def kill_and_resume(
    folder: Path, words: Sequence[str], expected: dict[str, str], seconds: float, draw: random.Random
) -> str | None:
    """Kill one run once or twice, go on, and compare.

    Args:
        folder: of the run; emptied first.
        words: the command without `--out`.
        expected: from `outputs` of a run that was not disturbed.
        seconds: that such a run took.
        draw: of moments and signals.

    Returns:
        What went wrong; None if nothing did.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command, said = [*words, "--out", str(folder)], []
    for _ in range(draw.choice([1, 1, 2])):
        process = _start(*command)
        chosen, moment = draw.choice([signal.SIGKILL, signal.SIGTERM]), draw.uniform(0.05, 1.0) * seconds
        time.sleep(moment)
        process.send_signal(chosen)
        code = process.wait()
        said.append(f"{chosen.name} after {moment:.2f} s (exit {code})")
        if code not in (0, 3, -chosen, 128 + chosen):
            return f"{', '.join(said)}: unexpected exit code"
        if (folder / "experiment.json").exists():
            command = ["resume", str(folder)]
    code = _sciml(*command)
    if code not in (0, 3):
        return f"{', '.join(said)}: `sciml {' '.join(command)}` ends with {code}"
    found = outputs(folder)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    left = [file.name for file in folder.rglob(".*") if file.is_file() and file.name != ".lock"]
    if differing:
        return f"{', '.join(said)}: other bytes in {', '.join(differing)}"
    return f"{', '.join(said)}: temporary files are left: {', '.join(left)}" if left else None


def torment(folder: Path, count: int, seed: int) -> list[Tally]:
    """Kill commands at random moments, `count` times in all."""
    tallies = []
    known = commands(folder)
    for number, (kind, words) in enumerate(known.items()):
        whole = folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        _sciml(*words, "--out", str(whole))  # compiles what is not yet compiled
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        _sciml(*words, "--out", str(whole))
        seconds, expected = time.monotonic() - began, outputs(whole)
        tally = Tally(f"kill and resume: {kind}")
        tallies.append(tally)
        if not expected:
            tally.wrong.append(f"{kind}: the run that nobody disturbed has no outputs")
        for trial in range(count // len(known) + (number < count % len(known))):
            draw = random.Random(f"{seed} {kind} {trial}")
            tally.tried += 1
            wrong = kill_and_resume(folder / "killed", words, expected, seconds, draw)
            if wrong is None:
                tally.refused += 1
            else:
                tally.wrong.append(f"{kind} {trial}: {wrong}")
    return tallies
