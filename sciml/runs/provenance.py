"""With which versions, where and when a run was made."""

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sciml import distributed


def provenance() -> dict[str, Any]:
    """Versions, source commit, machine, thread settings, folder and local time."""
    torch = sys.modules.get("torch")  # asking for its threads must not cost importing it
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "directory": os.getcwd(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("sciml-lab", "torch", "numpy", "scipy")},
        },
        "commit": _commit(),
        "platform": platform.platform(),
        "processes": distributed.size(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "torch": torch.get_num_threads() if torch is not None else None,
        },
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree this package was imported from; None when it is not a git checkout of its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        words = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
