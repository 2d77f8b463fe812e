"""The projector: exact adjoint, accuracy against exact sums and closed forms, torch against the compiled loops."""

from collections.abc import Callable

import finufft
import numpy as np
import pytest
import torch
from sciml_cryoem.imaging import torch_kernels
from sciml_cryoem.imaging.projection import Projector, correct_gridding
from scipy.spatial.transform import Rotation


def _turns(count: int, seed: int = 0) -> np.ndarray:
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(count, 4))).as_matrix()


def _complex(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return draw.normal(size=shape) + 1j * draw.normal(size=shape)


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize(("single", "tolerance"), [(True, 1e-6), (False, 1e-12)])
def test_adjoint_is_exact(size: int, single: bool, tolerance: float) -> None:
    projector, draw = Projector(size), np.random.default_rng(size)
    real, pair = (np.float32, np.complex64) if single else (np.float64, np.complex128)
    volume = draw.normal(size=(size,) * 3).astype(real)
    values = _complex(draw, (9, len(projector.plane))).astype(pair)
    turns = _turns(9)
    forward, adjoint = projector.forward(volume, turns), projector.adjoint(values, turns)
    assert forward.dtype == pair
    assert adjoint.dtype == real
    there = np.vdot(forward.astype(complex), values).real
    back = np.vdot(volume.astype(float), adjoint)
    size_of_terms = np.linalg.norm(forward) * np.linalg.norm(values)
    assert abs(there - back) < tolerance * size_of_terms


@pytest.mark.parametrize("size", [24, 25])
def test_against_exact_sums(size: int) -> None:
    """A density of random voxels within 0.2 of the box, where the error of padding by 2 is below 1 %."""
    draw, turns = np.random.default_rng(0), _turns(6)
    line = np.arange(size) - size // 2
    radius = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    volume = draw.normal(size=(size,) * 3) * (radius < 0.2 * size)
    projector = Projector(size)
    found = projector.forward(volume, turns)
    plane = np.stack([projector.plane.kx, projector.plane.ky], 1).astype(float)
    points = np.einsum("bij,pi->bpj", turns[:, :2], plane).reshape(-1, 3) * (2 * np.pi / size)
    x, y, z = (np.ascontiguousarray(points[:, j]) for j in range(3))
    exact = finufft.nufft3d2(z, y, x, volume.astype(complex), isign=-1, eps=1e-9)
    error = np.linalg.norm(found.ravel() - exact) / np.linalg.norm(exact)
    assert error < 0.01
    finer = Projector(size, padding=4).forward(volume, turns)
    assert np.linalg.norm(finer.ravel() - exact) / np.linalg.norm(exact) < 0.3 * error


Blob = tuple[np.ndarray, float]


def _blobs(size: int, reach: float) -> list[Blob]:
    draw = np.random.default_rng(1)
    centers = draw.normal(size=(20, 3))
    centers *= reach * size * draw.random((20, 1)) ** (1 / 3) / np.linalg.norm(centers, axis=1, keepdims=True)
    return [(center, float(draw.uniform(1.5, 2.5))) for center in centers]


def _density(size: int, blobs: list[Blob]) -> np.ndarray:
    line = np.arange(size) - size // 2
    volume = np.zeros((size,) * 3)
    for center, width in blobs:
        x, y, z = (np.exp(-((line - c) ** 2) / (2 * width**2)) for c in center)
        volume += z[:, None, None] * y[:, None] * x
    return volume


def _shadow(size: int, blobs: list[Blob], turn: np.ndarray) -> np.ndarray:
    """The projection in closed form: a blob at c lands at (A c)[:2]."""
    line = np.arange(size) - size // 2
    image = np.zeros((size, size))
    for center, width in blobs:
        x, y, _ = turn @ center
        lines = (np.exp(-((line - c) ** 2) / (2 * width**2)) for c in (y, x))
        image += np.sqrt(2 * np.pi) * width * np.outer(*lines)
    return image


@pytest.mark.parametrize(("size", "padding", "limit"), [(48, 2, 0.012), (49, 2, 0.012), (48, 1, 0.12), (48, 4, 0.003)])
def test_against_gaussian_blobs(size: int, padding: int, limit: float) -> None:
    turns, blobs = _turns(20), _blobs(size, 0.18)
    exact = np.stack([_shadow(size, blobs, turn) for turn in turns])
    found = Projector(size, padding).images(_density(size, blobs), turns)
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < limit


def test_the_correction_is_the_inverse_of_the_roll_off() -> None:
    """A single voxel far from the middle projects with its full mass; without the correction it loses sinc^2 a side."""
    size = 32
    volume = np.zeros((size,) * 3)
    volume[size // 2, size // 2 - 8, size // 2 + 11] = 1.0
    projector, turns = Projector(size), _turns(30)
    mass = np.abs(projector.forward(volume, turns)).mean()
    assert mass == pytest.approx(1.0, abs=0.01)
    bare = np.abs(projector.forward(volume / correct_gridding(np.ones_like(volume), 2), turns)).mean()
    assert bare == pytest.approx((np.sinc(8 / 64) * np.sinc(11 / 64)) ** 2, abs=0.01)


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("compiled", [True, False])
def test_torch_gives_the_numbers_of_the_compiled_loops(
    size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_kernels, "_use_compiled", lambda *tensors: compiled)
    monkeypatch.setattr(torch_kernels, "_CHUNK", 100)  # several chunks
    projector, draw = Projector(size), np.random.default_rng(size)
    volume, turns = draw.normal(size=(size,) * 3), _turns(5)
    values = _complex(draw, (5, len(projector.plane)))
    axes = torch.from_numpy(turns[:, :2].copy())
    forward = projector.slices(projector.spectrum(torch.from_numpy(volume)), axes)
    assert np.allclose(forward.numpy(), projector.forward(volume, turns), atol=1e-10)
    back = projector.volume(projector.add_slices(torch.from_numpy(values), axes))
    assert np.allclose(back.numpy(), projector.adjoint(values, turns), atol=1e-10)


def test_autograd_through_the_projector_is_the_adjoint() -> None:
    size, draw = 8, np.random.default_rng(0)
    projector, turns = Projector(size), _turns(4)
    volume = torch.from_numpy(draw.normal(size=(size,) * 3)).requires_grad_()
    values = _complex(draw, (4, len(projector.plane)))
    axes = torch.from_numpy(turns[:, :2].copy())
    product = (projector.slices(projector.spectrum(volume), axes) * torch.from_numpy(values).conj()).real.sum()
    product.backward()
    assert volume.grad is not None
    assert np.allclose(volume.grad.numpy(), projector.adjoint(values, turns), atol=1e-10)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Projector(9, padding=1), "even"),
        (lambda: Projector(8).spectrum(np.zeros((9, 9, 9))), "shape"),
    ],
)
def test_what_cannot_be_projected_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
