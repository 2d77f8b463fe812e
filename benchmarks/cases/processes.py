"""Whole processes measured: CPU seconds and peak memory."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def measure(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds and peak resident memory (MB) of a whole process on one thread.

    Raises:
        RuntimeError: it failed; the message holds its last words.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=words, stderr=words)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words.seek(0)
            raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{words.read().decode()[-2000:]}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
