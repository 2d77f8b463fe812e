"""One process at a time writes in the folder of a run: DIR/.lock says which."""

import json
import os
import socket
import sys
import weakref
from pathlib import Path
from typing import Any

from sciml.errors import InputError
from sciml.runs.files import naming

NAME = ".lock"


class Lock:
    """Held from its making until `release`, its garbage collection, or the end of the process.

    Args:
        folder: of the run; it exists.

    Raises:
        InputError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / NAME
        _take(self.file)
        self._release = weakref.finalize(self, _release, self.file, os.getpid())

    def release(self) -> None:
        """Let others write."""
        self._release()


def _take(file: Path) -> None:
    own = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
    for _ in range(3):
        try:
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            other = _read(file)
            if other == own:
                return
            if not _is_gone(other):
                raise InputError(
                    f"{file.parent} is in use by process {other.get('pid')} on {other.get('host')}; this is process "
                    f"{own['pid']} on {own['host']}. Wait for it or choose another folder. If it is gone, delete "
                    f"{file}."
                ) from None
            if not _take_over(file, other, own):
                continue
            print(
                f"{file.parent} was left locked by process {other.get('pid')}, which is gone; it is taken over.",
                file=sys.stderr,
            )
            return
        try:
            with naming(file), os.fdopen(descriptor, "w", encoding="utf-8") as content:
                json.dump(own, content)
        except OSError:  # a full disk must not leave a lock that names nobody
            file.unlink(missing_ok=True)
            raise
        return
    raise InputError(f"{file.parent} is being locked by another process. Try again.")


def _take_over(file: Path, other: dict[str, Any], own: dict[str, Any]) -> bool:
    """Put this process in the place of one that is gone; False if another one was faster."""
    import fcntl  # Windows, which lacks it, never comes here: it cannot ask for a process

    try:
        with naming(file), file.open("r+", encoding="utf-8") as content:
            fcntl.flock(content, fcntl.LOCK_EX)
            if _read(file) != other:
                return False
            content.truncate()
            json.dump(own, content)
        return True
    except FileNotFoundError:
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_gone(other: dict[str, Any]) -> bool:
    """Whether the process of this host that a lock names has ended; another's cannot be asked."""
    pid = other.get("pid")
    if other.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0 or os.name == "nt":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return other.get("began") != _began(pid)  # a later process may have been given the number


def _began(pid: int) -> str | None:
    """When a process began, in the system's own units; None where that cannot be asked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _release(file: Path, pid: int) -> None:
    if os.getpid() == pid and _read(file).get("pid") == pid:  # not in a forked child, not of who took it over
        file.unlink(missing_ok=True)
