"""The built-in commands: demo, solve, resume, report."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sciml.command_line import console, demo
from sciml.command_line.console import Main
from sciml.command_line.devices import Device, choose_device
from sciml.errors import InputError
from sciml.runs.beginning import Files
from sciml.runs.manifest import Manifest
from sciml.runs.run import Run


@dataclass(frozen=True)
class SolveOptions:
    """Solve a problem of your own."""

    target: tyro.conf.Positional[str]
    """FILE.py:CLASS or package.module:CLASS. The class is a sciml.Problem with a method model()."""
    out: Path
    """Folder of the run."""
    seed: int = 0
    """Seed of the model's first parameters and of every batch."""
    switch: Literal["auto", "progress", "snr"] | int = "auto"
    """When the stochastic phase ends: when its signal-to-noise ratio makes its steps worth too little or the loss no
    longer falls (auto), by its progress alone, at an SNR threshold (snr), or at a step number."""
    seconds: float | None = None
    """Stop after this many seconds."""
    evaluations: float | None = None
    """Stop after this many loss-and-gradient evaluations per item."""
    device: Device = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    accept_changed_source: bool = False
    """Go on with a run although the file of the problem was changed since it began."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class ResumeOptions:
    """Go on with a run that was stopped."""

    directory: tyro.conf.Positional[Path]
    """The run directory."""
    trust: bool = False
    """Repeat the command of a folder that was not recorded by you on this machine."""
    accept_changed_source: bool = False
    """Go on although the Python file of the problem was changed since the run began."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class VerifyOptions:
    """Compare the files of a run with its manifest."""

    directory: tyro.conf.Positional[Path]
    """The run directory."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class ReportOptions:
    """One page for one or several runs."""

    directories: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """Run directories, in the order of the page."""
    out: Path | None = None
    """The page; by default report.html in the only run, or in the current folder."""


def serve(name: str, arguments: Sequence[str], main: Main) -> int:
    """Serve one built-in command.

    Args:
        name: the command.
        arguments: what was typed after it.
        main: see `Main`.

    Returns:
        The exit code; see `sciml.command_line.main`.
    """
    table: dict[str, tuple[type, Callable[[Any], int]]] = {
        "demo": (demo.Options, lambda options: demo.run(options, main)),
        "solve": (SolveOptions, run_solve),
        "resume": (ResumeOptions, lambda options: run_resume(options, main)),
        "report": (ReportOptions, run_report),
        "verify": (VerifyOptions, run_verify),
    }
    options, function = table[name]
    return function(console.parse(f"sciml {name}", options, arguments))


def run_solve(options: SolveOptions) -> int:
    """`sciml solve`: import the user's problem, solve it, write model, report and summary."""
    import torch

    import sciml
    from sciml.command_line import user_problem

    digest = user_problem.digest(options.target)
    _check_source(options, digest)
    problem = user_problem.load(options.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = user_problem.model_of(problem)
    model = model.to(choose_device(options.device))
    run = Run.create(
        options.out,
        options={**asdict(options), "source_sha256": digest},
        overwrite=options.overwrite,
        files=Files(outputs=("model.safetensors",)),
    )
    budget = sciml.Budget(seconds=options.seconds, evaluations=options.evaluations)
    with user_problem.framed(options.target, run.path):
        solution = sciml.solve(problem, model, switch=options.switch, seed=options.seed, budget=budget, run=run)
        values = problem.evaluate(solution.model)
    _save_model(solution.model, run.path / "model.safetensors")
    return console.conclude(run, solution.summary(values), json=options.json)


def _check_source(options: SolveOptions, digest: str | None) -> None:
    """Compare the user's file with that of the run in the folder, before a line of it is executed.

    Raises:
        InputError: it was changed, and the user has not accepted that.
    """
    if options.overwrite or not (options.out / "experiment.json").exists():
        return
    run = Run.open(options.out)
    recorded = run.experiment.get("options")
    before = recorded.get("source_sha256") if isinstance(recorded, dict) else None
    if before == digest:
        return
    if not options.accept_changed_source:
        raise InputError(
            f"{options.target} was changed since {options.out} was begun. If that is meant, go on with: "
            f"sciml resume {options.out} --accept-changed-source"
        )
    run.accept_source(digest)


def run_resume(options: ResumeOptions, main: Main) -> int:
    """`sciml resume`: repeat the recorded command in the same folder. Finished stages return at once."""
    run = Run.open(options.directory)
    if not run.command:
        raise InputError(
            f"{run.path} was made by a Python program; run that program again, and solve() goes on by itself."
        )
    if run.finished:
        console.say(f"{run.path} is finished; nothing to do.")
        if options.json or "--json" in run.command:
            console.print_json(run.summary)
        return console.DONE if run.summary.get("result", "CONVERGED") == "CONVERGED" else console.NOT_CONVERGED
    words = resume_words(run.command, run.path.resolve())
    _check_trust(run, words, options)
    if options.accept_changed_source:
        words.append("--accept-changed-source")
    if options.json and "--json" not in words:
        words.append("--json")
    started = Path(str(run.provenance.get("directory", ".")))
    if started.is_dir():  # the recorded command may hold paths relative to where it was typed
        os.chdir(started)
    return main(words)


def _check_trust(run: Run, words: Sequence[str], options: ResumeOptions) -> None:
    """Show what a folder wants to run, and refuse it unless it was recorded by this user on this machine.

    Raises:
        InputError: it was not, and the user has not said to trust it.
    """
    console.say(f"Repeating: sciml {shlex.join(words)}")
    if run.command[0] == "resume":
        raise InputError(f"{run.path} records `sciml resume`, which makes no run. It was not written by this program.")
    if not options.trust and not run.is_own:
        raise InputError(
            f"{run.path} was not recorded by you on this machine (without a home nothing can be), or was changed "
            "since. Its command may run code and write files anywhere. If you trust it, say so: --trust"
        )


def run_verify(options: VerifyOptions) -> int:
    """`sciml verify`: whether the files of a run are those that it wrote.

    Returns:
        0 if they are, 2 if not.
    """
    run = Run.open(options.directory)
    manifest = Manifest.read(run.path)
    if manifest is None:
        raise InputError(f"{run.path} has no manifest.json: nobody knows what the run wrote.")
    differences = manifest.differences()
    for text in differences:
        console.say(text)
    signed = (
        "recorded by you on this machine" if run.is_own else "not recorded by you on this machine, or changed since"
    )
    console.say(f"{len(manifest.files)} files, {len(differences)} not as they were written; {signed}.")
    if options.json:
        console.print_json({"files": len(manifest.files), "differences": differences, "own": run.is_own})
    return console.BAD_INPUT if differences else console.DONE


def run_report(options: ReportOptions) -> int:
    """`sciml report`: write one page from run directories alone."""
    from sciml.reporting import report

    directories = options.directories
    if not directories:
        raise InputError("Name at least one run directory: sciml report DIR ...")
    out = options.out or (directories[0] / "report.html" if len(directories) == 1 else Path("report.html"))
    print(report.render(directories, out))
    return console.DONE


def resume_words(words: Sequence[str], out: Path) -> list[str]:
    """The command that goes on with a run: the recorded one, less `--overwrite`, with the folder where the run is now.

    Args:
        words: the recorded command.
        out: the folder of the run, which may have been moved.
    """
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--out":
            skip = True
        elif not word.startswith("--out=") and word not in ("--overwrite", "--no-overwrite"):
            kept.append(word)
    return [*kept, "--out", str(out)]


def _save_model(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    from sciml.runs.files import atomic_path

    # After a solve the parameters are views of one flat vector, which the format refuses.
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))
