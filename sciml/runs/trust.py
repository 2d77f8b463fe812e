"""Whether a folder was recorded here: what a run's command was is signed with a key that only this user has.

`sciml resume` repeats the recorded command, which may run Python. A folder from elsewhere, or one that was changed on
its way, has no valid signature, and is repeated only if the user says so.
"""

import getpass
import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def recorder() -> dict[str, str]:
    """Who records here: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return {"user": user, "host": socket.gethostname()}


def signature(experiment: bytes, directory: str) -> str | None:
    """Of what decides what a repeated command does, recorded by this user on this host.

    Args:
        experiment: content of experiment.json.
        directory: folder in which the command was typed: relative paths and Python's modules are looked up there.

    Returns:
        The signature; None where no key can be kept.
    """
    key = _key()
    if key is None:
        return None
    who = recorder()
    words = [os.fsencode(word) for word in (directory, who["user"], who["host"])]
    content = b"\0".join([experiment, *words])
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def is_own(experiment: bytes, record: Mapping[str, Any]) -> bool:
    """Whether this user signed this content, and the folder in its record, on this host."""
    directory, signed = record.get("directory"), record.get("signature")
    if not isinstance(directory, str) or not isinstance(signed, str):
        return False
    try:
        own = signature(experiment, directory)
    except UnicodeEncodeError:  # half a surrogate pair: no folder
        return False
    return own is not None and hmac.compare_digest(own.encode(), signed.encode("utf-8", "replace"))


def _key() -> bytes | None:
    """The key of this user, made at first use."""
    try:
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sciml"
        file = folder / "key"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as content:
                content.write(secrets.token_bytes(32))
        key = file.read_bytes()
    except FileExistsError:  # another process made it just now
        return _key()
    except (OSError, RuntimeError):
        return None
    return key if len(key) == 32 else None
