"""The simulator: what it writes is what its formula says, to the last bit of its seed, and RELION reads it."""

import hashlib
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
from sciml_cryoem import read_particles
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.star import write_star
from sciml_cryoem.imaging.rotations import matrices
from sciml_cryoem.maps.fsc import fsc
from sciml_cryoem.simulation.model_density import read_density, resample
from sciml_cryoem.simulation.simulate import Camera, Simulation, images, scale_to_snr, star_tables, write_particles

from sciml.errors import InputError

BOX, PIXEL = 24, 4.0


def _ball(box: int, place: tuple[float, float, float], width: float) -> np.ndarray:
    """A Gaussian at (x, y, z) voxels from the origin."""
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    squares = (x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2
    return np.exp(-squares / (2 * width**2)).astype(np.float32)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Four balls that lie in no plane, so the density has a hand."""
    balls = (((0, 0, 0), 1.6), ((5, -3, 1), 1.4), ((-4, 2, -4), 1.3), ((1, 5, 4), 1.2))
    return np.sum([_ball(BOX, place, width) for place, width in balls], axis=0)


SIMULATION = Simulation(number=40, box=BOX, pixel_size=PIXEL, snr=0.4, shift=6.0)


@pytest.mark.parametrize("box", [24, 25])
def test_an_image_is_the_shifted_projection_times_the_ctf(box: int) -> None:
    """A Gaussian ball has a closed form for every step: where it lands, its transform, the CTF by its formula."""
    simulation = replace(SIMULATION, box=box, amplitude_contrast=0.1)
    place, width = np.array([5.0, -3.0, 4.0]), 2.2
    camera = Camera(simulation, _ball(box, (5.0, -3.0, 4.0), width))
    poses = simulation.poses(range(6))
    rendered = camera.expose(poses)
    line = np.arange(box) - box // 2
    ky, kx = np.meshgrid(np.fft.ifftshift(line), np.fft.ifftshift(line), indexing="ij")
    for pose, image in zip(poses, rendered, strict=True):
        center = (matrices(pose[:3]) @ place)[:2] - pose[3:5] / PIXEL
        ball = (2 * np.pi * width**2) ** 1.5 * np.exp(-2 * (np.pi * width / box) ** 2 * (kx**2 + ky**2))
        ramp = np.exp(-2j * np.pi * (kx * center[0] + ky * center[1]) / box)
        spectrum = ball * ramp * _ctf(pose, kx / (box * PIXEL), ky / (box * PIXEL))
        spectrum[kx**2 + ky**2 >= (box / 2) ** 2] = 0
        expected = np.fft.fftshift(np.fft.ifft2(spectrum).real)
        assert np.linalg.norm(image - expected) < 0.01 * np.linalg.norm(expected)


def _ctf(pose: np.ndarray, sx: np.ndarray, sy: np.ndarray) -> np.ndarray:
    """The formula of the README, point by point: 300 kV, 2.7 mm, Q0 0.1."""
    u, v, angle = pose[5], pose[6], np.radians(pose[7])
    squared, alpha = sx**2 + sy**2, np.arctan2(sy, sx)
    wave = 12.2643247 / np.sqrt(3e5 * (1 + 0.978466e-6 * 3e5))
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (alpha - angle))
    gamma = -np.pi * wave * defocus * squared + np.pi / 2 * 2.7e7 * wave**3 * squared**2
    return -np.sin(gamma - np.arctan(0.1 / np.sqrt(1 - 0.01)))


def test_snr_and_noise_are_what_was_asked_for(truth: np.ndarray) -> None:
    simulation = replace(SIMULATION, number=320)
    scaled = scale_to_snr(simulation, truth)
    clean = np.concatenate([Camera(simulation, scaled).expose(simulation.poses(range(s, s + 32))) for s in (0, 32, 64)])
    assert clean.var(axis=(1, 2)).mean() == pytest.approx(0.4, rel=0.05)
    noisy = np.concatenate(list(images(simulation, scaled)))
    noise = noisy[:96] - clean
    assert noisy.shape == (320, BOX, BOX)
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert abs(noise.mean()) < 0.01
    power = np.abs(np.fft.fft2(noise)) ** 2
    assert power.mean(axis=0).max() < 2.0 * power.mean()  # white: 96 exponentials a point


def test_every_pose_is_its_own_and_the_orientations_are_uniform() -> None:
    simulation = replace(SIMULATION, number=2000)
    poses = simulation.poses(range(2000))
    views = matrices(poses[:, :3])[:, 2]  # uniform on the sphere: mean 0, second moments 1/3
    np.testing.assert_allclose(views.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(views.T @ views / 2000, np.eye(3) / 3, atol=0.03)
    assert len(np.unique(poses[:, 0])) == 2000
    assert np.abs(poses[:, 3:5]).max() <= 6.0
    mean = poses[:, 5:7].mean(axis=1)
    assert 10000 <= mean.min() < 10200
    assert 24800 < mean.max() <= 25000
    assert np.abs(poses[:, 5] - poses[:, 6]).max() <= 500


def test_a_larger_set_begins_with_the_smaller_one(truth: np.ndarray) -> None:
    small, large = replace(SIMULATION, number=37), replace(SIMULATION, number=100)
    first = np.concatenate(list(images(small, truth)))
    second = np.concatenate(list(images(large, truth)))
    assert first.tobytes() == second[:37].tobytes()
    np.testing.assert_array_equal(scale_to_snr(small, truth), scale_to_snr(large, truth))


def test_same_seed_same_bytes(truth: np.ndarray, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        outputs = write_particles(replace(SIMULATION, seed=seed), truth, tmp_path / name)
        contents.append([path.read_bytes() for path in outputs.values()])
    assert contents[0] == contents[1]
    assert contents[0][1] != contents[2][1]
    assert contents[0][2] != contents[2][2]


@pytest.mark.parametrize("half_precision", [False, True])
def test_reading_back(truth: np.ndarray, tmp_path: Path, half_precision: bool) -> None:
    outputs = write_particles(SIMULATION, truth, tmp_path, half_precision)
    particles = read_particles(outputs["star"])
    assert particles.findings == ()
    assert (particles.n, particles.box, particles.pixel_size) == (40, BOX, PIXEL)
    assert np.bincount(particles.half_sets()).tolist() == [0, 20, 20]
    poses = SIMULATION.poses(range(40))
    np.testing.assert_array_equal(particles.angles_deg, poses[:, :3])
    np.testing.assert_array_equal(particles.origins, poses[:, 3:5])
    expected = np.concatenate(list(images(SIMULATION, truth)))
    np.testing.assert_allclose(particles.images(), expected, atol=0.003 if half_precision else 0)
    np.testing.assert_array_equal(read_map(outputs["truth"]).array, truth)


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
def test_relion_reconstructs_the_truth_from_it(truth: np.ndarray, tmp_path: Path) -> None:
    """Hand, axes, origin, shifts, contrast and CTF at once: any of them wrong, and nothing correlates."""
    simulation = replace(SIMULATION, number=300, snr=2.0)
    scaled = scale_to_snr(simulation, truth)
    write_particles(simulation, scaled, tmp_path)
    command = ["relion_reconstruct", "--i", "particles.star", "--o", "map.mrc", "--ctf", "--angpix", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    volume = read_map(tmp_path / "map.mrc").array
    assert fsc(volume, scaled)[:6].min() > 0.95
    for axis in range(3):  # a mirror through the origin n // 2 of an even box
        mirrored = np.roll(np.flip(scaled, axis), 1, axis)
        assert fsc(volume, mirrored)[3:6].max() < 0.8


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_project") is None, reason="RELION is not installed")
def test_agrees_with_relion_project(truth: np.ndarray, tmp_path: Path) -> None:
    write_map(tmp_path / "truth.mrc", truth, PIXEL)
    write_star(tmp_path / "in.star", star_tables(SIMULATION, "none.mrcs"))
    command = ["relion_project", "--i", "truth.mrc", "--ang", "in.star", "--ctf", "--o", "out", "--angpix", "4"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = read_particles(tmp_path / "out.star", needs=()).images()
    ours = Camera(SIMULATION, truth).expose(SIMULATION.poses(range(40)))
    for a, b in zip(ours, theirs, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.995


def test_values_outside_their_range() -> None:
    for change, message in (
        ({"number": 0}, "number is 0"),
        ({"snr": -1.0}, "SNR is -1"),
        ({"box": 4}, "box is 4"),
        ({"shift": 50.0}, "shift is 50"),
        ({"amplitude_contrast": 1.5}, "amplitude contrast is 1.5"),
        ({"defocus": (2e4, 1e4)}, "lowest defocus"),
    ):
        with pytest.raises(InputError, match=message):
            replace(SIMULATION, **change)
    with pytest.raises(InputError, match="no contrast"):
        scale_to_snr(SIMULATION, np.zeros((BOX, BOX, BOX), np.float32))


def test_resampling_is_exact_for_what_both_grids_hold() -> None:
    """A Gaussian broad enough for both grids and away from the edge, even and odd, finer and coarser."""
    source = _ball(36, (2, -3, 1), 2.5)
    for box, pixel in ((36, 2.0), (30, 2.0), (48, 2.0), (33, 3.0), (40, 1.3), (25, 2.7)):
        place = tuple(2.0 * c / pixel for c in (2, -3, 1))
        expected = _ball(box, (place[0], place[1], place[2]), 2.5 * 2.0 / pixel)
        np.testing.assert_allclose(resample(source, 2.0, box, pixel), expected, atol=2e-4)


def test_maps_of_other_grids(shared: Path, tmp_path: Path) -> None:
    density = read_density(shared / "data/io/maps/EMD-3197.map", 24, 10.0, 0.0)
    assert density.shape == (24, 24, 24)
    write_map(tmp_path / "a.mrc", density, 0.0)
    with pytest.raises(InputError, match="header field cella: the pixel size is not set"):
        read_density(tmp_path / "a.mrc", 24, 10.0, 0.0)


def _model(path: Path, places: list[tuple[float, float, float]], element: str = "C") -> Path:
    structure = gemmi.Structure()
    model, chain, residue = gemmi.Model(1), gemmi.Chain("A"), gemmi.Residue()
    residue.name, residue.seqid = "ALA", gemmi.SeqId("1")
    for number, place in enumerate(places):
        atom = gemmi.Atom()
        atom.name, atom.element, atom.b_iso = f"{element}{number}", gemmi.Element(element), 20.0
        atom.pos = gemmi.Position(*place)
        residue.add_atom(atom)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.make_mmcif_document().write_file(str(path))
    return path


@pytest.mark.parametrize("box", [32, 33])
def test_atoms_land_where_they_should(tmp_path: Path, box: int) -> None:
    places = [(-20.0, 0.0, 0.0), (20.0, 10.0, -14.0), (20.0, -10.0, 14.0), (-5.0, 8.0, 3.0)]
    density = read_density(_model(tmp_path / "a.cif", places), box, 3.0, 150.0)
    middle = 0.5 * (np.min(places, axis=0) + np.max(places, axis=0))
    for place in places:
        x, y, z = (np.array(place) - middle) / 3.0 + box // 2
        corner = np.floor([z, y, x]).astype(int)
        region = density[tuple(slice(c - 3, c + 5) for c in corner)].astype(float)
        grid = np.stack(np.meshgrid(*(np.arange(c - 3, c + 5) for c in corner), indexing="ij"))
        center = (grid * region).sum(axis=(1, 2, 3)) / region.sum()
        np.testing.assert_allclose(center, [z, y, x], atol=0.15)
    # Electron scattering at zero angle, and so the integral of the density, is the same for four equal atoms.
    one = read_density(_model(tmp_path / "b.cif", places[:2]), box, 3.0, 150.0)
    assert density.sum() == pytest.approx(2 * one.sum(), rel=0.02)


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    wide = _model(tmp_path / "wide.cif", [(-60.0, 0, 0), (60.0, 0, 0)])
    with pytest.raises(InputError, match="120 Angstrom wide, the box only 96"):
        read_density(wide, 32, 3.0, 100.0)
    with pytest.raises(InputError, match="no such file"):
        read_density(tmp_path / "none.pdb", 32, 3.0, 100.0)
    for name, text in (("empty.cif", "data_x\n_a 1\n"), ("words.cif", "just words"), ("empty.pdb", "END\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=r"no atoms|not a readable"):
            read_density(tmp_path / name, 32, 3.0, 100.0)


def test_bundled_data_are_what_the_manifest_says(root: Path) -> None:
    manifest = tomllib.loads((root / "data/manifest.toml").read_text(encoding="utf-8"))
    assert len(manifest["file"]) == 4
    total = 0
    for entry in manifest["file"]:
        content = (root / "data" / entry["path"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["bytes"], entry["sha256"])
        assert entry["command"]
        total += len(content)
    assert total < 10e6


def test_bundled_data_come_from_the_recorded_command(root: Path) -> None:
    """The first images made again from the bundled model; another machine may round the last digit differently."""
    simulation = Simulation(number=32, box=64, pixel_size=3.5, snr=0.1)
    scaled = scale_to_snr(simulation, read_density(root / "data/model.cif", 64, 3.5, 100.0))
    np.testing.assert_allclose(read_map(root / "data/particles/truth.mrc").array, scaled, atol=1e-4)
    particles = read_particles(root / "data/particles/particles.star")
    assert particles.n == 600
    assert particles.findings == ()
    again = np.concatenate(list(images(simulation, scaled)))
    np.testing.assert_allclose(particles.images(slice(0, 32)), again, atol=0.005)
    np.testing.assert_array_equal(particles.angles_deg[:32], simulation.poses(range(32))[:, :3])
