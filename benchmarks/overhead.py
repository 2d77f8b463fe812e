"""What the loop costs: CPU seconds per step of `solve`, beside a torch loop by hand on the same network and points.

    python benchmarks/overhead.py [--quick] [--repeats 9]
    pip install '.[peers]'            # adds DeepXDE to the table

Stochastic: Adam with the noise watched and the switch rule looking on, against torch.optim.Adam with autograd.grad on
batches that the same domain draws (one draw a step, nothing else). Finisher: seconds per loss-and-gradient evaluation
of LBFGS and SelfScaled, against the bare evaluation on the same fixed points (the hand-written loop without any
optimiser), and against torch.optim.LBFGS with the same number of pairs. Each contestant runs the same number of steps
in turn, several times, and is charged CPU time; the ratio is the median of the ratios within a turn, so a machine that
slows down slows all of them. Prints the table and writes benchmarks/results/overhead.json.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sciml_pdes import Burgers, Poisson2D
from sciml_pdes.collocation import Collocation
from torch import Tensor, nn

import sciml
from sciml.pde import MLP
from sciml.runs.files import to_json, write_atomic
from sciml.seeds import generator
from sciml.watching.switching import AutoSwitch

HERE = Path(__file__).resolve().parent
BAR = 1.1


@dataclass(frozen=True)
class Setup:
    """A network and the points of one step.

    Attributes:
        name: its rows in the table. problem, hidden: equation and widths. points: items per step, and in the finisher's
            set. steps: per turn.
    """

    name: str
    problem: type[Collocation]
    hidden: tuple[int, ...]
    points: int
    steps: int

    def equation(self) -> Collocation:
        """The problem, which never evaluates its error here: a hand-written loop does not either."""
        kind = type(self.problem.__name__, (self.problem,), {"points": self.points, "evaluate": lambda self, model: {}})
        return kind()

    def network(self) -> nn.Module:
        """The network at its start."""
        return MLP(2, 1, self.hidden, domain=self.problem.domain, seed=0).double()


SETUPS = (
    Setup("poisson_2d 2x20, 128 points", Poisson2D, (20, 20), 128, 300),
    Setup("poisson_2d 2x20, 1000 points", Poisson2D, (20, 20), 1000, 150),
    Setup("burgers 3x20, 128 points", Burgers, (20, 20, 20), 128, 300),
    Setup("burgers 4x40, 1000 points", Burgers, (40, 40, 40, 40), 1000, 50),
)


class Watching(AutoSwitch):
    """The default rule at work, but never content: the stochastic phase goes on."""

    def __init__(self) -> None:
        super().__init__(enough=0.0, most=math.inf, dry=-math.inf)


def ours_stochastic(setup: Setup) -> float:
    """Seconds per step of the default stochastic phase."""
    problem, model = setup.equation(), setup.network()
    phases = [sciml.Adam(batch=setup.points), sciml.LBFGS()]
    # the fixed set is as large as a batch here, so a step costs one evaluation
    budget = sciml.Budget(evaluations=setup.steps)
    begin = time.process_time()
    solution = sciml.solve(problem, model, phases, switch=Watching(), budget=budget)
    spent = time.process_time() - begin
    assert solution.evaluations >= setup.steps and solution.switch[0]["phase"] == "Adam"
    return spent / solution.switch[0]["step"]


def torch_stochastic(setup: Setup) -> float:
    """Seconds per step of torch.optim.Adam on points drawn the same way."""
    problem, model = setup.equation(), setup.network()
    parameters = list(model.parameters())
    method = torch.optim.Adam(parameters, lr=1e-3)
    begin = time.process_time()
    for step in range(setup.steps):
        points = problem.sample(setup.points, generator(0, "hand", counter=step))
        loss = problem.loss(model, points)["residual"]
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        method.step()
    return (time.process_time() - begin) / setup.steps


def ours_finisher(setup: Setup, phase: Any) -> float:
    """Seconds per evaluation of a quasi-Newton phase on the fixed set."""
    problem, model = setup.equation(), setup.network()
    budget = sciml.Budget(evaluations=setup.steps)
    begin = time.process_time()
    solution = sciml.solve(problem, model, [phase], budget=budget)
    return (time.process_time() - begin) / solution.evaluations


def torch_bare(setup: Setup) -> float:
    """Seconds per evaluation of loss and gradient, and nothing else."""
    problem, model = setup.equation(), setup.network()
    parameters, points = list(model.parameters()), problem.sample(None, generator(0, "hand"))
    begin = time.process_time()
    for _ in range(setup.steps):
        torch.autograd.grad(problem.loss(model, points)["residual"], parameters)
    return (time.process_time() - begin) / setup.steps


def torch_lbfgs(setup: Setup) -> float:
    """Seconds per evaluation of torch.optim.LBFGS."""
    problem, model = setup.equation(), setup.network()
    parameters, points = list(model.parameters()), problem.sample(None, generator(0, "hand"))
    method = torch.optim.LBFGS(
        parameters, max_iter=setup.steps, max_eval=setup.steps, history_size=50, tolerance_grad=0, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        loss = problem.loss(model, points)["residual"]
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        return loss

    begin = time.process_time()
    while calls < setup.steps:
        method.step(closure)  # type: ignore[arg-type]
    return (time.process_time() - begin) / calls


def deepxde_stochastic(setup: Setup) -> float:
    """Seconds per step of DeepXDE's Adam on Poisson with the same network and as many points, drawn once."""
    os.environ.setdefault("DDE_BACKEND", "pytorch")
    import deepxde as dde  # type: ignore[import-not-found]

    dde.config.set_default_float("float64")
    square = dde.geometry.Rectangle([0, 0], [1, 1])

    def equation(x: Tensor, u: Tensor) -> Tensor:
        load = torch.sin(torch.pi * x).prod(dim=1, keepdim=True)
        return (dde.grad.hessian(u, x, i=0, j=0) + dde.grad.hessian(u, x, i=1, j=1)) / (2 * torch.pi**2) + load

    data = dde.data.PDE(square, equation, [], num_domain=setup.points, num_boundary=0)
    network = dde.nn.FNN([2, *setup.hidden, 1], "tanh", "Glorot normal")
    network.apply_output_transform(lambda x, u: 16 * (x * (1 - x)).prod(dim=1, keepdim=True) * u)
    model = dde.Model(data, network)
    model.compile("adam", lr=1e-3, verbose=0)
    begin = time.process_time()
    model.train(iterations=setup.steps, display_every=10**9, verbose=0)
    return (time.process_time() - begin) / setup.steps


