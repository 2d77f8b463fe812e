"""Several processes that share a run: the helpers, and what one process makes of them; real processes below."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import finished, torchrun, unwatched

import sciml
from sciml import batches, distributed
from sciml.errors import InputError
from sciml.loop import gradients
from sciml.runs import files
from sciml.runs.stage import Stage


def as_if(monkeypatch, rank, size):
    """The environment that torchrun gives to one of several processes."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_alone_everything_is_as_it_was():
    assert (distributed.rank(), distributed.size(), distributed.leader()) == (0, 1, True)
    assert distributed.share(7) == slice(0, 7)
    array = np.arange(3.0)
    distributed.add(array)
    distributed.gather(slice(0, 3), array)
    assert array.tolist() == [0, 1, 2]
    value = object()
    assert distributed.agreed(value) is value and distributed.led(lambda: value) is value
    assert distributed.in_step([True, False]) == [True, False]
    with pytest.raises(InputError, match="no"), distributed.together():
        raise InputError("no")
    distributed.followers_leave()


def test_a_world_size_without_torchrun_is_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (distributed.rank(), distributed.size()) == (0, 1)


@pytest.mark.parametrize("count", [0, 1, 5, 12, 1001])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_shares_are_all_items_in_order_and_nearly_equal(monkeypatch, count, size):
    shares = []
    for rank in range(size):
        as_if(monkeypatch, rank, size)
        shares.append(np.arange(count)[distributed.share(count)])
    assert np.array_equal(np.concatenate(shares), np.arange(count))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("count", [0, 5, 16, 17, 1001])
