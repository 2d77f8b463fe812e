"""The built-in commands: demo, solve, resume, report."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sciml.command_line import console, demo
from sciml.command_line.console import Main
from sciml.command_line.devices import Device, choose_device
from sciml.errors import InputError
from sciml.runs.files import read_json
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
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class ResumeOptions:
    """Go on with a run that was stopped."""

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
    }
    options, function = table[name]
    return function(console.parse(f"sciml {name}", options, arguments))


def run_solve(options: SolveOptions) -> int:
    """`sciml solve`: import the user's problem, solve it, write model, report and summary."""
    import torch

    import sciml
    from sciml.command_line import user_problem

    problem, digest = user_problem.load(options.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = user_problem.model_of(problem)
    model = model.to(choose_device(options.device))
    run = Run.create(options.out, options={**asdict(options), "source_sha256": digest}, overwrite=options.overwrite)
    budget = sciml.Budget(seconds=options.seconds, evaluations=options.evaluations)
    solution = sciml.solve(problem, model, switch=options.switch, seed=options.seed, budget=budget, run=run)
    _save_model(solution.model, run.path / "model.safetensors")
    return console.conclude(run, solution.summary(problem.evaluate(solution.model)), json=options.json)


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
    if options.json and "--json" not in words:
        words.append("--json")
    record = run.path / "provenance.json"
    started = Path(read_json(record).get("directory", ".")) if record.exists() else Path()
    if started.is_dir():  # the recorded command may hold paths relative to where it was typed
        os.chdir(started)
    return main(words)


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
