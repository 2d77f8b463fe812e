"""The run directory: what decides the result, what happened, and where each file of a run lies.

DIR/experiment.json    what decides the result: the command and its options
DIR/provenance.json    versions, commit, machine and threads, and one more record for each time the run was resumed
DIR/summary.json       the numbers of the finished run (the object that `--json` prints)
DIR/figures/NAME.png   with an optional caption in NAME.txt
DIR/report.html        one page
DIR/stages/NAME/       one folder a solve: stage.json (when it began), metrics.jsonl and checkpoints/
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sciml import distributed
from sciml.errors import InputError
from sciml.runs.files import make_folder, read_json, to_json, write_atomic
from sciml.runs.provenance import provenance
from sciml.runs.stage import Stage


@dataclasses.dataclass
class CommandLine:
    """The command line being served.

    Attributes:
        words: what was typed after `sciml`, e.g. `("rod", "solve", "--form", "weak")`.
        run: the folder of the first run that it made; None before.
    """

    words: tuple[str, ...]
    run: Path | None = None


served: ContextVar[CommandLine | None] = ContextVar("served", default=None)
"""The command line being served, if any. `sciml.command_line.main` sets it and `Run.create` records it. So
`sciml resume` can repeat a command, although the code that makes the run never saw its arguments."""

PRESENTATION = frozenset({"out", "json", "overwrite", "quiet"})
"""Options that change where and how the result is shown, but not the result."""


class Run:
    """One run directory. Make it with `Run.create`, read one with `Run.open`.

    Attributes:
        path: the folder.
        experiment: what decides the result: `command` (a list of words) and `options` (name -> value).
        resumed: whether the folder already held this very experiment.
    """

    def __init__(self, path: Path, experiment: Mapping[str, Any], resumed: bool) -> None:
        self.path = path
        self.experiment = dict(experiment)
        self.resumed = resumed
        self._stages: dict[str, Stage] = {}

    @staticmethod
    def create(
        directory: str | os.PathLike[str],
        *,
        command: Sequence[str] = (),
        options: Any = None,
        overwrite: bool = False,
    ) -> "Run":
        """Start a run in a folder, or go on with the same run.

        Args:
            directory: the folder; it is made if missing.
            command: what to type after `sciml`. While a command line is being served, what was typed is recorded
                instead, because `sciml resume` must be able to repeat it.
            options: what decides the result: a mapping or a dataclass. Paths, enums and numbers are fine.
            overwrite: remove the outputs of an earlier run in this folder, whatever it was.

        Raises:
            InputError: the folder holds a different experiment, or is a file.
            OSError: it cannot be written to.
        """
        path = Path(directory)
        values = dict(options) if isinstance(options, Mapping) else options or {}
        line = served.get()
        words = [str(word) for word in (line.words if line else command)]
        experiment = json.loads(to_json({"command": words, "options": values}))
        if line and line.run is None and not path.is_file():
            line.run = path
        resumed = distributed.led(lambda: _begin(path, experiment, overwrite))
        return Run(path, experiment, resumed)

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
        experiment = read_json(path / "experiment.json")
        if not isinstance(experiment, dict) or not isinstance(experiment.get("command"), list):
            raise InputError(f"{path / 'experiment.json'}: the field `command` (a list of words) is missing.")
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
            InputError: summary.json is not JSON.
        """
        file = self.path / "summary.json"
        return read_json(file) if file.exists() else {}

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

    def discard(self) -> None:
        """Remove what the run wrote, and its folder if nothing else is in it."""
        if not distributed.leader():
            return
        _remove_outputs(self.path)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _begin(path: Path, experiment: Mapping[str, Any], overwrite: bool) -> bool:
    """Make the folder of a run, and say in it what the run is; True if it held this very run already."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder for the run.")
    file = path / "experiment.json"
    resumed = file.exists() and not overwrite
    if resumed and (differences := _differences(read_json(file), experiment)):
        raise InputError(f"{path} holds a different run ({differences}). Choose another folder, or delete this one.")
    make_folder(path)
    if overwrite:
        _remove_outputs(path)
    _record_provenance(path / "provenance.json", resumed)
    if not resumed:
        write_atomic(file, to_json(experiment, indent=1) + "\n")
    return resumed


def _record_provenance(file: Path, resumed: bool) -> None:
    record = provenance()
    if resumed and file.exists():
        first = read_json(file)
        record = {**first, "resumed": [*first.get("resumed", []), record]}
    write_atomic(file, to_json(record, indent=1) + "\n")


def _created(stage: Path) -> float:
    """When a stage began, in seconds of the epoch; 0 when its record is missing."""
    file = stage / "stage.json"
    return float(read_json(file)["created"]) if file.exists() else 0.0


def _differences(old: Any, new: Mapping[str, Any]) -> str:
    """A sentence that tells two experiments apart; empty when they are the same."""
    if not isinstance(old, dict):
        return "its experiment.json is not an object"
    before, after = _options(old), _options(new)
    words_before, words_after = _words(old), _words(new)
    found = []
    if words_before != words_after:
        found.append(f"`{' '.join(words_before)}`, not `{' '.join(words_after)}`")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            found.append(f"{name}: {before.get(name)!r} there, {after.get(name)!r} now")
    return "; ".join(found)


def _options(experiment: Mapping[str, Any]) -> dict[str, Any]:
    options = experiment.get("options") or {}
    return {name: value for name, value in options.items() if name not in PRESENTATION}


def _words(experiment: Mapping[str, Any]) -> list[str]:
    """The command up to its first flag, without positional options.

    Flags are compared through the options, where their order and spelling no longer matter.
    """
    command = [str(word) for word in experiment.get("command") or []]
    values = {str(value) for value in (experiment.get("options") or {}).values()}
    leading = command[: next((place for place, word in enumerate(command) if word.startswith("-")), len(command))]
    return [word for word in leading if word not in values]


def _remove_outputs(path: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for folder in ("stages", "figures"):
        shutil.rmtree(path / folder, ignore_errors=True)
    for file in ("experiment.json", "provenance.json", "summary.json", "report.html"):
        (path / file).unlink(missing_ok=True)
