"""The bundle for a database: contour level, picture, manifest; and how half maps are found and doubted."""

import hashlib
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from matplotlib.image import imread
from sciml_cryoem.files.mrc import write_map
from sciml_cryoem.maps.masks import low_pass, read_mask, soft_sphere
from sciml_cryoem.postprocessing.deposition import VOLUME_PER_DALTON, suggest_contour, write_deposition
from sciml_cryoem.postprocessing.halves import HALF_MAPS, doubts, find_halves, read_halves
from sciml_cryoem.postprocessing.postprocess import postprocess
from sciml_cryoem.postprocessing.surface import depth_map, draw_surface, shade

from sciml.errors import InputError


def _noisy_ball(box: int, seed: int) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)
    return soft_sphere(box, 0.2 * box, 2.0) + noise


def _written(folder: Path, names: tuple[str, str] = HALF_MAPS, box: int = 40, pixel: float = 3.0) -> Path:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        write_map(folder / name, _noisy_ball(box, seed), pixel)
    return folder


def test_contour_by_mass_encloses_its_volume() -> None:
    volume, mask = _noisy_ball(48, 0), soft_sphere(48, 20.0)
    for mass in (20.0, 80.0):
        contour = suggest_contour(volume, mask, 3.0, mass)
        assert contour.volume == pytest.approx(mass * 1000 * VOLUME_PER_DALTON, abs=27.0 * 2)
        assert (volume[mask > 0.5] >= contour.level).sum() * 27.0 == pytest.approx(contour.volume)
        assert contour.level == pytest.approx(volume.mean() + contour.rms * volume.std(), rel=1e-5)
    assert suggest_contour(volume, mask, 3.0, 1e5).level == pytest.approx(volume[mask > 0.5].min())


def test_contour_without_mass_parts_molecule_and_solvent() -> None:
    contour = suggest_contour(_noisy_ball(48, 0), soft_sphere(48, 16.0), 3.0)
    assert contour.level == pytest.approx(0.5, abs=0.1)
    ball = 4 / 3 * np.pi * (10.6 * 3.0) ** 3
    assert contour.volume == pytest.approx(ball, rel=0.1)
    constant = suggest_contour(np.ones((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32), 3.0)
    assert np.isfinite(constant.level)


def test_surface_of_a_ball_is_a_hemisphere(tmp_path: Path) -> None:
    box, radius, size = 40, 12.0, 200
    line = np.arange(box) - (box - 1) / 2
    distance = np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2)
    height = depth_map((radius - distance).astype(np.float32), 0.0, size)
    scale = size / box
    at = (np.arange(size) - (size - 1) / 2) / scale
    expected = np.sqrt(np.maximum(radius**2 - at[:, None] ** 2 - at[None, :] ** 2, 0.0))
    inner = expected > 0.4 * radius
    assert np.isfinite(height[inner]).all()
    assert np.isnan(height[np.hypot(at[:, None], at[None, :]) > radius + 0.5]).all()
    found = height[inner] / scale - height[inner].max() / scale
    np.testing.assert_allclose(found, expected[inner] - expected[inner].max(), atol=0.25)
    picture = shade(height)
    top, bottom = picture[60, 70].mean(), picture[140, 130].mean()
    assert top > bottom + 0.1  # lit from the upper left
    np.testing.assert_array_equal(picture[0, 0], 1.0)
    np.testing.assert_array_equal(shade(np.full((9, 9), np.nan, np.float32)), 1.0)
    path = draw_surface(tmp_path / "a.png", _noisy_ball(40, 0), 0.5)
    assert imread(path).shape[:2] == (500, 500)
    first = path.read_bytes()
    assert draw_surface(path, _noisy_ball(40, 0), 0.5).read_bytes() == first


def test_bundle(tmp_path: Path) -> None:
    paths = find_halves(_written(tmp_path / "run"))
    halves = read_halves(paths)
    result = postprocess(halves.first, halves.second, halves.pixel_size)
    contour = suggest_contour(result.map, result.mask, halves.pixel_size)
    manifest = write_deposition(tmp_path / "deposition", halves, result, contour)
    files = {entry["file"]: entry for entry in manifest["files"]}
    assert files.keys() == {"primary_map.mrc", "half_map_1.mrc", "half_map_2.mrc", "mask.mrc", "fsc.xml", "image.png"}
    for name, entry in files.items():
        data = (tmp_path / "deposition" / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    for number, half in enumerate((halves.first, halves.second), 1):
        with mrcfile.open(tmp_path / f"deposition/half_map_{number}.mrc") as file:
            np.testing.assert_array_equal(file.data, half)
            assert file.voxel_size.x == pytest.approx(3.0)
            assert file.is_volume()
    stored = json.loads((tmp_path / "deposition/manifest.json").read_text(encoding="utf-8"))
    assert stored["voxel_size_angstrom"] == 3.0
    assert stored["contour"]["level"] == pytest.approx(contour.level)
    assert [source["file"] for source in stored["half_map_sources"]] == [str(path) for path in paths]
    sums = (tmp_path / "deposition/manifest.sha256").read_text(encoding="utf-8").splitlines()
    assert {line.split("  ")[1] for line in sums} == files.keys()


def test_halves_are_found_by_their_names(tmp_path: Path) -> None:
    folder = _written(tmp_path / "run")
    expected = (folder / HALF_MAPS[0], folder / HALF_MAPS[1])
    assert find_halves(folder) == find_halves(expected[0]) == find_halves(expected[1]) == expected
    continued = _written(tmp_path / "ct", ("run_ct5_half1_class001_unfil.mrc", "run_ct5_half2_class001_unfil.mrc"))
    assert find_halves(continued)[1].name == "run_ct5_half2_class001_unfil.mrc"
    other = _written(tmp_path / "cs", ("J1_map_half_A.mrc", "J1_map_half_B.mrc"))
    assert find_halves(other / "J1_map_half_A.mrc")[1].name == "J1_map_half_B.mrc"
    odd = _written(tmp_path / "odd", ("even.mrc", "uneven.mrc"))
    assert find_halves(odd / "even.mrc", odd / "uneven.mrc")[1].name == "uneven.mrc"


def test_doubts(tmp_path: Path) -> None:
    halves = read_halves(find_halves(_written(tmp_path / "run")))
    assert doubts(halves) == []
    for number, change in enumerate((lambda v: v * soft_sphere(40, 12.0), lambda v: low_pass(v, 3.0, 9.0))):
        folder = tmp_path / f"changed{number}"
        folder.mkdir()
        for seed, name in enumerate(HALF_MAPS):
            write_map(folder / name, change(_noisy_ball(40, seed)), 3.0)
        found = doubts(read_halves(find_halves(folder)))
        assert len(found) == 2
        assert all(("masked", "low-pass filtered")[number] in finding.what for finding in found)


def test_read_mask(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.mrc", soft_sphere(16, 5.0) * 1.0005 - 0.0002, 3.0)
    mask = read_mask(path, 16)
    assert (mask.min(), mask.max()) == (0.0, 1.0)
    for values, message in ((2.0, "from 0 to 1"), (-0.5, "from 0 to 1"), (0.0, "empty")):
        write_map(path, np.full((16, 16, 16), values, np.float32), 3.0)
        with pytest.raises(InputError, match=message):
            read_mask(path, 16)
    with pytest.raises(InputError, match="16 x 16 x 16 voxels for maps of 18"):
        read_mask(path, 18)
