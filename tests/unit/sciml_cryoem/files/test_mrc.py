"""MRC files: all modes and byte orders that hold images are read; whatever lies is refused before allocating."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import HEADER_DTYPE
from sciml_cryoem.files.mrc import MappedStack, read_map, write_map, write_stack
from sciml_cryoem.files.mrc_header import Mode0, read_header

from sciml.errors import InputError

MODES = {0: np.int8, 1: np.int16, 2: np.float32, 6: np.uint16, 12: np.float16}


def _open(path: Path, mode: str = "r", **options: Any) -> Any:
    """mrcfile's object, whose attributes are None until there are data, which a type checker cannot know."""
    return mrcfile.open(path, mode=mode, **options)


def _new(path: Path, **options: Any) -> Any:
    return mrcfile.new(path, **options)


def _stack(path: Path, dtype: type = np.float32, shape: tuple[int, int, int] = (3, 4, 5)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    with _new(path, overwrite=True) as file:
        file.set_data(values)
        file.set_image_stack()
        file.voxel_size = 2.5
    return values


def _patch(path: Path, **fields: Any) -> Path:
    """Overwrite header fields in place."""
    data = bytearray(path.read_bytes())
    header = np.frombuffer(bytes(data[:1024]), HEADER_DTYPE).copy()
    for name, value in fields.items():
        header[name] = value
    data[:1024] = header.tobytes()
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_read_as_native_float32(tmp_path: Path, mode: int) -> None:
    values = _stack(tmp_path / "a.mrcs", MODES[mode])
    header = read_header(tmp_path / "a.mrcs")
    assert header.mode == mode
    assert header.pixel_size == pytest.approx(2.5)
    images = MappedStack(header).read(np.arange(3))
    assert images.dtype == np.dtype("=f4")
    assert images.flags.c_contiguous
    np.testing.assert_array_equal(images, values.astype(np.float32))


def test_any_sections_in_any_order(tmp_path: Path) -> None:
    values = _stack(tmp_path / "a.mrcs", np.int16, (40, 64, 64))
    stack = MappedStack(read_header(tmp_path / "a.mrcs"))
    for which in ([0], [3, 4, 5], [7, 2, 2, 39], list(range(40)), []):
        np.testing.assert_array_equal(stack.read(np.array(which, dtype=np.int64)), values[which])


def test_big_endian_becomes_native(tmp_path: Path) -> None:
    values = np.arange(60, dtype=">f4").reshape(3, 4, 5)
    with _new(tmp_path / "a.mrcs") as file:
        file.set_data(values)
    header = read_header(tmp_path / "a.mrcs")
    assert header.dtype == np.dtype(">f4")
    images = MappedStack(header).read(np.array([2, 1]))
    assert images.dtype.isnative
    np.testing.assert_array_equal(images, values[[2, 1]].astype(np.float32))


def test_bytes_may_be_unsigned(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    _stack(path, np.int8)
    data = bytearray(path.read_bytes())
    data[1024] = 200
    path.write_bytes(data)
    read = {
        mode0: MappedStack(read_header(path, mode0)).read(np.array([0]))[0, 0, 0] for mode0 in ("signed", "unsigned")
    }
    assert read == {"signed": -56.0, "unsigned": 200.0}
    cases: tuple[tuple[Mode0, tuple[int, int], str], ...] = (
        ("auto", (0, 200), "--mode0 unsigned"),
        ("signed", (0, 200), "--mode0 unsigned"),
        ("unsigned", (-5, 20), "--mode0 signed"),
    )
    for mode0, extremes, remedy in cases:
        with pytest.raises(InputError, match=remedy):
            read_header(_patch(path, dmin=extremes[0], dmax=extremes[1]), mode0)


@pytest.mark.parametrize("byte_order", "<>")
def test_the_flag_of_imod_says_how_bytes_are_read(tmp_path: Path, byte_order: str) -> None:
    path = tmp_path / "a.mrcs"
    _stack(path, np.int8)
    data = bytearray(path.read_bytes())
    if byte_order == ">":
        data[:1024] = np.frombuffer(bytes(data[:1024]), HEADER_DTYPE).byteswap().tobytes()
        data[212:216] = b"\x11\x11\0\0"
    data[1024] = 200
    for flags, value in ((0, 200.0), (1, -56.0), (4, 200.0), (5, -56.0)):
        data[152:160] = struct.pack(byte_order + "2i", 1146047817, flags)
        data[76:84] = struct.pack(byte_order + "2f", 0.0, 0.0)  # extremes that say nothing
        path.write_bytes(data)
        header = read_header(path)
        assert MappedStack(header).read(np.array([0]))[0, 0, 0] == value, flags
    data[152:160] = struct.pack(byte_order + "2i", 1146047817, 0)
    data[76:84] = struct.pack(byte_order + "2f", -5.0, 20.0)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"as IMOD's flag says.*dmin in the header is -5"):
        read_header(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": 3}, "mode 3 cannot be read.*complex int16"),
        ({"mode": 4}, "mode 4 cannot be read.*transform"),
        ({"mode": 101}, "mode 101 cannot be read.*4-bit"),
        ({"mode": 77}, "mode 77 cannot be read"),
        ({"nx": 0}, "header field nx: nx is 0"),
        ({"ny": -4}, "header field ny: ny is -4"),
        ({"nsymbt": -1}, "header field nsymbt"),
        ({"nz": 4}, r"truncated.*nx 5, ny 4, nz 4, mode 2, nsymbt 0.*1344 bytes, the file has 1264: 3 whole"),
        ({"nx": 2**31 - 1, "ny": 2**31 - 1, "nz": 2**31 - 1}, "truncated"),
        ({"nsymbt": 2**31 - 1}, "truncated"),
        ({"map": b"junk", "nz": 9}, "not an MRC file"),
    ],
)
def test_lying_headers_are_refused_without_allocating(tmp_path: Path, fields: dict, message: str) -> None:
    path = tmp_path / "a.mrcs"
    _stack(path)
    _patch(path, **fields)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message) as error:
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes, shorter"), (b"x" * 500, "500 bytes, shorter"), (b"\x1f\x8b" + b"\0" * 2000, "compressed")],
)
def test_files_that_are_no_mrc(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mrcs").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_header(tmp_path / "a.mrcs")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_header(tmp_path / "a.mrcs")
    with pytest.raises(InputError, match="not a regular file"):
        read_header(tmp_path)


def test_trailing_bytes_and_missing_marks_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    values = _stack(path)
    path.write_bytes(path.read_bytes() + b"1234567")
    assert read_header(path).notes == ("7 bytes after the data are ignored.",)
    _stack(path)
    _patch(path, map=b"", machst=0)
    header = read_header(path)
    assert "no `MAP `" in header.notes[0]
    np.testing.assert_array_equal(MappedStack(header).read(np.arange(3)), values)


def test_extended_header_is_skipped(tmp_path: Path) -> None:
    values = _stack(tmp_path / "a.mrcs")
    with _open(tmp_path / "a.mrcs", mode="r+") as file:
        file.set_extended_header(np.zeros(160, dtype="V1"))
    header = read_header(tmp_path / "a.mrcs")
    assert header.offset == 1024 + 160
    np.testing.assert_array_equal(MappedStack(header).read(np.arange(3)), values)


def test_a_wrong_machine_stamp_is_seen_through(tmp_path: Path) -> None:
    path = tmp_path / "a.mrcs"
    values = _stack(path)
    _patch(path, machst=[0x11, 0x11, 0, 0])
    header = read_header(path)
    assert "wrong byte order" in header.notes[0]
    np.testing.assert_array_equal(MappedStack(header).read(np.arange(3)), values)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_unset_pixel_size_is_unknown(tmp_path: Path, size: float) -> None:
    path = tmp_path / "a.mrcs"
    _stack(path)
    with _open(path, mode="r+") as file:
        file.voxel_size = size
    assert read_header(path).pixel_size is None


def _refusal(path: Path) -> str | None:
    """The message with which a file is refused; any other exception is a failure of the test."""
    try:
        header = read_header(path)
        assert MappedStack(header).read(np.arange(header.shape[0])).shape == header.shape
        read_map(path)
    except InputError as error:
        return str(error)
    return None


def test_random_mutations_give_input_errors_only(tmp_path: Path) -> None:
    """Any header, however wrong, is read or refused; nothing else happens, and what is read has the promised shape."""
    draw = np.random.default_rng(1)
    path = tmp_path / "a.mrcs"
    _stack(path)
    original = path.read_bytes()
    refused = 0
    for _ in range(600):
        data = bytearray(original)
        for _ in range(draw.integers(1, 5)):
            place = int(draw.integers(0, 56)) * 4 if draw.random() < 0.8 else int(draw.integers(0, 1020))
            data[place : place + 4] = bytes(draw.integers(0, 256, 4).tolist())
        path.write_bytes(bytes(data[: draw.integers(900, len(data) + 1)] if draw.random() < 0.2 else data))
        message = _refusal(path)
        refused += message is not None
        assert message is None or str(path) in message
    assert refused > 200


@pytest.mark.filterwarnings("ignore:Map ID string", "ignore:Unrecognised machine stamp")
def test_real_maps_and_stacks(shared: Path) -> None:
    data = shared / "data"
    for path in [*data.glob("io/*/*.mrc*"), *data.glob("io/maps/*.map"), data / "p64/p64.mrcs"]:
        header = read_header(path)
        with _open(path, permissive=True) as file:
            np.testing.assert_array_equal(MappedStack(header).read(np.array([0, 1])), file.data[:2].astype(np.float32))
    assert read_header(data / "p64/p64.mrcs").pixel_size == pytest.approx(5.0)
    assert read_header(data / "io/maps/EMD-3197.map").pixel_size == pytest.approx(11.4)
    with pytest.raises(InputError, match="not a cube"):
        read_map(data / "io/maps/EMD-3001.map")


def test_axes_are_brought_to_z_y_x(tmp_path: Path) -> None:
    """Maps from crystallography often run along other axes; gemmi is the independent judge."""
    import gemmi

    values = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)  # z y x
    for axes in ((1, 2, 3), (3, 1, 2), (2, 1, 3), (3, 2, 1)):
        path = tmp_path / "a.mrc"
        order = [3 - axis for axis in axes[::-1]]  # file's sections, rows, columns as axes of z y x
        with _new(path, overwrite=True) as file:
            file.set_data(np.ascontiguousarray(values.transpose(order)))
            file.set_volume()
            file.header.mx, file.header.my, file.header.mz = 6, 5, 4
            file.header.cella = (12.0, 10.0, 8.0)
            file.header.mapc, file.header.mapr, file.header.maps = axes
        np.testing.assert_array_equal(read_map(path).array, values)
        judge = gemmi.read_ccp4_map(str(path), setup=True)
        np.testing.assert_array_equal(np.array(judge.grid).transpose(2, 1, 0), values)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
