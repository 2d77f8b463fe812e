"""Standard PDEs: list them, solve one and compare with its reference."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from sciml.command_line import console
from sciml.runs.run import Run
from sciml_pdes.catalog import CATALOG, make

if TYPE_CHECKING:
    from sciml import Solution
    from sciml_pdes.collocation import Collocation

UNSOLVED = 1e-3
"""Held-out residual, relative to the equation's largest term, above which no solution is accepted."""


PAYOFF = 2.0
"""By how much twice the iterations must lower the loss where nobody set a time; see `sciml.GaussNewton`."""


@dataclass(frozen=True)
class ListOptions:
    """Print the names and equations."""

    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class SolveOptions:
    """Solve one PDE and compare with the reference that is no network."""

    name: Positional[str]
    """Which PDE; see `sciml pde list`."""
    out: Path
    """Folder of the run."""
    seed: int = 0
    """Seed of the network's first parameters and of every batch."""
    switch: Literal["auto", "progress", "snr"] | int = "auto"
    """Start with Adam, and end it by its progress, at an SNR threshold (snr) or at a step number; auto: no Adam, which
    would be a waste here."""
    seconds: float | None = None
    """Go on for at most so many seconds; without a limit, stop once twice the iterations no longer halve the loss on
    points that are not trained on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(arguments: list[str]) -> int:
    """Serve `sciml pde ...`; see `sciml.command_line.main` for the exit codes."""
    table = {"list": (ListOptions, show), "solve": (SolveOptions, solve)}
    return console.dispatch("sciml pde", table, arguments)


def show(options: ListOptions) -> int:
    """`sciml pde list`."""
    if options.json:
        console.print_json({"pdes": [{"name": name, "equation": entry.equation} for name, entry in CATALOG.items()]})
    else:
        width = max(map(len, CATALOG))
        print("\n".join(f"{name:<{width}}  {entry.equation}" for name, entry in CATALOG.items()))
    return console.DONE


def solve(options: SolveOptions) -> int:
    """`sciml pde solve NAME`: solve, check on held-out points, draw, report.

    Returns:
        0 when converged and the residual is small where no point was, otherwise 3 with all outputs written.
    """
    import sciml
    from sciml.command_line.devices import choose_device

    problem = make(options.name)
    phases = problem.phases()
    if options.seconds is None:
        phases = [replace(phase, payoff=PAYOFF) if isinstance(phase, sciml.GaussNewton) else phase for phase in phases]
    if options.switch != "auto":
        phases = [sciml.Adam(), *phases]
    model = problem.model(options.seed).to(choose_device(options.device))
    run = Run.create(options.out, options=asdict(options), overwrite=options.overwrite)
    solution = sciml.solve(
        problem,
        model,
        phases,
        switch=options.switch,
        seed=options.seed,
        budget=sciml.Budget(seconds=options.seconds),
        run=run.stage(options.name),
    )
    _draw(run, options.name, problem, solution)
    return console.conclude(run, _summary(problem, solution), json=options.json)


def _summary(problem: "Collocation", solution: "Solution") -> dict[str, Any]:
    """The object of `--json`. A loss that is small only at its own points is no success."""
    values = problem.evaluate(solution.model)
    result, held_out, notes = solution.result.name, values["held_out_residual"], []
    if not held_out <= UNSOLVED and result == "CONVERGED":
        result = "HELD_OUT_FAILED"
        text = (
            f"the residual at held-out points is {held_out:.2g} of the equation's largest term (limit {UNSOLVED:g}), "
            f"whatever the loss of {solution.loss:.2g} says."
        )
        notes.append(text)
        console.say(f"Warning: {text}")
    return {**solution.summary(values), "result": result, "warnings": notes}


def _draw(run: Run, name: str, problem: "Collocation", solution: "Solution") -> None:
    import torch

    from sciml_pdes import figures

    with torch.no_grad():
        field = problem.field(solution.model, problem.grid.to(next(solution.model.parameters())))
    sides = tuple(zip(problem.domain.lower, problem.domain.upper, strict=True))
    panels = [problem.picture(values).numpy() for values in (field, problem.truth)]
    caption = f"{name}: {CATALOG[name].equation}. Network, reference, and their difference on the held-out grid."
    figures.draw_field(run.figure("solution", caption), panels[0], panels[1], figures.Frame(problem.axes, sides))
