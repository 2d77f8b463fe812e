"""Run a script or a module in several processes, as a person would with torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def torchrun(*words: str | Path, count: int = 2) -> subprocess.Popen[str]:
    """Start it; the process is torchrun's, its output and errors those of all processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*command, *map(str, words)],
        env={**os.environ, **QUIET},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def unwatched(*words: str | Path, count: int = 2) -> list[subprocess.Popen[str]]:
    """Start the processes themselves, in order of rank: torchrun ends the others as soon as it sees that one ended,
    perhaps before they have said a word.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, **QUIET, "WORLD_SIZE": str(count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(count)
    ]


def finished(process: subprocess.Popen[str], seconds: float = 120.0) -> tuple[int, str, str]:
    """Exit code (of torchrun 0, or 1 if any process failed), standard output and standard error."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        output, errors = process.communicate()
        raise AssertionError(f"not finished after {seconds} s:\n{output}\n{errors}") from None
    return process.returncode, output, errors