def test_shares_in_blocks_begin_where_blocks_do(monkeypatch, count):
    shares = []
    for rank in range(3):
        as_if(monkeypatch, rank, 3)
        shares.append(distributed.share(count, 16))
    assert np.array_equal(np.concatenate([np.arange(count)[share] for share in shares]), np.arange(count))
    assert all(share.start % 16 == 0 or share.start == count for share in shares)
    lengths = [-(-len(np.arange(count)[share]) // 16) for share in shares]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("rows", [7, 12, 2])
def test_parts_of_a_batch_weighted_by_their_shares_are_the_whole(rows):
    values = torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shared = [
        found for index in range(3) if (found := batches.weighted_part((values, values[:, 0]), index, 3)) is not None
    ]
    if rows < 3:
        assert not shared
        return
    mean = torch.stack([weight * part[0].mean(0) for part, weight in shared]).sum(0)
    assert torch.allclose(mean, values.mean(0), rtol=1e-14)
    assert sum(len(part[1]) for part, _ in shared) == rows


def test_a_batch_with_tensors_of_unlike_lengths_is_shared_only_evenly():
    assert batches.weighted_part((torch.zeros(12), torch.zeros(4)), 0, 3) is None
    found = batches.weighted_part((torch.zeros(12), torch.arange(6)), 1, 3)
    assert found is not None
    part, weight = found
    assert part[0].shape == (4,) and part[1].tolist() == [2, 3] and weight == 1 / 3
    assert batches.weighted_part((torch.zeros(12), torch.tensor(1.0)), 0, 3) is None


def test_only_the_leader_writes(monkeypatch, tmp_path):
    as_if(monkeypatch, 1, 2)
    assert files.write_atomic(tmp_path / "a.txt", "text") == tmp_path / "a.txt"
    with files.atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("text")
    stage = Stage(tmp_path / "stage")
    stage.append_metrics([{"kind": "step"}])
    stage.flush()
    stage.truncate_metrics(0)
    assert stage.read_metrics() == [] and stage.metrics_offset() == 0
    assert list(tmp_path.iterdir()) == [] and not temporary.exists()
    with pytest.raises(SystemExit) as left:
        distributed.followers_leave()
    assert left.value.code == 0


@pytest.mark.parametrize(
    ("dtype", "bits"), [(torch.float64, torch.int64), (torch.float32, torch.int32), (torch.bfloat16, torch.int16)]
)
def test_a_fingerprint_sees_one_bit(dtype, bits):
    vector = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    other = vector.clone()
    other.view(bits)[17] ^= 1
    assert distributed.fingerprint(vector) == distributed.fingerprint(vector.clone()) < 2**20
    assert distributed.fingerprint(vector) != distributed.fingerprint(other)


HELPERS = """
import hashlib, json, sys, time
import numpy as np, torch
from sciml import distributed as d
from sciml.errors import InputError
rank, size = d.rank(), d.size()
draw = np.random.default_rng(rank)
arrays = [draw.standard_normal(n) for n in (1, 5, 300_001)]
arrays += [(draw.standard_normal((3, 4)) + 1j).astype(np.complex64), np.array([rank, 2])]
tensor = torch.full((2, 3), float(rank)).t()  # not contiguous
d.add(*arrays, tensor)
seen = {"sums": hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest(), "tensor": tensor.tolist()}
seen["first"] = [float(arrays[0][0]), float(arrays[2][-1]), arrays[3].imag.tolist(), arrays[4].tolist()]
rows = np.full((7, 2), -1.0)
mine = d.share(7)
rows[mine] = np.arange(14.0).reshape(7, 2)[mine]
d.gather(mine, rows)
seen["rows"] = rows.tolist()
copied = torch.full((3,), float(rank + 1))
d.copy_from_leader(copied)
seen["copied"] = copied.tolist()
seen["agreed"] = d.agreed({"rank": rank, "text": "Ångström", "none": None})
seen["flags"] = d.in_step([rank == 1, False, rank == 0], 12345)
def refused(work):
    try:
        work()
    except (InputError, OSError) as error:
        return f"{type(error).__name__}: {error}"
def bad_image():
    with d.together():
        if rank == size - 1:
            raise InputError("image 17 is not finite, at 3.5 Å")
def write():
    raise OSError("disk full") if rank == 0 else AssertionError("only the leader is asked")
seen["together"], seen["led"] = refused(bad_image), refused(lambda: d.led(write))
def fine():
    with d.together():
        pass
seen["fine"] = refused(fine)
seen["unlike"] = refused(lambda: d.in_step([], rank))
d.barrier()
open(sys.argv[1] + f"/{rank}.json", "w").write(json.dumps(seen))
"""


def script(folder: Path, text: str) -> Path:
    file = folder / "script.py"
    file.write_text(text)
    return file


def all_seen(folder: Path, count: int) -> list[dict]:
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_helpers_in_real_processes(tmp_path, count):
    code, _, errors = finished(torchrun(script(tmp_path, HELPERS), tmp_path, count=count))
    assert code == 0, errors
    seen = all_seen(tmp_path, count)
    assert all(other == seen[0] for other in seen[1:])  # the same bits everywhere
    draws = [np.random.default_rng(rank) for rank in range(count)]
    own = [[draw.standard_normal(n) for n in (1, 5, 300_001)] for draw in draws]
    assert seen[0]["first"][0] == pytest.approx(sum(arrays[0][0] for arrays in own))
    assert seen[0]["first"][1] == pytest.approx(sum(arrays[2][-1] for arrays in own))
    assert seen[0]["first"][2:] == [[[count] * 4] * 3, [count * (count - 1) // 2, 2 * count]]
    assert seen[0]["tensor"] == [[count * (count - 1) / 2] * 2] * 3
    assert seen[0]["rows"] == np.arange(14.0).reshape(7, 2).tolist()
    assert seen[0]["copied"] == [1.0] * 3
    assert seen[0]["agreed"] == {"rank": 0, "text": "Ångström", "none": None}
    assert seen[0]["flags"] == [True, False, True]
    assert seen[0]["together"] == "InputError: image 17 is not finite, at 3.5 Å"
    assert seen[0]["led"] == "OSError: disk full"
    assert seen[0]["fine"] is None
    assert "no longer hold the same parameters" in seen[0]["unlike"]


SOLVES = """
import json, sys
import numpy as np, torch, sciml
from sciml import batches, distributed
from sciml.loop import gradients
from sciml.loop import solver
solver.probe = lambda problem, model: []  # the items of the steps alone are counted
gradients.WORTH_SHARING = 0

class Fit(sciml.Problem):
    def __init__(self, size=None):
        self.size, self.seen = size, 0
    def draw(self, count, generator):
        x = torch.rand(count, 1, generator=generator, dtype=torch.float64)
        return x, torch.sin(6 * x)
    def sample(self, size, generator):
        if self.size is None:
            return self.draw(size or 255, generator)
        every = self.draw(self.size, torch.Generator().manual_seed(0))
        return every if size is None else tuple(t[torch.randperm(self.size, generator=generator)[:size]] for t in every)
    def loss(self, model, batch):
        self.seen += len(batch[0])
        residual = model(batch[0]) - batch[1]
        return {"fit": residual.square().mean(), "small": 1e-3 * residual.abs().mean()}

class Own(Fit):
    def gradient(self, model, batch):
        with torch.enable_grad():
            terms = self.loss(model, batch)
            found = torch.autograd.grad(sum(terms.values()), list(model.parameters()))
        return {k: t.detach() for k, t in terms.items()}, torch.cat([g.reshape(-1) for g in found])

def network(seed=distributed.rank()):  # the leader's is taken
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()

class Whole(Fit):
    divides = False

cases = {
    "adam": (Fit(), [sciml.Adam(lr=1e-2, steps=120, batch=33, micro_batches=3, accumulate=2)]),
    "finite": (Own(200), [sciml.Adam(lr=1e-2, steps=60, batch=50), sciml.LBFGS(steps=15)]),
    "small": (Fit(), [sciml.Adam(lr=1e-2, steps=30, batch=2)]),
    "whole": (Whole(), [sciml.Adam(lr=1e-2, steps=30), sciml.SelfScaled(steps=5)]),
}
seen = {}
for name, (problem, phases) in cases.items():
    model = network()
    solution = sciml.solve(problem, model, phases, switch=60 if len(phases) > 1 else "auto")
    steps = [r["loss"] for r in solution.history if r["kind"] == "step"]
    snr = [r["snr"] for r in solution.history if r["kind"] == "noise"]
    parameters = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()
    seen[name] = {"loss": solution.loss, "steps": steps, "snr": snr, "parameters": parameters,
                  "items": problem.seen, "evaluations": solution.evaluations, "terms": sorted(
                  next(r["terms"] for r in solution.history if r["kind"] == "step"))}
open(sys.argv[1] + f"/{distributed.rank()}.json", "w").write(json.dumps(seen))
"""


@pytest.mark.slow
def test_a_solve_shared_by_two_processes_is_that_of_one(tmp_path):
    file = script(tmp_path, SOLVES)
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        code, _, errors = finished(torchrun(file, folder, count=count))
        assert code == 0, errors
    (one,), two = all_seen(tmp_path / "1", 1), all_seen(tmp_path / "2", 2)
    for name, alone in one.items():
        first, second = two[0][name], two[1][name]
        assert first["parameters"] == second["parameters"] and first["steps"] == second["steps"], name
        assert first["evaluations"] == alone["evaluations"]
        assert np.allclose(first["parameters"], alone["parameters"], rtol=1e-10, atol=1e-10), name
        assert np.allclose(first["steps"], alone["steps"], rtol=1e-10), name
        assert np.allclose(first["snr"], alone["snr"], rtol=1e-7), name
        assert first["terms"] == alone["terms"]
        shares = [ranks[name]["items"] / alone["items"] for ranks in two]
        if name == "whole":
            assert shares == [1.0, 1.0]
        elif name == "small":  # 21 steps of two micro-batches of one item, which cannot be shared, and 9 of two items
            assert shares == [(21 + 9 / 2) / 30] * 2
        else:
            assert sum(shares) == pytest.approx(1.0) and max(shares) < 0.54


SAME_BITS = """
import json, sys
import torch, sciml
from sciml import distributed
from sciml.pde import MLP, Interval, derivative
from sciml.loop import gradients
gradients.WORTH_SHARING = 0

class Poisson(sciml.Problem):
    def sample(self, size, generator):
        return Interval(0.0, 1.0).sample(size or 250, generator)
    def least_squares(self, model, batch):
        u = lambda x: x * (1 - x) * model(x)
        return {"pde": derivative(u, batch, order=2) + torch.pi**2 * torch.sin(torch.pi * batch)}

seen = {}
cases = {"LBFGS": sciml.LBFGS(steps=60), "SelfScaled": sciml.SelfScaled(steps=60), "Gauss": sciml.GaussNewton(steps=8)}
for name, finisher in cases.items():
    model = MLP(1, 1, (12,)).double()
    solution = sciml.solve(Poisson(), model, [sciml.Adam(lr=1e-2), finisher], switch=40)
    parameters = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()
    seen[name] = [parameters, solution.loss, [r["loss"] for r in solution.history if r["kind"] == "step"]]
open(sys.argv[1] + f"/{distributed.rank()}.json", "w").write(json.dumps(seen))
"""


@pytest.mark.slow
def test_every_phase_ends_in_the_same_bits_on_one_two_and_four_processes(tmp_path):
    """Sums in an order of their own would differ by rounding, which 60 quasi-Newton iterations make visible."""
    file, ended = script(tmp_path, SAME_BITS), {}
    for count in (1, 2, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        code, _, errors = finished(torchrun(file, folder, count=count))
        assert code == 0, errors
        ended[count] = all_seen(folder, count)
    for count in (2, 4):
        for seen in ended[count]:
            assert seen == ended[1][0]


@pytest.mark.parametrize("value", ["x", "", "0", "-2", "1.5"])
def test_the_number_of_processes_is_a_number(monkeypatch, value):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", value)
    with pytest.raises(InputError, match="WORLD_SIZE"):
        distributed.size()


GLOBAL_RANDOM = """
import torch, sciml
from sciml import distributed
from sciml.loop import gradients
gradients.WORTH_SHARING = 0
class Fit(sciml.Problem):
    calls = 0
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator)
    def loss(self, model, batch):
        return {"fit": (model(batch) - 1).square().mean()}
    def evaluate(self, model):
        self.calls += 1
        if distributed.rank() == 1 and self.calls > 1:  # not yet where the problem is looked at
            with torch.no_grad():
                model.weight += 1e-6  # what an author must not do
        return {"error": 1.0}
sciml.solve(Fit(), torch.nn.Linear(1, 1), [sciml.Adam(steps=30)])
"""


@pytest.mark.slow
def test_processes_that_fall_apart_are_told(tmp_path):
    code, _, errors = finished(torchrun(script(tmp_path, GLOBAL_RANDOM)))
    assert code == 1 and "no longer hold the same parameters" in errors


LONG = """
import os, signal, sys, time, torch, sciml
from sciml import distributed
from sciml.loop import snapshots
snapshots.SECONDS = 0.05
class Fit(sciml.Problem):
    divides = True
    def sample(self, size, generator):
        x = torch.rand(size or 256, 1, generator=generator, dtype=torch.float64)
        return x, torch.sin(6 * x)
    def loss(self, model, batch):
        if distributed.rank() == 1 and os.path.exists(sys.argv[1] + "/die"):
            os._exit(9)
        return {"fit": (model(batch[0]) - batch[1]).square().mean()}
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(1, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1)).double()
open(sys.argv[1] + f"/pid{distributed.rank()}", "w").write(str(os.getpid()))
run = sciml.Run.create(sys.argv[1] + "/run", command=["test"], options={})
solution = sciml.solve(Fit(), model, [sciml.Adam(steps=int(sys.argv[2]))], run=run)
if distributed.leader():
    print(solution.result.name, [r["step"] for r in solution.history if r["kind"] == "step"][-1], flush=True)
    torch.save(torch.cat([p.detach().reshape(-1) for p in model.parameters()]), sys.argv[1] + "/final.pt")
"""


def started(process, folder):
    """Wait for the first checkpoint."""
    deadline = time.monotonic() + 60
    while not list(folder.glob("run/stages/solve/checkpoints/0*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_run_goes_on_in_all_processes_to_the_same_parameters(tmp_path):
    file = script(tmp_path, LONG)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert finished(torchrun(file, whole, "200"))[0] == 0
    process = torchrun(file, killed, "200")
    started(process, killed)
    for rank in range(2):
        os.kill(int((killed / f"pid{rank}").read_text(encoding="utf-8")), signal.SIGKILL)
    assert finished(process)[0] == 1
    before = max(int(path.stem) for path in killed.glob("run/stages/solve/checkpoints/0*.safetensors"))
    code, output, errors = finished(torchrun(file, killed, "200"))
    assert code == 0, errors
    assert output.split() == ["MAX_STEPS", "199"]
    assert max(int(path.stem) for path in killed.glob("run/stages/solve/checkpoints/0*.safetensors")) > before >= 1
    a, b = (torch.load(folder / "final.pt", weights_only=True) for folder in (whole, killed))
    assert torch.equal(a, b)
    steps = [r["step"] for r in Stage(killed / "run/stages/solve").read_metrics() if r["kind"] == "step"]
    assert steps == list(range(200))  # each once, though two processes took it


SILENT = """
import sys, time
import numpy as np
from sciml import distributed
distributed.TIMEOUT = 3.0
distributed.add(np.ones(3))
if distributed.rank() == 1:
    time.sleep(60)
began = time.monotonic()
try:
    distributed.add(np.ones(3))
except distributed.RankError as error:
    print(time.monotonic() - began, error, flush=True)
    sys.exit(7)
"""


@pytest.mark.slow
def test_a_process_that_does_not_answer_is_not_waited_for_without_end(tmp_path):
    code, output, errors = finished(torchrun(script(tmp_path, SILENT)))
    assert code == 1 and "did not answer for 3 s" in output, errors
    assert 2 < float(output.split()[0]) < 20


@pytest.mark.slow
def test_the_end_of_one_process_is_told_by_the_others_at_once(tmp_path):
    stays, dies = unwatched(script(tmp_path, LONG), tmp_path, "1000000")
    started(stays, tmp_path)
    began = time.monotonic()
    (tmp_path / "die").touch()
    assert finished(dies)[0] == 9
    code, _, errors = finished(stays)
    assert code == 1 and time.monotonic() - began < 20
    assert "process 0 of 2: another process of this run ended" in errors


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_keeps_the_state(tmp_path):
    process = torchrun(script(tmp_path, LONG), tmp_path, "1000000")
    started(process, tmp_path)
    process.send_signal(signal.SIGINT)
    _, output, errors = finished(process)
    assert "INTERRUPTED" in output, errors
    steps = [r["step"] for r in Stage(tmp_path / "run/stages/solve").read_metrics() if r["kind"] == "step"]
    assert steps == list(range(len(steps))) and steps


def test_the_command_line_says_bad_input_once(tmp_path):
    code, output, errors = finished(torchrun("-m", "sciml", "rod", "solve", "--case", "wavy", "--out", tmp_path))
    assert code == 1
    assert (output + errors).count("wavy") == 1
    assert list(tmp_path.iterdir()) == []


def test_sharing_is_by_the_size_of_the_batch(monkeypatch):
    as_if(monkeypatch, 0, 2)

    class Any(sciml.Problem):
        def sample(self, size, generator):
            return torch.zeros(size or 1)

    problem, batch = Any(), torch.zeros(100)
    unknowns = gradients.WORTH_SHARING // 100
    assert gradients._blocks(problem, batch, unknowns) is None
    found = gradients._blocks(problem, batch, unknowns + 1)
    assert found is not None
    assert sum(len(part) for part, _ in found) == 100
    assert [weight for _, weight in found] == [len(part) / 100 for part, _ in found]
    assert len(found) % 2 == 0  # two processes have as many blocks each
    problem.divides = True
    assert gradients._blocks(problem, batch, 1) is not None
    problem.divides = False
    assert gradients._blocks(problem, batch, 10 * unknowns) is None
