"""`sciml cryoem refine` as typed: halves, poses and trust from a reference, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.imaging import fourier
from sciml_cryoem.maps.alignment import align
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import low_pass, soft_sphere

from sciml.command_line.main import main

KEYS = {"result", "particles", "box", "pixel_size", "resolution_0143", "seconds", "peak_rss_mb", "switch", "outputs"}
FILES = {
    "run_class001.mrc",
    "run_half1_class001_unfil.mrc",
    "run_half2_class001_unfil.mrc",
    "run_std.mrc",
    "run_locres.mrc",
    "mask.mrc",
    "run_data.star",
    "run_model.star",
    "fsc.xml",
    "summary.json",
    "report.html",
}
FIGURES = {
    "fsc",
    "slices",
    "uncertainty",
    "local_resolution",
    "iterations",
    "views",
    "conical_fsc",
    "junk",
    "pose_errors",
}


def _run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    assert main(["cryoem", "refine", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def _fsc_05(first: np.ndarray, second: np.ndarray, pixel_size: float) -> float:
    mask = soft_sphere(len(first))
    return resolution(fsc(first * mask, second * mask), len(first), pixel_size, 0.5)


@pytest.fixture(scope="module")
def bundled(root: Path) -> Path:
    return root / "data" / "particles"


@pytest.fixture(scope="module")
def reference(bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth at 25 Angstrom, on a scale of its own."""
    truth = read_map(bundled / "truth.mrc").array
    path = tmp_path_factory.mktemp("reference") / "reference.mrc"
    return write_map(path, 37.0 * low_pass(truth, 3.5, 25.0), 3.5)


