"""`sciml cryoem check | fsc | simulate` as typed, and every kind of bad input: exit 2, one message, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.star import read_star
from sciml_cryoem.maps.fsc import corrected_fsc
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.simulation.simulate import Simulation, write_particles

from sciml.command_line.main import main

Fault = Callable[[Path], object]


def _replace(folder: Path, old: str, new: str) -> None:
    path = folder / "particles.star"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _bytes(folder: Path, place: int, content: bytes) -> None:
    path = folder / "particles.mrcs"
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(bytes(data))


def _cut(folder: Path) -> None:
    path = folder / "particles.mrcs"
    path.write_bytes(path.read_bytes()[:-1000])


def _drop_last_value(folder: Path) -> None:
    path = folder / "particles.star"
    lines = path.read_text(encoding="utf-8").split("\n")
    row = next(place for place, line in enumerate(lines) if line.startswith("000004@"))
    lines[row] = lines[row].rsplit(None, 1)[0]
    path.write_text("\n".join(lines))


def _nan(folder: Path) -> None:
    _bytes(folder, 1024 + 4 * (16 * 16 * 2 + 16 * 3 + 5), np.float32(np.nan).tobytes())


BAD_INPUT: dict[str, tuple[Fault, str, list[str]]] = {
    "missing STAR file": (lambda f: (f / "particles.star").unlink(), "particles.star", ["no such file"]),
    "missing stack": (lambda f: (f / "particles.mrcs").unlink(), "particles.star", ["line 35", "does not exist"]),
    "truncated stack": (_cut, "particles.mrcs", ["header fields nx, ny, nz", "truncated"]),
    "empty stack": (lambda f: (f / "particles.mrcs").write_bytes(b""), "particles.mrcs", ["header", "0 bytes"]),
    "wrong mode": (
        lambda f: _bytes(f, 12, b"\3\0\0\0"),
        "particles.mrcs",
        ["header field mode", "mode 3 cannot be read"],
    ),
    "huge header": (lambda f: _bytes(f, 0, b"\xff\xff\xff\x7f" * 3), "particles.mrcs", ["nx 2147483647", "truncated"]),
    "NaN pixel": (_nan, "particles.mrcs", ["image 3", "line 37", "pixel row 3, column 5", "nan"]),
    "missing column": (
        lambda f: _replace(f, "_rlnAngleRot", "_rlnX"),
        "particles.star",
        ["data_particles", "rlnAngleRot"],
    ),
    "missing optics": (
        lambda f: _replace(f, "data_optics", "data_x"),
        "particles.star",
        ["data_optics", "no pixel size"],
    ),
    "index past the end": (lambda f: _replace(f, "000003@", "000033@"), "particles.star", ["line 37", "past the end"]),
    "index zero": (lambda f: _replace(f, "000003@", "000000@"), "particles.star", ["line 37", "counted from 1"]),
    "short STAR row": (
        _drop_last_value,
        "particles.star",
        ["line 38", "row 4 of data_particles", "11 values", "12 columns"],
    ),
    "box mismatch": (lambda f: _replace(f, "000000 16 2", "000000 20 2"), "particles.star", ["rlnImageSize is 20"]),
    "pixel-size mismatch": (
        lambda f: _replace(f, "4.000000 16", "4.100000 16"),
        "particles.mrcs",
        ["header field cella"],
    ),
    "HTML": (lambda f: (f / "particles.star").write_text("<html>"), "particles.star", ["line 1", "HTML"]),
    "empty STAR": (lambda f: (f / "particles.star").write_text(""), "particles.star", ["empty"]),
}


@pytest.fixture
def particle_files(tmp_path: Path) -> Path:
    """12 particles of 16 x 16 in a folder that a test may damage."""
    line = np.arange(16) - 8
    density = np.exp(-(line[:, None, None] ** 2 + (line[None, :, None] - 2) ** 2 + line[None, None] ** 2) / 6.0)
    folder = tmp_path / "set"
    folder.mkdir()
    simulation = Simulation(number=12, box=16, pixel_size=4.0, snr=0.5, shift=4.0)
    write_particles(simulation, density.astype(np.float32), folder)
    return folder


@pytest.mark.parametrize("command", ["check", "reconstruct"])
@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case: str, command: str, particle_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, file, parts = BAD_INPUT[case]
    damage(particle_files)
    out = particle_files.parent / "out"
    code = main(["cryoem", command, str(particle_files / "particles.star"), "--out", str(out)])
    errors = capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in errors
    message = next(line for line in errors.splitlines() if parts[0] in line)
    assert str(particle_files / file) in message
    assert all(part in message for part in parts)
    if command == "reconstruct":
        assert len([line for line in errors.splitlines() if line.startswith("sciml: ")]) == 1
        assert not list(out.rglob("*.mrc")) and not list(out.rglob("*.star"))


def test_bad_input_in_a_process_of_its_own(particle_files: Path) -> None:
    """Once as a shell sees it: the code, the streams, no traceback."""
    _cut(particle_files)
    command = [
        sys.executable,
        "-m",
        "sciml",
        "cryoem",
        "check",
        str(particle_files / "particles.star"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["particles"] == 12
    (fault,) = result["faults"]
    assert {"file", "place", "fault", "remedy"} <= fault.keys()
    assert fault["file"].endswith("particles.mrcs")


def test_check_of_a_good_set(particle_files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["cryoem", "check", str(particle_files / "particles.star"), "--json", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    streams = capsys.readouterr()
    assert json.loads(streams.out.splitlines()[-1]) == {"particles": 12, "faults": [], "findings": []}
    assert "12 particles, 0 fault(s)" in streams.err
    assert json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))["faults"] == []


def test_check_may_pass_what_ab_initio_does_not_need(particle_files: Path) -> None:
    _replace(particle_files, "_rlnAngleRot", "_rlnOther")
    words = ["cryoem", "check", str(particle_files / "particles.star")]
    assert main(words) == 2
    assert main([*words, "--no-poses"]) == 0


def _map(path: Path, seed: int, noise: float, box: int = 24, pixel: float = 3.0) -> Path:
    line = np.arange(box) - box // 2
    ball = np.exp(-(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2) / 8.0)
    volume = ball + noise * np.random.default_rng(seed).standard_normal(ball.shape)
    return write_map(path, volume.astype(np.float32), pixel)


def test_fsc(tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: Path) -> None:
    first, second = _map(tmp_path / "a.mrc", 0, 0.02), _map(tmp_path / "b.mrc", 1, 0.02)
    peer = subprocess.run(
        [sys.executable, str(shared / "peers/fsc.py"), first, second, "3.0"], check=True, capture_output=True, text=True
    )
    theirs = json.loads(peer.stdout)
    write_map(tmp_path / "mask.mrc", np.ones((24, 24, 24), np.float32), 3.0)
    results = {}
    for mask in ("none", "sphere", str(tmp_path / "mask.mrc")):
        out = tmp_path / Path(mask).stem
        assert main(["cryoem", "fsc", str(first), str(second), "--mask", mask, "--json", "--out", str(out)]) == 0
        results[Path(mask).stem] = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (out / "fsc.png").stat().st_size > 5000
        assert (out / "fsc.xml").exists()
    for ours, name in (("none", "unmasked"), ("sphere", "masked"), ("mask", "unmasked")):
        np.testing.assert_allclose(results[ours]["curve"], theirs[name]["curve"], atol=1e-4)
        assert results[ours]["resolution_05"] == pytest.approx(theirs[name]["r05"], abs=0.01)
        assert results[ours]["resolution_0143"] == pytest.approx(theirs[name]["r0143"], abs=0.01)
    assert len(read_star(tmp_path / "sphere/fsc.star")["fsc"]) == 13
    volumes = [read_map(path).array for path in (first, second)]
    curves = corrected_fsc(volumes[0], volumes[1], soft_sphere(24), 3.0)
    np.testing.assert_allclose(results["sphere"]["corrected"]["curve"], curves.corrected)


def test_fsc_of_maps_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _map(tmp_path / "a.mrc", 0, 0.02)
    unknown = _map(tmp_path / "unknown.mrc", 0, 0.02, pixel=1.0)
    with mrcfile.open(unknown, mode="r+") as file:  # as RELION writes it when it does not know the pixel
        header: Any = file.header
        header["label"] = b""
    for words, message in (
        ([first, _map(tmp_path / "b.mrc", 0, 0.02, box=20)], "24 x 24 x 24 and 20 x 20 x 20 voxels"),
        ([first, _map(tmp_path / "c.mrc", 0, 0.02, pixel=3.5)], "pixel sizes 3.0000 and 3.5000"),
        ([unknown, unknown], "pixel size is not set in either map; give it with --pixel"),
        ([first, tmp_path / "none.mrc"], "none.mrc: no such file"),
        ([first, first, "--mask", tmp_path / "b.mrc"], "a mask of 20 x 20 x 20 voxels"),
        ([first, first, "--mask", first], "a mask has values from 0 to 1"),
        ([first, first, "--pixel", "-1"], "--pixel is -1"),
    ):
        assert main(["cryoem", "fsc", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    assert main(["cryoem", "fsc", str(unknown), str(unknown), "--pixel", "2.5"]) == 0


def test_simulate_from_the_bundled_model(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["cryoem", "simulate", str(root / "data/model.cif"), "--number", "40", "--box", "48", "--pixel", "4.5"]
    assert main([*words, "--snr", "0.2", "--seed", "3", "--out", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["particles"], summary["box"], summary["pixel_size"]) == (40, 48, 4.5)
    with mrcfile.open(out / "particles.mrcs") as file:
        assert file.data is not None
        assert file.data.shape == (40, 48, 48)
    assert (out / "report.html").exists()
    assert main(["cryoem", "check", str(out / "particles.star")]) == 0
    # From the map it wrote, the same truth: a map is taken as it is, up to its scale.
    again = ["cryoem", "simulate", str(out / "truth.mrc"), *words[3:], "--snr", "0.2", "--seed", "3"]
    assert main([*again, "--out", str(tmp_path / "again")]) == 0
    first, second = read_map(out / "truth.mrc").array, read_map(tmp_path / "again/truth.mrc").array
    np.testing.assert_allclose(second, first, rtol=1e-4, atol=1e-5)
    assert main([*words, "--snr", "0.3", "--out", str(out)]) == 2
    assert "different run" in capsys.readouterr().err


def test_simulate_refuses_before_it_writes(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(root / "data/model.cif")
    for words, message in (
        ([model, "--box", "16", "--pixel", "4"], "enlarge --box or --pixel"),
        ([model, "--number", "0"], "number is 0"),
        ([str(tmp_path / "none.mrc")], "no such file"),
        ([model, "--snr", "0"], "SNR is 0"),
    ):
        assert main(["cryoem", "simulate", *words, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_unknown_word_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cryoem", "chek"]) == 2
    assert "check" in capsys.readouterr().err
    for word in ("check", "fsc", "simulate"):
        assert main(["cryoem", word, "--help"]) == 0
        assert "usage: sciml cryoem" in capsys.readouterr().out
    assert main(["cryoem", "check"]) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_io_error(particle_files: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["cryoem", "check", str(particle_files / "particles.star"), "--out", str(locked / "x")]) == 74


def test_no_room_is_an_io_error(particle_files: Path) -> None:
    if not Path("/dev/full").exists() or shutil.which("sh") is None:
        pytest.skip("no /dev/full here")
    words = [
        sys.executable,
        "-m",
        "sciml",
        "cryoem",
        "check",
        str(particle_files / "particles.star"),
        "--json",
    ]
    with open("/dev/full", "w", encoding="utf-8") as full:
        assert subprocess.run(words, stdout=full, stderr=subprocess.DEVNULL, check=False).returncode == 74
