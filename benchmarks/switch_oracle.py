"""The switch against the oracle: what `solve` costs until a target is met, over what the best fixed switch point costs.

The default rule ("auto") stands beside the one that watches the rate of progress ("progress"); the best fixed point is
found by hindsight, for each problem and seed.

    python benchmarks/switch_oracle.py [--quick] [--seeds 5] [--rivals] [--cases NAME ...]

Cost is Solution.evaluations when the target is met: loss-and-gradient evaluations per item of the declared set, line-
search calls and looks at fresh samples included. The oracle is the cheapest of eight fixed switch points of the same
seed. A fixed run is given up, and shown as >1.25, when it has spent 1.25 times the cheapest one of its seed so far; the
two rules go on to the problem's limit. Since the oracle is the minimum of eight noisy costs, the rules are also
compared with the one fixed point of each problem that has the lowest median over the seeds.

Three groups of problems:

* judged: eight problems, one of each kind, on which rules of this package have always been judged;
* unseen: six problems on which no rule had been run when the thresholds of the default rule were frozen;
* tuning: problems on which they were chosen, with other seeds; among them six on which an earlier form of the rule was
  judged. Run only when named.

With --rivals also: the literal SNR rule, and Adam alone with a cosine schedule that ends at 1.25 times the oracle's
cost (three seeds).

Prints the tables and writes benchmarks/results/switch_oracle.json. Every run is kept in switch_oracle_runs.json under
a hash of the sources, so an interrupted command goes on where it stopped.
"""

import argparse
import functools
import hashlib
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cases.switch import CASES, Case
from cases.tuning import TUNING
from cases.unseen import UNSEEN_CASES

import sciml
from sciml.phases import Stochastic
from sciml.runs.files import to_json, write_atomic
from sciml.schedules import Cosine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PATIENCE = 1.25
"""Cost, in multiples of the cheapest fixed run of the same seed so far, at which a fixed run is given up."""
AT_FIRST = 1.5
"""The same in multiples of the cheaper of the two rules, before any fixed run has met the target."""
HOPELESS = 0.6
"""Share of the cost at which a fixed run is given up that its stochastic steps alone may take; else it is not begun."""
RIVAL_SEEDS = 3
JUDGED = tuple(case for case in CASES if case.name not in ("poisson_2d", "logistic 1e3"))
KNOWN = {case.name: case for case in (*CASES, *TUNING, *UNSEEN_CASES)}
GROUPS = {"judged": [case.name for case in JUDGED], "unseen": [case.name for case in UNSEEN_CASES]}
QUICK = ("least squares 1e3", "rod smooth", "noisy stream", "entries of a matrix")
RULES = ("auto", "progress")
SHARE, WITHIN, MEDIAN, WORST = 1.25, 0.88, 1.07, 2.0

Run = dict[str, Any]


class Runs:
    """Runs of the present sources, kept on disk."""

    def __init__(self) -> None:
        self.path = RESULTS / "switch_oracle_runs.json"
        self.sources = _hash()
        kept = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.kept: dict[str, Run] = {k: v for k, v in kept.items() if k.startswith(self.sources)}

    def get(self, case: Case, seed: int, option: str | int, cap: float) -> Run:
        """The run of a switch option, made anew only if it is unknown or had been given up earlier than at `cap`."""
        key = f"{self.sources}/{case.name}/{seed}/{option}"
        known = self.kept.get(key)
        if known is None or (known["cost"] is None and known["cap"] < min(cap, case.limit) * 0.999):
            self.kept[key] = known = run(case, seed, option, min(cap, case.limit))
            RESULTS.mkdir(exist_ok=True)
            write_atomic(self.path, to_json(self.kept, indent=0) + "\n")
        return known


