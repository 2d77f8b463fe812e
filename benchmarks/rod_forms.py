"""The rod in its forms: error, cost and success over seeds, as `sciml rod solve` reaches them with no option touched.

    python benchmarks/rod_forms.py [--cases smooth bimaterial oscillatory] [--seeds 5] [--seconds 40]

Every run is a process of its own on one thread. Prints medians, the worst seed, and the fraction of seeds at or below
the error named in BARS; writes benchmarks/results/rod_forms.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
SCIML = Path(sys.executable).with_name("sciml")
FORMS = ("strong", "weak", "energy")
BARS = {"smooth": {"strong": 1e-6}, "bimaterial": {"strong": 1e-6}}
"""Relative L2 error that counts as success; 1e-5 where nothing is named."""


def solve(case: str, form: str, seed: int, seconds: float) -> dict[str, Any]:
    """The JSON of one `sciml rod solve`."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "rod",
            "solve",
            "--case",
            case,
            "--form",
            form,
            "--seed",
            f"{seed}",
            "--seconds",
            f"{seconds}",
            "--json",
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([SCIML, *words, "--out", folder], env=environment, capture_output=True, text=True)
        if not done.stdout.strip():
            raise RuntimeError(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


def row(case: str, form: str, seeds: int, seconds: float) -> dict[str, Any]:
    """Medians over the seeds."""
    runs = [solve(case, form, seed, seconds) for seed in range(seeds)]
    errors = [run["relative_l2"] for run in runs]
    bar = BARS.get(case, {}).get(form, 1e-5)
    return {
        "case": case,
        "form": form,
        "error": statistics.median(errors),
        "worst": max(errors),
        "evaluations": statistics.median(run["evaluations"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
        "bar": bar,
        "success": f"{sum(error <= bar for error in errors)}/{seeds}",
    }


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", default=["smooth", "bimaterial", "oscillatory"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=40.0)
    options = parser.parse_args()
    rows = []
    for case in options.cases:
        for form in FORMS:
            rows.append(row(case, form, options.seeds, options.seconds))
            if len(rows) == 1:
                print("  ".join(f"{key:>12}" for key in rows[0]))
            cells = (value if isinstance(value, str) else f"{value:.3g}" for value in rows[-1].values())
            print("  ".join(f"{cell:>12}" for cell in cells), flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "rod_forms.json", to_json({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
