"""Whitened Fourier values of images: their points, their noise, and the model that every search compares them with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.imaging import ctf, fourier, rotations
from sciml_cryoem.imaging.half_plane import Disc, HalfPlane
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.reconstruction.image_spectra import image_spectra, whitened
from sciml_cryoem.reconstruction.images import ImageSettings, measure_noise, views_of
from sciml_cryoem.reconstruction.insertion import Views
from sciml_cryoem.reconstruction.noise import Background, NoiseModel, measure
from sciml_cryoem.simulation.simulate import Camera, Simulation


def _blobs(box: int) -> np.ndarray:
    """Four blobs without symmetry, near the middle: their projections end well before the background."""
    line = np.arange(box) - box // 2
    volume = np.zeros((box,) * 3)
    for place in ((0.0, 0.0, 0.0), (0.12, 0.05, -0.08), (-0.06, 0.13, 0.09), (0.02, -0.1, 0.12)):
        z, y, x = (np.exp(-np.square((line - a * box) / (0.07 * box))) for a in place)
        volume += z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


def _plain(box: int, deviation: float = 1.0, groups: int = 1) -> NoiseModel:
    """White noise of this deviation in a pixel."""
    power = np.full((groups, box // 2 + 1), (deviation * box) ** 2)
    return NoiseModel(Background.outside(box), power, None, 0.0)


def _views(count: int, table: np.ndarray | None = None, groups: np.ndarray | None = None) -> Views:
    return Views(
        np.zeros((count, 2, 3), np.float32),
        np.zeros((count, 2)),
        np.broadcast_to(ctf.no_ctf(count) if table is None else table, (count, ctf.COEFFICIENTS)).astype(np.float32),
        np.zeros(count, np.int64) if groups is None else groups,
    )


@pytest.mark.parametrize(("box", "radius"), [(16, 8.0), (15, 7.5), (32, 9.3)])
def test_disc_is_the_half_plane_sorted(box: int, radius: float) -> None:
    disc, plane = Disc(box, radius), HalfPlane(box, radius)
    assert len(disc) == len(plane)
    assert {(int(x), int(y)) for x, y in zip(disc.kx, disc.ky, strict=True)} == set(
        zip(plane.kx.astype(int).tolist(), plane.ky.astype(int).tolist(), strict=True)
    )
    lengths = np.hypot(disc.kx, disc.ky)
    assert np.all(np.diff(lengths) >= -1e-6)
    assert lengths[0] == 0.0
    np.testing.assert_array_equal(disc.shell, np.rint(lengths))
    for inner in (1.0, 2.0, 5.0, 6.5):  # 5: a length that many points have, none of which is within
        count = disc.within(inner)
        assert count == np.sum(lengths < inner - 1e-6)
        smaller = Disc(box, inner)
        np.testing.assert_array_equal(smaller.kx, disc.kx[:count])
        np.testing.assert_array_equal(smaller.ky, disc.ky[:count])


def test_lower_resolution_is_the_beginning_of_each_row() -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(5, 16, 16)).astype(np.float32)
    defocus = np.linspace(8e3, 2e4, 5)
    table = ctf.CTF(defocus, defocus - 300.0, np.zeros(5), 3e5, 2.7e7, 0.1).coefficients(16, 4.0)
    wide = whitened(images.copy(), Disc(16, 8.0), _plain(16), _views(5, table))
    narrow = whitened(images.copy(), Disc(16, 5.0), _plain(16), _views(5, table))
    cut = wide.up_to(5.0)
    assert len(cut.disc) == narrow.values.shape[1] < wide.values.shape[1]
    np.testing.assert_array_equal(cut.values, narrow.values)
    np.testing.assert_array_equal(cut.transfer, narrow.transfer)
    assert np.shares_memory(cut.values, wide.values)
    some = wide.take(np.array([3, 1]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.values, wide.values[[3, 1]])
    np.testing.assert_array_equal(some.transfer, wide.transfer[[3, 1]])


@pytest.mark.parametrize("box", [24, 25])
def test_noise_has_power_one_and_the_origin_half(box: int) -> None:
    """Coloured noise of two groups, measured in the background: 1 at every point but the origin, which is real."""
    draw, count = np.random.default_rng(1), 1500
    groups = np.arange(count) % 2
    white = draw.normal(size=(count, box, box))
    color = np.exp(-0.5 * np.sqrt(fourier.squared_radii(box, 2)) / (box / 2))
    images = np.fft.irfft2(np.fft.rfft2(white) * color, (box, box)) * np.where(groups == 1, 3.0, 1.0)[:, None, None]
    noise = measure([images.astype(np.float32)], groups, Background.outside(box))
    disc = Disc(box, box / 2)
    found = whitened(images.astype(np.float32), disc, noise, _views(count, groups=groups))
    for group in (0, 1):
        power = np.square(np.abs(found.values[groups == group])).mean(0)
        for shell in range(1, box // 2):
            ring = power[disc.shell == shell]
            error = 1.0 / np.sqrt(len(ring) * count / 2)
            window = 0.15 if shell < 3 else 0.05  # the background window smooths the steep beginning of the spectrum
            assert ring.mean() == pytest.approx(1.0, abs=window + 4 * error), f"shell {shell} of group {group}"
        assert power[1:].mean() == pytest.approx(1.0, abs=0.02)
        assert power[1:].max() < 1.35  # no point counts twice
        parts = found.values[groups == group][:, 1:]
        assert np.square(np.real(parts)).mean() == pytest.approx(np.square(np.imag(parts)).mean(), rel=0.05)
    flat = whitened(white.astype(np.float32), disc, replace(_plain(box), background=_Nothing(box, 0.0)), _views(count))
    power = np.square(np.abs(flat.values)).mean(0)
    assert power[0] == pytest.approx(0.5, abs=0.08)
    assert np.abs(np.imag(flat.values[:, 0])).max() < 1e-3
    assert power[1:].mean() == pytest.approx(1.0, abs=0.01)


class _Nothing(Background):
    """A background whose mean is never taken off."""

    def means(self, images: np.ndarray) -> np.ndarray:
        return np.zeros(len(images), np.float32)


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("offset", [(0, 0), (3, -2), (-4, 1)])
def test_an_image_is_the_projection_moved_by_minus_its_offset(box: int, offset: tuple[int, int]) -> None:
    """y(k) = exp(+2 pi i k.o / n) V(A^T k): the image is moved in real space, by whole pixels."""
    poses = rotations.matrices(np.array([[20.0, 70.0, -50.0], [-100.0, 30.0, 10.0]]))
    projector = Projector(box, 2)
    images = np.roll(projector.images(_blobs(box), poses), (-offset[1], -offset[0]), (1, 2)).astype(np.float32)
    disc = Disc(box, 8.0)
    found = whitened(images.copy(), disc, replace(_plain(box, 2.0), background=_Nothing(box, 0.0)), _views(2))
    expected = _at(disc, projector, projector.forward(_blobs(box), poses)) / (2.0 * box)
    np.testing.assert_allclose(found.transfer[:, 1:], 1.0 / (2.0 * box), rtol=1e-6)
    np.testing.assert_allclose(found.transfer[:, 0], np.sqrt(0.5) / (2.0 * box), rtol=1e-6)
    undone = found.values * disc.phases(np.array([offset], float))
    scale = np.abs(expected).max()
    expected[:, 0] *= np.sqrt(0.5)
    np.testing.assert_allclose(undone, expected, atol=1e-4 * scale)
    if offset != (0, 0):
        assert np.abs(found.values - expected).max() > 0.1 * scale
    # Not Hermitian by accident: x and y have their own offsets.
    other = found.values * disc.phases(np.array([offset[::-1]], float))
    assert offset[0] == offset[1] or np.abs(other - expected).max() > 0.1 * scale


def _at(disc: Disc, projector: Projector, values: np.ndarray) -> np.ndarray:
    """Values at the points of the projector's plane, in the order of the disc."""
    plane = projector.plane
    place = {(int(x), int(y)): i for i, (x, y) in enumerate(zip(plane.kx, plane.ky, strict=True))}
    return values[:, [place[int(x), int(y)] for x, y in zip(disc.kx, disc.ky, strict=True)]]