def _hash() -> str:
    """Of everything that can change a run."""
    root = HERE.parent
    digest = hashlib.blake2b(torch.__version__.encode(), digest_size=8)
    for folder in ("sciml", "problems", "benchmarks/cases"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _problem(name: str, seed: int) -> Any:
    return KNOWN[name].problem(seed)


def run(case: Case, seed: int, option: str | int, cap: float) -> Run:
    """Solve until the target or until `cap` evaluations. `cost` is None if the target was not met."""
    stochastic, finisher = case.phases
    phases: list[Any] = [stochastic, finisher]
    switch = option
    if isinstance(option, str) and option.startswith("cosine"):
        assert isinstance(stochastic, Stochastic) and isinstance(stochastic.lr, float)
        steps = int(option.removeprefix("cosine"))
        phases, switch = [replace(stochastic, lr=Cosine(stochastic.lr, steps), steps=steps)], "auto"
    budget = sciml.Budget(evaluations=cap, target={case.value: case.target})
    solution = sciml.solve(_problem(case.name, seed), case.model(seed), phases, switch=switch, seed=seed, budget=budget)
    met = budget.reached(solution.values) is not None
    first = solution.switch[0]
    return {
        "cost": solution.evaluations if met else None,
        "cap": cap,
        "value": solution.values[case.value],
        "result": solution.result.name,
        "seconds": solution.seconds,
        "switched_at": first["evaluations"] if len(solution.switch) > 1 else None,
        "step": first["step"] if len(solution.switch) > 1 else None,
        "share": next((r["batch"] / r["set"] for r in solution.history if r["kind"] == "step"), None),
        "set": max(record.get("set", 0) for record in solution.history),
        "reasons": [record["reason"] for record in solution.switch],
    }


def compare(runs: Runs, case: Case, seed: int) -> dict[str, Any]:
    """Both rules and the fixed points on one problem and seed, as cost over the oracle's; None where given up."""
    rules = {name: runs.get(case, seed, name, case.limit) for name in RULES}
    costs = {name: made["cost"] for name, made in rules.items()}
    cap = AT_FIRST * min((cost for cost in costs.values() if cost), default=case.limit)
    step = rules["auto"]["step"] or 0
    share = rules["auto"]["share"] or 0.0
    fixed: dict[int, float | None] = {}
    for point in sorted(case.points, key=lambda p: abs(p - step)):
        early = rules["auto"]["step"] is None  # the stochastic phase itself met the target
        worth_it = early or share * point <= HOPELESS * cap or not any(fixed.values())
        fixed[point] = runs.get(case, seed, point, cap)["cost"] if worth_it else None
        cap = min(cap, PATIENCE * (fixed[point] or math.inf))
    if not any(fixed.values()):  # a rule had luck that no fixed point shares at AT_FIRST times its cost
        fixed = {point: runs.get(case, seed, point, case.limit)["cost"] for point in case.points}
    reached = {point: cost for point, cost in fixed.items() if cost is not None}
    row = {"case": case.name, "seed": seed, "costs": costs, "share": share, "reasons": {}, "fixed": {}}
    row |= {"steps": {name: made["step"] for name, made in rules.items()}, "oracle": None, "point": None}
    if not reached:
        return row
    point = min(reached, key=lambda p: reached[p])
    oracle = reached[point]
    row |= {name: cost and cost / oracle for name, cost in costs.items()}
    return row | {
        "oracle": oracle,
        "point": point,
        "reasons": {name: made["reasons"] for name, made in rules.items()},
        "fixed": {str(p): cost and cost / oracle for p, cost in sorted(fixed.items())},
    }


def add_rivals(runs: Runs, case: Case, row: dict[str, Any]) -> None:
    """The SNR rule, and Adam alone with a cosine schedule that ends at 1.25 times the oracle's cost."""
    if row["oracle"] is None:
        return
    steps = math.ceil(SHARE * row["oracle"] / row["share"])
    for name, option in (("snr", "snr"), ("cosine", f"cosine{steps}")):
        cost = runs.get(case, row["seed"], option, PATIENCE * row["oracle"])["cost"]
        row[name] = cost and cost / row["oracle"]


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares, medians and misses of the rules and their rivals over all runs that the oracle solved."""
    rows = [row for row in rows if row["oracle"] is not None]
    rivals: dict[str, list[float]] = {name: [] for name in (*RULES, "snr", "cosine")}
    common = set.intersection(*(set(KNOWN[row["case"]].points) for row in rows)) if rows else set()
    rivals |= {f"always {point}": [] for point in sorted(common)}
    for row in rows:
        for name, ratios in rivals.items():
            always = name.startswith("always ")
            if always or name in row:
                given = row["fixed"].get(name.removeprefix("always ")) if always else row[name]
                ratios.append(math.inf if given is None else given)
    return {
        name: {
            "runs": len(ratios),
            "share": sum(r <= SHARE for r in ratios) / len(ratios),
            "median": statistics.median(ratios),
            "worst": max(ratios),
            "missed": sum(math.isinf(r) for r in ratios),
        }
        for name, ratios in rivals.items()
        if ratios
    }


def best_fixed(rows: list[dict[str, Any]]) -> tuple[str, float]:
    """The one switch point of a problem with the lowest median over its seeds, relative to their oracles."""
    points = rows[0]["fixed"]
    middle = {p: statistics.median(row["fixed"].get(p) or math.inf for row in rows) for p in points}
    point = min(middle, key=lambda p: middle[p])
    return point, middle[point]


def _cell(value: float | None) -> str:
    return f">{PATIENCE}" if value is None or math.isinf(value) else f"{value:.2f}"


def show(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the costs of each problem, and the verdicts over the runs of each group; the verdicts."""
    print("\ncost / oracle, seed by seed; then the median over that of the best fixed point of all seeds")
    print(
        f"{'problem':26} {'oracle':>24} {'at step':>26}  {'auto':28} {'progress':28} {'best':>6} {'auto':>5} {'pr.':>5}"
    )
    ratios: dict[str, list[float]] = {name: [] for name in RULES}
    for name in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == name and row["oracle"] is not None]
        if not own:
            print(f"{name:26} no fixed switch reached the target")
            continue
        point, level = best_fixed(own)
        cells = {r: " ".join("miss" if row[r] is None else f"{row[r]:.2f}" for row in own) for r in RULES}
        middle = {r: statistics.median(row[r] or math.inf for row in own) / level for r in RULES}
        for rule, ratio in middle.items():
            ratios[rule].append(ratio)
        print(
            f"{name:26} {' '.join(str(round(row['oracle'])) for row in own):>24} "
            f"{' '.join(str(row['point']) for row in own):>26}  {cells['auto']:28} {cells['progress']:28} "
            f"{point:>6} {middle['auto']:>5.2f} {middle['progress']:>5.2f}"
        )
    for rule, values in ratios.items():
        if values:
            print(f"{rule}: median over the problems, against their best fixed points: {statistics.median(values):.2f}")
    groups = {name: [row for row in rows if row["case"] in cases] for name, cases in GROUPS.items()} | {"all": rows}
    verdicts = {name: judge(own) for name, own in groups.items() if own}
    for group, verdict in verdicts.items():
        print(f"\n{group:12} {'runs':>5} {'within 1.25x':>12} {'median':>7} {'worst':>6} {'missed or given up':>18}")
        for name, row in verdict.items():
            share, missed = f"{row['share']:.0%}", f"{row['missed']} of {row['runs']}"
            middle = _cell(None) if math.isinf(row["median"]) else f"{row['median']:.3f}"
            numbers = f"{share:>12} {middle:>7} {_cell(row['worst']):>6} {missed:>18}"
            print(f"{name:12} {row['runs']:>5} {numbers}")
        for rule in (rule for rule in RULES if rule in verdict):
            row = verdict[rule]
            met = row["share"] >= WITHIN and row["median"] <= MEDIAN and row["worst"] <= WORST and not row["missed"]
            bars = f"{WITHIN:.0%} within {SHARE}, median {MEDIAN}, worst {WORST}, none missed"
            print(f"bars for {rule} ({bars}): {'met' if met else 'NOT met'}")
    return verdicts


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four problems, two seeds: about two minutes")
    parser.add_argument("--seeds", type=int, default=None)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--cases", nargs="+", default=None, choices=list(KNOWN))
    parser.add_argument("--rivals", action="store_true", help="also the SNR rule, and Adam with a cosine schedule")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.cases or (QUICK if options.quick else [name for group in GROUPS.values() for name in group])
    seeds = options.seeds or (2 if options.quick else 5)
    runs, rows = Runs(), []
    for seed in range(options.first_seed, options.first_seed + seeds):
        for name in names:
            row = compare(runs, KNOWN[name], seed)
            rows.append(row)
            costs = ", ".join(f"{rule} {cost and round(cost, 1)}" for rule, cost in row["costs"].items())
            print(f"{name} seed {seed}: oracle {row['oracle']} at {row['point']}, {costs}", flush=True)
    for row in rows if options.rivals else []:
        if row["seed"] < options.first_seed + RIVAL_SEEDS:
            add_rivals(runs, KNOWN[row["case"]], row)
    verdicts = show(rows)
    RESULTS.mkdir(exist_ok=True)
    write_atomic(RESULTS / "switch_oracle.json", to_json({"rows": rows, "verdicts": verdicts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
