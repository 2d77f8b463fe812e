"""Agreement with RELION 3.1 (Debian package `relion`), voxel by voxel, and our outputs in its hands."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.star import read_star
from sciml_cryoem.maps.masks import low_pass, soft_sphere

from sciml.command_line.main import main

pytestmark = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")

PIXEL = 5.0


def _relion(*words: str, folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def maps(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Our run folder, and RELION's map of the same particles."""
    folder = tmp_path_factory.mktemp("relion")
    for name in ("p64.star", "p64.mrcs"):
        (folder / name).symlink_to(shared / "data" / "p64" / name)
    assert main(["cryoem", "reconstruct", str(folder / "p64.star"), "--out", str(folder / "ours")]) == 0
    _relion("relion_reconstruct", "--i", "p64.star", "--o", "theirs.mrc", "--ctf", "--angpix", "5", folder=folder)
    return folder / "ours", read_map(folder / "theirs.mrc").array


def _inside(volume: np.ndarray) -> np.ndarray:
    mask = soft_sphere(len(volume))
    return (volume * mask)[mask > 0]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(_inside(first), _inside(second))[0, 1])


def test_unfiltered_maps_are_relions_voxel_by_voxel(maps: tuple[Path, np.ndarray]) -> None:
    """Mean of our unfiltered half maps against RELION's unfiltered map: same centre, axes, hand, sign and scale."""
    folder, theirs = maps
    halves = [read_map(folder / f"run_half{half}_class001_unfil.mrc").array for half in (1, 2)]
    ours = 0.5 * (halves[0] + halves[1])
    assert _correlation(ours, theirs) > 0.97
    scale = np.vdot(_inside(ours), _inside(theirs)) / np.vdot(_inside(ours), _inside(ours))
    assert scale == pytest.approx(1.0, abs=0.05)


def test_final_map_has_relions_place_hand_and_sign(maps: tuple[Path, np.ndarray]) -> None:
    """Our map is filtered by its signal-to-noise ratio, RELION's is not; to 20 Angstrom both hold little but signal."""
    folder, theirs = maps
    ours = low_pass(read_map(folder / "run_class001.mrc").array, PIXEL, 20.0)
    theirs = low_pass(theirs, PIXEL, 20.0)
    best = _correlation(ours, theirs)
    assert best > 0.99
    shifted = (np.roll(ours, step, axis) for axis in range(3) for step in (-1, 1))
    flipped = (np.roll(np.flip(ours, axis), 1, axis) for axis in range(3))
    turned = (np.transpose(ours, order) for order in ((0, 2, 1), (2, 1, 0), (1, 0, 2)))
    assert max(_correlation(other, theirs) for other in (*shifted, *flipped, *turned, -ours)) < 0.97


def test_postprocess_takes_our_half_maps(maps: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, _ = maps
    half, mask = folder / "run_half1_class001_unfil.mrc", folder / "mask.mrc"
    words = ("relion_postprocess", "--i", str(half), "--mask", str(mask), "--angpix", "5", "--o", "post/run")
    (tmp_path / "post").mkdir()  # RELION makes it too late for its own log
    said = _relion(*words, folder=tmp_path)
    (resolution,) = (float(line.split()[-1]) for line in said.splitlines() if "FINAL RESOLUTION" in line)
    ours = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["resolution_0143"]
    assert resolution == pytest.approx(ours, rel=0.1)
    assert read_map(tmp_path / "post" / "run.mrc").pixel_size == pytest.approx(5.0)


def test_relion_reads_our_tables(maps: tuple[Path, np.ndarray], tmp_path: Path, shared: Path) -> None:
    """RELION reconstructs from our run_data.star the map that it made from the file it came from."""
    folder, theirs = maps
    (tmp_path / "p64.mrcs").symlink_to(shared / "data" / "p64" / "p64.mrcs")
    shutil.copy(folder / "run_data.star", tmp_path)
    words = ("relion_reconstruct", "--i", "run_data.star", "--o", "again.mrc", "--ctf", "--angpix", "5")
    _relion(*words, folder=tmp_path)
    assert np.allclose(read_map(tmp_path / "again.mrc").array, theirs, atol=1e-5)
    printed = _relion("relion_star_printtable", str(folder / "run_model.star"), "data_model_class_1", "rlnResolution",
                      "rlnGoldStandardFsc", folder=tmp_path)  # fmt: skip
    rows = [line.split() for line in printed.splitlines() if line.split()]
    blocks = read_star(folder / "run_model.star")
    assert len(rows) == len(blocks["model_class_1"]) == 33
    assert float(rows[10][1]) == pytest.approx(
        float(blocks["model_class_1"].numbers("rlnGoldStandardFsc")[10]), abs=1e-5
    )
