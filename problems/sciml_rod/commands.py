"""The elastic rod: solve it in strong, weak or energy form; compare the noise of their gradients."""

import csv
import io
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sciml.command_line import console
from sciml.runs.beginning import Files
from sciml.runs.run import Run

if TYPE_CHECKING:
    from sciml import Solution
    from sciml_rod.cases import Case
    from sciml_rod.forms.form import RodForm

UNBALANCED = 1e-2
"""Missing force, relative to the largest normal force, above which a solution is not accepted whatever its loss."""

INCOMPLETE = 6000.0
"""Evaluations spent at most on a problem that is known to lack a condition: enough to see what comes of it."""


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
    switch: Literal["auto", "progress", "snr"] | int = "auto"
    """When the stochastic phase ends: when its signal-to-noise ratio makes its steps worth too little or the loss no
    longer falls (auto), by its progress alone, at an SNR threshold (snr), or at a step number."""
    seconds: float | None = None
    """Stop after so many seconds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(arguments: list[str]) -> int:
    """Serve `sciml rod ...`; see `sciml.command_line.main` for the exit codes."""
    from sciml_rod.noise_study.command import VarianceOptions, variance

    table = {"solve": (SolveOptions, solve), "variance": (VarianceOptions, variance)}
    return console.dispatch("sciml rod", table, arguments)


FILES = Files(outputs=("solution.csv",))
"""What `sciml rod solve` writes besides what every run writes."""


def solve(options: SolveOptions) -> int:
    """`sciml rod solve`: solve, check on held-out points, draw, report.

    Returns:
        0 when converged and in equilibrium, otherwise 3 with all outputs written.
    """
    import sciml
    from sciml.command_line.devices import choose_device
    from sciml_rod.cases import find_case

    case = find_case(options.case)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        form = case.form(options.form, interface=options.interface)
    notes = [str(warning.message) for warning in caught]
    for note in notes:
        console.say(f"Warning: {note}")
    model = case.network(form, options.seed).to(choose_device(options.device))
    run = Run.create(options.out, options=asdict(options), overwrite=options.overwrite, files=FILES)
    phases = None
    if options.form in case.tolerances:
        phases = [sciml.Adam(), sciml.SelfScaled(tolerance=case.tolerances[options.form])]
    budget = sciml.Budget(options.seconds, None if options.interface else INCOMPLETE)
    stage = run.stage(options.form)
    solution = sciml.solve(form, model, phases, switch=options.switch, seed=options.seed, budget=budget, run=stage)
    summary = _summary(form, solution, notes)
    _write_outputs(run, case, form, solution)
    return console.conclude(run, summary, json=options.json)


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
        console.say(f"Warning: {text}")
    return {**solution.summary(values), "result": result, "warnings": notes}


def _write_outputs(run: Run, case: "Case", form: "RodForm", solution: "Solution") -> None:
    """solution.csv and the figures."""
    import numpy as np
    import torch

    from sciml.runs.files import write_atomic
    from sciml_rod import figures

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
