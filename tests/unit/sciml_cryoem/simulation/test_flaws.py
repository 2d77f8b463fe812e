"""Simulated flaws: coloured noise, optics groups, junk, preferred views and normal offsets are what they claim."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sciml_cryoem import commands
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import fourier
from sciml_cryoem.simulation.flaws import Flaws
from sciml_cryoem.simulation.simulate import Camera, Simulation, images, scale_to_snr, star_tables

from sciml.errors import InputError
from tests.unit.sciml_cryoem.conftest import blobs

BOX = 16


def simulation(number: int = 200, **flaws: Any) -> Simulation:
    return Simulation(number, BOX, 4.0, 0.5, shift=4.0, flaws=Flaws(**flaws))


def stack(made: Simulation, truth: np.ndarray, intruder: np.ndarray | None = None) -> np.ndarray:
    return np.concatenate(list(images(made, truth, intruder)))


@pytest.mark.parametrize("box", [32, 33])
def test_colored_noise_has_its_spectrum_and_keeps_its_variance(box: int) -> None:
    flaws = Flaws(noise_color=(20.0,))
    white = np.random.default_rng(0).standard_normal((400, box, box)).astype(np.float32)
    noise = flaws.color(white, np.zeros(400, np.int64))
    assert abs(noise.var() - 1) < 0.02
    power = (np.abs(fourier.corner_transform(noise)) ** 2).mean(0) / box**2
    expected = flaws.spectrum(box, 0)
    assert np.abs(power / expected - 1).mean() < 0.06
    assert expected[0, 0] / expected[0, box // 2] == pytest.approx(20.0 ** ((box // 2) / (box / 2)))


def test_white_noise_is_left_to_the_last_bit() -> None:
    white = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    assert np.array_equal(Flaws().color(white, np.zeros(3, np.int64)), white)


def test_optics_groups_differ_in_noise_and_are_in_the_star_file() -> None:
    made = simulation(200, noise=(1.0, 2.0), noise_color=(1.0, 10.0))
    noise, groups = made.noise(range(200)), made.groups(range(200))
    assert np.bincount(groups).tolist() == [100, 100]
    assert noise[groups == 0].std() == pytest.approx(1.0, rel=0.03)
    assert noise[groups == 1].std() == pytest.approx(2.0, rel=0.03)
    optics, particles = star_tables(made, "p.mrcs")
    assert optics.text("rlnOpticsGroup") == ["1", "2"]
    assert [int(value) - 1 for value in particles.text("rlnOpticsGroup")] == groups.tolist()


def test_junk_is_noise_alone_or_another_molecule() -> None:
    made = simulation(200, junk=0.25)
    truth, other = scale_to_snr(made, blobs(BOX)), scale_to_snr(made, blobs(BOX)[::-1].copy())
    junk, noise = made.junk(range(200)), made.noise(range(200))
    assert 30 <= junk.sum() <= 70
    alone = stack(made, truth)
    assert np.array_equal(alone[junk], noise[junk])
    assert np.array_equal(alone[~junk], stack(simulation(200), truth)[~junk])
    mixed = stack(made, truth, other)
    seen = Camera(made, other).expose(made.poses(range(200)))
    assert np.allclose(mixed[junk], (seen + noise)[junk], atol=1e-5)
    assert np.array_equal(mixed[~junk], alone[~junk])
    classes = star_tables(made, "p.mrcs")[1].text("rlnClassNumber")
    assert np.array_equal(np.array(classes) == "2", junk)
    assert "rlnClassNumber" not in star_tables(simulation(), "p.mrcs")[1]


def test_preferred_views_lie_in_the_cone() -> None:
    tilt = simulation(preferred=0.8).poses(range(2000))[:, 1]
    inside = 0.8 + 0.2 * (1 - np.cos(np.radians(30))) / 2
    assert (tilt < 30).mean() == pytest.approx(inside, abs=0.03)
    height = np.cos(np.radians(tilt[tilt < 30]))
    assert height.mean() == pytest.approx((1 + np.cos(np.radians(30))) / 2, abs=0.01)
    assert np.array_equal(
        simulation(50, preferred=0.8).poses(range(50)), simulation(90, preferred=0.8).poses(range(50))
    )


def test_normal_offsets_have_the_deviation_asked_for_and_stay_in_the_box() -> None:
    offsets = simulation(normal_shifts=True).poses(range(2000))[:, 3:5]
    assert offsets.std() == pytest.approx(4.0, rel=0.05)
    assert np.abs(offsets).max() > 8.0
    assert np.abs(offsets).max() <= 0.25 * BOX * 4.0


@pytest.mark.parametrize(
    "flaws",
    [
        {"junk": 1.2},
        {"preferred": -0.1},
        {"cone_deg": 0.0},
        {"noise": (0.0,)},
        {"noise": ()},
        {"noise_color": (1.0, 2.0)},
    ],
)
def test_refuses_what_makes_no_sense(flaws: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"allowed is|noise colors"):
        simulation(**flaws)


def test_command_makes_a_set_with_flaws(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", blobs(BOX), 4.0)
    words = ["simulate", str(tmp_path / "a.mrc"), "--number", "120", "--box", str(BOX), "--shift", "4"]
    words += ["--noise", "1", "1.5", "--noise-color", "5", "--junk-model", str(tmp_path / "a.mrc")]
    with pytest.raises(InputError, match="--junk is 0"):
        commands.main([*words, "--out", str(tmp_path / "no")])
    assert commands.main([*words, "--junk", "0.5", "--preferred", "0.5", "--out", str(tmp_path / "set")]) == 0
    particles = read_particles(tmp_path / "set/particles.star")
    assert len(particles.optics) == 2
    assert read_map(tmp_path / "set/truth.mrc").array.shape == (BOX,) * 3
