"""The commands under torchrun: two processes find what one finds, write once, and go on after a kill."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import finished, torchrun
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.maps.masks import low_pass
from sciml_cryoem.reconstruction.noise import sample_indices

from sciml.command_line.main import main
from sciml.runs.stage import read_metrics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def particles(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """203 images of the bundled set: two processes have different numbers of them."""
    folder = root / "data" / "particles"
    tables = read_star(folder / "particles.star")
    rows = tables["particles"].select(np.arange(203))
    images = [f"{name.split('@')[0]}@{folder / name.split('@')[1]}" for name in rows.text("rlnImageName")]
    path = tmp_path_factory.mktemp("set") / "some.star"
    return write_star(path, [tables["optics"], rows.with_column("rlnImageName", images)])


@pytest.fixture(scope="module")
def reference(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    truth = read_map(root / "data" / "particles" / "truth.mrc").array
    return write_map(tmp_path_factory.mktemp("reference") / "map.mrc", low_pass(truth, 3.5, 25.0), 3.5)


def both(words: list[str | Path], folder: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The folders of a command done by one process and by two, and the object that the two printed."""
    one, two = folder / "one", folder / "two"
    assert main([*map(str, words), "--out", str(one)]) in (0, 3)
    code, output, errors = finished(torchrun("-m", "sciml", *words, "--out", two, "--json"))
    assert code in (0, 1), errors
    assert len(output.strip().splitlines()) == 1  # one of them speaks
    return one, two, json.loads(output)


def correlation(one: Path, two: Path, name: str) -> float:
    maps = [read_map(folder / name).array.ravel() for folder in (one, two)]
    return float(np.corrcoef(np.stack(maps))[0, 1])


