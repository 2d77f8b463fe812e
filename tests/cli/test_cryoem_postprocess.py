"""`sciml cryoem postprocess` as typed: outputs under the names others expect, and every kind of bad input."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.star import read_star
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.postprocessing.halves import HALF_MAPS
from sciml_cryoem.simulation.model_density import read_density

from sciml.command_line.main import main

BOX, PIXEL = 72, 2.8
KEYS = {"result", "resolution_0143", "resolution_05", "bfactor", "mask_fraction", "outputs"}


@pytest.fixture(scope="module")
def run_folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half maps of the bundled model with white noise."""
    folder = tmp_path_factory.mktemp("halves")
    truth = read_density(root / "data" / "model.cif", BOX, PIXEL, 100.0)
    truth = truth / truth.std()
    draw = np.random.default_rng(0)
    for name in HALF_MAPS:
        write_map(folder / name, truth + draw.standard_normal(truth.shape).astype(np.float32), PIXEL)
    return folder


def _run(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> dict[str, Any]:
    assert main(["cryoem", "postprocess", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def finished(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run with nothing but defaults."""
    out = tmp_path_factory.mktemp("post") / "with space"
    assert main(["cryoem", "postprocess", str(run_folder), "--out", str(out)]) == 0
    return out


def test_outputs(finished: Path) -> None:
    out, summary = finished, json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    assert summary.keys() >= KEYS
    assert summary["result"] == "CONVERGED"
    assert summary["findings"] == []
    assert 5.6 <= summary["resolution_0143"] < summary["resolution_05"] < 10.0
    assert -400 < summary["bfactor"] < -50
    assert summary["bfactor"] == summary["bfactor_fitted"]
    names = {
        "postprocess.mrc",
        "postprocess_masked.mrc",
        "postprocess.star",
        "postprocess_fsc.xml",
        "fsc.xml",
        "mask.mrc",
    }
    assert {path.name for path in out.iterdir()} >= names | {"report.html", "summary.json", "deposition"}
    assert {path.name for path in (out / "figures").glob("*.png")} == {
        "fsc.png", "guinier.png", "slices.png", "before.png", "surface.png",
    }  # fmt: skip
    assert all(Path(path).exists() for path in summary["outputs"].values())
    maps = {name: read_map(summary["outputs"][name]) for name in ("map", "masked", "mask")}
    np.testing.assert_allclose(maps["masked"].array, maps["map"].array * maps["mask"].array, atol=1e-6)
    assert maps["map"].pixel_size == pytest.approx(PIXEL)
    assert maps["mask"].array.mean() == pytest.approx(summary["mask_fraction"], rel=1e-5)
    assert subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=out / "deposition", check=False).returncode == 0


def test_tables(run_folder: Path, finished: Path) -> None:
    out, summary = finished, json.loads((finished / "summary.json").read_text(encoding="utf-8"))
    blocks = read_star(out / "postprocess.star")
    assert list(blocks) == ["general", "fsc", "guinier"]
    general, guinier = blocks["general"], blocks["guinier"]
    assert general.numbers("rlnFinalResolution")[0] == pytest.approx(summary["final_resolution"], abs=1e-5)
    assert general.numbers("rlnBfactorUsedForSharpening")[0] == pytest.approx(summary["bfactor"], abs=1e-5)
    assert 4 * general.numbers("rlnFittedSlopeGuinierPlot")[0] == pytest.approx(summary["bfactor"], abs=1e-4)
    assert general.text("rlnUnfilteredMapHalf1") == [str(run_folder / HALF_MAPS[0])]
    assert len(blocks["fsc"]) == len(guinier) == BOX // 2 + 1
    square = guinier.numbers("rlnResolutionSquared")
    np.testing.assert_allclose(square, (np.arange(BOX // 2 + 1) / (BOX * PIXEL)) ** 2, rtol=1e-5, atol=1e-9)
    gain = guinier.numbers("rlnLogAmplitudesSharpened") - guinier.numbers("rlnLogAmplitudesWeighted")
    kept = guinier.numbers("rlnLogAmplitudesWeighted") > -99
    np.testing.assert_allclose(gain[kept], -0.25 * summary["bfactor"] * square[kept], atol=1e-4)
    points = ElementTree.parse(out / "fsc.xml").findall("coordinate")
    assert [float(p.findtext("y", "")) for p in points] == pytest.approx(
        list(blocks["fsc"].numbers("rlnFourierShellCorrelationCorrected")), abs=1e-6
    )
    assert (out / "fsc.xml").read_bytes() == (out / "postprocess_fsc.xml").read_bytes()


def test_options(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = write_map(tmp_path / "m.mrc", soft_sphere(BOX, 26.0, 6.0), PIXEL)
    half = run_folder / HALF_MAPS[0]
    words = [half, "--mask", mask, "--bfactor", "-150", "--lowpass", "12", "--mass", "50", "--out", tmp_path / "a"]
    summary = _run(capsys, *words)
    assert (summary["bfactor"], summary["lowpass"]) == (-150.0, 12.0)
    assert summary["contour_volume"] == pytest.approx(50e3 * 1.21, abs=2 * PIXEL**3)
    np.testing.assert_array_equal(read_map(summary["outputs"]["mask"]).array, read_map(mask).array)
    masked = _run(capsys, half, "--bfactor", "masked", "--out", tmp_path / "b")
    assert masked["bfactor"] == masked["bfactor_fitted_masked"] < masked["bfactor_fitted"]
    columns = read_star(tmp_path / "b" / "postprocess.star")["guinier"].columns
    assert "rlnLogAmplitudesSharpened" in columns


def test_the_same_words_give_the_same_bytes_and_other_words_are_refused(
    run_folder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for out in (finished, tmp_path / "again"):
        if out != finished:
            assert main(["cryoem", "postprocess", str(run_folder), "--out", str(out)]) == 0
        files = sorted(path for path in out.rglob("*") if path.suffix in (".mrc", ".star", ".xml", ".png", ".sha256"))
        contents.append({path.relative_to(out): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 15
    assert main(["cryoem", "postprocess", str(run_folder), "--out", str(finished), "--mask", "sphere"]) == 2
    assert "different run" in capsys.readouterr().err
    assert main(["resume", str(finished)]) == 0


def test_without_out_the_results_lie_beside_the_half_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And half maps worse than 10 Angstrom are not sharpened, which is said."""
    draw = np.random.default_rng(0)
    for name in HALF_MAPS:
        noise = 0.05 * draw.standard_normal((32, 32, 32)).astype(np.float32)
        write_map(tmp_path / name, soft_sphere(32, 7.0, 3.0) + noise, 6.0)
    assert main(["cryoem", "postprocess", str(tmp_path), "--json"]) == 0
    streams = capsys.readouterr()
    summary = json.loads(streams.out.splitlines()[-1])
    assert summary["bfactor"] == 0.0
    assert "rlnLogAmplitudesSharpened" not in read_star(tmp_path / "postprocess/postprocess.star")["guinier"].columns
    assert "worse than 10 Å" in streams.err
    assert (tmp_path / "postprocess" / "postprocess.mrc").exists()


def _faults(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Words -> what the message must hold; the files they name are made in the folder."""
    ball = soft_sphere(24, 8.0, 4.0)
    draw = np.random.default_rng(0)
    noisy = [ball + 0.1 * draw.standard_normal(ball.shape).astype(np.float32) for _ in range(2)]
    good = [write_map(folder / name, volume, 4.0) for name, volume in zip(HALF_MAPS, noisy, strict=True)]
    write = lambda name, volume, pixel=4.0: str(write_map(folder / name, volume.astype(np.float32), pixel))
    (folder / "empty").mkdir()
    write("lone_half1_unfil.mrc", noisy[0])
    write("empty/run_it010_half1_class001.mrc", noisy[0])
    write("box_half1.mrc", noisy[0])
    write("box_half2.mrc", noisy[1][2:-2, 2:-2, 2:-2])
    write("long_half1.mrc", noisy[0][4:])
    write("long_half2.mrc", noisy[1][4:])
    write("same_half1.mrc", noisy[0])
    write("same_half2.mrc", noisy[0])
    write("pix_half1.mrc", noisy[0])
    write("pix_half2.mrc", noisy[1], 4.2)
    write("unset_half1.mrc", noisy[0], 1.0)
    write("unset_half2.mrc", noisy[1], 1.0)
    for half in (1, 2):  # 1.0 in maps of other programs is what they write when they do not know
        with mrcfile.open(folder / f"unset_half{half}.mrc", mode="r+") as file:
            header: Any = file.header
            header["label"] = b""
    write("zero_half1.mrc", 0 * ball)
    write("zero_half2.mrc", 0 * ball)
    write("nothing_half1.mrc", noisy[0] - ball)
    write("nothing_half2.mrc", noisy[1] - ball)
    (folder / "cut_half1.mrc").write_bytes(good[0].read_bytes()[:-100])
    write("cut_half2.mrc", noisy[1])
    path = lambda name: str(folder / name)
    return {
        "no folder": ([path("nowhere")], "no such file or folder"),
        "no halves": ([path("empty")], "finish it first"),
        "missing half": ([path("lone_half1_unfil.mrc")], "lone_half2_unfil.mrc: no such file"),
        "no half in the name": ([write("a.mrc", ball)], "--half2"),
        "one file twice": ([str(good[0]), "--half2", str(good[0])], "one file cannot be both"),
        "truncated": ([path("cut_half1.mrc")], "truncated"),
        "different boxes": ([path("box_half1.mrc")], "20 x 20 x 20 voxels"),
        "no cubes": ([path("long_half1.mrc")], "24 x 24 x 20 voxels"),
        "same map": ([path("same_half1.mrc")], "hold the same map"),
        "pixel sizes": ([path("pix_half1.mrc")], "pixel sizes 4 and 4.2"),
        "no pixel size": ([path("unset_half1.mrc")], "give it with --pixel"),
        "pixel size": ([str(good[0]), "--pixel", "-2"], "--pixel is -2"),
        "nothing in the map": ([path("zero_half1.mrc")], "all values are 0"),
        "no molecule": ([path("nothing_half1.mrc")], "give a mask"),
        "no mask": ([str(good[0]), "--mask", path("none.mrc")], "none.mrc: no such file"),
        "mask of another box": ([str(good[0]), "--mask", write("m20.mrc", ball[2:-2, 2:-2, 2:-2])], "20 x 20 x 20"),
        "mask outside": ([str(good[0]), "--mask", write("m3.mrc", 3 * ball)], "from 0 to 1"),
        "negative mask": ([str(good[0]), "--mask", write("mn.mrc", ball - 0.5)], "from 0 to 1"),
        "empty mask": ([str(good[0]), "--mask", write("m0.mrc", 0 * ball)], "is empty"),
        "low-pass": ([str(good[0]), "--lowpass", "5"], "Nyquist"),
        "B-factor": ([str(good[0]), "--bfactor", "-99999"], "negative sharpens"),
        "mass": ([str(good[0]), "--mass", "-1"], "--mass -1"),
    }


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = _faults(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for case, (words, message) in faults.items():
        assert main(["cryoem", "postprocess", *words, "--out", str(tmp_path / "out")]) == 2, case
        errors = capsys.readouterr().err
        assert message in errors, case
        assert len([line for line in errors.splitlines() if line.startswith("sciml: ")]) == 1, case
        assert "Traceback" not in errors
        assert sorted(tmp_path.rglob("*")) == before, case
    file = tmp_path / "file"
    file.write_text("")
    assert main(["cryoem", "postprocess", str(tmp_path), "--out", str(file)]) == 2
    assert "is a file" in capsys.readouterr().err


def test_help_and_no_torch(run_folder: Path, tmp_path: Path) -> None:
    code = "import sys; from sciml.command_line.main import main; "
    code += "code = main(sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    words = [sys.executable, "-c", code, "cryoem", "postprocess", str(run_folder), "--out", str(tmp_path / "out")]
    assert subprocess.run(words, check=False, capture_output=True).returncode == 0
    assert main(["cryoem", "postprocess", "--help"]) == 0
