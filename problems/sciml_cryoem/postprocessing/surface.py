"""A picture of a map as a shaded surface, for a database entry: one contour level, seen along z, lit from the left."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sciml.runs.files import atomic_path

_COLOR = np.array([0.42, 0.62, 0.82])
_LIGHT = np.array([-0.45, 0.55, 0.70])  # towards the viewer's upper left; x right, y up, z to the viewer
_LAYERS = 256  # of depth, after interpolation


def draw_surface(path: str | Path, volume: Float[np.ndarray, "n n n"], level: float, size: int = 500) -> Path:
    """Write a square PNG of exactly `size` pixels, the molecule filling most of it, on white.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.image import imsave

    picture = shade(depth_map(_around(volume, level), level, size))
    unsigned: Any = {"Software": None}  # the same map gives the same bytes
    with atomic_path(path) as temporary:
        imsave(temporary, picture, format="png", metadata=unsigned)
    return Path(path)


def _around(volume: Float[np.ndarray, "n n n"], level: float) -> Float[np.ndarray, "m m m"]:
    """The cube about the middle of what lies above the level, a tenth of it added as a margin."""
    places = np.argwhere(volume > level)
    if not len(places):
        return volume
    low, high = places.min(axis=0), places.max(axis=0) + 1
    side = int(np.ceil(1.1 * (high - low).max())) + 2
    start = (low + high - side) // 2
    padded = np.pad(volume, side, constant_values=min(0.0, float(volume.min())))
    return padded[tuple(slice(first + side, first + 2 * side) for first in start)]


def depth_map(volume: Float[np.ndarray, "m m m"], level: float, size: int) -> Float[np.ndarray, "size size"]:
    """Height z of the first crossing of the level as seen from large z, in pixels; rows are y upwards; NaN for none."""
    from scipy import ndimage

    count = len(volume)
    # Cubic interpolation is linear in its input: the interpolated unit matrix does it for every line at once.
    one = np.eye(count, dtype=np.float32)
    cubic = lambda new: np.asarray(ndimage.zoom(one, (new / count, 1.0), order=3, mode="nearest", grid_mode=True))
    across, along = cubic(size), cubic(_LAYERS)
    layers = np.tensordot(along, volume.astype(np.float32), axes=1)
    height = np.full((size, size), np.nan, np.float32)
    above: np.ndarray | None = None  # the layer nearer to the viewer
    for place in range(_LAYERS - 1, -1, -1):
        layer = across @ layers[place] @ across.T
        new = np.isnan(height) & (layer > level)
        if above is None:
            height[new] = place
        else:
            # Outside was below the level: linear between the two layers.
            height[new] = place + ((layer - level) / np.maximum(layer - above, 1e-30))[new]
        above = layer
    return height * (size / _LAYERS)


def shade(height: Float[np.ndarray, "size size"]) -> Float[np.ndarray, "size size 3"]:
    """Colors 0 ... 1 of a height map: diffuse light, a little highlight, darker with depth, white where there is none.

    Rows come in the order of a picture, from the top down.
    """
    from scipy import ndimage

    there = np.isfinite(height)
    if not there.any():
        return np.ones((*height.shape, 3))
    low, high = float(np.nanmin(height)), float(np.nanmax(height))
    # Where there is no surface the nearest one is continued, or every outline would be a cliff.
    nearest = ndimage.distance_transform_edt(~there, return_distances=False, return_indices=True)
    filled = ndimage.gaussian_filter(height[tuple(np.asarray(nearest))], 1.0)
    dy, dx = np.gradient(filled)
    normal = np.stack([-dx, -dy, np.ones_like(dx)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    diffuse = np.clip(normal @ light, 0.0, 1.0)
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    highlight = np.clip(normal @ half, 0.0, 1.0) ** 30
    depth = 0.65 + 0.35 * (filled - low) / max(high - low, 1e-6)
    picture = _COLOR * ((0.3 + 0.75 * diffuse) * depth)[..., None] + 0.18 * highlight[..., None]
    cover = ndimage.gaussian_filter(there.astype(np.float32), 0.6)[..., None]
    return np.clip(picture * cover + (1.0 - cover), 0.0, 1.0)[::-1]
