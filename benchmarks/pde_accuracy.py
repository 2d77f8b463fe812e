"""Accuracy against time on PDEs, beside DeepXDE, PINA and neurodiffeq: same equation, one thread, the same CPU seconds.

    pip install '.[peers]'            # a peer that is not installed is left out
    python benchmarks/pde_accuracy.py [--seconds 30] [--seeds 1] [--problems NAME ...] [--quick]

sciml runs as `sciml pde solve` does (sciml_pdes, its networks and phases); the peers with their documented recipe:
Adam at 1e-3 for a third of the time, then L-BFGS with its tolerances off, float64 (benchmarks/cases/*_recipes.py).
Every solve is a process of its own. Time is CPU time, so that a busy machine slows nobody, and excludes looking at the
error, which is the relative L2 error on a held-out grid against a reference that is no network, at the end, not the
best seen.

Prints a table, writes benchmarks/results/pde_accuracy.json and pde_accuracy.png.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
PROBLEMS = ("poisson_2d", "helmholtz", "convection", "reaction", "burgers", "allen_cahn", "rod_smooth")
PEERS = {"deepxde": PROBLEMS, "pina": ("poisson_2d",), "neurodiffeq": ("poisson_2d",)}


def equation(name: str) -> tuple[Any, Any, Any]:
    """Problem, model maker and phases of sciml."""
    if name == "rod_smooth":
        from sciml_rod import CASES

        case = CASES["smooth"]
        form = case.form("strong")
        return form, lambda seed: case.network(form, seed), None
    from sciml_pdes.catalog import make

    problem = make(name)
    return problem, problem.model, problem.phases()


def grid(name: str) -> tuple[Any, Any]:
    """Points and reference where the error is measured."""
    import numpy as np

    problem = equation(name)[0]
    if name == "rod_smooth":
        x = (np.arange(500) + 0.5) / 500
        return x[:, None], problem.reference.displacement(x)[:, None]
    return problem.grid.numpy(), problem.truth.numpy()


def sciml_curve(name: str, seconds: float, seed: int) -> list[tuple[float, float]]:
    """sciml's (CPU seconds, error) pairs."""
    from cases.clock import Curve

    import sciml

    problem, make_model, phases = equation(name)
    model, evaluate = make_model(seed), problem.evaluate
    curve = Curve(lambda: evaluate(model)["relative_l2"], seconds)

    def watched(model: Any) -> Mapping[str, float]:
        left = curve.left()
        return {"relative_l2": curve.points[-1][1], "cpu_left": left}

    problem.evaluate = watched
    budget = sciml.Budget(target={"cpu_left": 0.0})
    sciml.solve(problem, model, phases, seed=seed, budget=budget)
    curve.look()
    return curve.points


def one(tool: str, name: str, seconds: float, seed: int) -> list[tuple[float, float]]:
    """A solve in this process."""
    import torch

    torch.set_num_threads(1)
    if tool == "sciml":
        return sciml_curve(name, seconds, seed)
    points, truth = grid(name)
    if tool == "deepxde":
        from cases import deepxde_recipes

        return deepxde_recipes.solve(name, points, truth, seconds, seed)
    from cases import other_recipes

    return getattr(other_recipes, tool)(points, truth, seconds, seed)


def run(tool: str, name: str, seconds: float, seed: int) -> dict[str, Any] | None:
    """A solve in a process of its own: a row with its curve; None if it does not end in time."""
    words = [sys.executable, __file__, "--one", tool, name, f"{seconds}", f"{seed}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DDE_BACKEND": "pytorch"}
    try:
        patience = 120 + 10 * seconds
        done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=HERE, timeout=patience)
    except subprocess.TimeoutExpired:
        print(f"{name:12} {tool:12} seed {seed}: did not stop by itself, ended after {patience:.0f} s", flush=True)
        return None
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    curve = json.loads(done.stdout.strip().splitlines()[-1])
    return {"problem": name, "tool": tool, "seed": seed, "seconds": curve[-1][0], "error": curve[-1][1], "curve": curve}


def contestants(name: str) -> list[str]:
    """sciml and the installed peers that have a recipe for the problem."""
    have = [tool for tool, names in PEERS.items() if name in names and importlib.util.find_spec(tool)]
    return ["sciml", *have]


def available(names: list[str]) -> list[str]:
    """The problems that this version has; says which it has not."""
    from sciml_pdes.catalog import CATALOG

    known = [name for name in names if name == "rod_smooth" or name in CATALOG]
    for name in sorted(set(names) - set(known)):
        print(f"{name}: not in this version's catalogue, left out")
    return known


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a problem: error against CPU seconds, a line for each tool and seed."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["problem"] for row in rows))
    colors = dict(zip(("sciml", *PEERS), ("C3", "C0", "C2", "C1"), strict=True))
    figure = Figure(figsize=(3.4 * min(4, len(names)), 2.9 * -(-len(names) // 4)), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 4), min(4, len(names)), index + 1)
        for row in (row for row in rows if row["problem"] == name):
            label = row["tool"] if row["seed"] == 0 else None
            axes.semilogy(*zip(*row["curve"], strict=True), color=colors[row["tool"]], label=label)
        axes.set_title(name)
        axes.set_xlabel("CPU seconds")
        axes.set_ylabel("relative L2 error")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print the table, write JSON and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=None, help="CPU seconds of a solve")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--quick", action="store_true", help="five seconds a solve")
    parser.add_argument("--one", nargs=4, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tool, name, seconds, seed = options.one
        print(json.dumps(one(tool, name, float(seconds), int(seed))))
        return
    seconds = options.seconds or (5.0 if options.quick else 30.0)
    for tool in PEERS:
        if importlib.util.find_spec(tool) is None:
            print(f"{tool} is not installed, so it is not in the table: pip install '.[peers]'")
    rows: list[dict[str, Any]] = []
    print(f"{'problem':12} {'tool':12} {'CPU s':>6} {'error':>9} {'worst':>9} {'to sciml':>9}")
    for name in available(options.problems):
        medians: dict[str, float] = {}
        for tool in contestants(name):
            tried = [run(tool, name, seconds, seed) for seed in range(options.seeds)]
            own = [row for row in tried if row is not None]
            if not own:
                continue
            rows += own
            medians[tool] = statistics.median(row["error"] for row in own)
            spent, worst = statistics.median(row["seconds"] for row in own), max(row["error"] for row in own)
            ratio = medians[tool] / medians.get("sciml", math.nan)
            print(f"{name:12} {tool:12} {spent:6.1f} {medians[tool]:9.1e} {worst:9.1e} {ratio:9.3g}", flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "pde_accuracy.json", to_json({"seconds": seconds, "rows": rows}, indent=1) + "\n")
    draw(rows, HERE / "results" / "pde_accuracy.png")


if __name__ == "__main__":
    main()
