"""Whether the signal-to-noise ratio that `abinitio` reports is that of its gradients.

    python benchmarks/abinitio_snr.py [PARTICLES.star ...] [--windows N] [--reference N] [--runs N]

Two questions, for each set of particles (by default the bundled one, and one simulated from its molecule).

*Frozen*: at states along a run everything is held, the map, its buffers and the metric they make. The reference is the
SNR of the gradient as independent batches show it: the energy of their mean, less the noise left in it, over their
variance. Then windows are drawn as a run draws them, and it is counted how many of their 95 % intervals hold the
reference: 90 to 99 % do where the estimator is right. Two references are given, from the first 64 batches and from all
of them: the first has an error of its own, about half as large as that of a window of 20.

*Reported*: what runs report at some steps, when the state has moved while the window was filled, against the reference
at the state in the middle of the window.

Writes benchmarks/results/abinitio_snr.json.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryoem_known_poses import HERE, simulate
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.resolution_switch import AbInitio, AbInitioOptions
from sciml_cryoem.initial_model.start_map import STEP, prepare, race
from threadpoolctl import threadpool_limits
from torch import Tensor

import sciml
from sciml.batches import split
from sciml.loop.gradients import evaluate
from sciml.parameters import FlatParameters
from sciml.runs.files import to_json, write_atomic
from sciml.seeds import generator
from sciml.watching.noise import GradientNoise, NoiseEstimate, energy
from sciml.watching.switching import Decision, FixedSwitch

BATCH, PARTS = 128, 2
"""Items of a batch, and micro-batches that it is cut into: what a run begins with."""
STATES = (5, 15, 30, 60, 100)
REPORTED = (20, 60, 100)
"""Steps after which the report of a run is looked at."""
MIDDLES = {20: 10, 60: 10, 100: 15}
"""Steps in the middle of the windows that are reported then: all of the first twenty steps are watched, later every
twentieth."""
BUNDLED = HERE.parent / "data" / "particles" / "particles.star"

Row = dict[str, Any]


class Recorder(FixedSwitch):
    """Ends a phase after the last of some steps; keeps the model, and what is known of the noise, at each."""

    def __init__(self, model: MarginalDensity, steps: Sequence[int]) -> None:
        super().__init__(max(steps))
        self._model, self._steps = model, sorted(steps)
        self.models: dict[int, MarginalDensity] = {}
        self.reports: dict[int, NoiseEstimate | None] = {}

    def limit(self, step: int) -> int | None:
        """Steps to the next one that is kept."""
        return min((at - step for at in self._steps if at > step), default=None)

    def decide(self, step: int, noise: NoiseEstimate | None) -> Decision | None:
        """Keep the model if it is to be kept; the end after the last step."""
        if step in self._steps:
            self.models[step], self.reports[step] = copy.deepcopy(self._model), noise
        return super().decide(step, noise)


def record(problem: AbInitio, model: MarginalDensity, seed: int, steps: Sequence[int]) -> Recorder:
    """A stochastic phase with batches of constant size."""
    recorder = Recorder(model, steps)
    phase = replace(STEP, steps=max(steps), batch=BATCH)
    sciml.solve(problem, model, [phase, sciml.LBFGS(steps=1)], switch=recorder, seed=seed)
    return recorder


class Frozen:
    """A model at which gradients are measured, and nothing is learned."""

    def __init__(self, problem: AbInitio, model: MarginalDensity) -> None:
        self.problem, self.model = problem, model
        self.flat, self.metric = FlatParameters(model.parameters()), problem.preconditioner(model)

    def micro_gradients(self, *purpose: str | int, counter: int) -> list[Tensor]:
        """Those of one batch."""
        batch = self.problem.sample(BATCH, generator(0, *purpose, counter=counter))
        return [evaluate(self.problem, self.model, self.flat, part).gradient for part in split(batch, PARTS)]

    def reference(self, batches: int) -> list[float]:
        """SNR from the first 64 batches and from all of them."""
        drawn = [torch.stack(self.micro_gradients("reference", counter=at)).mean(0) for at in range(batches)]
        return [self._ratio(drawn[:64]), self._ratio(drawn)]

    def _ratio(self, gradients: list[Tensor]) -> float:
        mean = torch.stack(gradients).double().mean(0)
        spread = [float(energy(gradient.double() - mean, self.metric)) for gradient in gradients]
        noise = sum(spread) / (len(gradients) - 1)
        return float(energy(mean, self.metric)) / noise - 1.0 / len(gradients)

    def window(self, number: int, size: int = 20) -> NoiseEstimate:
        """What a window of watched steps says if the state rests."""
        noise = GradientNoise(size)
        for at in range(size):
            parts = self.micro_gradients("window", number, counter=at)
            noise.measure(parts, BATCH, self.problem.population, self.metric)
        estimate = noise.estimate()
        assert estimate is not None
        return estimate


def holds(estimate: NoiseEstimate | None, reference: float) -> bool:
    """Whether the interval does."""
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= reference <= estimate.high


def frozen_rows(problem: AbInitio, recorder: Recorder, windows: int, batches: int, name: str) -> list[Row]:
    """Coverage at every state."""
    rows = []
    for step in STATES:
        frozen = Frozen(problem, recorder.models[step])
        few, many = frozen.reference(batches)
        estimates = [frozen.window(number) for number in range(windows)]
        rows.append(
            {
                "set": name,
                "kind": "frozen",
                "step": step,
                "radius": float(frozen.model.radius),
                "reference_64": few,
                "reference": many,
                "snr": statistics.fmean(estimate.snr or 0.0 for estimate in estimates),
                "half_width": statistics.fmean((e.high or 0.0) - (e.low or 0.0) for e in estimates) / 2,
                "held_64": sum(holds(estimate, few) for estimate in estimates),
                "held": sum(holds(estimate, many) for estimate in estimates),
                "of": windows,
            }
        )
        show(rows[-1])
    return rows


def reported_rows(problem: AbInitio, start: MarginalDensity, runs: int, name: str) -> list[Row]:
    """What runs report against the reference in the middle of their windows."""
    held: dict[int, list[bool]] = {step: [] for step in REPORTED}
    pairs: dict[int, list[tuple[float, float]]] = {step: [] for step in REPORTED}
    for seed in range(runs):
        recorder = record(problem, copy.deepcopy(start), 100 + seed, sorted({*REPORTED, *MIDDLES.values()}))
        known = {step: Frozen(problem, recorder.models[step]).reference(64)[0] for step in set(MIDDLES.values())}
        for step in REPORTED:
            report, reference = recorder.reports[step], known[MIDDLES[step]]
            held[step].append(holds(report, reference))
            assert report is not None
            pairs[step].append((report.snr or 0.0, reference))
    rows = []
    for step in REPORTED:
        snr, reference = (statistics.fmean(column) for column in zip(*pairs[step], strict=True))
        row: Row = {"set": name, "kind": "reported", "step": step, "middle": MIDDLES[step]}
        rows.append(row | {"reference_64": reference, "snr": snr, "held_64": sum(held[step]), "of": runs})
        show(rows[-1])
    return rows


def show(row: Row) -> None:
    """One line."""
    print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def measured(star: Path, options: argparse.Namespace) -> list[Row]:
    """All rows of a set of particles."""
    search, draw = AbInitioOptions(seed=0), np.random.default_rng(0)
    problem = prepare(read_particles(star, needs=("ctf",)), search, draw).problem
    start, _ = race(problem, search, draw)
    recorder = record(problem, copy.deepcopy(start), 7, STATES)
    rows = frozen_rows(problem, recorder, options.windows, options.reference, star.stem) if options.windows else []
    return rows + reported_rows(problem, start, options.runs, star.stem)


@threadpool_limits.wrap(limits=1)
def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("particles", type=Path, nargs="*")
    parser.add_argument("--windows", type=int, default=40, help="at every frozen state; 0 for none of these rows")
    parser.add_argument("--reference", type=int, default=256, help="batches of the finer reference; at least 64")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        stars = options.particles or [BUNDLED, simulate(Path(name))[0]]
        for star in stars:
            rows += measured(star, options)
    for key in ("held_64", "held"):
        cells = [row for row in rows if row["kind"] == "frozen"]
        held, of = sum(row[key] for row in cells), sum(row["of"] for row in cells)
        print(f"frozen states, {key}: {held} of {of} ({held / max(of, 1):.1%}; nominal 95 %)")
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "abinitio_snr.json", to_json({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
