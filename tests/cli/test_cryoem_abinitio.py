"""`sciml cryoem abinitio` as typed: what it finds without poses, what it writes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sciml_cryoem.commands.abinitio import flipped
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.files.table import Table
from sciml_cryoem.imaging.orientations import random_turns
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.initial_model import start_map as engine
from sciml_cryoem.maps.alignment import align
from sciml_cryoem.poses.pose_error import pose_error

from sciml.command_line.main import main
from sciml.solution import Result, Solution

KEYS = {"result", "particles", "box", "pixel_size", "resolution_0143", "seconds", "peak_rss_mb", "switch", "outputs"}


def _run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    assert main(["cryoem", "abinitio", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def bundled(root: Path) -> Path:
    return root / "data" / "particles"


@pytest.fixture(scope="module")
def done(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run on the bundled set, for all tests that look at what it left."""
    out = tmp_path_factory.mktemp("abinitio") / "out"
    assert main(["cryoem", "abinitio", str(bundled / "particles.star"), "--out", str(out), "--starts", "2"]) == 0
    return json.loads((out / "summary.json").read_text(encoding="utf-8")), out


@pytest.mark.slow
def test_it_finds_the_molecule_and_the_poses(done: tuple[dict[str, Any], Path], bundled: Path) -> None:
    summary, _ = done
    assert summary.keys() >= KEYS
    assert summary["result"] == "CONVERGED"
    assert summary["resolution_0143"] is None
    assert summary["resolution"] < 20.0
    found = read_map(summary["outputs"]["map"])
    assert found.pixel_size == pytest.approx(3.5)
    aligned = align(found.array, read_map(bundled / "truth.mrc").array, 3.5, 20.0)
    assert aligned.correlation > 0.9
    truth = read_particles(bundled / "particles.star")
    poses = read_particles(summary["outputs"]["data"], bundled)
    error = pose_error(truth.rotations, truth.origins, poses.rotations, poses.origins)
    assert np.median(error.angles_deg) < 10.0
    assert np.median(error.shifts) < 3.5
    assert error.flipped == aligned.flipped  # the poses know the hand of the map


@pytest.mark.slow
def test_every_input_column_is_kept(done: tuple[dict[str, Any], Path], bundled: Path) -> None:
    before, after = read_star(bundled / "particles.star"), read_star(done[0]["outputs"]["data"])
    changed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    for block in ("optics", "particles"):
        for label, values in before[block].columns.items():
            assert label in after[block]
            if label not in changed:
                assert [value.strip() for value in after[block].columns[label]] == list(values)
    assert set(after["particles"].integers("rlnClassNumber")) == {1}
    assert np.isfinite(after["particles"].numbers("rlnLogLikeliContribution")).all()


