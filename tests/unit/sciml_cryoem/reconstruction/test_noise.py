"""Noise from backgrounds: level and color, per group, under offsets, gains and a particle in the middle."""

import numpy as np
import pytest
from sciml_cryoem.imaging import fourier
from sciml_cryoem.reconstruction.noise import Background, image_power, measure, noise_scales, sample_indices

SIZE = 48


def _noise(count: int, color: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    white = np.random.default_rng(seed).normal(size=(count, SIZE, SIZE))
    if color is None:
        return white.astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(white) * color, s=(SIZE, SIZE)).astype(np.float32)


def _gaussian(width: float) -> np.ndarray:
    line = np.arange(SIZE) - SIZE // 2
    return np.exp(-(line[:, None] ** 2 + line**2) / (2 * width**2)).astype(np.float32)


def _one_group(count: int) -> np.ndarray:
    return np.zeros(count, dtype=np.int64)


def test_window_is_the_corners_or_what_lies_outside_the_particle() -> None:
    window = Background.outside(SIZE).window()
    assert window[0, 0] == 1
    assert window[SIZE // 2, SIZE // 2] == 0
    assert window[SIZE // 2, 0] == 0
    wider = Background.outside(SIZE, diameter=0.7 * SIZE).window()
    assert wider.sum() > 2 * window.sum()
    assert Background.outside(SIZE, diameter=1.0).radius == pytest.approx(0.3 * SIZE)


def test_white_noise_beside_a_bright_particle_on_an_uneven_offset() -> None:
    count, level = 600, 7.0
    draw = np.random.default_rng(3)
    images = level * _noise(count) + 40 * _gaussian(5.0) + draw.normal(300, 50, (count, 1, 1)).astype(np.float32)
    model = measure([images], _one_group(count), Background.outside(SIZE))
    assert model.power[0] / (level * SIZE) ** 2 == pytest.approx(np.ones(SIZE // 2 + 1), abs=0.08)
    assert model.power[0, 2:].mean() / (level * SIZE) ** 2 == pytest.approx(1.0, abs=0.01)
    assert model.reference is None
    prepared = model.prepare(images.copy(), _one_group(count))
    assert np.abs(model.background.means(prepared)).max() < 1e-3 * level
    assert np.allclose(model.weights[:, 1:], 1 / model.power[:, 1:])
    assert np.allclose(model.weights[:, 0], 0.5 / model.power[:, 0])  # the origin is its own Friedel mate
    in_parts = measure(np.array_split(images, 7), _one_group(count), Background.outside(SIZE))
    np.testing.assert_allclose(in_parts.power, model.power, rtol=1e-6)


def test_colored_noise_keeps_its_color() -> None:
    radius = np.sqrt(fourier.squared_radii(SIZE, 2))
    color = 1 / (1 + (radius / 6) ** 2)
    model = measure([_noise(800, color)], _one_group(800), Background.outside(SIZE))
    expected = SIZE**2 / (1 + (np.arange(SIZE // 2 + 1) / 6) ** 2) ** 2
    # The window blurs a falling spectrum over a few shells.
    assert np.abs(np.log(model.power[0, 3:-1] / expected[3:-1])).max() < 0.6
    assert model.reference is None


def test_groups_have_their_own_levels() -> None:
    groups = np.arange(400) % 2
    images = _noise(400) * np.array([1.0, 3.0], np.float32)[groups][:, None, None]
    model = measure([images], groups, Background.outside(SIZE))
    ratio = model.power[1] / model.power[0]
    assert ratio[2:] == pytest.approx(9 * np.ones(SIZE // 2 - 1), rel=0.25)
    assert ratio.mean() == pytest.approx(9, rel=0.05)


def test_a_group_of_few_images_borrows_the_shape_of_all() -> None:
    radius = np.sqrt(fourier.squared_radii(SIZE, 2))
    groups = np.r_[np.zeros(500, int), 1]
    images = _noise(501, 1 / (1 + radius / 6))
    images[-1] *= 2
    power = measure([images], groups, Background.outside(SIZE)).power
    assert np.abs(np.log(power[1] / power[0] / 4)).max() < 0.7


def test_images_of_different_gain_come_to_one_scale() -> None:
    gain = np.random.default_rng(1).uniform(0.4, 2.0, 300).astype(np.float32)
    images = (_noise(300) + 0.5 * _gaussian(4.0)) * gain[:, None, None]
    groups = _one_group(300)
    model = measure([images], groups, Background.outside(SIZE))
    assert model.spread > 0.2
    prepared = model.prepare(images.copy(), groups)
    levels = prepared[:, :8].std(axis=(1, 2))
    assert np.std(levels) / np.mean(levels) < 0.06
    assert model.power[0].mean() == pytest.approx(SIZE**2 * np.mean(levels) ** 2, rel=0.05)
    left = measure([images], groups, Background.outside(SIZE), "no")
    assert left.reference is None
    assert measure([_noise(50)], _one_group(50), Background.outside(SIZE), "yes").reference is not None


def test_scale_of_an_image_is_read_from_all_its_shells() -> None:
    radius = np.sqrt(fourier.squared_radii(SIZE, 2))
    power = SIZE**2 / (1 + (np.arange(SIZE // 2 + 1) / 3.0) ** 2) ** 2
    images = 5 * _noise(40, 1 / (1 + (radius / 3) ** 2))
    assert noise_scales(image_power(images), np.tile(power, (40, 1)), SIZE) == pytest.approx(5 * np.ones(40), rel=0.15)


def test_a_clean_simulation_is_not_rescaled() -> None:
    amplitudes = np.random.default_rng(0).uniform(1, 5, (100, 1, 1))
    images = (amplitudes * _gaussian(8.0) + 1e-3 * _noise(100)).astype(np.float32)
    assert measure([images], _one_group(100), Background.outside(SIZE)).reference is None


def test_contrast_is_no_level() -> None:
    """Bright particles of different contrast in noise of one level stay as they are; the same images times gains are
    brought to one level, of the noise and not of the image."""
    draw, count = np.random.default_rng(6), 200
    fine = _gaussian(9.0) * draw.normal(size=(SIZE, SIZE)).astype(np.float32)  # signal in all shells
    gain = draw.uniform(0.7, 1.4, (count, 1, 1)).astype(np.float32)
    images, groups, outside = 5.0 * gain * fine + _noise(count), _one_group(count), Background.outside(SIZE)
    model = measure([images], groups, outside)
    assert np.square(images).mean() > 2.0
    assert model.reference is None and model.by_background
    assert model.spread < 0.03
    level = draw.uniform(0.5, 2.0, count).astype(np.float32)
    model = measure([images * level[:, None, None]], groups, outside)
    assert model.reference is not None
    prepared = model.prepare(images * level[:, None, None], groups)
    contrast = np.einsum("nij,ij->n", prepared, fine)
    assert np.corrcoef(contrast, gain.ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(contrast, level)[0, 1]) < 0.2


def test_sampling_error_of_a_background() -> None:
    outside = Background.outside(SIZE)
    level = noise_scales(image_power(_noise(2000), outside), np.full((2000, SIZE // 2 + 1), float(SIZE**2)), SIZE)
    assert level.mean() == pytest.approx(1.0, abs=0.01)
    assert level.std() / level.mean() == pytest.approx(outside.sampling_error(), rel=0.2)


def test_masked_images_fall_back_on_their_whole_power_and_say_so() -> None:
    images = _noise(200) * (1 - Background.outside(SIZE).window() > 0.999)
    model = measure([images.astype(np.float32)], _one_group(200), Background.outside(SIZE))
    assert "masked" in model.note
    assert np.isfinite(model.weights).all()
    assert model.power[0].mean() == pytest.approx(0.75 * SIZE**2, rel=0.15)


def test_the_sample_covers_all_groups_and_the_whole_file() -> None:
    groups = np.r_[np.zeros(5000, int), np.ones(10, int)]
    picked = sample_indices(groups, 100)
    assert len(picked) == 60
    assert (np.diff(picked) > 0).all()
    assert picked[0] == 0
    assert picked[-1] == 5009
    assert set(range(5000, 5010)) <= set(picked.tolist())
