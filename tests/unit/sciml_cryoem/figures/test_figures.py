"""Figures: drawn quickly, the same numbers give the same bytes, axes say what they should."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sciml_cryoem.figures import maps as figures

CURVE = np.linspace(1.0, 0.0, 33)
VOLUME = np.random.default_rng(0).standard_normal((64, 64, 64)).astype(np.float32)
ANGLES = np.random.default_rng(0).uniform(0, 180, (2000, 3))

DRAWINGS: dict[str, Callable[[Path], Path]] = {
    "fsc": lambda path: figures.draw_fsc(path, {"corrected": CURVE, "unmasked": CURVE**2}, 64, 5.0),
    "slices": lambda path: figures.draw_slices(path, VOLUME, 5.0),
    "images": lambda path: figures.draw_images(path, VOLUME[:8]),
    "orientations": lambda path: figures.draw_orientations(path, ANGLES),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing(name: str, tmp_path: Path) -> None:
    path = DRAWINGS[name](tmp_path / "a.png")
    first = path.read_bytes()
    began = time.process_time()
    assert DRAWINGS[name](path).read_bytes() == first
    assert time.process_time() - began < 0.8  # about .1 s, checks of the tests included; matplotlib's import is not
    picture = imread(path)
    assert min(picture.shape[:2]) > 250
    assert picture[..., :3].std() > 0.05
    assert list(tmp_path.iterdir()) == [path]


def test_slices_show_the_right_planes(tmp_path: Path) -> None:
    """A ball off the origin along x and z: in the xz panel it lies right of the middle and above it, elsewhere not."""
    line = np.arange(65) - 32
    squares = (line[:, None, None] - 12) ** 2 + line[None, :, None] ** 2 + (line[None, None, :] - 18) ** 2
    picture = imread(figures.draw_slices(tmp_path / "a.png", (squares < 64).astype(np.float32), 5.0))[..., 0]
    height, width = picture.shape
    panels = [
        picture[40 : int(0.8 * height), int(width * (k / 3 + 0.02)) : int(width * (k + 0.9) / 3)] for k in range(3)
    ]
    bright = [int((panel > 0.9).sum()) for panel in panels]
    assert bright[1] > 1000
    assert bright[0] == bright[2] == 0
    rows, columns = np.nonzero(panels[1] > 0.9)
    side = 0.323 * width  # of the drawn square, 65 voxels
    x = (columns.mean() + 0.02 * width - 0.005 * width) / side * 65 - 32.5
    z = 32.5 - (rows.mean() + 40 - 0.09 * height) / (0.9 * height) * 65
    assert (x, z) == (pytest.approx(18, abs=1.5), pytest.approx(12, abs=1.5))


def test_scale_bars_have_round_lengths() -> None:
    assert [figures._round_length(value) for value in (96.0, 0.3, 1.0, 19.9, 51.0)] == [50, 0.2, 1, 10, 50]
