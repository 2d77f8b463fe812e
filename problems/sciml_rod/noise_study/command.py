"""`sciml rod variance`: measure, run plain SGD, say what the numbers say, write tables and figures."""

import csv
import io
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciml.command_line import console
from sciml.runs.beginning import Files
from sciml.runs.run import Run

if TYPE_CHECKING:
    from sciml_rod.noise_study.descent import Plan
    from sciml_rod.noise_study.variance import Study

TABLES = ("variance", "variance_summary", "descent", "descent_summary")
"""Names of the tables that are written, one CSV file each."""
TEXT = ("case", "state", "form", "sampling")


@dataclass(frozen=True)
class VarianceOptions:
    """Compare the gradient noise of the forms at equal network evaluations, and what plain SGD makes of it."""

    out: Path
    """Folder of the run."""
    quick: bool = False
    """One bar, one seed, fewer batches and no SGD: about ten seconds."""
    long: bool = False
    """Five seeds, 300 batches, 20,000 steps of SGD on all three bars: about an hour."""
    seeds: int | None = None
    """Repeat everything with so many seeds; by default 3."""
    batches: int | None = None
    """Batches per row; by default 150."""
    steps: int | None = None
    """Steps of plain SGD with each estimator; by default 3000; 0 leaves SGD out."""
    trajectory: Literal["strong", "weak", "energy"] = "strong"
    """The form along whose training the gradients are measured."""
    seed: int = 0
    """The first seed of networks, trainings and batches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the trainings compute; the measurements run on the CPU."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def plans(options: VarianceOptions) -> "tuple[Study, Plan]":
    """What the options ask for."""
    from sciml.command_line.devices import choose_device
    from sciml.errors import InputError
    from sciml_rod.noise_study.descent import Plan
    from sciml_rod.noise_study.variance import Study

    if options.quick and options.long:
        raise InputError("--quick and --long contradict each other: choose one.")
    for name, lowest in (("seeds", 1), ("batches", 2), ("steps", 0)):
        given = getattr(options, name)
        if given is not None and given < lowest:
            raise InputError(f"--{name} {given}: at least {lowest}.")
    count, batches, steps = (1, 80, 0) if options.quick else (5, 300, 20_000) if options.long else (3, 150, 3000)
    seeds = tuple(range(options.seed, options.seed + (options.seeds or count)))
    study = Study(
        ("smooth",) if options.quick else Study.cases,
        seeds,
        options.batches or batches,
        options.trajectory,
        choose_device(options.device),
        adam=(400, 0) if options.quick else Study.adam,
    )
    cases = study.cases if options.quick or options.long else Plan.cases
    return study, Plan(cases, seeds, steps if options.steps is None else options.steps)


def variance(options: VarianceOptions) -> int:
    """Serve `sciml rod variance`.

    Returns:
        0: the study has no way to fail but an exception.
    """
    from sciml.runs.files import to_json, write_atomic
    from sciml_rod.noise_study import descent, verdict
    from sciml_rod.noise_study import variance as study_of

    began = time.monotonic()
    study, plan = plans(options)
    files = Files(outputs=("variance.json", *(f"{name}.csv" for name in TABLES)))
    run = Run.create(options.out, options=asdict(options), overwrite=options.overwrite, files=files)
    rows, runs = _measure(study, run), _descend(plan)
    summary, descents = study_of.summarize(rows), descent.summarize(runs, plan.targets)
    judged = verdict.on_variance(summary)
    sentences = [entry["sentence"] for entry in judged] + verdict.on_steps(descents, plan.targets)
    result = {
        "rows": rows,
        "summary": summary,
        "descent": descents,
        "verdict": {"statement": verdict.STATEMENT, "variance": judged, "sentences": sentences},
    }
    plain = [{name: value for name, value in row.items() if name != "curve"} for row in runs]
    tables = dict(zip(TABLES, (rows, summary, plain, descents), strict=True))
    for name, table in tables.items():
        if table:
            write_atomic(run.path / f"{name}.csv", _csv(table))
    write_atomic(run.path / "variance.json", to_json({**result, "descent_runs": runs}, indent=1) + "\n")
    _draw(run, summary, runs, descents, plan)
    if not options.json:
        _print(summary, descents, sentences)
    return console.conclude(run, {**result, "seconds": time.monotonic() - began}, json=options.json)


def _measure(study: "Study", run: Run) -> list[dict[str, Any]]:
    from sciml_rod.noise_study.variance import measure

    rows: list[dict[str, Any]] = []
    for row in measure(study, run):
        place = (row["case"], row["seed"], row["state"])
        if not rows or place != tuple(rows[-1][name] for name in ("case", "seed", "state")):
            console.say(f"Noise: {row['case']} bar, seed {row['seed']}, {row['state']}: error {row['relative_l2']:.1e}")
        rows.append(row)
    return rows


def _descend(plan: "Plan") -> list[dict[str, Any]]:
    from sciml_rod.noise_study.descent import descend

    rows: list[dict[str, Any]] = []
    for row in descend(plan) if plan.steps else ():
        place = tuple(row[name] for name in ("case", "form", "sampling"))
        if not rows or place != tuple(rows[-1][name] for name in ("case", "form", "sampling")):
            name = f"{row['case']} bar, {row['form']}, {row['sampling']}"
            console.say(f"SGD: {name}: largest step {row['step_size']:.3g}")
        rows.append(row)
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _draw(run: Run, summary: list, runs: list, descents: list, plan: "Plan") -> None:
    from sciml_rod.noise_study import figures

    caption = (
        "How many times noisier than the strong form a stochastic gradient is (median of the seeds), for batches that "
        "cost 64 network evaluations each: relative variance tr Cov(g) / |exact g|² over that of the strong form with "
        "points drawn as evenly. In brackets: the seeds' 95 % intervals do not agree on a side."
    )
    figures.draw_ratios(run.figure("ratios", caption), summary)
    caption = (
        "Relative variance of the gradient, tr Cov(g) / |exact g|², along the training; lines are medians of the "
        "seeds, bands reach over all of them. Below the dashed line a batch has more signal than noise."
    )
    figures.draw_variance(run.figure("variance", caption), summary)
    if not runs:
        return
    caption = (
        "Plain SGD from the same networks, each form at the largest step that a trial finds stable. On the right the "
        "same with exact gradients: what differs there is the curvature of the losses, not their noise."
    )
    figures.draw_descent(run.figure("descent", caption), runs, plan.every)
    caption = "What the noise costs: the largest stable step relative to that with the form's own exact gradient."
    figures.draw_steps(run.figure("steps", caption), descents)


def _print(summary: list[dict[str, Any]], descents: list[dict[str, Any]], sentences: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from sciml_rod.noise_study.verdict import STATEMENT

    console = Console(file=sys.stdout, width=130)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in (*TEXT, "error", "relative variance", "ratio to strong [seeds]", "compared"):
        table.add_column(name, justify="left" if name in (*TEXT, "compared") else "right", no_wrap=True)
    for row in summary:
        ratio = "{ratio_to_strong:.3g} [{ratio_to_strong_min:.2g}, {ratio_to_strong_max:.2g}]".format_map(row)
        numbers = f"{row['relative_l2']:.1e}", f"{row['relative_variance']:.3g}", ratio, row["compared"]
        table.add_row(*(row[name] for name in TEXT), *numbers)
    console.print(table)
    if descents:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        targets = [name for name in descents[0] if name.startswith("evaluations_to_")]
        columns = ("case", "form", "sampling", "fraction", "step", "kept", *(name[12:] for name in targets), "floor")
        for name in (*columns, "diverged"):
            table.add_column(name.replace("_", " "), justify="left" if name in TEXT else "right", no_wrap=True)
        for row in descents:
            numbers = [row["fraction"], row["step_size"], row["step_kept"], *(row[name] for name in targets)]
            cells = ["-" if value is None else f"{value:.2g}" for value in [*numbers, row["floor"], row["diverged"]]]
            table.add_row(row["case"], row["form"], row["sampling"], *cells)
        console.print("\nPlain SGD: network evaluations to an error, medians of the seeds", table)
    console.print(f"\n{STATEMENT}\nMeasured:")
    for sentence in sentences:
        console.print(f"  {sentence}", highlight=False)
