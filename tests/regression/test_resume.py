"""kill -9 at any moment, then go on: the final parameters are those of an uninterrupted run, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import sciml
from sciml.loop import snapshots
from sciml.runs import checkpoint

SCRIPT = """
import sys, math, torch, sciml
from sciml.loop import deterministic, snapshots
from sciml.optim import Average, Clip, Quantize
from sciml.schedules import CosineRestarts
torch.set_num_threads(1)
snapshots.SECONDS = 0.05

class Fit(sciml.Problem):
    def sample(self, size, generator):
        x = torch.rand(size or 256, 1, generator=generator, dtype=torch.float64)
        return x, torch.sin(6 * x) + NOISE * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    def loss(self, model, batch):
        return {"fit": (model(batch[0]) - batch[1]).square().mean()}
    def least_squares(self, model, batch):
        return {"fit": model(batch[0]) - batch[1]}

class Waves(Fit):
    def sample(self, size, generator):
        x = torch.rand(size or 32, 1, generator=generator, dtype=torch.float64)
        return x, torch.sin(40 * x)  # of which 32 points say little, so that every set is soon over-fitted

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(1, 20), torch.nn.Tanh(), torch.nn.Linear(20, 20), torch.nn.Tanh(),
                            torch.nn.Linear(20, 1)).double()
phases, switch, NOISE = {
    "adam": ([sciml.Adam(steps=1500), sciml.LBFGS(steps=20)], 1500, 0.1),
    "lbfgs": ([sciml.Adam(steps=20), sciml.LBFGS(steps=1200, tolerance=0.0)], 20, 0.0),
    "self_scaled": ([sciml.Adam(steps=20), sciml.SelfScaled(steps=1000, tolerance=0.0)], 20, 0.0),
    "gauss_newton": ([sciml.Adam(steps=20), sciml.GaussNewton(steps=400, tolerance=0.0)], 20, 0.1),
    "transforms": ([sciml.SGD(
        lr=CosineRestarts(0.1, 100), steps=1500, momentum=0.9, nesterov=True, accumulate=3,
        transforms=(Clip(1.0), Quantize(0.01)), keep=Average(3.0),
    )], 1500, 0.1),
    "auto": (None, "auto", 0.02),
    "renewed": ([sciml.Adam(steps=20), sciml.SelfScaled(steps=1500, check=5)], 20, 0.0),
}[sys.argv[2]]
budget = sciml.Budget(evaluations=12000 if sys.argv[2] == "renewed" else 3000)
run = sciml.Run.create(sys.argv[1], command=["test"], options={})
print("ready", flush=True)
problem = Fit()
if sys.argv[2] == "renewed":
    problem = Waves()
    deterministic.RENEWED, deterministic.EXHAUSTED = math.inf, 0.0  # renewed again and again, hardly enlarged
    deterministic.IDLE_SETS = 10**9  # however little the new sets bring
