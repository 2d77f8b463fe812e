"""Figures of trust: drawn quickly, the same numbers give the same bytes, colors where they belong."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from sciml_cryoem.figures import trust as trust_figures
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.validation.directional_fsc import ConicalFSC, conical_fsc
from sciml_cryoem.validation.local_resolution import LocalResolution
from sciml_cryoem.validation.orientation_diagnostics import OrientationDiagnostics, diagnose

from sciml.errors import InputError


def _noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def _views(rot: float, tilt: float) -> OrientationDiagnostics:
    """Views close to one direction."""
    draw = np.random.default_rng(0).normal(size=(2000, 3))
    turn, height = np.radians(rot), np.radians(tilt)
    axis = np.array([np.sin(height) * np.cos(turn), np.sin(height) * np.sin(turn), np.cos(height)])
    return diagnose(axis + 0.15 * draw)


def _cones() -> ConicalFSC:
    common = _noise(32, 0)
    return conical_fsc(common + _noise(32, 1), common + _noise(32, 2), 2.0)


def _local(box: int = 32) -> LocalResolution:
    """Fine at x < 0, coarse at x >= 0."""
    values = np.where(np.arange(box) < box // 2, 5.0, 9.0).astype(np.float32)
    return LocalResolution(np.broadcast_to(values, (box, box, box)).copy(), 2.0, 0.5, 30.0, 4.4)


DRAWINGS: dict[str, Callable[[Path], Path]] = {
    "sphere": lambda path: trust_figures.draw_orientation_sphere(path, _views(40, 30)),
    "cones": lambda path: trust_figures.draw_conical_fsc(path, _cones()),
    "local": lambda path: trust_figures.draw_local_resolution(path, _local(), _noise(32, 0), soft_sphere(32, 12.0)),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing(name: str, tmp_path: Path) -> None:
    path = DRAWINGS[name](tmp_path / "a.png")
    first = path.read_bytes()
    began = time.process_time()
    assert DRAWINGS[name](path).read_bytes() == first
    assert time.process_time() - began < 2.5
    picture = imread(path)
    assert min(picture.shape[:2]) > 250
    assert picture[..., :3].std() > 0.05
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("rot", "tilt"), [(60, 30), (-60, 30), (60, 150), (0, 90)])
def test_sphere_shows_views_where_they_are(rot: float, tilt: float, tmp_path: Path) -> None:
    """The bright spot lies right of the middle for rot > 0 and in the upper half for tilt < 90."""
    picture = imread(trust_figures.draw_orientation_sphere(tmp_path / "s.png", _views(rot, tilt)))
    left = picture[:, : int(0.415 * picture.shape[1]), :3]
    bright = (left[..., 0] > 0.7) & (left[..., 1] > 0.7) & (left[..., 2] < 0.4)  # viridis' yellow
    row, column = np.argwhere(bright).mean(0) / np.array(picture.shape[:2])
    middle_column, middle_row = 0.035 + 0.19, 0.5
    assert np.sign(np.round(column - middle_column, 2)) == np.sign(rot)
    assert np.sign(np.round(row - middle_row, 2)) == np.sign(tilt - 90)


def test_local_resolution_colors_follow_the_map(tmp_path: Path) -> None:
    """Turbo's blue (fine) at the left of the first panel, its red (coarse) at the right; nothing outside the mask."""
    drawn = trust_figures.draw_local_resolution(
        tmp_path / "l.png", _local(), np.zeros((32, 32, 32), np.float32), soft_sphere(32, 10.0)
    )
    picture = imread(drawn)[..., :3]
    height, width = picture.shape[:2]
    rows, middle = slice(int(0.5 * height), int(0.6 * height)), int(width * (0.005 + 0.1485))
    left, right = (picture[rows, middle + shift : middle + shift + 15].mean((0, 1)) for shift in (-50, 40))
    assert left[2] > left[0]
    assert right[0] > right[2]
    corner = picture[int(0.12 * height) : int(0.16 * height), int(0.02 * width) : int(0.04 * width)]
    assert np.ptp(corner, axis=-1).max() < 0.02
    with pytest.raises(InputError, match="region"):
        trust_figures.draw_local_resolution(tmp_path / "x.png", _local(), _noise(32, 0), np.zeros((32, 32, 32)))