@pytest.fixture(scope="module")
def done(bundled: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run on the bundled set, for all tests that look at what it left."""
    out = tmp_path_factory.mktemp("refine") / "out"
    words = [str(bundled / "particles.star"), "--reference", str(reference), "--out", str(out)]
    assert main(["cryoem", "refine", *words]) == 0
    return json.loads((out / "summary.json").read_text(encoding="utf-8")), out


@pytest.mark.slow
def test_maps_and_poses_are_those_of_the_simulation(done: tuple[dict[str, Any], Path], bundled: Path) -> None:
    summary, _ = done
    assert summary.keys() >= KEYS
    assert summary["result"] == "CONVERGED"
    truth = read_map(bundled / "truth.mrc").array
    found = read_map(summary["outputs"]["map"])
    assert found.pixel_size == pytest.approx(3.5)
    assert _fsc_05(found.array, truth, 3.5) < 9.5  # 8.3 with known poses; no alignment: the reference set the frame
    assert 7.0 < summary["resolution_0143"] < 9.5
    error = summary["pose_error"]
    assert error["median_deg"] < 2.0
    assert error["median_shift"] < 0.5 * 3.5
    assert not error["flipped"]
    assert error["other_hand_median_deg"] > 60.0
    assert summary["junk"] <= 6


@pytest.mark.slow
def test_outputs(done: tuple[dict[str, Any], Path], bundled: Path) -> None:
    summary, out = done
    assert {path.name for path in out.iterdir()} >= FILES
    assert {path.stem for path in (out / "figures").glob("*.png")} >= FIGURES
    for path in summary["outputs"].values():
        assert Path(path).is_file()
    before, after = read_star(bundled / "particles.star"), read_star(summary["outputs"]["data"])
    changed = {"rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"}
    for block in ("optics", "particles"):
        for label, values in before[block].columns.items():
            assert label in after[block]
            if label not in changed:
                assert [value.strip() for value in after[block].columns[label]] == list(values)
    assert before["particles"].text("rlnAngleRot") != after["particles"].text("rlnAngleRot")
    with mrcfile.open(summary["outputs"]["locres"]) as file:
        local: Any = file.data
        assert 6.9 < local.min() < local.max() < 100.0
    quantiles = summary["local_resolution"]
    assert quantiles["p5"] <= quantiles["median"] <= quantiles["p95"]
    assert abs(quantiles["median"] - summary["resolution_0143"]) < 5.0


@pytest.mark.slow
def test_what_a_reader_is_told(done: tuple[dict[str, Any], Path]) -> None:
    summary, out = done
    assert summary["orientation"]["kind"] == "even"
    assert 0.5 < summary["cfar"] <= 1.0
    rows = summary["iterations"]
    assert rows[0]["searched"] and not rows[-1]["searched"]
    assert rows[-1]["resolution_0143"] < rows[0]["resolution_0143"]
    assert [record["phase"] for record in summary["switch"]] == ["SGD"]  # too few images for batches
    assert "a pass without gain" in summary["switch"][0]["reason"]
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "fit the map in no pose found",
        "Orientations:",
        "came to rest",
        "hand of the map",
        "two pose sets alone",
    ):
        assert words in page


@pytest.mark.slow
def test_the_maps_follow_from_the_poses_written(
    done: tuple[dict[str, Any], Path], bundled: Path, tmp_path: Path
) -> None:
    star = done[0]["outputs"]["data"]
    words = [star, "--datadir", str(bundled), "--out", str(tmp_path / "out")]
    assert main(["cryoem", "reconstruct", *words]) == 0
    again = read_map(tmp_path / "out" / "run_class001.mrc").array
    first = read_map(done[0]["outputs"]["map"]).array
    assert np.corrcoef(first.ravel(), again.ravel())[0, 1] > 0.98


def _reference_on_another_grid(bundled: Path, folder: Path) -> Path:
    """The truth in a box of 80 pixels of 2.9 Angstrom."""
    truth = low_pass(read_map(bundled / "truth.mrc").array, 3.5, 25.0)
    padded = fourier.pad(truth, 72, 3)  # 252 Angstrom: 90 pixels of 2.8
    volume = fourier.crop(fourier.resample(padded, 90), 80, 3)
    return write_map(folder / "other.mrc", volume, 2.8)


def test_a_reference_of_another_grid_is_resampled(bundled: Path, tmp_path: Path) -> None:
    from sciml_cryoem.files.reference_map import read_reference

    truth = low_pass(read_map(bundled / "truth.mrc").array, 3.5, 25.0)
    found, note = read_reference(_reference_on_another_grid(bundled, tmp_path), 64, 3.5)
    assert note is not None and "80 x 80 x 80 voxels of 2.8 Angstrom" in note
    mask = soft_sphere(64)
    scale = (found * truth * mask).sum() / (truth * truth * mask).sum()
    assert np.linalg.norm((found / scale - truth) * mask) < 0.02 * np.linalg.norm(truth * mask)
    same, nothing = read_reference(bundled / "truth.mrc", 64, 3.5)
    assert nothing is None
    assert np.array_equal(same, read_map(bundled / "truth.mrc").array)


def test_the_plan_is_printed_and_nothing_written(
    bundled: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star, out = bundled / "particles.star", tmp_path / "out"
    plan = _run(capsys, star, "--reference", reference, "--out", out, "--dry-run")
    assert plan["plan"] == "refine"
    assert plan["read_mb"] == pytest.approx(plan["passes"] * 600 * 64 * 64 * 2 / 2**20)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:Data array contains NaN values:RuntimeWarning")  # mrcfile's, on writing the input
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("flat", "is a cube"),
        ("nan", "not finite"),
        ("constant", "nothing in this map"),
        ("unknown", "pixel size is not set"),
    ],
)
def test_references_that_cannot_be_used_are_refused(
    name: str, message: str, bundled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volume = np.random.default_rng(0).standard_normal((48, 48, 48)).astype(np.float32)
    if name == "flat":
        volume = volume[:40]
    elif name == "nan":
        volume[3, 4, 5] = np.nan
    elif name == "constant":
        volume[:] = 2.0
    path = tmp_path / "reference.mrc"
    if name != "missing":
        write_map(path, volume, 0.0 if name == "unknown" else 3.5)
    words = [str(bundled / "particles.star"), "--reference", str(path), "--out", str(tmp_path / "out")]
    assert main(["cryoem", "refine", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--diameter", "500"], "--diameter 500"),
        (["--symmetry", "X7"], "point group 'X7'"),
        (["--start-resolution", "5"], "--start-resolution 5"),
        (["--start-resolution", "200"], "--start-resolution 200"),
        (["--iterations", "0"], "--iterations 0"),
        (["--mask", "nowhere.mrc"], "nowhere.mrc"),
        (["--defocus", "--no-ctf"], "--defocus"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    words: list[str],
    message: str,
    bundled: Path,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(bundled / "particles.star"), "--reference", str(reference), "--out", str(tmp_path / "out"), *words]
    assert main(["cryoem", "refine", *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("drop", "rows", "message"), [(("rlnDefocusU",), 600, "rlnDefocusU"), ((), 40, "40 particles")]
)
def test_sets_that_cannot_be_used_are_refused(
    drop: tuple[str, ...],
    rows: int,
    message: str,
    bundled: Path,
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = read_star(bundled / "particles.star")
    table = tables["particles"].without(drop).select(np.arange(rows))
    (tmp_path / "particles.mrcs").symlink_to(bundled / "particles.mrcs")
    star = write_star(tmp_path / "edited.star", [tables["optics"], table])
    assert main(["cryoem", "refine", str(star), "--reference", str(reference), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_defocus_of_particles(
    bundled: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Defoci of the file off by 300 Angstrom (rms): what is written lies nearer to the right ones."""
    tables = read_star(bundled / "particles.star")
    table, off = tables["particles"], 300.0 * np.random.default_rng(1).normal(size=600)
    right = {label: table.numbers(label) for label in ("rlnDefocusU", "rlnDefocusV")}
    for label, values in right.items():
        table = table.with_column(label, [f"{value:.2f}" for value in values + off])
    (tmp_path / "particles.mrcs").symlink_to(bundled / "particles.mrcs")
    star = write_star(tmp_path / "edited.star", [tables["optics"], table])
    summary = _run(capsys, star, "--reference", reference, "--defocus", "--out", tmp_path / "out")
    written = read_star(summary["outputs"]["data"])["particles"]
    for label, values in right.items():
        left = written.numbers(label) - values
        assert np.sqrt(np.mean(np.square(left))) < 0.8 * 300.0
        assert np.corrcoef(left - off, -off)[0, 1] > 0.6
    change = written.numbers("rlnDefocusU") - table.numbers("rlnDefocusU")
    assert summary["defocus"]["rms_change"] == pytest.approx(np.sqrt(np.mean(np.square(change))), rel=0.02)
    assert summary["defocus"]["median_deviation"] < 300.0
    assert any("Defoci differ" in finding["what"] for finding in summary["findings"])


def _replaced_by_noise(bundled: Path, folder: Path, count: int) -> np.ndarray:
    """Write the bundled set with some of its images replaced; which."""
    with mrcfile.open(bundled / "particles.mrcs") as file:
        images = np.array(file.data, np.float32)
    draw = np.random.default_rng(0)
    junk = draw.permutation(len(images))[:count]
    images[junk] = draw.standard_normal((count, *images.shape[1:]))
    with mrcfile.new(folder / "particles.mrcs") as file:
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = 3.5
    (folder / "particles.star").write_text((bundled / "particles.star").read_text(encoding="utf-8"))
    return junk


@pytest.mark.slow
def test_pure_noise_has_no_resolution_beyond_the_shared_reference(
    bundled: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _replaced_by_noise(bundled, tmp_path, 600)
    star, out = tmp_path / "particles.star", tmp_path / "out"
    assert main(["cryoem", "refine", str(star), "--reference", str(reference), "--out", str(out), "--json"]) in (0, 3)
    summary = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    shared = 64 * 3.5 / 10.0
    assert summary["resolution_0143"] >= shared
    words = " ".join(finding["what"] for finding in summary["findings"])
    assert f"nothing but the reference below {shared:.1f} Angstrom" in words
    assert "the images have added no resolution" in words
    assert "say next to nothing" in words


@pytest.mark.slow
def test_junk_is_left_out_and_counted(
    bundled: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fifth of the images replaced by noise."""
    junk = _replaced_by_noise(bundled, tmp_path, 120)
    out = tmp_path / "out"
    summary = _run(capsys, tmp_path / "particles.star", "--reference", reference, "--out", out)
    weights = read_star(summary["outputs"]["data"])["particles"].numbers("rlnMaxValueProbDistribution")
    called = weights < 0.5
    assert summary["junk"] == called.sum()
    assert called[junk].mean() > 0.7
    assert np.delete(called, junk).mean() < 0.05
    assert summary["resolution_0143"] < 10.5
    assert "are left out of the maps" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_nothing_to_the_limit_of_an_independent_simulation(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data" / "p64"
    star = folder / "p64.star"
    assert main(["cryoem", "abinitio", str(star), "--out", str(tmp_path / "start")]) == 0
    capsys.readouterr()
    start = tmp_path / "start" / "run_class001.mrc"
    summary = _run(capsys, star, "--reference", start, "--out", tmp_path / "out")
    assert summary["result"] == "CONVERGED"
    truth = read_map(folder / "truth64.mrc").array
    aligned = align(read_map(summary["outputs"]["map"]).array, truth, 5.0, 20.0)
    assert _fsc_05(aligned.aligned, truth, 5.0) <= 16.6
    error = summary["pose_error"]
    assert error["median_deg"] <= 2.0
    assert error["median_shift"] <= 0.5 * 5.0
    assert error["flipped"] == aligned.flipped
    assert len(read_particles(summary["outputs"]["data"], folder)) == 2000