solution = sciml.solve(problem, model, phases, switch=switch, run=run, budget=budget)
torch.save(torch.cat([p.detach().reshape(-1) for p in model.parameters()]), sys.argv[1] + "/final.pt")
"""


def start(folder, kind):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), kind], stdout=subprocess.PIPE, text=True, env=environment
    )


def newest(folder):
    """Number of the newest checkpoint, 0 if there is none."""
    return max((int(path.stem) for path in folder.glob("stages/solve/checkpoints/0*.safetensors")), default=0)


def kill_after(process, folder, checkpoints, delay):
    """SIGKILL a while after so many more checkpoints were written; whether the process was still at work."""
    target = newest(folder) + checkpoints
    while process.poll() is None and newest(folder) < target:
        time.sleep(0.002)
    time.sleep(delay)
    at_work = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()  # closes the pipe, too
    return at_work


def succeeds(process):
    """Whether a process ends well."""
    process.communicate()
    return process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adam", "lbfgs", "self_scaled", "gauss_newton", "transforms", "auto", "renewed"])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, kind):
    whole = start(tmp_path / "whole", kind)
    assert succeeds(whole)
    chance = random.Random(kind)
    kills, other_sets = 0, []  # the latter: where it goes on, after a kill, on another set than the first draw
    for checkpoints in (0, 1, 2, 2):
        process = start(tmp_path / "killed", kind)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        kills += kill_after(process, tmp_path / "killed", checkpoints, chance.uniform(0, 0.1))
        held, _ = checkpoint.newest(tmp_path / "killed/stages/solve/checkpoints")
        if held is not None and "fixed.items.0" in held.tensors:
            other_sets.append(held.numbers["runner"]["state"]["step"])
    final = start(tmp_path / "killed", kind)
    assert succeeds(final)
    assert kills == 4
    a, b = (torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "killed"))
    assert torch.equal(a, b)
    metrics = [
        [
            {k: v for k, v in r.items() if k != "seconds"}
            for r in sciml.Run.open(tmp_path / name).stage("solve").read_metrics()
        ]
        for name in ("whole", "killed")
    ]
    assert metrics[0] == metrics[1]
    if kind == "renewed":  # drawn by residuals before a kill and after it
        steps = [r["step"] for r in metrics[0] if r["kind"] == "grow" and "new items" in r["reason"]]
        assert any(steps[0] < step < steps[-1] for step in other_sets)


class Line(sciml.Problem):
    size = 64

    def sample(self, size, generator):
        x = torch.linspace(0, 1, 64, dtype=torch.float64)[:, None]
        return x if size is None else x[torch.randperm(64, generator=generator)[:size]]

    def loss(self, model, batch):
        return {"fit": (model(batch) - torch.sin(6 * batch)).square().mean()}


def network():
    stream = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 12), torch.nn.Tanh(), torch.nn.Linear(12, 1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
    return model


def parameters(model):
    return torch.nn.utils.parameters_to_vector(model.parameters())


def test_finished_solve_answers_at_once_and_changed_settings_are_refused(tmp_path):
    run = sciml.Run.create(tmp_path / "run", command=["test"], options={})
    first = sciml.solve(Line(), network(), [sciml.Adam(steps=30)], run=run)
    model = network()
    again = sciml.solve(Line(), model, [sciml.Adam(steps=30)], run=run)
    assert again.loss == first.loss and again.evaluations == first.evaluations and again.result is first.result
    assert torch.equal(parameters(model), parameters(first.model))
    with pytest.raises(sciml.InputError, match="seed"):
        sciml.solve(Line(), network(), [sciml.Adam(steps=30)], seed=1, run=run)
    with pytest.raises(sciml.InputError, match="phases"):
        sciml.solve(Line(), network(), [sciml.Adam(steps=31)], run=run)


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "SECONDS", 0.0)
    monkeypatch.setattr(snapshots.Snapshots, "due", True)
    phases = [sciml.SelfScaled(steps=60, tolerance=0.0)]
    whole = sciml.solve(Line(), network(), phases, run=sciml.Run.create(tmp_path / "a", command=["t"], options={}))
    run = sciml.Run.create(tmp_path / "b", command=["t"], options={})
    sciml.solve(Line(), network(), phases, run=run)
    newest = max(run.stage("solve").checkpoints.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-20])
    again = sciml.solve(Line(), network(), phases, run=run)
    assert torch.equal(parameters(again.model), parameters(whole.model))
    assert any(record["kind"] == "warning" for record in again.history)


def test_interrupt_saves_and_the_next_call_goes_on(tmp_path):
    class Interrupting(Line):
        calls = 0

        def loss(self, model, batch):
            Interrupting.calls += 1
            if Interrupting.calls == 150:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(model, batch)

    phases = [sciml.Adam(steps=20), sciml.SelfScaled(steps=200, tolerance=0.0)]
    run = sciml.Run.create(tmp_path / "run", command=["t"], options={})
    stopped = sciml.solve(Interrupting(), network(), phases, switch=20, run=run)
    assert stopped.result is sciml.Result.INTERRUPTED
    again = sciml.solve(Interrupting(), network(), phases, switch=20, run=run)
    whole = sciml.solve(Line(), network(), phases, switch=20)
    assert again.result is whole.result
    assert torch.equal(parameters(again.model), parameters(whole.model))


class Wall(sciml.Problem):
    """A stream whose gradient points uphill on 64 items or more, so that the finisher stalls and hands back to SGD, and
    past the minimum on fewer, so that SGD only makes it worse then."""

    def __init__(self, stop=0):
        self.sizes, self.stop = [], stop

    def sample(self, size, generator):
        return torch.randn(size or 64, 4, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"bowl": 0.5 * (model.weight.reshape(-1) - 1 - 0.1 * batch).square().sum(1).mean()}

    def gradient(self, model, batch):
        self.sizes.append(len(batch))
        if len(self.sizes) == self.stop:
            os.kill(os.getpid(), signal.SIGINT)
        theta = model.weight.detach().reshape(-1)
        slope = theta - 2 - 0.1 * batch if len(batch) < 64 else 1 + 0.1 * batch - theta
        return {"bowl": self.loss(model, batch)["bowl"].detach()}, slope.mean(0)


def test_a_solve_interrupted_after_its_finisher_handed_back_goes_on_alike(tmp_path):
    def solve(problem, name):
        torch.manual_seed(0)
        run = sciml.Run.create(tmp_path / name, command=["t"], options={})
        phases = [sciml.SGD(lr=0.02, batch=32), sciml.LBFGS()]
        return sciml.solve(problem, torch.nn.Linear(4, 1, bias=False).double(), phases, switch=40, run=run)

    problem = Wall()
    whole = solve(problem, "whole")
    assert [record["phase"] for record in whole.switch] == ["SGD", "LBFGS"] * 2
    assert whole.loss < min(r["loss"] for r in whole.history[-8:] if r["kind"] == "step")  # that of the first stall
    large = [i for i, size in enumerate(problem.sizes, 1) if size >= 64]
    back = next(i for i, size in enumerate(problem.sizes, 1) if size < 64 and i > large[0])
    for stop in (large[10], back + 5, back + 40):  # in the finisher, and in SGD after it
        stopped = solve(Wall(stop), str(stop))
        assert stopped.result is sciml.Result.INTERRUPTED
        again = solve(Wall(), str(stop))
        assert torch.equal(parameters(again.model), parameters(whole.model))
        assert (again.result, again.loss, again.evaluations) == (whole.result, whole.loss, whole.evaluations)
        kinds = [(r["kind"], r["phase"], r["step"]) for r in again.history if r["kind"] != "warning"]
        assert kinds == [(r["kind"], r["phase"], r["step"]) for r in whole.history]
