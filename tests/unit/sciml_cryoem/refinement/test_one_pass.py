"""How far a pass over the images searches."""

from types import SimpleNamespace

import numpy as np
import pytest
from sciml_cryoem.refinement.one_pass import Pass


def _range(offsets: np.ndarray, known: bool = True, weights: np.ndarray | None = None, expected: float = 20.0) -> float:
    """Of offsets in a box of 80, given those of the iteration before."""
    weights = np.ones(len(offsets)) if weights is None else weights
    state = SimpleNamespace(
        particles=SimpleNamespace(box=80),
        poses=SimpleNamespace(offsets=offsets, weights=weights, expected=np.full(len(offsets), expected)),
    )
    one = Pass.__new__(Pass)
    one.state, one.known = state, known  # type: ignore[assignment]
    return one._range()


@pytest.mark.parametrize(("spread", "expected"), [(1.5, 5.0), (3.0, 8.0), (5.0, 12.8), (20.0, 16.0)])
def test_offsets_are_searched_farther_where_images_need_it(spread: float, expected: float) -> None:
    offsets = np.random.default_rng(0).normal(0.0, spread, (2000, 2))
    assert _range(offsets) == pytest.approx(expected)
    assert _range(offsets, known=False) == 5.0
    assert _range(offsets, expected=2.0) == 5.0  # noise
    junk = np.concatenate([offsets, np.full((1500, 2), 30.0)])
    assert _range(junk, weights=np.arange(3500) < 2000.0) == pytest.approx(expected)
