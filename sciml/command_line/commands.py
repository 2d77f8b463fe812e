"""The built-in words of the command line: demo, solve, resume, report."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sciml import distributed
from sciml.command_line import main as cli
from sciml.errors import InputError
from sciml.runs.files import read_json
from sciml.runs.run import Run

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DemoOptions:
    """The main job on small data: the rod in its forms and a density from particles, in one report."""

    out: Path
    """Folder for the runs and report.html."""
    seed: int = 0
    """Seed of everything random."""
    device: Device = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Repeat what an earlier demo in the folder already did."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class SolveOptions:
    """Solve a problem of your own."""

    target: tyro.conf.Positional[str]
    """FILE.py:CLASS or package.module:CLASS; the class is a sciml.Problem with a method model()."""
    out: Path
    """Folder of the run."""
    seed: int = 0
    """Seed of the model's first parameters and of every batch."""
    switch: Literal["auto", "snr"] | int = "auto"
    """When the stochastic phase ends: the measured rule, the literal SNR threshold, or a step number."""
    seconds: float | None = None
    """Stop after so many seconds."""
    evaluations: float | None = None
    """Stop after so many loss-and-gradient evaluations per item."""
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


def main(word: str, arguments: Sequence[str]) -> int:
    """Serve one built-in word; see `sciml.command_line.main.main` for the exit codes."""
    table: dict[str, tuple[type, Callable[[Any], int]]] = {
        "demo": (DemoOptions, run_demo),
        "solve": (SolveOptions, run_solve),
        "resume": (ResumeOptions, run_resume),
        "report": (ReportOptions, run_report),
    }
    options, function = table[word]
    return function(cli.parse(f"sciml {word}", options, arguments))


def run_demo(options: DemoOptions) -> int:
    """`sciml demo`."""
    from sciml.command_line import demo

    return demo.run(options)


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
    return cli.conclude(run, solution.summary(problem.evaluate(solution.model)), json=options.json)


def run_resume(options: ResumeOptions) -> int:
    """`sciml resume`: repeat the recorded command in the same folder; finished stages return at once."""
    run = Run.open(options.directory)
    if not run.command:
        raise InputError(
            f"{run.path} was made by a Python program; run that program again, and solve() goes on by itself."
        )
    if run.finished:
        cli.say(f"{run.path} is finished; nothing to do.")
        if options.json or "--json" in run.command:
            cli.print_json(run.summary)
        return cli.DONE if run.summary.get("result", "CONVERGED") == "CONVERGED" else cli.NOT_CONVERGED
    words = resume_words(run.command, run.path.resolve())
    if options.json and "--json" not in words:
        words.append("--json")
    record = run.path / "provenance.json"
    started = Path(read_json(record).get("directory", ".")) if record.exists() else Path()
    if started.is_dir():  # the recorded words may hold paths relative to where they were typed
        os.chdir(started)
    return cli.main(words)


def run_report(options: ReportOptions) -> int:
    """`sciml report`: one page from run directories alone."""
    from sciml.reporting import report

    directories = options.directories
    if not directories:
        raise InputError("Name at least one run directory: sciml report DIR ...")
    out = options.out or (directories[0] / "report.html" if len(directories) == 1 else Path("report.html"))
    print(report.render(directories, out))
    return cli.DONE


def resume_words(words: Sequence[str], out: Path) -> list[str]:
    """The recorded words for going on in `out` (the folder may have been moved since), less `--overwrite`."""
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


def choose_device(name: str) -> str:
    """`auto` is the GPU when there is one.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: torch finds no CUDA device here. Use --device cpu or auto.")
    if not available or name == "cpu":
        return "cpu"
    distributed.take_gpu()
    return "cuda"


def _save_model(model: Any, path: Path) -> None:
    from safetensors.torch import save_file

    from sciml.runs.files import atomic_path

    # After a solve the parameters are views of one flat vector, which the format refuses.
    state = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))
