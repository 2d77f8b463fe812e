"""Masks: the sphere in closed form, the automatic mask on a molecule of known extent."""

from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.maps.masks import AutomaticMask, cosine_edge, low_pass, soft_sphere

from sciml.errors import InputError


def _distance(box: int) -> np.ndarray:
    line = np.arange(box) - box // 2
    return np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2)


@pytest.mark.parametrize("box", [32, 33])
def test_sphere(box: int) -> None:
    mask, distance = soft_sphere(box, 8.0, 4.0), _distance(box)
    assert (mask[distance <= 8] == 1).all()
    assert (mask[distance >= 12] == 0).all()
    np.testing.assert_allclose(mask[distance == 10], 0.5, atol=1e-6)
    assert mask[box // 2, box // 2, box // 2 + 9] == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 4))
    with pytest.raises(InputError, match="not positive"):
        soft_sphere(box, -1.0)


def test_edge() -> None:
    np.testing.assert_allclose(cosine_edge(np.array([-1.0, 0.0, 1.0, 2.0, 3.0]), 2.0), [1, 1, 0.5, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(cosine_edge(np.array([-1.0, 0.0, 0.1]), 0.0), [1, 1, 0])


def test_low_pass_keeps_what_is_below_and_removes_what_is_above() -> None:
    box, pixel = 32, 2.0
    x = np.arange(box)
    wave = lambda k: np.broadcast_to(np.cos(2 * np.pi * k * x / box), (box, box, box)).astype(np.float32)
    kept = low_pass(wave(3) + wave(12), pixel, resolution=box * pixel / 7, edge=2.0)
    np.testing.assert_allclose(kept, wave(3), atol=1e-5)


def test_automatic_mask_finds_the_molecule_and_nothing_else() -> None:
    """A ball of radius 30 A and a smaller one apart from it, in noise: the mask is the large ball, grown by 10 A."""
    box, pixel = 48, 3.0
    distance = _distance(box) * pixel
    volume = (distance < 30).astype(np.float32)
    volume[2:6, 2:6, 2:6] = 1.0
    volume += 0.1 * np.random.default_rng(0).standard_normal(volume.shape).astype(np.float32)
    mask = AutomaticMask(lowpass=15.0, extend=10.0, edge=12.0).find(volume, pixel)
    assert mask.dtype == np.float32
    assert (mask[distance < 36] == 1).all()
    assert (mask[distance > 64] == 0).all()
    assert mask[2:6, 2:6, 2:6].max() == 0
    along = mask[box // 2, box // 2, box // 2 :]
    assert (np.diff(along) <= 0).all()
    radius = np.interp(0.5, along[::-1], pixel * np.arange(len(along))[::-1])
    assert radius == pytest.approx(30 + 10 + 6, abs=6)  # the low-pass moves the threshold's surface outwards


def test_automatic_mask_keeps_domains_that_do_not_touch() -> None:
    """Of three balls side by side, the smallest with an eighth of the largest's volume, none is lost."""
    line = 3.0 * (np.arange(48) - 24)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    inside = [z**2 + y**2 + (x - place) ** 2 < radius**2 for place, radius in ((-30, 20), (20, 15), (52, 10))]
    volume = np.any(inside, axis=0).astype(np.float32)
    mask = AutomaticMask(lowpass=15.0, extend=3.0, edge=6.0).find(volume, 3.0)
    assert all((mask[ball] == 1).all() for ball in inside)


def test_automatic_mask_of_a_ribosome(shared: Path) -> None:
    truth = read_map(shared / "data/p64/truth64.mrc").array
    noisy = truth + 0.05 * np.random.default_rng(0).standard_normal(truth.shape).astype(np.float32)
    mask = AutomaticMask(lowpass=25.0).find(noisy, 5.0)
    assert (truth**2 * mask).sum() > 0.97 * (truth**2).sum()
    assert 0.1 < mask.mean() < 0.45


def test_nothing_above_the_solvent() -> None:
    noise = np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    with pytest.raises(InputError, match="give a mask"):
        AutomaticMask(lowpass=10.0, deviations=8.0).find(noise, 2.0)