def test_volume_that_is_not_finite_or_flat_is_refused(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 4), dtype=np.float32)
    values[1, 2, 3] = np.nan
    write_map(tmp_path / "a.mrc", values, 2.0)
    with pytest.raises(InputError, match=r"not finite \(section 1, row 2, column 3"):
        read_map(tmp_path / "a.mrc")
    _stack(tmp_path / "b.mrcs", shape=(1, 4, 4))
    with pytest.raises(InputError, match="no volume"):
        read_map(tmp_path / "b.mrcs")


def test_written_volume_says_what_relion_and_chimerax_expect(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 6, 6)).astype(np.float32)
    path = write_map(tmp_path / "a.mrc", values, 3.5)
    first = path.read_bytes()
    assert mrcfile.validate(path)
    with _open(path) as file:
        header = file.header
        assert (header.mode, header.ispg, header.mz, header.nlabl) == (2, 1, 6, 1)
        assert file.voxel_size.x == pytest.approx(3.5)
        assert (header.origin.x, header.nxstart, header.cellb.alpha) == (0, 0, 90)
        assert bytes(header.machst)[:2] == b"\x44\x44"
        np.testing.assert_allclose(header.rms, values.std(), rtol=1e-5)
        np.testing.assert_allclose(
            [header.dmin, header.dmax, header.dmean], [values.min(), values.max(), values.mean()], rtol=1e-4
        )
        np.testing.assert_array_equal(file.data, values)
    assert write_map(path, values, 3.5).read_bytes() == first


