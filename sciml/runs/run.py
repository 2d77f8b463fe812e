"""The run directory: what decides the result, what happened, and where each file of a run lies.

DIR/experiment.json    what decides the result: the command, its options, and fingerprints of its inputs
DIR/provenance.json    versions, commit, machine and threads, and one more record for each time the run was resumed
DIR/summary.json       the numbers of the finished run (the object that `--json` prints)
DIR/figures/NAME.png   with an optional caption in NAME.txt
DIR/report.html        one page
DIR/manifest.json      name, size and SHA-256 of every file that the run wrote; what is not in it is someone else's
DIR/.lock              the process that writes here, while it does
DIR/stages/NAME/       one folder a solve: stage.json (when it began), metrics.jsonl and checkpoints/
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sciml import distributed
from sciml.errors import InputError
from sciml.runs import trust
from sciml.runs.beginning import OWN_FILES, Files, begin
from sciml.runs.files import keep_ledger, make_folder, read_object, to_json, write_atomic
from sciml.runs.lock import Lock
from sciml.runs.manifest import Manifest, inside
from sciml.runs.stage import Stage


@dataclasses.dataclass
class CommandLine:
    """The command line being served.

    Attributes:
        words: what was typed after `sciml`, e.g. `("rod", "solve", "--form", "weak")`.
        run: the folder of the first run that it made; None before.
        signal: number of the signal that ends it; None before.
    """

    words: tuple[str, ...]
    run: Path | None = None
    signal: int | None = None

    @property
    def accepts_changed_source(self) -> bool:
        """Whether the user has said that a run goes on although its Python file was changed."""
        return "--accept-changed-source" in self.words


served: ContextVar[CommandLine | None] = ContextVar("served", default=None)
"""The command line being served, if any. `sciml.command_line.main` sets it and `Run.create` records it. So
`sciml resume` can repeat a command, although the code that makes the run never saw its arguments."""


class Run:
    """One run directory. Make it with `Run.create`, read one with `Run.open`.

    Attributes:
        path: the folder.
        experiment: what decides the result: `command` (a list of words) and `options` (name -> value).
        resumed: whether the folder already held this very experiment.
    """

    def __init__(self, path: Path, experiment: Mapping[str, Any], resumed: bool, lock: Lock | None = None) -> None:
        self.path = path
        self.experiment = dict(experiment)
        self.resumed = resumed
        self._stages: dict[str, Stage] = {}
        self._lock = lock

    @staticmethod
    def create(
        directory: str | os.PathLike[str],
        *,
        command: Sequence[str] = (),
        options: Any = None,
        overwrite: bool = False,
        files: Files | None = None,
    ) -> "Run":
        """Start a run in a folder, or go on with the same run.

        Args:
            directory: the folder; it is made if missing.
            command: what to type after `sciml`. While a command line is being served, what was typed is recorded
                instead, because `sciml resume` must be able to repeat it.
            options: what decides the result: a mapping or a dataclass. Paths, enums and numbers are fine.
            overwrite: remove what an earlier run wrote in this folder, whatever it was.
            files: what the command reads and writes besides.

        Raises:
            InputError: the folder holds a different experiment, or files that no run wrote where this one would write;
                or an output is an input; or another process writes there; or an input has changed; or it is a file.
            OSError: it cannot be written to.
        """
        path = Path(directory)
        values = dict(options) if isinstance(options, Mapping) else options or {}
        line = served.get()
        words = [str(word) for word in (line.words if line else command)]
        experiment = json.loads(to_json({"command": words, "options": values}))
        lock: list[Lock] = []  # of the leading process alone

        def lead() -> bool:
            resumed, held = begin(path, experiment, overwrite, files or Files())
            lock.append(held)
            return resumed

        resumed = distributed.led(lead)
        if line and line.run is None:
            line.run = path
        return Run(path, experiment, resumed, *lock)

    @staticmethod
    def open(directory: str | os.PathLike[str]) -> "Run":
        """Read an existing run; changes nothing on disk.

        Raises:
            InputError: the folder is missing or holds no run.
        """
        path = Path(directory)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder.")
        if not (path / "experiment.json").exists():
            raise InputError(f"{path} is not a run directory: it has no experiment.json.")
        for file in (path / name for name in OWN_FILES):
            if file.is_symlink():
                raise InputError(f"{file} is a link; a run has none. This folder was not written by this program.")
        experiment = read_object(path / "experiment.json")
        if not isinstance(experiment.get("command"), list):
            raise InputError(f"{path / 'experiment.json'}: the field `command` (a list of words) is missing.")
        if not isinstance(experiment.get("options") or {}, dict):
            raise InputError(f"{path / 'experiment.json'}: the field `options` is no object.")
        return Run(path, experiment, resumed=True)

    @property
    def finished(self) -> bool:
        """Whether a summary is written that does not say INTERRUPTED."""
        summary = self.summary
        return bool(summary) and summary.get("result") != "INTERRUPTED"

    @property
    def command(self) -> list[str]:
        """What was typed after `sciml`."""
        return [str(word) for word in self.experiment["command"]]

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of a finished run; empty while it goes on.

        Raises:
            InputError: summary.json is damaged.
        """
        file = self.path / "summary.json"
        return read_object(file) if file.exists() else {}

    @property
    def provenance(self) -> dict[str, Any]:
        """Who recorded the run, where and with what; empty where that is not known.

        Raises:
            InputError: provenance.json is damaged.
        """
        file = self.path / "provenance.json"
        return read_object(file) if file.exists() else {}

    @property
    def is_own(self) -> bool:
        """Whether this user recorded the run on this host (`sciml.runs.trust`)."""
        return trust.is_own((self.path / "experiment.json").read_bytes(), self.provenance)

    def stage(self, name: str = "solve") -> Stage:
        """The folder of one solve; the same object for the same name.

        Raises:
            InputError: the name is not a plain folder name.
        """
        if not name or name.startswith(".") or Path(name).name != name:
            raise InputError(f"{name!r} cannot name a stage: give a plain folder name.")
        if name not in self._stages:
            self._stages[name] = Stage(self.path / "stages" / name)
        return self._stages[name]

    def stage_paths(self) -> list[Path]:
        """The folders of all stages on disk, oldest first."""
        folder = self.path / "stages"
        paths = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
        paths = [path for path in paths if inside(self.path, path / "metrics.jsonl")]  # a link may lead anywhere
        return sorted(paths, key=lambda path: (_created(path), path.name))

    def figure(self, name: str, caption: str | None = None) -> Path:
        """The path figures/NAME.png, its folder made; the caption, if given, is what the report prints under it."""
        folder = self.path / "figures"
        make_folder(folder)
        if caption is not None:
            write_atomic(folder / f"{name}.txt", caption + "\n")
        return folder / f"{name}.png"

    def write_summary(self, summary: Mapping[str, Any]) -> Path:
        """Write summary.json, the object that `--json` prints. It marks the run as finished: write it last."""
        return write_atomic(self.path / "summary.json", to_json(summary, indent=1) + "\n")

    def accept_source(self, digest: str | None) -> None:
        """Take over the present hash of a user's source, with which the run then goes on.

        Args:
            digest: SHA-256 of the source now.
        """
        if not distributed.leader():
            return
        own, first = self.is_own, self.provenance
        self.experiment["options"] = {**(self.experiment.get("options") or {}), "source_sha256": digest}
        text = to_json(self.experiment, indent=1) + "\n"
        signed = trust.signature(text.encode(), first["directory"]) if own else None
        keep_ledger(self.path, Manifest.read(self.path) or Manifest(self.path))
        write_atomic(self.path / "experiment.json", text)
        write_atomic(self.path / "provenance.json", to_json({**first, "signature": signed}, indent=1) + "\n")

    def discard(self) -> None:
        """Remove what the run wrote, and its folder if nothing else is in it."""
        if not distributed.leader():
            return
        (Manifest.read(self.path) or Manifest(self.path)).remove()
        self.release()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def release(self) -> None:
        """Let other processes write in the folder: nothing more is written by this one."""
        if self._lock is not None:
            self._lock.release()


def _created(stage: Path) -> float:
    """When a stage began, in seconds of the epoch; 0 when its record is missing."""
    file = stage / "stage.json"
    created = read_object(file).get("created") if file.exists() else 0.0
    return created if isinstance(created, float) else 0.0