def contestants(setup: Setup, *, deepxde: bool) -> dict[str, list[tuple[str, Callable[[Setup], float]]]]:
    """For each comparison, the contestants; the first is the reference."""
    groups: dict[str, list[tuple[str, Callable[[Setup], float]]]] = {
        "stochastic": [("torch by hand", torch_stochastic), ("sciml Adam", ours_stochastic)],
        "finisher": [
            ("bare gradient", torch_bare),
            ("sciml LBFGS", lambda setup: ours_finisher(setup, sciml.LBFGS(history=50, check=10**6))),
            ("sciml SelfScaled", lambda setup: ours_finisher(setup, sciml.SelfScaled(check=10**6))),
            ("torch LBFGS", torch_lbfgs),
        ],
    }
    if deepxde and setup.problem is Poisson2D:
        groups["stochastic"].append(("DeepXDE Adam", deepxde_stochastic))
    return groups


def measure(setup: Setup, repeats: int, *, deepxde: bool) -> list[dict[str, Any]]:
    """A row for each contestant: median seconds per step, and median ratio to the reference of the same turn."""
    rows = []
    for group, members in contestants(setup, deepxde=deepxde).items():
        turns = [{name: once(setup) for name, once in members} for _ in range(repeats + 1)][1:]  # the first warms up
        reference = members[0][0]
        for name, _ in members:
            ratios = sorted(turn[name] / turn[reference] for turn in turns)
            milliseconds = 1e3 * statistics.median(turn[name] for turn in turns)
            row = {"setup": setup.name, "phase": group, "who": name, "ms": milliseconds}
            rows.append(row | {"ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]})
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two setups, three turns")
    parser.add_argument("--repeats", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        import deepxde  # type: ignore[import-not-found]  # noqa: F401

        found = True
    except ImportError:
        found = False
        print("DeepXDE is not installed, so it is not in the table: pip install '.[peers]'")
    rows = []
    print(f"{'setup':30} {'phase':10} {'who':18} {'ms':>8} {'ratio':>6}  (range over turns)")
    for setup in SETUPS[:2] if options.quick else SETUPS:
        for row in measure(setup, options.repeats or (3 if options.quick else 9), deepxde=found):
            rows.append(row)
            words = f"{row['setup']:30} {row['phase']:10} {row['who']:18} {row['ms']:8.3f} {row['ratio']:6.2f}"
            print(f"{words}  ({row['lowest']:.2f} to {row['highest']:.2f})", flush=True)
    for row in rows:
        if row["who"] == "sciml Adam" and row["ratio"] > BAR:
            print(f"bar missed: {row['setup']}: {row['ratio']:.2f} times the hand-written loop (bar {BAR})")
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "overhead.json", to_json({"bar": BAR, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