def test_a_search_for_a_start_map(particles: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["cryoem", "abinitio", particles, "--starts", "2"]
    one, two, said = both(words, tmp_path)
    assert correlation(one, two, "run_class001.mrc") > 1 - 1e-9
    alone = json.loads((one / "summary.json").read_text(encoding="utf-8"))
    assert [row["log_likelihood"] for row in said["race"]] == pytest.approx(
        [row["log_likelihood"] for row in alone["race"]], rel=1e-10
    )
    losses = [
        [r["loss"] for r in read_metrics(folder / "stages/abinitio/metrics.jsonl") if r["kind"] == "step"]
        for folder in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    for label in ("rlnAngleTilt", "rlnOriginXAngst", "rlnLogLikeliContribution"):
        columns = [read_star(folder / "run_data.star")["particles"].numbers(label) for folder in (one, two)]
        assert np.allclose(*columns, atol=1e-4), label
    record = json.loads((two / "provenance.json").read_text(encoding="utf-8"))
    assert record["processes"] == 2
    assert not list(two.rglob(".*"))


def test_a_refinement_and_its_resume(particles: Path, reference: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["cryoem", "refine", particles, "--reference", reference, "--iterations", "2"]
    one, two, said = both(words, tmp_path)
    assert correlation(one, two, "run_class001.mrc") > 0.9999
    rows = json.loads((one / "summary.json").read_text(encoding="utf-8"))["iterations"]
    for alone, shared in zip(rows, said["iterations"], strict=True):
        assert alone["log_likelihood"] == pytest.approx(shared["log_likelihood"], rel=1e-4)
        assert alone["resolution_0143"] == pytest.approx(shared["resolution_0143"], rel=0.05)
    killed = tmp_path / "killed"
    process = torchrun("-m", "sciml", *words, "--out", killed)
    kill_after_checkpoint(process.pid, killed / "stages/refine/checkpoints")
    process.communicate()
    code, _, errors = finished(torchrun("-m", "sciml", "resume", killed))
    assert code in (0, 1), errors
    assert (killed / "run_class001.mrc").read_bytes() == (two / "run_class001.mrc").read_bytes()
    assert (killed / "run_data.star").read_bytes() == (two / "run_data.star").read_bytes()


def kill_after_checkpoint(torchruns_pid: int, folder: Path) -> None:
    """SIGKILL to both processes, and to torchrun, after the first iteration."""
    deadline = time.monotonic() + 100
    while not list(folder.glob("0*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{torchruns_pid}/task/{torchruns_pid}/children").read_text(encoding="utf-8").split()
    for pid in [torchruns_pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)


def test_known_poses(particles: Path, tmp_path: Path) -> None:
    one, two, said = both(["cryoem", "reconstruct", particles], tmp_path)
    for name in ("run_class001.mrc", "run_half1_class001_unfil.mrc", "run_std.mrc"):
        assert correlation(one, two, name) > 1 - 1e-9
    known = json.loads((one / "summary.json").read_text(encoding="utf-8"))
    assert said["resolution_0143"] == pytest.approx(known["resolution_0143"])


@pytest.mark.filterwarnings("ignore:Data array contains NaN values:RuntimeWarning")  # written so on purpose
def test_an_image_that_one_process_reads_is_refused_by_all(particles: Path, tmp_path: Path) -> None:
    tables = read_star(particles)
    rows = tables["particles"].select(np.arange(1100) % 203)
    names = rows.text("rlnImageName")
    bad = write_bad_stack(Path(names[0].split("@")[1]), tmp_path / "bad.mrcs")
    # Noise is measured from 1,000 images, by every process; the last of the others is the second one's to read.
    names[np.setdiff1d(np.arange(1100), sample_indices(np.zeros(1100, np.int64)))[-1]] = f"000001@{bad}"
    star = write_star(tmp_path / "bad.star", [tables["optics"], rows.with_column("rlnImageName", names)])
    words = ["cryoem", "abinitio", star, "--starts", "1", "--out", tmp_path / "out"]
    code, output, errors = finished(torchrun("-m", "sciml", *words))
    assert code == 1 and output == ""
    assert errors.count("bad.mrcs") == 1 and "another process" not in errors, errors
    assert "exitcode  : 2" in errors
    assert not (tmp_path / "out").exists()


def write_bad_stack(like: Path, path: Path) -> Path:
    import mrcfile

    with mrcfile.open(like, permissive=True) as file:
        assert file.data is not None
        image = np.array(file.data[:1], np.float32)
        pixel = float(file.voxel_size.x)
    image[0, 3, 3] = np.nan
    with mrcfile.new(path, data=image) as file:
        file.set_image_stack()
        file.voxel_size = pixel
    return path


PROBLEM = """
import torch, sciml
from sciml.pde import MLP, Interval, derivative

class Poisson(sciml.Problem):
    divides = True
    def sample(self, size, generator):
        return Interval(0.0, 1.0).sample(size or 255, generator)
    def field(self, model):
        return lambda x: x * (1 - x) * model(x)
    def loss(self, model, batch):
        residual = derivative(self.field(model), batch, order=2) + torch.pi**2 * torch.sin(torch.pi * batch)
        return {"pde": residual.square().mean()}
    def evaluate(self, model):
        x = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None]
        with torch.no_grad():
            error = self.field(model)(x) - torch.sin(torch.pi * x)
        return {"relative_l2": float(error.norm() / torch.sin(torch.pi * x).norm())}
    def model(self):
        return MLP(1, 1, (16, 16)).double()
"""


def test_a_differential_equation(tmp_path: Path) -> None:
    file = tmp_path / "my_pde.py"
    file.write_text(PROBLEM)
    one, two, said = both(["solve", f"{file}:Poisson", "--switch", "60", "--evaluations", "60"], tmp_path)
    alone = json.loads((one / "summary.json").read_text(encoding="utf-8"))
    assert said["relative_l2"] < 1e-2 and alone["relative_l2"] < 1e-2
    assert said["switch"][0]["loss"] == pytest.approx(alone["switch"][0]["loss"], rel=1e-9)
    assert said["evaluations"] == alone["evaluations"]
    steps = [
        [r["step"] for r in read_metrics(folder / "stages/solve/metrics.jsonl") if r["phase"] == "Adam" and "lr" in r]
        for folder in (one, two)
    ]
    assert steps[0] == steps[1] == list(range(60))
    assert (two / "model.safetensors").stat().st_size == (one / "model.safetensors").stat().st_size
