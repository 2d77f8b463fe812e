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
from pathlib import Path


def recorder() -> dict[str, str]:
    """Who records here: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return {"user": user, "host": socket.gethostname()}


def signature(experiment: bytes) -> str | None:
    """Of the content of an experiment.json, recorded by this user on this host; None where no key can be kept."""
    key = _key()
    if key is None:
        return None
    who = recorder()
    content = b"\0".join([experiment, who["user"].encode(), who["host"].encode()])
    return hmac.new(key, content, hashlib.sha256).hexdigest()


def is_own(experiment: bytes, signed: object) -> bool:
    """Whether this user signed this content on this host."""
    own = signature(experiment)
    return own is not None and isinstance(signed, str) and hmac.compare_digest(own, signed)


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
