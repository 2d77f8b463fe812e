"""Junk and contrast: noise is found image by image, another molecule by the distribution of all, and no more."""

from dataclasses import replace

import numpy as np
import pytest
from sciml_cryoem.refinement.particle_weights import (
    fit_mixture,
    share_of_majority,
    share_of_something,
    shrunk_contrast,
)
from sciml_cryoem.refinement.refined_poses import Poses


def _images(count: int, junk: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contrasts and strengths as measured on a set with another molecule in it, and which images show that."""
    draw = np.random.default_rng(seed)
    other = draw.random(count) < junk
    contrast = np.where(other, 0.79 + 0.08 * draw.normal(size=count), 1.06 + 0.07 * draw.normal(size=count))
    strength = np.where(other, 0.65 + 0.04 * draw.normal(size=count), 1.0 + 0.13 * draw.normal(size=count))
    return contrast, strength, other


def _one(count: int) -> np.ndarray:
    return np.zeros(count, np.int64)


def test_noise_is_told_from_a_particle() -> None:
    power = np.full(4, 100.0)
    share = share_of_something(np.array([105.0, 85.0, -45.0, -100.0]), power)
    assert np.all(share[:2] > 0.99) and np.all(share[2:] < 0.01)


def test_what_cannot_be_told_is_kept() -> None:
    """At a power of a few units the best pose of pure noise explains as much as the particle would."""
    power = np.linspace(0.0, 8.0, 50)
    for evidence in (0.0, 5.0, 20.0):
        assert np.all(share_of_something(np.full(50, evidence), power) > 0.5)


@pytest.mark.parametrize("junk", [0.1, 0.2, 0.5, 0.7])
def test_another_molecule_is_found(junk: float) -> None:
    contrast, strength, other = _images(1500, junk, 3)
    share = share_of_majority(contrast, strength, _one(1500))
    assert np.mean(share[other] < 0.5) > 0.97
    assert np.mean(share[~other] > 0.5) > 0.99


def test_each_kind_of_images_has_its_own_distribution() -> None:
    """Images of half the contrast are no junk where all are like that; those of a small kind are not judged."""
    draw = np.random.default_rng(0)
    contrast = np.r_[1.0 + 0.05 * draw.normal(size=500), 0.5 + 0.05 * draw.normal(size=500)]
    kinds = np.repeat([3, 7], 500)
    np.testing.assert_array_equal(share_of_majority(contrast, np.ones(1000), kinds), 1.0)
    assert np.mean(share_of_majority(contrast, np.ones(1000), _one(1000))[500:] < 0.5) > 0.99
    np.testing.assert_array_equal(share_of_majority(contrast[480:520], np.ones(40), _one(40)), 1.0)


@pytest.mark.parametrize("shape", ["normal", "uniform", "log-normal", "skew", "heavy tails"])
@pytest.mark.parametrize("count", [200, 1500])
def test_one_distribution_is_not_cut_in_two(shape: str, count: int) -> None:
    for seed in range(8):
        draw = np.random.default_rng([seed, count])
        contrast = {
            "normal": 1.0 + 0.3 * draw.normal(size=count),
            "uniform": draw.uniform(0.6, 1.4, count),
            "log-normal": np.exp(0.3 * draw.normal(size=count)),
            "skew": 1.3 - draw.exponential(0.25, count),
            "heavy tails": 1.0 + 0.15 * draw.standard_t(3, count),
        }[shape] + 0.05 * draw.normal(size=count)
        strength = 1.0 + 0.2 * draw.normal(size=count) + 0.3 * (contrast - 1.0)
        assert np.mean(share_of_majority(contrast, strength, _one(count)) < 0.5) < 0.02


def test_a_weak_view_is_no_junk() -> None:
    """Two preferred views, one of them of a third of the power, at the same contrast."""
    draw = np.random.default_rng(5)
    weak = draw.random(1000) < 0.3
    strength = np.where(weak, 0.6, 1.1) + 0.03 * draw.normal(size=1000)
    contrast = 1.0 + 0.05 * draw.normal(size=1000) / strength
    np.testing.assert_array_equal(share_of_majority(contrast, strength, _one(1000)), 1.0)


def test_the_mixture_is_that_of_the_images() -> None:
    contrast, strength, _ = _images(4000, 0.25, 1)
    found = fit_mixture(np.stack([contrast, strength], 1))
    np.testing.assert_allclose(found.share, [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(found.mean, [[0.79, 0.65], [1.06, 1.0]], atol=0.02)
    np.testing.assert_allclose(np.sqrt(found.covariance[:, [0, 1], [0, 1]]), [[0.08, 0.04], [0.07, 0.13]], atol=0.01)
    # Far above the particles is no junk, although the wider distribution is the likelier one out there.
    assert found.particle(np.array([[1.6, 1.5]]))[0] > 0.99


def test_contrast_is_drawn_to_that_of_its_half_as_far_as_noise_explains_it() -> None:
    draw, count = np.random.default_rng(2), 4000
    halves = 1 + np.arange(count) % 2
    true = 1.0 + 0.2 * draw.normal(size=count)
    seen = (true + 0.1 * draw.normal(size=count)) * np.where(halves == 1, 1.0, 1.2)  # the maps' scales differ
    poses = replace(Poses.unknown(count), expected=np.full(count, 50.0), scale=seen)
    found = shrunk_contrast(poses, halves)
    for half, scale in ((1, 1.0), (2, 1.2)):
        mine = halves == half
        assert np.std((found - true)[mine]) < 0.98 * np.std((seen / scale - true)[mine])
        assert np.median(found[mine]) == pytest.approx(1.0, abs=0.02)
    slope = np.polyfit((found - 1.0)[halves == 1], (true - 1.0)[halves == 1], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)
    poses.weights[:] = 0.0
    np.testing.assert_array_equal(shrunk_contrast(poses, halves), poses.scale)
