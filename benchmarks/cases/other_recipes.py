"""Poisson's equation on the unit square as the documentation of PINA and neurodiffeq writes it.

Both get Adam for a third of the time and torch's L-BFGS for the rest, in float64, on fixed points, with the network of
`sciml_pdes.Poisson2D`.
"""

import contextlib
import io
import itertools
import logging
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cases.clock import Curve

ADAM_SHARE = 1 / 3
FINISHER: dict[str, Any] = {
    "max_iter": 20,
    "history_size": 100,
    "line_search_fn": "strong_wolfe",
    "tolerance_grad": 1e-12,
    "tolerance_change": 0.0,
}


def pina(points: np.ndarray, truth: np.ndarray, seconds: float, seed: int) -> list[tuple[float, float]]:
    """PINA's PINN solver on its own Poisson problem: Adam, then L-BFGS; boundary values as a soft condition.

    Args:
        points, truth: where the error is measured, and the reference there. seconds: CPU seconds. seed: of everything.

    Returns:
        (CPU seconds, relative L2 error) pairs.
    """
    import lightning  # type: ignore[import-not-found]
    from pina import LabelTensor, Trainer  # type: ignore[import-not-found]
    from pina.model import FeedForward  # type: ignore[import-not-found]
    from pina.optim import TorchOptimizer  # type: ignore[import-not-found]
    from pina.problem.zoo import Poisson2DSquareProblem  # type: ignore[import-not-found]
    from pina.solver import PINN  # type: ignore[import-not-found]

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    lightning.pytorch.seed_everything(seed, verbose=False)

    def problem() -> Any:
        """Its solution is -sin(pi x) sin(pi y)."""
        square = Poisson2DSquareProblem()
        square.discretise_domain(900, "grid", domains="D")
        square.discretise_domain(60, "grid", domains="boundary")
        return square

    network = FeedForward(2, 1, layers=[20, 20], func=torch.nn.Tanh).double()
    where = LabelTensor(torch.from_numpy(points), ["x", "y"])

    def error() -> float:
        with torch.no_grad():
            answer = -network(where).as_subclass(Tensor).numpy()
        return float(np.linalg.norm(answer - truth) / np.linalg.norm(truth))

    class Watch(lightning.pytorch.Callback):
        def __init__(self, until: float) -> None:
            self.until = until

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if curve.seconds - curve.left() >= self.until:
                trainer.should_stop = True

    curve = Curve(error, seconds)
    first, second = TorchOptimizer(torch.optim.Adam, lr=1e-3), TorchOptimizer(torch.optim.LBFGS, **FINISHER)
    for optimizer, share in ((first, ADAM_SHARE), (second, 1.0)):
        solver = PINN(problem=problem(), model=network, optimizer=optimizer)
        quiet = dict.fromkeys(("enable_progress_bar", "logger", "enable_checkpointing", "enable_model_summary"), False)
        watch = [Watch(share * seconds)]
        Trainer(solver, max_epochs=10**7, accelerator="cpu", callbacks=watch, precision="64-true", **quiet).train()
    curve.look()
    return curve.points


def neurodiffeq(points: np.ndarray, truth: np.ndarray, seconds: float, seed: int) -> list[tuple[float, float]]:
    """neurodiffeq's Solver2D with its exact Dirichlet condition. Arguments and answer as for `pina`."""
    from neurodiffeq import diff  # type: ignore[import-not-found]
    from neurodiffeq.conditions import DirichletBVP2D  # type: ignore[import-not-found]
    from neurodiffeq.generators import Generator2D, StaticGenerator  # type: ignore[import-not-found]
    from neurodiffeq.networks import FCNN  # type: ignore[import-not-found]
    from neurodiffeq.solvers import Solver2D  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)

    def equation(u: Tensor, x: Tensor, y: Tensor) -> list[Tensor]:
        load = 2 * math.pi**2 * torch.sin(math.pi * x) * torch.sin(math.pi * y)
        return [diff(u, x, order=2) + diff(u, y, order=2) + load]

    zero = lambda s: 0 * s
    sides = {"x_min": 0.0, "x_min_val": zero, "x_max": 1.0, "x_max_val": zero}
    sides |= {"y_min": 0.0, "y_min_val": zero, "y_max": 1.0, "y_max_val": zero}
    network = FCNN(2, 1, hidden_units=(20, 20)).double()
    grid = lambda: StaticGenerator(Generator2D((32, 32), (0.0, 0.0), (1.0, 1.0), method="equally-spaced-noisy"))
    solver = Solver2D(
        pde_system=equation,
        conditions=[DirichletBVP2D(**sides)],
        nets=[network],
        xy_min=(0.0, 0.0),
        xy_max=(1.0, 1.0),
        train_generator=grid(),
        n_batches_valid=0,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
    )
    x, y = (torch.from_numpy(np.ascontiguousarray(column)).reshape(-1, 1) for column in points.T)

    def error() -> float:
        answer = solver.get_solution(copy=False, best=False)(x, y, to_numpy=True).reshape(-1, 1)
        return float(np.linalg.norm(answer - truth) / np.linalg.norm(truth))

    curve = Curve(error, seconds)

    def watch(until: float) -> Any:
        def look(solver: Any) -> None:
            if curve.seconds - curve.left() >= until:
                solver._stop_training = True

        return look

    with contextlib.redirect_stderr(io.StringIO()):
        solver.fit(10**7, callbacks=[watch(ADAM_SHARE * seconds)], tqdm_file=None)
        solver.optimizer = torch.optim.LBFGS(itertools.chain(network.parameters()), **FINISHER)
        solver.fit(10**7, callbacks=[watch(seconds)], tqdm_file=None)
    curve.look()
    return curve.points
