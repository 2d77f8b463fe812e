"""The standard deviation map: its z-scores against the truth, and its parts."""

from pathlib import Path

import numpy as np
import pytest

from problems.cryoem import read_particles, reconstruct
from problems.cryoem.masks import soft_sphere
from problems.cryoem.mrc import read_volume
from problems.cryoem.uncertainty import filtered_difference, local_mean_square, uncertainty


def _scores(star: Path, truth: Path) -> tuple[float, list[float]]:
    """Deviation of (map - truth) / std in the scoring sphere, and in its inner and outer part."""
    result = reconstruct(read_particles(star))
    density = read_volume(truth).array
    box = len(density)
    line = np.arange(box) - box // 2
    radius = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) / box
    scores = (result.full - density) / uncertainty(result).std
    parts = [(radius < 0.2), (radius >= 0.2) & (radius < 0.4)]
    return float(scores[radius < 0.4].std()), [float(scores[part].std()) for part in parts]


def test_calibration_on_an_independent_simulation(shared: Path) -> None:
    folder = shared / "data" / "p64"
    whole, parts = _scores(folder / "p64.star", folder / "truth64.mrc")
    assert whole == pytest.approx(1.0, abs=0.1)
    assert parts == pytest.approx([1.0, 1.0], abs=0.15)


def test_calibration_on_the_bundled_set(root: Path) -> None:
    folder = root / "data" / "particles"
    whole, parts = _scores(folder / "particles.star", folder / "truth.mrc")
    assert whole == pytest.approx(1.0, abs=0.2)
    assert parts == pytest.approx([1.0, 1.0], abs=0.4)


def test_predicted_and_measured_noise_agree(root: Path) -> None:
    """The weights alone (noise of the backgrounds, poses as given) predict what the half maps show."""
    result = reconstruct(read_particles(root / "data" / "particles" / "particles.star"))
    found = uncertainty(result)
    assert found.noise / found.predicted_noise == pytest.approx(1.07, abs=0.1)
    sphere = soft_sphere(64)
    noise = filtered_difference(result)
    direct = np.sqrt((np.square(noise) * np.square(sphere)).sum() / np.square(sphere).sum())
    assert found.noise == pytest.approx(direct, rel=0.05)
    assert found.std.min() > 0
    assert found.missing > 0


def test_local_mean_square_is_that_of_white_noise() -> None:
    volume = 3 * np.random.default_rng(0).normal(size=(32,) * 3).astype(np.float32)
    found = local_mean_square(volume, 3.0)
    assert found.mean() == pytest.approx(9.0, rel=0.05)
    assert found.std() < 1.5
    assert (local_mean_square(np.zeros((8,) * 3, np.float32), 2.0) > 0).all()
