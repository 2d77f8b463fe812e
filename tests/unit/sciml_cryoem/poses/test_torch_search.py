"""The pose search by torch against the compiled loops, on grids of the size that is searched; its memory."""

import logging

import numpy as np
import pytest
import torch
from sciml_cryoem.imaging import fourier, kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.poses import torch_search
from sciml_cryoem.poses.search import search
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

BOX, RADIUS = 32, 8.0
GRID = PoseGrid(orientations.half_turn_grid(1), orientations.shift_disc(2.0, 1.0))


@pytest.fixture(params=["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where torch searches."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def _slices(seed: int, disc: Disc) -> np.ndarray:
    """Of a density of fine blobs."""
    draw, line = np.random.default_rng(seed), np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for _ in range(12):
        z, y, x = (np.exp(-np.square(line - c) / 3.0) for c in 0.12 * BOX * draw.normal(size=3))
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    slices = np.empty((len(GRID.rotations), len(disc)), np.complex64)
    axes = np.ascontiguousarray(2.0 * GRID.rotations[:, :2], np.float32)
    spectrum = fourier.transform_padded(volume.astype(np.float32), 2 * BOX).astype(np.complex64)
    kernels.gather(spectrum, axes, disc.kx, disc.ky, slices)
    return slices


def _case(power: float, classes: int = 1, count: int = 40) -> tuple[ImageSpectra, np.ndarray]:
    """Images, and the slices of one density or several; `power` over that of the noise decides how sharp posteriors
    are."""
    draw, disc = np.random.default_rng(5), Disc(BOX, RADIUS + 2)
    slices = np.concatenate([_slices(seed, disc) for seed in range(1, classes + 1)])
    transfer = draw.uniform(-1.0, 1.0, (count, len(disc))).astype(np.float32)
    slices *= np.float32(np.sqrt(power / np.square(np.abs(slices[0] * transfer[0])).sum()))
    values = transfer * slices[draw.integers(len(slices), size=count)]
    values = values * disc.phases(GRID.shifts)[draw.integers(len(GRID.shifts), size=count)].conj()
    noise = np.sqrt(0.5) * (draw.normal(size=values.shape) + 1j * draw.normal(size=values.shape))
    return ImageSpectra(disc, (values + noise).astype(np.complex64), transfer), slices


def _agree(found: SearchResult, expected: SearchResult) -> None:
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-4, atol=1e-4)
    for name in ("numerator", "denominator"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs), name
    assert found.places.dtype == expected.places.dtype
    # Poses equally likely in single precision may be given either way.
    assert (found.places != expected.places).any(-1).mean() < 0.02
    assert found.evaluated == expected.evaluated


@pytest.mark.parametrize(("power", "least", "most"), [(2.0, 0.99, 1.0), (20.0, 0.0, 1.0), (400.0, 0.0, 0.05)])
def test_agrees_with_the_compiled_loops(power: float, least: float, most: float, device: str) -> None:
    """From posteriors that leave no orientation out to those of which few are left."""
    images, slices = _case(power)
    expected = search(images, slices, GRID, RADIUS)
    one = search(images.take(slice(0, 1)), slices, GRID, RADIUS)
    likely = (one.denominator > 0).any(1).mean()
    assert least < likely <= most
    _agree(search(images, slices, GRID, RADIUS, device=device), expected)


@pytest.mark.parametrize(
    "wanted", [SearchRequest(), SearchRequest(sums=False), SearchRequest(poses=3), SearchRequest(sums=False, poses=3)]
)
@pytest.mark.parametrize(("classes", "power"), [(1, 30.0), (3, 30.0), (1, 400.0)])
def test_agrees_whatever_is_wanted(classes: int, power: float, wanted: SearchRequest, device: str) -> None:
    images, slices = _case(power, classes)
    expected = search(images, slices, GRID, RADIUS, wanted)
    found = search(images, slices, GRID, RADIUS, wanted, device)
    _agree(found, expected)
    assert found.places.shape == (len(images), wanted.poses, 3)
    assert len(found.numerator) == (len(slices) if wanted.sums else 0)
    if wanted.poses > 1 and power == 30.0:  # sharper ones have no second pose: it is the first again
        assert (found.places[:, 0] != found.places[:, 1]).any(1).mean() > 0.5


def test_views_of_larger_arrays_will_do_and_nothing_is_changed(device: str) -> None:
    """As the problem hands them over: the first points of rows, every third image."""
    images, slices = _case(20.0)
    part = images.up_to(6.0).take(slice(None, None, 3))
    points = len(part.disc)
    copies = [array.copy() for array in (part.values, part.transfer, slices)]
    found = search(part, slices[:, :points], GRID, 5.0, device=device)
    _agree(found, search(part, slices[:, :points].copy(), GRID, 5.0))
    for array, copy in zip((part.values, part.transfer, slices), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_no_images(device: str) -> None:
    images, slices = _case(20.0)
    found = search(images.take(slice(0, 0)), slices, GRID, RADIUS, device=device)
    assert found.places.shape == (0, 1, 3) and found.evaluated == 0 and not found.numerator.any()


def test_a_chunk_that_memory_does_not_hold_is_halved_and_counted_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str
) -> None:
    """It fails at the last moment: with the products made, before any is added."""
    images, slices = _case(20.0, count=23)
    expected, likeliest = search(images, slices, GRID, RADIUS), torch_search._likeliest

    def small(plus: torch.Tensor, *others: object) -> torch.Tensor:
        if len(plus) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return likeliest(plus, *others)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(torch_search, "_likeliest", small)
    monkeypatch.setattr(torch_search, "_BYTES_CPU", 1 << 30)
    with caplog.at_level(logging.WARNING):
        found = search(images, slices, GRID, RADIUS, device=device)
    _agree(found, expected)
    assert [message.split(":")[1] for message in caplog.messages] == [" 11 at a time", " 5 at a time", " 2 at a time"]


@pytest.mark.gpu
def test_memory_of_a_gpu_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, slices = _case(20.0, 2, 2000)
    budget = 1 << 26
    monkeypatch.setattr(torch_search, "_BYTES", budget)
    search(images.take(slice(0, 8)), slices, GRID, RADIUS, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    search(images, slices, GRID, RADIUS, SearchRequest(poses=3), "cuda")
    held = 48 * slices.size + 64 * len(images)  # slices, sums and their products, places
    assert torch.cuda.max_memory_allocated() - before < 1.2 * budget + held
    assert torch.cuda.memory_allocated() == before
