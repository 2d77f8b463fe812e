"""What in a folder is a run's own: name, size and SHA-256 of every file that it wrote, in DIR/manifest.json.

A file is entered before it takes its place, so that a kill at any moment leaves no file of ours unlisted; the hash of
what it replaces stays beside its own. What is not listed belongs to someone else: it is never replaced or removed. The
folders of solves (`stages/`) are not listed; their metrics grow all the time, and their names are known.

The file on disk is what holds: `sciml report DIR` may enter a page while the run goes on.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sciml.errors import InputError
from sciml.runs.files import read_object, to_json, write_plainly

NAME = "manifest.json"
UNLISTED = frozenset({NAME, ".lock"})
"""Files of a run that the manifest does not list: itself, and the lock."""
STAGE_FILES = ("stage.json", "metrics.jsonl", "checkpoints/*.safetensors", "emerging/*.mrc", "emerging/moments.json")
"""What a solve leaves in its folder."""


class Manifest:
    """The files of one run.

    Args:
        folder: of the run.
        files: name relative to the folder -> `size` and `sha256`.
    """

    def __init__(self, folder: Path, files: dict[str, dict[str, Any]] | None = None) -> None:
        self.folder = folder.resolve()
        self.files = files or {}

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder; None where there is none.

        Raises:
            InputError: it is damaged.
        """
        file = folder / NAME
        if not file.exists():
            return None
        files = read_object(file).get("files")
        if not isinstance(files, dict) or not all(map(_is_entry, files.values())):
            raise InputError(f"{file} is damaged: it does not list files with size and sha256.")
        return cls(folder, {_plain(name, file): entry for name, entry in files.items()})

    def admit(self, target: Path) -> None:
        """Ask whether a file may be written.

        Raises:
            InputError: it exists, and this run did not write it.
        """
        name = self._name(target)
        if name is not None and os.path.lexists(target) and name not in self._present():
            raise InputError(
                f"{target} exists and was not written by this run. Move it away, or choose another folder with --out."
            )

    def enter(self, target: Path, content: Path) -> None:
        """List a file that is about to take its place.

        Args:
            target: its place.
            content: where its content is now.
        """
        name = self._name(target)
        if name is None:
            return
        known, entry = name in self._present(), _entry(content)
        if known and target.is_file():
            entry["before"] = _entry(target)["sha256"]
        self.files[name] = entry
        self.write()

    def _present(self) -> dict[str, dict[str, Any]]:
        """The entries, with those that another process has made since."""
        with contextlib.suppress(InputError):  # damaged on disk since it was read; what is known here still holds
            known = Manifest.read(self.folder)
            self.files = known.files if known is not None else self.files
        return self.files

    def _name(self, target: Path) -> str | None:
        """The name under which a file is listed; None for what is not."""
        name = target.relative_to(self.folder).as_posix()
        return None if name in UNLISTED or name.startswith("stages/") else name

    def write(self) -> None:
        """Write manifest.json."""
        write_plainly(self.folder / NAME, to_json({"files": self.files}, indent=1) + "\n")

    def strangers(self, names: Iterable[str]) -> list[str]:
        """Those of some names, of files or folders that are not empty, under which lies what this run did not write."""
        own = {part for name in self.files for part in (name, *map(str, Path(name).parents))}
        own |= {NAME, "stages"} if self.files else set()
        empty = lambda place: place.is_dir() and not place.is_symlink() and not any(place.iterdir())
        there = [name for name in names if os.path.lexists(self.folder / name) and name not in own]
        return [name for name in there if not empty(self.folder / name)]

    def differences(self) -> list[str]:
        """What no longer is as it was written, a sentence each."""
        found = []
        for name, entry in sorted(self.files.items()):
            file = self.folder / name
            if not file.is_file() or file.is_symlink():
                found.append(f"{name} is missing")
            elif not _matches(file, entry):
                found.append(f"{name} was changed")
        return found

    def edited(self, names: Iterable[str] | None = None) -> list[str]:
        """Those of some names, or of all, whose files are no longer as the run wrote them."""
        wanted = self.files if names is None else [name for name in names if name in self.files]
        files = [(name, self.folder / name) for name in wanted]
        return [name for name, file in files if file.is_file() and not _matches(file, self.files[name])]

    def links(self, names: Iterable[str]) -> list[str]:
        """Those of some names that are links or lie behind one, and links among the solves. No run makes a link, and
        what is written through one lands elsewhere."""
        places = {part for name in names for part in (name, *map(str, Path(name).parents)) if part != "."}
        inner = (file.relative_to(self.folder).as_posix() for file in (self.folder / "stages").rglob("*"))
        return sorted(name for name in places.union(inner) if (self.folder / name).is_symlink())

    def remove(self) -> None:
        """Remove the files of the run that are as they were written, its solves, and folders that are then empty."""
        for name, entry in self.files.items():
            file = self.folder / name
            if file.is_file() and not file.is_symlink() and _matches(file, entry):
                file.unlink()
        for stage in (self.folder / "stages").glob("*/"):
            for pattern in STAGE_FILES:
                for file in stage.glob(pattern):
                    file.unlink()
            _remove_empty(stage / "checkpoints", stage / "emerging", stage)
        _remove_empty(*{(self.folder / name).parent for name in self.files} - {self.folder}, self.folder / "stages")
        (self.folder / NAME).unlink(missing_ok=True)
        self.files.clear()


def fingerprint(file: Path) -> dict[str, Any]:
    """Size, time and hash of an input, by which a change of it is noticed when a run goes on.

    Of a file above 64 MB beginning, end and eight blocks between are hashed.
    """
    state, digest = file.stat(), hashlib.sha256()
    with file.open("rb") as content:
        if state.st_size <= WHOLE:
            digest.update(content.read())
        else:
            for place in range(BLOCKS + 2):
                content.seek(place * (state.st_size - BLOCK) // (BLOCKS + 1))
                digest.update(content.read(BLOCK))
    return {"size": state.st_size, "time": state.st_mtime, "sha256": digest.hexdigest()}


WHOLE, BLOCK, BLOCKS = 64 << 20, 64 << 10, 8


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("before", ""), str):
        return False
    return isinstance(value.get("size"), int) and isinstance(value.get("sha256"), str)


def _plain(name: str, file: Path) -> str:
    """A name that stays inside the folder.

    Raises:
        InputError: it does not.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{file} is damaged: it lists {json.dumps(name)}, which lies outside the folder.")
    return name


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


def _matches(file: Path, entry: dict[str, Any]) -> bool:
    """Whether a file is as it was entered, or still what a killed write was about to replace."""
    sha256 = _entry(file)["sha256"]
    return sha256 == entry["sha256"] or sha256 == entry.get("before")


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def inside(folder: Path, file: Path) -> bool:
    """Whether a file lies in a folder, links followed."""
    return file.resolve().is_relative_to(folder.resolve())
