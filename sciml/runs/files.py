"""Files that are never half-written, and JSON that is always valid. Every module writes through these functions.

Of several processes that share a run (`sciml.distributed`), only the leader writes. In others, writing does nothing.
"""

import dataclasses
import enum
import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sciml import distributed
from sciml.errors import InputError

UNFINISHED = ".sciml-unfinished"
"""Marks the name of a file that is being written, with the number of the process before it."""


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write a whole file. A reader, also after a crash at any moment, sees the old content or the new, never a part.

    Args:
        path: the file; its folder must exist.
        content: bytes, or text that is written as UTF-8.

    Returns:
        The path written.

    Raises:
        OSError: the folder is missing or full, or may not be written to; no temporary file is left behind.
    """
    if not distributed.leader():
        return Path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_bytes(content))
    return Path(path)


def write_plainly(path: Path, content: bytes | str) -> Path:
    """Write a whole file as `write_atomic` does, but without asking the ledger of its folder."""
    if distributed.leader():
        with _replacing(path) as temporary:
            temporary.write_bytes(_bytes(content))
    return path


def _bytes(content: bytes | str) -> bytes:
    """Text as UTF-8. Names of files that are not UTF-8 keep their bytes."""
    return content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content


@runtime_checkable
class Ledger(Protocol):
    """Knows which files of a folder may be written (`sciml.runs.manifest.Manifest`)."""

    def admit(self, target: Path) -> None:
        """Raise `InputError` if a file is not to be replaced."""

    def enter(self, target: Path, content: Path) -> None:
        """Note a file whose content takes its place next."""


_ledgers: dict[Path, Ledger] = {}


def keep_ledger(folder: Path, ledger: Ledger) -> None:
    """From now on ask a ledger before a file in this folder or below is written."""
    _ledgers[folder.resolve()] = ledger


def _ledger_of(target: Path) -> tuple[Ledger | None, Path]:
    """The ledger of the innermost folder that has one, and the target with the links above it followed."""
    real = target.parent.resolve() / target.name
    return next((_ledgers[folder] for folder in real.parents if folder in _ledgers), None), real


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of a temporary file beside `path`, which takes the place of `path` when the block ends.

    For writers that want a file name (`mrcfile`, `Figure.savefig`). The temporary name keeps the suffix, which some of
    them look at. The file must exist when the block ends. After an error it is removed, and `path` stays as it was.

    Raises:
        InputError: the file exists, lies in the folder of a run, and is not the run's (`keep_ledger`).
        OSError: the folder is missing, full or read-only.
    """
    target = Path(path)
    if not distributed.leader():
        with tempfile.TemporaryDirectory() as aside:
            yield Path(aside, target.name)
        return
    ledger, real = _ledger_of(target)
    if ledger is not None:
        ledger.admit(real)
    with _replacing(target) as temporary:
        yield temporary
        if ledger is not None:
            ledger.enter(real, temporary)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary file that takes the place of another when the block ends."""
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{UNFINISHED}{target.suffix}")
    try:
        with naming(target):
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name != "nt":  # Windows cannot open a folder
        _flush_to_disk(target.parent)


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Give an `OSError` the name of the file: a full disk says what happened, but not to which."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(file)) from error
        raise


def reserve(file: Path, size: int) -> None:
    """Take the room of a file on disk before it is written through a memory map, which a full disk would kill with a
    bus error. Where the system cannot reserve, nothing happens.

    Args:
        file: exists.
        size: bytes.

    Raises:
        OSError: the disk is full.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with file.open("r+b") as content:
        try:
            os.posix_fallocate(content.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise


def sweep(folder: Path) -> None:
    """Remove what killed writes left. Call it only while no other process writes there.

    Args:
        folder: where files were written by `write_atomic` or `atomic_path`.
    """
    for file in folder.glob(f".*{UNFINISHED}*"):
        number = file.name.rpartition(UNFINISHED)[0].rpartition(".")[2]
        if number.isdigit() and file.is_file() and not file.is_symlink():
            file.unlink(missing_ok=True)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, and those above it that are missing.

    Raises:
        OSError: it cannot be made.
    """
    if distributed.leader():
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def _flush_to_disk(path: Path) -> None:
    """fsync a file or a folder: `os.replace` alone may leave an empty file after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any, indent: int | None = None) -> str:
    """Valid JSON text of plain values, mappings, dataclasses, enums, paths, and numpy or torch scalars and arrays.

    Numbers that are not finite become null: JSON knows no NaN.

    Raises:
        TypeError: a value of another kind.
    """
    try:
        return json.dumps(value, indent=indent, default=_plain, allow_nan=False)
    except ValueError:  # the rare case: only now pay for walking through everything
        return json.dumps(_finite(json.loads(json.dumps(value, default=_plain))), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, enum.Enum):
        return value.name
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds one object, as all of a run do.

    Raises:
        InputError: see `read_json`; or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it holds no object.")
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read one JSON file.

    Raises:
        InputError: the file is missing, or is not JSON; the message names the file and the line.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}).") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file.") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply to be a file of this program.") from None
    except ValueError as error:  # a number of too many digits
        raise InputError(f"{path}: not valid JSON ({error}).") from None
