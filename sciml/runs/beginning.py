"""How a run begins in a folder, or goes on there: nothing of anyone else's is touched, and nothing has changed."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sciml.errors import InputError
from sciml.runs import trust
from sciml.runs.files import keep_ledger, make_folder, read_object, sweep, to_json, write_atomic
from sciml.runs.lock import Lock
from sciml.runs.manifest import Manifest, fingerprint
from sciml.runs.provenance import provenance

PRESENTATION = frozenset({"out", "json", "overwrite", "quiet", "accept_changed_source"})
"""Options that change where and how the result is shown, but not the result."""

OWN_FILES = ("experiment.json", "provenance.json", "summary.json", "report.html", "manifest.json", "stages", "figures")
"""What every run writes."""

READ_BACK = frozenset({"experiment.json", "provenance.json"})
"""Of these, what a run that goes on reads: signature and comparison judge whether they were changed."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of a command besides those that every run writes.

    Attributes:
        inputs: what it reads; a change of one is noticed when the run goes on.
        outputs: names of what it writes, relative to the folder of the run.
    """

    inputs: Sequence[Path] = ()
    outputs: Sequence[str] = ()


def begin(path: Path, experiment: dict[str, Any], overwrite: bool, files: Files) -> tuple[bool, Lock]:
    """Lock the folder of a run, made if missing, and say in it what the run is.

    Args:
        path: the folder.
        experiment: command and options; receives the fingerprints of the inputs.
        overwrite: remove what an earlier run wrote there.
        files: what the command reads and writes.

    Returns:
        Whether the folder held this very run already, and the lock.

    Raises:
        InputError: see `Run.create`.
    """
    experiment["inputs"] = {str(file): fingerprint(file) for file in files.inputs}
    there = path.exists()
    lock = _lock(path, files)
    try:
        return _begin(path, experiment, overwrite, files), lock
    except InputError:
        lock.release()
        if not there:
            path.rmdir()
        raise


def claim(folder: Path, files: Files) -> None:
    """Take a folder, made if missing, for the outputs of a command that makes no run.

    Raises:
        InputError: an output is an input, or exists and was not written by this program.
    """
    _refuse_inputs(folder, files)
    make_folder(folder)
    manifest = Manifest.read(folder) or Manifest(folder)
    _refuse_strangers(manifest, files.outputs)
    _refuse_edited(folder, manifest.edited(files.outputs))
    keep_ledger(folder, manifest)


def refuse_to_replace(file: Path, inputs: Sequence[Path]) -> None:
    """Ask for a single file whether it may be written.

    Raises:
        InputError: it exists. A file that a user names may be anyone's.
    """
    if file.exists() and any(file.samefile(other) for other in inputs if other.exists()):
        raise InputError(f"{file} is an input of this command, which would replace it. Choose another name.")
    if os.path.lexists(file):
        raise InputError(f"{file} exists. Move it away, or choose another name.")


def write_experiment(path: Path, experiment: Mapping[str, Any]) -> None:
    """Write what a run is, and who began it."""
    text = to_json(experiment, indent=1) + "\n"
    record = {**provenance(), **trust.recorder()}
    record["signature"] = trust.signature(text.encode(), record["directory"])
    write_atomic(path / "provenance.json", to_json(record, indent=1) + "\n")
    write_atomic(path / "experiment.json", text)


def _lock(path: Path, files: Files) -> Lock:
    """The folder, made and locked.

    Raises:
        InputError: see `Run.create`.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder for the run.")
    _refuse_inputs(path, files)
    make_folder(path)
    return Lock(path)


