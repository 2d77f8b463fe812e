"""Every equation of `sciml pde list` at a stated time: the error reached, and the share of seeds below a goal.

    python benchmarks/pde_family.py [--seeds 5] [--names NAME ...] [--workers 1]

One process a solve, one thread, CPU seconds as in pde_accuracy.py; a solve that converges ends earlier. Prints a table
and writes benchmarks/results/pde_family.json.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pde_accuracy import run

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
GOALS = {
    "poisson_1d": (1e-8, 10),
    "poisson_2d": (1e-8, 20),
    "poisson_hole": (1e-5, 60),
    "helmholtz": (1e-5, 60),
    "convection": (1e-5, 60),
    "reaction": (3e-5, 45),
    "wave": (5e-5, 60),
    "burgers": (2e-5, 100),
    "allen_cahn": (5e-5, 100),
    "heat": (1e-6, 30),
    "klein_gordon": (1e-6, 30),
    "plate": (1e-5, 60),
    "rod_inverse": (1e-4, 30),
}
"""Relative L2 error, and the CPU seconds to reach it in."""


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--names", nargs="+", default=list(GOALS), choices=list(GOALS))
    parser.add_argument("--workers", type=int, default=1, help="solves at a time; more than one slows each of them")
    options = parser.parse_args()
    rows = []
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = {
            name: [pool.submit(run, "sciml", name, GOALS[name][1], seed) for seed in range(options.seeds)]
            for name in options.names
        }
        print(f"{'equation':14}{'goal':>8}{'in s':>6}{'median':>10}{'worst':>10}{'seconds':>9}{'reached':>9}")
        for name, solves in jobs.items():
            goal, seconds = GOALS[name]
            done = [row for row in (solve.result() for solve in solves) if row is not None]
            errors = [row["error"] for row in done]
            reached = sum(error <= goal for error in errors)
            row = {
                "equation": name,
                "goal": goal,
                "seconds_allowed": seconds,
                "median": statistics.median(errors),
                "worst": max(errors),
                "seconds": statistics.median(row["seconds"] for row in done),
                "reached": reached,
                "of": options.seeds,
            }
            rows.append(row | {"curves": [row["curve"] for row in done]})
            print(
                f"{name:14}{goal:8.0e}{seconds:6}{row['median']:10.1e}{row['worst']:10.1e}{row['seconds']:9.0f}"
                f"{reached:6}/{options.seeds}",
                flush=True,
            )
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "pde_family.json", to_json({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
