"""What cannot be read is named as what it is, with the remedy; compressed maps are read."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map, write_map
from sciml_cryoem.files.reference_map import read_reference
from sciml_cryoem.files.run_tables import check_given_pixel, findings_beside, pixel_size_beside
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.files.table import make_table

from sciml.errors import InputError
from sciml.findings import Finding
from sciml.runs.files import to_json

STARTS = {
    "a.cs": (b"\x93NUMPY\x01\0", "cryoSPARC dataset.*csparc2star"),
    "a.star": ("\ufeffdata_\n".encode("utf-16-le"), "UTF-16 text.*iconv"),
    "b.star": ("\ufeffdata_\n".encode("utf-16-be"), "UTF-16 text"),
    "a.star.zst": (b"\x28\xb5\x2f\xfd", "zstd.*zstd -d a.star.zst"),
    "a.star.xz": (b"\xfd7zXZ\0", "xz -dk a.star.xz"),
    "a.star.gz": (b"\x1f\x8b\x08\0", "gunzip -k a.star.gz"),
    "a.zip": (b"PK\x03\x04", "ZIP archive"),
    "a.hdf": (b"\x89HDF\r\n\x1a\n", "HDF5.*e2proc2d"),
    "a.tif": (b"II*\0", "TIFF.*tif2mrc"),
    "a.db": (b"SQLite format 3\0", "cisTEM project"),
    "a.par": (b"C           PSI   THETA     PHI       SHX\n", "cisTEM or Frealign"),
    "a.cistem": (b"\x01\0\0\0", "cisTEM"),
}


@pytest.mark.parametrize("name", STARTS)
def test_files_of_others_are_named(name: str, tmp_path: Path) -> None:
    start, message = STARTS[name]
    path = tmp_path / name
    path.write_bytes(start + b"\0" * 2000)
    with pytest.raises(InputError, match=message):
        read_star(path)
    if not name.endswith(".gz"):
        with pytest.raises(InputError, match=message):
            read_map(path)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "a.star"
    path.symlink_to(tmp_path / "gone" / "b.star")
    for read in (read_star, read_map):
        with pytest.raises(InputError, match=r"a link to .*gone/b.star, which does not exist"):
            read(path)


@pytest.mark.parametrize(("ending", "compress"), [(".map.gz", gzip.compress), (".map.bz2", bz2.compress)])
def test_compressed_maps(ending: str, compress, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 6, 6)).astype(np.float32)
    data = write_map(tmp_path / "a.mrc", values, 2.5).read_bytes()
    path = tmp_path / f"a{ending}"
    path.write_bytes(compress(data))
    volume = read_map(path)
    np.testing.assert_array_equal(volume.array, values)
    assert volume.pixel_size == 2.5
    assert volume.header.notes == ()
    for damaged, message in (
        (compress(data)[:-20], "damaged|truncated"),
        (compress(data[:-8]), "truncated"),
        (compress(data[:100]), "shorter than the 1024"),
        (compress(data)[:40] + bytes(40) + compress(data)[80:], "damaged|not an MRC|truncated|cannot be read"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=message):
            read_map(path)


def test_shared_compressed_maps(shared: Path) -> None:
    plain = read_map(shared / "data/io/maps/EMD-3197.map")
    for name in ("EMD-3197.map.bz2", "emd_3197.map.gz"):
        np.testing.assert_array_equal(read_map(shared / "data/io/compressed" / name).array, plain.array)


def test_a_pixel_of_one_angstrom_is_known_in_our_maps_and_from_the_tables_beside_others(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.mrc", np.ones((4, 4, 4), np.float32), 1.0)
    assert read_map(path).pixel_size == 1.0
    data = bytearray(path.read_bytes())
    data[224:229] = b"other"
    path.write_bytes(data)
    assert read_map(path).pixel_size is None
    assert pixel_size_beside(path) is None
    write_star(tmp_path / "run_model.star", [make_table("model_general", {"rlnPixelSize": ["1.0"]}, loop=False)])
    assert pixel_size_beside(path) == 1.0
    (tmp_path / "run_model.star").write_text("nothing of the kind")
    assert pixel_size_beside(path) is None


@pytest.mark.parametrize("pixel_size", [500.0, 0.01])
def test_the_pixel_of_a_reference_is_bounded(pixel_size: float, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 6, 6)).astype(np.float32)
    path = write_map(tmp_path / "a.mrc", values, pixel_size)
    with pytest.raises(InputError, match=r"the ratio may be 12. Correct the header"):
        read_reference(path, 32, 5.0)


def test_warnings_of_a_run_hold_for_what_is_made_of_its_maps(tmp_path: Path) -> None:
    maps = [tmp_path / run / "map.mrc" for run in ("a", "b", "c")]
    told = [Finding("Odd.", severity="severe").record(), Finding("Known.", severity="note").record()]
    for path, text in zip(maps, (to_json({"findings": told}), to_json({"findings": told[:1]}), "{"), strict=True):
        path.parent.mkdir()
        (path.parent / "summary.json").write_text(text)
    assert findings_beside(maps) == [Finding("Odd.", severity="severe")]


def test_a_given_pixel_size_is_compared_with_that_of_the_maps() -> None:
    assert check_given_pixel(2.5, [2.5, None]) == []
    (other,) = check_given_pixel(2.5, [1.25, 1.25])
    assert "the maps say 1.25" in other.what
    (unit,) = check_given_pixel(250.0, [None])
    assert unit.severity == "severe"
    with pytest.raises(InputError, match="--pixel is -1"):
        check_given_pixel(-1.0, [2.5])
