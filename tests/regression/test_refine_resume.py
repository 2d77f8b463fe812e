"""Kill -9 in any iteration of a refinement, then `sciml resume`: the same bytes as without; likewise ab initio."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.maps.masks import low_pass

FILES = ("run_class001.mrc", "run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc", "run_data.star")


def start(*words: str | Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sciml", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_at(process: subprocess.Popen[bytes], folder: Path, count: int, delay: float = 0.0) -> bool:
    """SIGKILL a while after so many checkpoints were written; whether the process was still at work."""
    while process.poll() is None and max((int(p.stem) for p in folder.glob("0*.safetensors")), default=0) < count:
        time.sleep(0.002)
    time.sleep(delay)
    at_work = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return at_work


@pytest.mark.slow
def test_a_killed_refinement_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    data = root / "data" / "particles"
    truth = read_map(data / "truth.mrc").array
    reference = write_map(tmp_path / "reference.mrc", low_pass(truth, 3.5, 25.0), 3.5)
    words = ["cryoem", "refine", data / "particles.star", "--reference", reference, "--iterations", "4", "--out"]
    assert start(*words, tmp_path / "whole").wait() in (0, 3)
    killed = tmp_path / "killed"
    checkpoints = killed / "stages" / "refine" / "checkpoints"
    assert kill_at(start(*words, killed), checkpoints, 1, 0.05)
    assert kill_at(start("resume", killed), checkpoints, 2, 0.05)
    newest = max(checkpoints.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-30])  # and the disk was not kind either
    assert start("resume", killed).wait() in (0, 3)
    for file in FILES:
        assert (killed / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    rows = [
        json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))["iterations"]
        for name in ("whole", "killed")
    ]
    assert rows[0] == rows[1]
    assert start("resume", killed).wait() in (0, 3)  # finished: answers at once


@pytest.mark.slow
def test_a_killed_search_for_a_start_map_ends_with_the_same_bytes(root: Path, tmp_path: Path) -> None:
    words = ["cryoem", "abinitio", root / "data" / "particles" / "particles.star", "--starts", "1", "--out"]
    assert start(*words, tmp_path / "whole").wait() == 0
    killed = tmp_path / "killed"
    checkpoints = killed / "stages" / "abinitio" / "checkpoints"
    assert kill_at(start(*words, killed), checkpoints, 1, 0.3)
    assert start("resume", killed).wait() == 0
    for file in ("run_class001.mrc", "run_data.star"):
        assert (killed / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    moments = [
        json.loads((tmp_path / name / "stages" / "abinitio" / "emerging" / "moments.json").read_text(encoding="utf-8"))
        for name in ("whole", "killed")
    ]
    assert moments[0] == moments[1]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(root: Path, tmp_path: Path) -> None:
    data = root / "data" / "particles"
    out = tmp_path / "out"
    words = ["cryoem", "refine", data / "particles.star", "--reference", data / "truth.mrc", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "sciml", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoints = out / "stages" / "refine" / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("0*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert f"sciml resume {out}" in said
    assert "Traceback" not in said
    assert not (out / "summary.json").exists()
    assert not list(out.rglob(".*"))  # no temporary file is left