@pytest.mark.parametrize("box", [24, 25])
def test_the_transfer_is_the_ctf_over_the_noise(box: int) -> None:
    """Images of the simulator, which knows CTF, offsets and poses in its own way, follow the model."""
    simulation = Simulation(number=6, box=box, pixel_size=4.0, snr=1.0, shift=12.0)
    poses = simulation.poses(range(6))
    clean = Camera(simulation, _blobs(box)).expose(poses)
    u, v, angle = poses[:, 5], poses[:, 6], np.radians(poses[:, 7])
    table = ctf.CTF(u, v, angle, 3e5, 2.7e7, 0.1).coefficients(box, 4.0)
    groups = np.arange(6) % 2
    power = np.stack([np.linspace(4.0, 1.0, box // 2 + 1), np.linspace(1.0, 2.0, box // 2 + 1)])
    noise = NoiseModel(Background.outside(box), power, None, 0.0)
    disc = Disc(box, 8.0)
    found = whitened(clean.astype(np.float32), disc, noise, _views(6, table, groups))
    direct = ctf.evaluate(table, disc.kx, disc.ky) / np.sqrt(power[groups][:, disc.shell])
    np.testing.assert_allclose(found.transfer[:, 1:], direct[:, 1:], atol=2e-4)
    assert found.transfer.min() < -0.3  # its sign stays
    projector = Projector(box, 2)
    slices = _at(disc, projector, projector.forward(_blobs(box), rotations.matrices(poses[:, :3])))
    expected = found.transfer * slices * disc.phases(poses[:, 3:5] / 4.0).conj()
    error = np.linalg.norm((found.values - expected)[:, 1:]) / np.linalg.norm(expected[:, 1:])
    assert error < 0.02
    assert np.abs(poses[:, 3:5]).max() > 8.0


def test_a_set_is_read_once_in_blocks(pristine: Path) -> None:
    """The same numbers whatever the size of a block, each row with its own CTF, and no pose is looked at."""
    particles = read_particles(pristine / "particles.star")
    settings = ImageSettings(batch_mb=5 * 4 * 16**2 / 2**20)  # 5, 5 and 2 images
    views = views_of(particles)
    noise = measure_noise(particles, views.groups, settings)
    seen: list[int] = []
    found = image_spectra(particles, views, noise, 6.0, settings, watch=seen.append)
    assert seen == [5, 10, 12]
    whole = whitened(particles.images(), Disc(16, 6.0), noise, views)
    np.testing.assert_allclose(found.values, whole.values, atol=1e-5)
    np.testing.assert_allclose(found.transfer, whole.transfer, atol=1e-6)
    assert np.ptp(found.transfer[:, 30]) > 0.01 * np.abs(found.transfer[:, 30]).max()
    elsewhere = replace(particles, angles_deg=particles.angles_deg + 40.0, origins=particles.origins + 4.0)
    again = image_spectra(elsewhere, views_of(elsewhere), noise, 6.0, settings)
    np.testing.assert_array_equal(again.values, found.values)
    plain = image_spectra(particles, views_of(particles, use_ctf=False), noise, 6.0, settings)
    np.testing.assert_array_equal(plain.values, found.values)
    assert np.all(plain.transfer > 0)