def _begin(path: Path, experiment: dict[str, Any], overwrite: bool, files: Files) -> bool:
    """Say in the folder of a run what the run is; True if it held this very run already."""
    file = path / "experiment.json"
    manifest = Manifest.read(path)
    earlier = read_object(file) if file.exists() else None
    if earlier is not None and manifest is None:
        raise InputError(
            f"{path} holds a run without manifest.json, so that nobody knows which files are its own. Choose another "
            "folder."
        )
    resumed = earlier is not None and not overwrite
    if earlier is not None and resumed and (differences := _differences(earlier, experiment)):
        raise InputError(f"{path} holds a different run ({differences}). Choose another folder, or delete this one.")
    manifest = manifest or Manifest(path)
    for folder in [path, path / "figures", *(path / "stages").glob("*/"), *(path / "stages").glob("*/checkpoints/")]:
        sweep(folder)
    wanted = [*OWN_FILES, *files.outputs]
    _refuse_strangers(manifest, wanted)
    _refuse_edited(path, [name for name in manifest.edited() if overwrite or name not in READ_BACK])
    if overwrite:
        manifest.remove()
    keep_ledger(path, manifest)
    if resumed:
        _record_resumption(path / "provenance.json")
    else:
        write_experiment(path, experiment)
    return resumed


def _refuse_inputs(folder: Path, files: Files) -> None:
    inputs = {file.resolve() for file in files.inputs}
    clashes = [name for name in (*files.outputs, *OWN_FILES) if (folder / name).resolve() in inputs]
    if clashes:
        raise InputError(
            f"{folder / clashes[0]} is an input of this command, which would replace it. Choose another --out."
        )


def _refuse_strangers(manifest: Manifest, wanted: Sequence[str]) -> None:
    if links := manifest.links([*wanted, *manifest.files]):
        raise InputError(
            f"{manifest.folder} holds links where this program writes files: {', '.join(links)}. Choose another "
            "folder, or remove them."
        )
    if strangers := manifest.strangers(wanted):
        raise InputError(
            f"{manifest.folder} holds files that this program did not write and would replace: {', '.join(strangers)}. "
            "Choose another folder, or move them away."
        )


def _refuse_edited(folder: Path, edited: Sequence[str]) -> None:
    """A file of ours that someone has worked on since is theirs."""
    if edited:
        raise InputError(
            f"{folder}: changed since this program wrote it: {', '.join(edited)}. Move it away, or choose another "
            "folder."
        )


def _record_resumption(file: Path) -> None:
    """Add who goes on with a run. The signature stays: what was not signed here does not become so by going on."""
    first = read_object(file) if file.exists() else {}
    before = first.get("resumed")
    now = {**provenance(), **trust.recorder()}
    record = {**first, "resumed": [*before, now] if isinstance(before, list) else [now]}
    write_atomic(file, to_json(record, indent=1) + "\n")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A sentence that tells two experiments apart; empty when they are the same."""
    before, after = _options(old), _options(new)
    words_before, words_after = _words(old), _words(new)
    found = []
    if words_before != words_after:
        found.append(f"`{' '.join(words_before)}`, not `{' '.join(words_after)}`")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            found.append(f"{name}: {before.get(name)!r} there, {after.get(name)!r} now")
    return "; ".join([*found, *_changed_inputs(old, new)])


def _changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A sentence for each input that is not what it was. A folder that was moved keeps the names of its files."""
    before, found = old.get("inputs"), []
    if not isinstance(before, dict):
        return []
    by_name = {Path(file).name: state for file, state in before.items() if isinstance(state, dict)}
    for file, state in new["inputs"].items():
        known = before.get(file) or by_name.get(Path(file).name)
        if not isinstance(known, dict):
            found.append(f"{file} was no input then")
        elif known.get("size") != state["size"]:
            found.append(f"{file} had {known.get('size')} bytes then and has {state['size']} now")
        elif known.get("sha256") != state["sha256"]:
            found.append(f"{file} has another content than then")
    return found


def _options(experiment: Mapping[str, Any]) -> dict[str, Any]:
    options = experiment.get("options")
    options = options if isinstance(options, dict) else {}
    return {name: value for name, value in options.items() if name not in PRESENTATION}


def _words(experiment: Mapping[str, Any]) -> list[str]:
    """The command up to its first flag, without positional options.

    Flags are compared through the options, where their order and spelling no longer matter.
    """
    known = experiment.get("command")
    command = [str(word) for word in known] if isinstance(known, list) else []
    values = {str(value) for value in _options(experiment).values()}
    leading = command[: next((place for place, word in enumerate(command) if word.startswith("-")), len(command))]
    return [word for word in leading if word not in values]
