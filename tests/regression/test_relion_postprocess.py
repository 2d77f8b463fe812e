"""Agreement with `relion_postprocess` of RELION 3.1 on the same half maps and mask: curves, resolution, B-factor, map.

RELION sums over the half spectrum, whose plane x = 0 holds both mates of a pair, and so counts those twice; ours counts
each once. That, and other random phases, is all that should differ.
"""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.star import read_star
from sciml_cryoem.files.table import Table
from sciml_cryoem.postprocessing.halves import HALF_MAPS
from sciml_cryoem.simulation.model_density import read_density

from sciml.command_line.main import main

pytestmark = pytest.mark.skipif(shutil.which("relion_postprocess") is None, reason="RELION is not installed")

CURVES = {
    "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "randomized": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    "corrected": "rlnFourierShellCorrelationCorrected",
}


@dataclass(frozen=True)
class Pair:
    """Our results and RELION's."""

    summary: dict[str, Any]
    ours: dict[str, Table]
    theirs: dict[str, Table]
    maps: tuple[np.ndarray, np.ndarray]
    said: str

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.ours["fsc"].numbers(CURVES[name]), self.theirs["fsc"].numbers(CURVES[name])

    @property
    def randomized_from(self) -> int:
        extent = self.summary["box"] * self.summary["pixel_size"]
        return round(extent / self.summary["randomized_from"])


def _pair(halves: Path, folder: Path, pixel_size: float) -> Pair:
    out, post = folder / "ours", folder / "post"
    assert main(["cryoem", "postprocess", str(halves), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    post.mkdir()  # RELION makes it too late for its own log
    words = ["relion_postprocess", "--i", halves / HALF_MAPS[0], "--mask", out / "mask.mrc", "--o", post / "run"]
    words += ["--angpix", pixel_size, "--auto_bfac", "--autob_lowres", "10"]
    # Without these RELION's line goes on to where the FSC is 0, and its map is not filtered at all.
    words += ["--autob_highres", summary["final_resolution"], "--low_pass", summary["final_resolution"]]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    maps = read_map(out / "postprocess.mrc").array, read_map(post / "run.mrc").array
    return Pair(summary, read_star(out / "postprocess.star"), read_star(post / "run.star"), maps, done.stdout)


@pytest.fixture(scope="module")
def fine(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Half maps of the bundled model that reach about 6 Angstrom."""
    folder = tmp_path_factory.mktemp("fine")
    box, pixel_size = 80, 2.5
    truth = read_density(root / "data" / "model.cif", box, pixel_size, 120.0)
    truth = truth / truth.std()
    draw = np.random.default_rng(0)
    for name in HALF_MAPS:
        write_map(folder / name, truth + draw.standard_normal(truth.shape).astype(np.float32), pixel_size)
    return _pair(folder, folder, pixel_size)


@pytest.fixture(scope="module")
def coarse(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Half maps reconstructed from particles, at 16 Angstrom."""
    folder = tmp_path_factory.mktemp("coarse")
    star = shared / "data" / "p64" / "p64.star"
    assert main(["cryoem", "reconstruct", str(star), "--out", str(folder / "run")]) == 0
    return _pair(folder / "run", folder, 5.0)


@pytest.fixture(params=["fine", "coarse"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


def test_curves(pair: Pair) -> None:
    for name in ("unmasked", "masked"):
        ours, theirs = pair.curve(name)
        assert np.abs(ours - theirs).max() < 0.01, name
    start = pair.randomized_from
    assert pair.theirs["general"].numbers("rlnRandomiseFrom")[0] == pytest.approx(pair.summary["randomized_from"])
    ours, theirs = pair.curve("randomized")
    # Other random numbers: the curves differ as those of two seeds do.
    assert np.abs(ours - theirs)[: start + 1].max() < 0.1
    assert np.abs(ours - theirs).max() < 0.12
    ours, theirs = pair.curve("corrected")
    assert np.abs(ours - theirs)[: start + 2].max() < 0.02
    assert np.abs(ours - theirs).max() < 0.12
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.03


def test_resolution(pair: Pair) -> None:
    """At most one shell apart."""
    (said,) = re.findall(r"FINAL RESOLUTION:\s+([\d.]+)", pair.said)
    extent = pair.summary["box"] * pair.summary["pixel_size"]
    ours, theirs = (round(extent / float(value)) for value in (pair.summary["final_resolution"], said))
    assert abs(ours - theirs) <= 1
    assert float(said) == pytest.approx(pair.theirs["general"].numbers("rlnFinalResolution")[0], abs=1e-3)


def test_bfactor(fine: Pair) -> None:
    theirs = fine.theirs["general"]
    assert fine.summary["bfactor"] < -50
    assert theirs.numbers("rlnBfactorUsedForSharpening")[0] == pytest.approx(fine.summary["bfactor"], rel=0.03)
    ours = fine.ours["general"]
    for label in ("rlnFittedInterceptGuinierPlot", "rlnCorrelationFitGuinierPlot"):
        assert ours.numbers(label)[0] == pytest.approx(theirs.numbers(label)[0], abs=0.05), label


def test_guinier_plot(pair: Pair) -> None:
    ours, theirs = pair.ours["guinier"], pair.theirs["guinier"]
    label = "rlnResolutionSquared"
    np.testing.assert_allclose(ours.numbers(label), theirs.numbers(label), rtol=1e-4, atol=1e-6)  # it prints 6 digits
    difference = ours.numbers("rlnLogAmplitudesOriginal") - theirs.numbers("rlnLogAmplitudesOriginal")
    assert np.abs(difference).max() < 0.15  # the innermost shells have a handful of points, some counted twice
    assert np.abs(difference[8:]).max() < 0.02


def test_relion_reads_our_table(fine: Pair) -> None:
    path = fine.ours["general"].path
    words = ["relion_star_printtable", str(path), "data_fsc", "rlnAngstromResolution", CURVES["corrected"]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    rows = np.array([line.split() for line in done.stdout.splitlines() if line.split()], dtype=float)
    np.testing.assert_allclose(rows[:, 1], fine.curve("corrected")[0], atol=1e-5)


def test_map(pair: Pair) -> None:
    ours, theirs = pair.maps
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    assert np.vdot(ours, theirs) / np.vdot(ours, ours) == pytest.approx(1.0, abs=0.02)


def test_a_coarse_map_is_not_sharpened(coarse: Pair) -> None:
    """RELION finds no points to fit, and reports a slope of 0."""
    assert coarse.summary["bfactor"] == 0.0
    assert coarse.theirs["general"].numbers("rlnFittedSlopeGuinierPlot")[0] == 0.0
