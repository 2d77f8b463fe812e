"""How far a pass over the images searches."""

from dataclasses import replace

import numpy as np
import pytest
from sciml_cryoem.refinement.image_pass import offset_range
from sciml_cryoem.refinement.refined_poses import Poses


def _range(offsets: np.ndarray, weights: np.ndarray | None = None, expected: float = 20.0) -> float:
    """Of known offsets in a box of 80."""
    count = len(offsets)
    poses = replace(Poses.unknown(count), offsets=offsets, expected=np.full(count, expected))
    return offset_range(80, poses if weights is None else replace(poses, weights=weights))


@pytest.mark.parametrize(("spread", "expected"), [(1.5, 5.0), (3.0, 8.0), (5.0, 12.8), (20.0, 16.0)])
def test_offsets_are_searched_farther_where_images_need_it(spread: float, expected: float) -> None:
    offsets = np.random.default_rng(0).normal(0.0, spread, (2000, 2))
    assert _range(offsets) == pytest.approx(expected)
    assert _range(np.zeros((0, 2))) == 5.0
    assert _range(offsets, expected=2.0) == 5.0  # noise
    junk = np.concatenate([offsets, np.full((1500, 2), 30.0)])
    assert _range(junk, weights=(np.arange(3500) < 2000).astype(float)) == pytest.approx(expected)


def test_offsets_are_searched_less_far_where_next_to_no_image_comes_near_the_range() -> None:
    offsets = np.random.default_rng(1).uniform(-1.0, 1.0, (4000, 2))
    half_a_step = 0.5 * 80 / 32
    assert _range(offsets) == pytest.approx(np.sqrt(2.0) + half_a_step, abs=0.1)
    assert _range(offsets[:500]) == 5.0  # too few to tell
    few_far = np.concatenate([offsets, np.full((20, 2), 4.0)])
    assert _range(few_far) == 5.0  # 0.5 % are out there
