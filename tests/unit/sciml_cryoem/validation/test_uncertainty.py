"""The standard deviation map: its z-scores against the truth, and its parts."""

from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem import ReconstructOptions, read_particles, reconstruct
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.maps.masks import cosine_edge, soft_sphere
from sciml_cryoem.simulation import simulate
from sciml_cryoem.validation.uncertainty import _falling, local_mean_square, noise_draw, uncertainty


def _scores(star: Path, truth: Path) -> tuple[float, list[float]]:
    """Deviation of (map - truth) / std in the scoring sphere, and in its inner and outer part."""
    result = reconstruct(read_particles(star), ReconstructOptions(mask="sphere"))
    density = read_map(truth).array
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
    assert parts == pytest.approx([1.0, 1.0], abs=0.1)


def test_calibration_on_the_bundled_set(root: Path) -> None:
    folder = root / "data" / "particles"
    whole, parts = _scores(folder / "particles.star", folder / "truth.mrc")
    assert whole == pytest.approx(1.0, abs=0.2)
    assert parts == pytest.approx([1.0, 1.0], abs=0.4)


def test_calibration_inside_and_outside_an_automatic_mask(shared: Path) -> None:
    """Outside its mask the map is 0, and its error the density there; what the half maps share says how large."""
    folder = shared / "data" / "p64"
    result = reconstruct(read_particles(folder / "p64.star"), ReconstructOptions(mask="auto"))
    density, mask = read_map(folder / "truth64.mrc").array, result.prior.mask
    assert mask is not None
    scores = (result.full - density) / uncertainty(result).std
    assert scores[mask > 0.5].std() == pytest.approx(1.0, abs=0.1)
    line = np.arange(64) - 32
    inside = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2) < 0.4 * 64
    assert np.sqrt(np.square(scores[inside]).mean()) == pytest.approx(1.0, abs=0.1)
    assert np.sqrt(np.square(scores[(mask < 0.5) & inside]).mean()) == pytest.approx(1.2, abs=0.2)


def test_nothing_but_noise_beside_a_mask_is_said_to_fall_off(tmp_path: Path) -> None:
    """A slim molecule: right where the mask's edge cuts it, and where it is not the error bar fades with the distance
    instead of staying at the least that the half maps can see."""
    line = np.arange(32) - 16
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    density = np.exp(-(z**2 / 60.0 + y**2 / 4.0 + x**2 / 4.0)).astype(np.float32)
    simulation = simulate.Simulation(number=600, box=32, pixel_size=5.0, snr=0.1, shift=5.0)
    density = simulate.scale_to_snr(simulation, density)
    simulate.write_particles(simulation, density, tmp_path)
    radius = np.sqrt(y**2 + x**2)
    mask = cosine_edge(radius - 4.0, 4.0) * cosine_edge(np.abs(z) - 10.0, 4.0)
    result = reconstruct(read_particles(tmp_path / "particles.star"), ReconstructOptions(mask=mask.astype(np.float32)))
    std = uncertainty(result).std
    scores = (result.full - density) / std
    assert scores[mask > 0.5].std() == pytest.approx(1.0, abs=0.1)
    assert scores[(mask > 0.5) & (mask < 0.999)].std() == pytest.approx(1.0, abs=0.15)
    near, far = (std[(mask == 0) & (radius >= a) & (radius < b)].mean() for a, b in ((8, 9), (12, 13)))
    assert far < 0.7 * near


def test_predicted_and_measured_noise_agree(root: Path) -> None:
    """The weights alone (noise of the backgrounds, poses as given) predict what the half maps show."""
    result = reconstruct(read_particles(root / "data" / "particles" / "particles.star"))
    found = uncertainty(result)
    assert found.noise / found.predicted_noise == pytest.approx(0.97, abs=0.06)
    sphere = soft_sphere(64)
    noise = noise_draw(result)
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


def test_noise_draw_holds_no_signal(root: Path) -> None:
    """It does not correlate with the density, which stands a hundred times above it in the strongest shells."""
    from sciml_cryoem.maps.fsc import fsc

    folder = root / "data" / "particles"
    draw = noise_draw(reconstruct(read_particles(folder / "particles.star")))
    sphere = soft_sphere(64)
    curve = fsc(draw * sphere, read_map(folder / "truth.mrc").array * sphere)
    assert np.abs(curve[3:12]).max() < 0.35
    assert abs(curve[3:12].mean()) < 0.12


def test_weak_shells_tell_the_sum_together() -> None:
    """An exponential fall under errors larger than its tail: a tenth of the scatter of the plain sum, little bias."""
    shells = np.arange(18)
    truth, error, share = 5.0 * np.exp(-shells / 5.0), 0.4 + 0.15 * shells, 10.0 + 4.0 * shells
    draw = np.random.default_rng(0)
    found, plain = [], []
    for _ in range(200):
        power = truth + error * draw.standard_normal(18)
        found.append(float(share @ _falling(power, error)))
        plain.append(float((share * power).sum()))
    wanted = float((share * truth).sum())
    assert np.mean(found) == pytest.approx(wanted, rel=0.15)
    assert np.std(found) < 0.6 * np.std(plain)
    exact = float(share @ _falling(truth, 1e-4 * error))
    assert exact == pytest.approx(wanted, rel=0.02)
    assert (_falling(-truth, error) > 0.0).all()


def test_few_views_in_a_cone_are_known_to_miss_signal(tmp_path: Path) -> None:
    """Views within 40 degrees of one axis: the z-scores stay near 1 although half of the error is missing signal."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Cone(simulate.Simulation):
        def poses(self, indices: range, stream: int = 0) -> np.ndarray:
            poses = super().poses(indices, stream)
            height = 1.0 - (1.0 - np.cos(np.radians(poses[:, 1]))) / 2 * (1.0 - np.cos(np.radians(40.0)))
            poses[:, 1] = np.round(np.degrees(np.arccos(height)), 6)
            return poses

    simulation = Cone(number=500, box=32, pixel_size=5.0, snr=0.1, shift=5.0)
    line = np.arange(32) - 16
    draw = np.random.default_rng(1)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    places = draw.uniform(-6, 6, (40, 3))
    squares = ((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 for a, b, c in places)
    density = np.sum([np.exp(-square / 2.5) for square in squares], axis=0)
    simulate.write_particles(simulation, simulate.scale_to_snr(simulation, density.astype(np.float32)), tmp_path)
    whole, _ = _scores(tmp_path / "particles.star", tmp_path / "truth.mrc")
    assert whole == pytest.approx(1.0, abs=0.2)