@pytest.mark.parametrize("mode", [2, 12])
def test_written_stack(tmp_path: Path, mode: Literal[2, 12]) -> None:
    values = np.random.default_rng(0).standard_normal((7, 6, 6)).astype(np.float32)
    path = write_stack(tmp_path / "a.mrcs", (values[start : start + 3] for start in (0, 3, 6)), (7, 6, 6), 1.5, mode)
    assert mrcfile.validate(path)
    with _open(path) as file:
        assert file.is_image_stack()
        assert file.header.mode == mode
        assert file.voxel_size.x == pytest.approx(1.5)
        np.testing.assert_array_equal(file.data, values.astype(MODES[mode]))


def test_a_failing_source_leaves_no_stack(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 images for a stack of 7"):
        write_stack(tmp_path / "a.mrcs", iter([np.zeros((5, 6, 6), np.float32)]), (7, 6, 6), 1.5)
    with pytest.raises(ValueError, match="does not fit"):
        write_stack(tmp_path / "a.mrcs", iter([np.zeros((8, 6, 6), np.float32)]), (7, 6, 6), 1.5)
    assert not list(tmp_path.iterdir())


def test_reading_hands_pages_back(tmp_path: Path) -> None:
    """The resident set grows by the images asked for, not by the part of the stack that was mapped."""
    path = write_stack(
        tmp_path / "a.mrcs", (np.ones((64, 128, 128), np.float32) for _ in range(16)), (1024, 128, 128), 1.5
    )
    stack = MappedStack(read_header(path))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096

    before = resident()
    for start in range(0, 1024, 64):
        stack.read(np.arange(start, start + 64))
    assert resident() - before < 24 * 2**20  # the stack is 64 MiB
