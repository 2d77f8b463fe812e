"""STAR files: what RELION and others wrote is read; what is broken is refused with its line; nothing is lost."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sciml_cryoem.files.star import format_star, read_star, write_star
from sciml_cryoem.files.table import Table, make_table, quote

from sciml.errors import InputError

GOOD = (
    "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnName #2\n1 one\n\n\ndata_particles\n\nloop_\n_a #1\n_b\n1 2\n3 4\n"
)


def _write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.star"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_tables_of_a_file(tmp_path: Path) -> None:
    tables = read_star(_write(tmp_path, GOOD))
    assert list(tables) == ["optics", "particles"]
    particles = tables["particles"]
    assert len(particles) == 2
    assert list(particles.columns) == ["a", "b"]
    np.testing.assert_array_equal(particles.integers("b"), [2, 4])
    assert list(particles.lines) == [14, 15]
    assert "line 15" in particles.place(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  \n\n", "empty"),
        ("<!DOCTYPE html>\n<html></html>", "HTML"),
        (b"MAP \0\0\1", "binary"),
        (b"data_x\nloop_\n_a\n\xff\xfe\n", "line 4: not UTF-8"),
        ("some words\n", "line 1: expected a block header"),
        ("# only a comment\n", "no `data_` block"),
        ("data_p\nloop_\n_a\n_b\n1 2\n3\n", "line 6: row 2 of data_p has 1 values, its table has 2 columns"),
        ("data_p\nloop_\n_a\n_b\n1\n2 3 4\n", "line 5: row 1 of data_p has 1 values"),
        ("data_p\nloop_\n_a\n_b\n1 2\n3 4 5\n", "line 6: row 2 of data_p has 3 values"),
        ("data_p\nloop_\n_a\n_b\n_c\n1 2\n3 4\n5 6\n", "line 6: row 1 of data_p has 2 values, its table has 3"),
        ("data_p\nloop_\n_a\n_a\n1 2\n", "line 4: column a occurs twice in data_p"),
        ("data_p\n_a 1\ndata_p\n_b 2\n", "line 3: block data_p occurs twice"),
        ("data_p\nloop_\n_a\n1\nloop_\n_b\n2\n", "line 5: block data_p holds more than one table"),
        ("data_p\n_a 1\nloop_\n_b\n2\n", "line 3: block data_p holds more than one table"),
        ("data_p\nloop_\n_a\n;text\n;\n", "line 4: a text field"),
        ("data_p\n1 2\n", "line 2: a value without a label"),
        ("data_p\n_a\n", "line 2: 0 values for a, not 1"),
        ("data_p\nloop_\n_a\n'open quote\n", "line 4"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_star(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_missing_file_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.star")
    for name, message in (
        ("no.star", "no such file"),
        (".", "not a regular file"),
        ("pipe.star", "not a regular file"),
    ):
        with pytest.raises(InputError, match=message):
            read_star(tmp_path / name)


def test_two_short_rows_that_add_up_do_not_shift(tmp_path: Path) -> None:
    """gemmi alone counts the values of the loop, which is right here."""
    with pytest.raises(InputError, match="line 6: row 2"):
        read_star(_write(tmp_path, "data_p\nloop_\n_a\n_b\n1 2\n3\n4 5 6\n"))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_line_ends_tabs_comments_and_quotes(tmp_path: Path, newline: str) -> None:
    lines = ["\ufeffdata_p", "", "loop_ ", "_a #1 [comment]", "_b", "'two words'\t0012 # a comment", "", "x#y@z 1.2e-7"]
    table = read_star(_write(tmp_path, newline.join([*lines, ""])))["p"]
    assert table.text("a") == ["two words", "x#y@z"]
    assert table.columns["b"] == ["0012", "1.2e-7"]
    assert list(table.lines) == [6, 8]


def test_single_values_and_unnamed_block(tmp_path: Path) -> None:
    tables = read_star(_write(tmp_path, "data_general\n_rlnFinalResolution 3.25\n_rlnName 'a b'\ndata_\nloop_\n_x\n"))
    assert not tables["general"].loop
    assert tables["general"].numbers("rlnFinalResolution") == [3.25]
    assert tables["general"].text("rlnName") == ["a b"]
    assert len(tables[""]) == 0


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("abc", "numbers"),
        ("1_0", "numbers"),
        ("１", "numbers"),
        ("nan", "numbers"),
        ("inf", "numbers"),
        ("1.5", "integers"),
    ],
)
def test_values_that_are_no_numbers_name_their_line(tmp_path: Path, value: str, kind: str) -> None:
    table = read_star(_write(tmp_path, f"data_p\nloop_\n_a\n1\n{value}\n"))["p"]
    with pytest.raises(InputError, match=rf"line 5 .*a is '{value}'"):
        getattr(table, kind)("a")


def test_every_real_file_survives_a_rewrite(shared: Path, tmp_path: Path) -> None:
    read = 0
    for path in sorted(shared.glob("data/**/*.star")):
        if path.name == "sample.star":  # two tables in a block, and a row too long
            with pytest.raises(InputError, match="line 20"):
                read_star(path)
            continue
        tables = read_star(path)
        again = read_star(write_star(tmp_path / "again.star", tables.values()))
        assert list(again) == list(tables)
        for name, table in tables.items():
            assert {k: list(v) for k, v in again[name].columns.items()} == {
                k: list(v) for k, v in table.columns.items()
            }
        read += 1
    assert read >= 12


def test_agrees_with_starfile(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/p64/p64.star"
    theirs: Any = starfile.read(path, always_dict=True)
    ours = read_star(path)
    written: Any = starfile.read(write_star(tmp_path / "ours.star", ours.values()), always_dict=True)
    assert list(theirs) == list(ours)
    for name, frame in theirs.items():
        assert list(frame.columns) == list(ours[name].columns)
        assert frame.equals(written[name])
        for label in frame.columns:
            if frame[label].dtype.kind in "if":
                np.testing.assert_array_equal(ours[name].numbers(label), frame[label].to_numpy(dtype=float))


@pytest.mark.relion
@pytest.mark.skipif(shutil.which("relion_star_handler") is None, reason="RELION is not installed")
def test_relion_reads_what_we_write(tmp_path: Path) -> None:
    columns = {
        "rlnImageName": ["000001@a.mrcs", "000002@a.mrcs"],
        "rlnOpticsGroup": ["1", "1"],
        "rlnAngleRot": ["1.5", "-2"],
    }
    optics = {
        "rlnOpticsGroup": ["1"],
        "rlnOpticsGroupName": ["og"],
        "rlnImagePixelSize": ["2.5"],
        "rlnImageSize": ["8"],
    }
    optics |= {"rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"], "rlnAmplitudeContrast": ["0.1"]}
    write_star(tmp_path / "in.star", [make_table("optics", optics), make_table("particles", columns)])
    command = ["relion_star_handler", "--i", "in.star", "--o", "out.star", "--operate", "rlnAngleRot", "--add_to", "1"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    back = read_star(tmp_path / "out.star")
    np.testing.assert_allclose(back["particles"].numbers("rlnAngleRot"), [2.5, -1])
    assert back["particles"].columns["rlnImageName"] == columns["rlnImageName"]
    assert back["optics"].numbers("rlnImagePixelSize") == [2.5]


TOKENS = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\x0b\x0c\x1c\x1d\x1e\x1f\x85\0", exclude_categories=["C", "Z"])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TOKENS, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=5))
def test_any_text_and_number_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float]]) -> None:
    texts = [text for text, _ in rows]
    if any("'" in text and '"' in text for text in texts):
        return
    table = make_table("p", {"text": [quote(text) for text in texts], "number": [repr(number) for _, number in rows]})
    path = write_star(tmp_path_factory.mktemp("star") / "x.star", [table])
    back = read_star(path)["p"]
    assert back.text("text") == texts
    np.testing.assert_array_equal(back.numbers("number"), [number for _, number in rows])


def _refusal(path: Path) -> str | None:
    """The message with which a file is refused; any other exception is a failure of the test."""
    try:
        for table in read_star(path).values():
            format_star([table])
    except InputError as error:
        return str(error)
    return None


def test_mutated_text_gives_input_errors_only(pristine: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    original = (pristine / "particles.star").read_bytes()
    refused = 0
    for _ in range(400):
        data = bytearray(original)
        for _ in range(draw.integers(1, 4)):
            place = int(draw.integers(len(data)))
            choice = draw.integers(3)
            if choice == 0:
                data[place] = int(draw.integers(256))
            elif choice == 1:
                del data[place : place + int(draw.integers(1, 60))]
            else:
                data[place:place] = bytes(draw.integers(32, 127, 5).tolist())
        path = _write(tmp_path, bytes(data))
        message = _refusal(path)
        refused += message is not None
        assert message is None or str(path) in message
    assert refused > 50


def test_columns_are_replaced_added_dropped_and_rows_picked() -> None:
    table: Table = make_table("p", {"a": ["1", "2", "3"], "b": ["x", "y", "z"]})
    changed = table.with_column("a", ["4", "5", "6"]).with_column("c", ["7", "8", "9"]).without(["b", "nothing"])
    assert {k: list(v) for k, v in changed.columns.items()} == {"a": ["4", "5", "6"], "c": ["7", "8", "9"]}
    assert changed.select(np.array([2, 0])).columns["c"] == ["9", "7"]
    with pytest.raises(ValueError, match="1 values for 3 rows"):
        table.with_column("d", ["1"])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_star(tmp_path / "x.star", [make_table("p", {"a": ["1"]})])
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_star(path, [make_table("p", {"a": ["2"]})])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