@pytest.mark.slow
def test_the_report_says_what_was_found(done: tuple[dict[str, Any], Path]) -> None:
    summary, out = done
    race = summary["race"]
    assert [row["round"] for row in race] == [1, 1, 2] or [row["round"] for row in race] == [1, 1]
    first = [row for row in race if row["round"] == 1]
    assert sum(row["kept"] for row in first) == 1
    best = max(first, key=lambda row: row["log_likelihood"])
    assert best["kept"]
    assert [record["phase"] for record in summary["switch"]] == ["SGD", "LBFGS"]
    assert "scored radius" in summary["switch"][0]["reason"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in ("mirror image", "--flip-hand", "log likelihood", "scored radius", "Orientations:"):
        assert words in page
    figures = {path.name for path in (out / "figures").glob("*.png")}
    assert figures >= {"slices1.png", "emergence.png", "views.png"}
    moments = json.loads((out / "stages" / "abinitio" / "emerging" / "moments.json").read_text(encoding="utf-8"))
    assert "the end" in moments and "hand-over to all images" in moments
    resolutions = [moment["resolution"] for moment in moments.values()]
    assert resolutions == sorted(resolutions, reverse=True)


def _start_map(box: int) -> engine.StartMap:
    draw = np.random.default_rng(3)
    axis = np.arange(box) - box // 2
    volume = np.zeros((box, box, box), np.float32)
    for center in draw.uniform(-box / 5, box / 5, (5, 3)):
        square = sum(
            np.square(a - c) for a, c in zip(np.meshgrid(axis, axis, axis, indexing="ij"), center, strict=True)
        )
        volume += np.exp(-square / 8.0).astype(np.float32)
    solution = Solution(torch.nn.Linear(1, 1), Result.CONVERGED, 0.0, 0.0, 0.0, [], [], {})
    nothing = np.zeros(4)
    rotations = random_turns(4, draw)
    return engine.StartMap(volume[None], rotations, np.zeros((4, 2)), np.zeros(4, int), nothing, 20.0, [], solution)


@pytest.mark.parametrize("box", [32, 33])
def test_the_flipped_map_has_the_same_projections(box: int) -> None:
    found = _start_map(box)
    other = flipped(found)
    assert not np.allclose(other.maps, found.maps, atol=0.1)
    images = [Projector(box).forward(start.maps[0], start.rotations) for start in (found, other)]
    assert np.allclose(np.asarray(images[0]), np.asarray(images[1]), atol=2e-3 * float(np.abs(images[0]).max()))
    back = flipped(other)
    assert np.array_equal(back.maps, found.maps)
    assert np.allclose(back.rotations, found.rotations)


def test_the_plan_is_printed_and_nothing_written(
    bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _run(capsys, bundled / "particles.star", "--out", tmp_path / "out", "--dry-run")
    assert plan["plan"] == "abinitio"
    assert plan["memory_mb"] == pytest.approx(sum(part["mb"] for part in plan["parts"]))
    assert not (tmp_path / "out").exists()
    assert main(["cryoem", "abinitio", str(bundled / "particles.star"), "--out", str(tmp_path), "--dry-run"]) == 0
    assert "peak memory" in capsys.readouterr().out


def _edited(folder: Path, source: Path, drop: tuple[str, ...] = (), rows: int | None = None) -> Path:
    """The bundled set with columns left out, or only its first rows."""
    tables = read_star(source / "particles.star")
    particles: Table = tables["particles"].without(drop)
    if rows is not None:
        particles = particles.select(np.arange(rows))
    (folder / "particles.mrcs").symlink_to(source / "particles.mrcs")
    return write_star(folder / "edited.star", [tables["optics"], particles])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--diameter", "500"], "--diameter 500"),
        (["--diameter", "-1"], "--diameter -1"),
        (["--symmetry", "X7"], "point group 'X7'"),
        (["--symmetry", "I"], "which setting"),
        (["--starts", "0"], "--starts 0"),
        (["--classes", "99"], "--classes 99"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    words: list[str], message: str, bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["cryoem", "abinitio", str(bundled / "particles.star"), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [({"drop": ("rlnDefocusU",)}, "rlnDefocusU"), ({"rows": 40}, "40 particles")],
)
def test_sets_that_cannot_be_used_are_refused(
    edit: dict[str, Any], message: str, bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = _edited(tmp_path, bundled, **edit)
    assert main(["cryoem", "abinitio", str(star), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bad_pixel_leaves_nothing_behind(bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixels are looked at only when the run has begun; its folder goes again."""
    star = _edited(tmp_path, bundled, rows=60)
    (tmp_path / "particles.mrcs").unlink()
    data = bytearray((bundled / "particles.mrcs").read_bytes())
    place = 1024 + 2 * (7 * 64 * 64 + 100)
    data[place : place + 2] = np.float16(np.nan).tobytes()
    (tmp_path / "particles.mrcs").write_bytes(data)
    assert main(["cryoem", "abinitio", str(star), "--out", str(tmp_path / "out")]) == 2
    assert "image 8" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_in_the_race_ends_it(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os
    import signal

    calls = []
    original = engine.AbInitio.__mro__[1].gradient  # that of Marginal, which the race uses

    def interrupting(self: Any, model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, model, batch)

    monkeypatch.setattr(engine.AbInitio.__mro__[1], "gradient", interrupting)
    out = tmp_path / "out"
    assert main(["cryoem", "abinitio", str(bundled / "particles.star"), "--out", str(out)]) == 130
    assert f"sciml resume {out}" in capsys.readouterr().err
    assert len(calls) < 60  # not the whole race
    assert (out / "experiment.json").exists()
    assert not (out / "summary.json").exists()


@pytest.mark.slow
def test_an_independent_simulation(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "data" / "p64"
    summary = _run(capsys, folder / "p64.star", "--out", tmp_path / "out")
    assert summary["result"] == Result.CONVERGED.name
    found = read_map(summary["outputs"]["map"]).array
    assert align(found, read_map(folder / "truth64.mrc").array, 5.0, 20.0).correlation >= 0.9


@pytest.mark.slow
def test_classes_share_out_the_images(bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [bundled / "particles.star", "--out", tmp_path / "out", "--starts", "1", "--classes", "2", "--flip-hand"]
    summary = _run(capsys, *words)
    assert summary["hand"] == "flipped"
    rows = summary["classes"]
    assert [row["map"] for row in rows] == ["run_class001.mrc", "run_class002.mrc"]
    assert rows[0]["particles"] >= rows[1]["particles"]
    numbers = read_star(summary["outputs"]["data"])["particles"].integers("rlnClassNumber")
    assert [int((numbers == row["class"]).sum()) for row in rows] == [row["particles"] for row in rows]
    found = read_map(summary["outputs"]["map"]).array
    assert align(found, read_map(bundled / "truth.mrc").array, 3.5, 25.0).correlation > 0.7
