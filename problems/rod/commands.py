"""The elastic rod: solve it in strong, weak or energy form; compare the noise of their gradients."""

import csv
import io
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciml import cli
from sciml.run import Run

if TYPE_CHECKING:
    from problems.rod.cases import Case
    from problems.rod.form import RodForm
    from sciml import Solution

UNBALANCED = 1e-2
"""Missing force, relative to the largest normal force, above which a solution is not accepted whatever its loss."""

INCOMPLETE = 6000.0
"""Evaluations spent at most on a problem that is known to lack a condition: enough to see what comes of it."""
TEXT = ("case", "state", "form", "sampling")


@dataclass(frozen=True)
class SolveOptions:
    """Solve a bar and compare with the reference that is no network."""

    out: Path
    """Folder of the run."""
    form: Literal["strong", "weak", "energy"] = "strong"
    """Collocation, virtual work, or potential energy."""
    case: Literal["smooth", "oscillatory", "bimaterial"] = "smooth"
    """Which bar."""
    interface: bool = True
    """Impose the interface condition in the strong form. Without it a bar of two materials comes out wrong."""
    seed: int = 0
    """Seed of the network's first parameters and of every batch."""
    switch: Literal["auto", "snr"] | int = "auto"
    """When the stochastic phase ends: the measured rule, the literal SNR threshold, or a step number."""
    seconds: float | None = None
    """Stop after so many seconds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class VarianceOptions:
    """Compare the relative gradient variance of the forms at equal numbers of network evaluations."""

    out: Path
    """Folder of the run."""
    quick: bool = False
    """One bar and fewer batches: about ten seconds."""
    batches: int | None = None
    """Batches per row; by default 150, or 80 with --quick."""
    seed: int = 0
    """Seed of network, training and batches."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(arguments: list[str]) -> int:
    """Serve `sciml rod ...`; see `sciml.cli.main` for the exit codes."""
    table = {"solve": (SolveOptions, solve), "variance": (VarianceOptions, variance)}
    return cli.dispatch("sciml rod", table, arguments)


def solve(options: SolveOptions) -> int:
    """`sciml rod solve`: solve, check on held-out points, draw, report.

    Returns:
        0 when converged and in equilibrium, otherwise 3 with all outputs written.
    """
    import sciml
    from problems.rod.cases import find_case
    from sciml.commands import choose_device

    case = find_case(options.case)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        form = case.form(options.form, interface=options.interface)
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        cli.say(f"Warning: {note}")
    model = case.network(form, options.seed).to(choose_device(options.device))
    run = Run.create(options.out, options=asdict(options), overwrite=options.overwrite)
    phases = None
    if case.tolerance is not None:
        phases = [sciml.Adam(), sciml.SelfScaled(tolerance=case.tolerance)]
    budget = sciml.Budget(options.seconds, None if options.interface else INCOMPLETE)
    stage = run.stage(options.form)
    solution = sciml.solve(form, model, phases, switch=options.switch, seed=options.seed, budget=budget, run=stage)
    summary = _summary(form, solution, notes)
    _write_outputs(run, case, form, solution)
    return cli.conclude(run, summary, json=options.json)


def _summary(form: "RodForm", solution: "Solution", notes: list[str]) -> dict[str, Any]:
    """The object of `--json`. A solve that ended well but is not in equilibrium is no success."""
    values = form.evaluate(solution.model)
    result = solution.result.name
    balance = values["held_out_balance"]
    if not balance <= UNBALANCED:
        if result == "CONVERGED":
            result = "HELD_OUT_FAILED"
        text = (
            f"not in equilibrium: a piece of the bar between two held-out points misses {balance:.2g} of the largest "
            f"normal force (limit {UNBALANCED:g}), whatever the loss of {solution.loss:.2g} says."
        )
        notes.append(text)
        cli.say(f"Warning: {text}")
    return {**solution.summary(values), "result": result, "warnings": notes}


def _write_outputs(run: Run, case: "Case", form: "RodForm", solution: "Solution") -> None:
    """solution.csv and the figures."""
    import numpy as np
    import torch

    from problems.rod import figures
    from sciml.files import write_atomic

    # Midpoints of cells: no point falls on an interface, where the slope has two values.
    x = (np.arange(500) + 0.5) * form.rod.length / 500
    device = next(solution.model.parameters()).device
    at = torch.from_numpy(x).to(device)
    reference = form.reference
    columns = {
        "x_m": x,
        "displacement_m": form.displacement(solution.model, at).double().cpu().numpy(),
        "reference_displacement_m": reference.displacement(x),
        "force_n": form.force(solution.model, at).double().cpu().numpy(),
        "reference_force_n": reference.force(x),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{value:.12g}" for value in row] for row in zip(*columns.values(), strict=True))
    write_atomic(run.path / "solution.csv", text.getvalue())
    caption = (
        f"The {case.name} bar, {type(form).__name__}: network against the reference (exact integration of the loads)."
    )
    figures.draw_solution(run.figure("solution", caption), columns, [jump.position for jump in form.rod.interfaces])
    history = [record for record in solution.history if record["kind"] == "evaluate"]
    caption = "Error and held-out checks as the solve went on; none of them is used to train."
    figures.draw_checks(run.figure("checks", caption), history)


def variance(options: VarianceOptions) -> int:
    """`sciml rod variance`: train once per bar, measure all forms at the states on the way, write table and figure."""
    import time

    from problems.rod import figures
    from problems.rod.variance import Study, measure
    from sciml.commands import choose_device
    from sciml.files import to_json, write_atomic

    began = time.monotonic()
    given = {"seed": options.seed, "device": choose_device(options.device)}
    if options.quick:
        study = Study(("smooth",), options.batches or 80, adam=(400, 0), finisher=(60, 500), **given)
    else:
        study = Study(batches=options.batches or 150, **given)
    run = Run.create(options.out, options=asdict(options), overwrite=options.overwrite)
    rows = measure(study, run)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(run.path / "variance.csv", text.getvalue())
    write_atomic(run.path / "variance.json", to_json({"rows": rows}, indent=1) + "\n")
    caption = (
        "Relative variance of the gradient, tr Cov(g) / |exact g|^2, with 95 % intervals, for batches that cost 64 "
        "network evaluations each. Lower is less noisy; below the dashed line a batch has more signal than noise."
    )
    figures.draw_variance(run.figure("variance", caption), rows)
    if not options.json:
        _print_rows(rows)
    return cli.conclude(run, {"rows": rows, "seconds": time.monotonic() - began}, json=options.json)


def _print_rows(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("case", "state", "error", "form", "sampling", "relative variance", "ratio to strong [95 %]"):
        table.add_column(name, justify="left" if name in TEXT else "right", no_wrap=True)
    for row in rows:
        interval = f"{row['ratio_to_strong']:.3g} [{row['ci_low']:.2g}, {row['ci_high']:.2g}]"
        error, variance = f"{row['relative_l2']:.1e}", f"{row['relative_variance']:.3g}"
        table.add_row(row["case"], row["state"], error, row["form"], row["sampling"], variance, interval)
    Console(file=sys.stdout, width=120).print(table)
