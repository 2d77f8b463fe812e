"""Particle sets: values against an independent reader, conversion of RELION 3.0, every fault named with its place."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import starfile
from sciml_cryoem import read_particles
from sciml_cryoem.files.particles import ALL_NEEDS
from sciml_cryoem.files.star import read_star, write_star

from sciml.errors import InputError
from sciml.runs.files import to_json


def _frames(path: Path, **options: Any) -> Any:
    """The tables as an independent reader has them."""
    return starfile.read(path, **options)


def _open(path: Path, mode: str = "r") -> Any:
    """The stack as an independent reader has it."""
    return mrcfile.open(path, mode=mode)


def _edit(folder: Path, old: str, new: str, count: int = 1) -> Path:
    """Replace text in the STAR file; it must be there."""
    path = folder / "particles.star"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))
    return path


def _rows(folder: Path, change: Callable[[int, list[str]], list[str]]) -> Path:
    """Change the tokens of every particle row."""
    path = folder / "particles.star"
    lines = path.read_text().split("\n")
    rows = [place for place, line in enumerate(lines) if "@" in line]
    for number, place in enumerate(rows):
        lines[place] = " ".join(change(number, lines[place].split()))
    path.write_text("\n".join(lines))
    return path


def _column(folder: Path, label: str) -> int:
    return list(read_star(folder / "particles.star")["particles"].columns).index(label)


def _set(folder: Path, label: str, values: dict[int, str]) -> Path:
    """Set one column in some rows."""
    column = _column(folder, label)

    def change(row: int, tokens: list[str]) -> list[str]:
        tokens[column] = values.get(row, tokens[column])
        return tokens

    return _rows(folder, change)


def test_values_agree_with_starfile_and_mrcfile(shared: Path) -> None:
    path = shared / "data/p64/p64.star"
    particles = read_particles(path)
    frame = _frames(path, always_dict=True)["particles"]
    assert (particles.n, particles.box, particles.pixel_size) == (2000, 64, 5.0)
    np.testing.assert_array_equal(particles.angles_deg, frame[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]])
    np.testing.assert_array_equal(particles.origins, frame[["rlnOriginXAngst", "rlnOriginYAngst"]])
    np.testing.assert_array_equal(particles.random_subset, frame["rlnRandomSubset"])
    assert set(particles.voltage_kv) == {300.0}
    assert set(particles.cs_mm) == {2.7}
    high, low = frame[["rlnDefocusU", "rlnDefocusV"]].max(axis=1), frame[["rlnDefocusU", "rlnDefocusV"]].min(axis=1)
    np.testing.assert_array_equal(particles.defocus_u, high)
    np.testing.assert_array_equal(particles.defocus_v, low)
    turned = frame["rlnDefocusU"] < frame["rlnDefocusV"]
    assert 100 < turned.sum() < 1900
    np.testing.assert_allclose(particles.defocus_angle_deg - frame["rlnDefocusAngle"], np.where(turned, 90.0, 0.0))
    with _open(shared / "data/p64/p64.mrcs") as file:
        np.testing.assert_array_equal(particles.images(slice(10, 300)), file.data[10:300])
        some = np.array([1999, 0, 7])
        np.testing.assert_array_equal(particles.images(some), file.data[some])


def test_swapping_u_and_v_and_turning_the_angle_leaves_the_ctf(particle_files: Path) -> None:
    u, v, angle = (_column(particle_files, label) for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"))
    before = read_particles(particle_files / "particles.star")

    def swap(_: int, tokens: list[str]) -> list[str]:
        tokens[u], tokens[v], tokens[angle] = tokens[v], tokens[u], str(float(tokens[angle]) + 90)
        return tokens

    after = read_particles(_rows(particle_files, swap))
    np.testing.assert_allclose(after.ctf.coefficients(16, 4.0), before.ctf.coefficients(16, 4.0), rtol=1e-9, atol=1e-12)


def test_relion30_becomes_31_as_relion_itself_converts_it(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data/io/aspire").iterdir():
        shutil.copy(file, tmp_path)
    source = tmp_path / "sample_particles_relion30.star"
    particles = read_particles(source)
    assert any("RELION 3.0" in finding.what for finding in particles.findings)
    raw = _frames(source)
    size = raw["rlnDetectorPixelSize"] * 1e4 / raw["rlnMagnification"]
    assert particles.pixel_size == pytest.approx(float(size[0]), abs=1e-6)
    np.testing.assert_allclose(particles.origins, raw[["rlnOriginX", "rlnOriginY"]] * particles.pixel_size, atol=1e-6)
    np.testing.assert_array_equal(particles.voltage_kv, raw["rlnVoltage"])
    written = read_star(write_star(tmp_path / "ours.star", [particles.optics, particles.table]))
    assert [one for one in read_particles(tmp_path / "ours.star").findings if "picks" not in one.what] == []
    if shutil.which("relion_convert_star") is None:
        pytest.skip("RELION is not installed: its own conversion is not compared")
    command = ["relion_convert_star", "--i", source.name, "--o", "theirs.star"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = read_star(tmp_path / "theirs.star")
    assert set(theirs["particles"].columns) == set(written["particles"].columns)
    assert set(theirs["optics"].columns) == set(written["optics"].columns)
    for label in ("rlnImagePixelSize", "rlnVoltage", "rlnAmplitudeContrast", "rlnImageSize"):
        np.testing.assert_allclose(written["optics"].numbers(label), theirs["optics"].numbers(label), rtol=1e-5)
    for label in ("rlnOpticsGroup", "rlnOriginXAngst", "rlnDefocusV", "rlnAnglePsi", "rlnRandomSubset"):
        pair = written["particles"].numbers(label), theirs["particles"].numbers(label)
        np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-5)


def test_faults_of_the_optics_table(particle_files: Path) -> None:
    row = "1 opticsGroup1 300.000000 2.700000 0.100000 4.000000 16 2"
    for new, message in (
        ("", "data_optics: the table has no rows"),
        (f"{row}\n{row}", r"line 16 \(row 2 of data_optics\): optics group 1 occurs twice"),
        (row[:-1] + "?", "line 15 .*rlnImageDimensionality is '[?]'"),
        (row[:-1] + "2_0", "line 15 .*rlnImageDimensionality is '2_0'"),
    ):
        text = (particle_files / "particles.star").read_text()
        with pytest.raises(InputError, match=message):
            read_particles(_edit(particle_files, row, new))
        (particle_files / "particles.star").write_text(text)


def test_optics_groups_give_their_values_to_their_particles(shared: Path) -> None:
    particles = read_particles(shared / "data/io/aspire/sample_particles_relion31.star")
    frames = _frames(shared / "data/io/aspire/sample_particles_relion31.star")
    merged = frames["particles"].merge(frames["optics"], on="rlnOpticsGroup", how="left")
    np.testing.assert_array_equal(particles.voltage_kv, merged["rlnVoltage"])
    assert set(particles.voltage_kv) == {200.0, 300.0}
    np.testing.assert_array_equal(particles.optics_group, merged["rlnOpticsGroup"])


def test_pixel_origins_in_a_31_file_and_missing_ctf(shared: Path) -> None:
    path = shared / "data/io/conventions/rln_proj_65_shifted.star"
    with pytest.raises(InputError, match="rlnDefocusU is missing"):
        read_particles(path)
    particles = read_particles(path, needs=("poses", "halves"))
    assert particles.box == 65
    assert particles.has_poses
    assert not particles.has_ctf
    np.testing.assert_array_equal(particles.origins[0], [6.0, 10.0])
    with pytest.raises(InputError, match="no CTF values"):
        _ = particles.ctf


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_rlnAngleTilt", "_rlnSomething", "data_particles: column rlnAngleTilt is missing. .*Refine3D"),
        ("_rlnDefocusV", "_rlnSomething", "data_particles: column rlnDefocusV is missing. .*CTF estimation"),
        ("_rlnVoltage", "_rlnSomething", "data_optics: column rlnVoltage is missing. .*Import"),
        ("_rlnImagePixelSize", "_rlnSomething", "data_optics: column rlnImagePixelSize is missing. .*Extract"),
        ("_rlnImageName", "_rlnSomething", "column rlnImageName is missing"),
        ("data_optics", "data_other", "neither data_optics .* no pixel size"),
        ("000003@", "000000@", r"line 37 \(row 3 of data_particles\): .*counted from 1"),
        ("000003@", "-00003@", "line 37 .*counted from 1"),
        ("000003@", "000013@", "line 37 .*past the end: the stack has 12 images"),
        ("000003@", "x@", "line 37 .*not like 000001@stack.mrcs"),
        ("000003@particles.mrcs", "000003@", "line 37 .*not like 000001@stack.mrcs"),
        ("000003@particles.mrcs", "3@none.mrcs", "line 37 .*the stack none.mrcs does not exist; looked in .*--datadir"),
        ("000003@particles.mrcs", "3@/dev/zero", "line 37 .*not a regular file"),
        ("300.000000", "300000.000000", r"rlnVoltage is 300000: this looks like volts; wanted is kV"),
        ("0.100000", "7.000000", "rlnAmplitudeContrast is 7"),
        ("4.000000 16 2", "4.000000 32 2", "rlnImageSize is 32, but .* 16 x 16"),
        (
            "4.000000 16 2",
            "4.500000 16 2",
            "header field cella: pixel size 4.0000 Angstrom, but rlnImagePixelSize is 4.5",
        ),
        ("4.000000 16 2", "4.000000 16 3", "rlnImageDimensionality is 3"),
        ("4.000000 16 2", "-4.000000 16 2", "rlnImagePixelSize is -4"),
    ],
)
def test_faults_name_their_place(particle_files: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_particles(_edit(particle_files, old, new))


def test_faults_of_single_values(particle_files: Path) -> None:
    for label, values, message in (
        ("rlnAngleRot", {4: "nan"}, r"line 39 \(row 5 of data_particles\): rlnAngleRot is 'nan', not a finite number"),
        ("rlnDefocusU", {0: "abc"}, r"line 35 .*rlnDefocusU is 'abc'"),
        ("rlnOpticsGroup", {7: "2"}, r"line 42 .*rlnOpticsGroup 2 is not in data_optics"),
        ("rlnImageName", {2: "9" * 30 + "@particles.mrcs"}, "line 37 .*not like 000001@stack.mrcs"),
        ("rlnRandomSubset", {1: "0"}, r"line 36 .*rlnRandomSubset is 0; all rows must be 1 or 2"),
        ("rlnRandomSubset", dict.fromkeys(range(12), "1"), r"12 particle\(s\) in half 1 and 0 in half 2"),
    ):
        text = (particle_files / "particles.star").read_text()
        with pytest.raises(InputError, match=message):
            read_particles(_set(particle_files, label, values))
        (particle_files / "particles.star").write_text(text)


def test_pixel_sizes_slightly_off_are_a_warning(particle_files: Path, caplog: pytest.LogCaptureFixture) -> None:
    _edit(particle_files, "4.000000 16 2", "4.010000 16 2")
    with caplog.at_level(logging.WARNING):
        particles = read_particles(particle_files / "particles.star")
    (finding,) = particles.findings
    assert "header field cella" in finding.where
    assert str(finding) in caplog.text


def test_mixed_pixel_sizes_and_boxes_are_refused(particle_files: Path, shared: Path) -> None:
    groups = "opticsGroup1 300.000000 2.700000 0.100000"
    _edit(particle_files, f"1 {groups} 4.000000 16 2", f"1 {groups} 4.000000 16 2\n2 {groups} 4.200000 16 2")
    _set(particle_files, "rlnOpticsGroup", {3: "2"})
    with pytest.raises(InputError, match=r"differs between groups: 4 \(group 1\), 4.2 \(group 2\)"):
        read_particles(particle_files / "particles.star")
    with mrcfile.new(particle_files / "large.mrcs") as file:
        file.set_data(np.zeros((12, 20, 20), np.float32))
    _set(particle_files, "rlnImageName", {5: "6@large.mrcs"})
    _set(particle_files, "rlnOpticsGroup", {3: "1"})
    with pytest.raises(InputError, match=r"images of 20 x 20 pixels, but those of .* are 16 x 16"):
        read_particles(particle_files / "particles.star")


def test_the_count_of_further_faults(shared: Path) -> None:
    """Six groups of two pixel sizes, and 139 stacks that are not there: two kinds of fault."""
    path = shared / "data/io/relion31/relion31.6opticsgroups.star"
    with pytest.raises(
        InputError, match=r"0003_shiny.mrcs does not exist.*138 more of this kind.*1 more: `sciml cryoem check"
    ):
        read_particles(path)


def test_all_bad_stacks_are_counted(particle_files: Path) -> None:
    _set(particle_files, "rlnImageName", {1: "1@b.mrcs", 2: "1@c.mrcs", 3: "1@d.mrcs"})
    (particle_files / "b.mrcs").write_bytes((particle_files / "particles.mrcs").read_bytes()[:3000])
    (particle_files / "c.mrcs").write_bytes(b"")
    with pytest.raises(InputError, match=r"b.mrcs, header fields nx, ny, nz: truncated.*\(2 more: `sciml cryoem check"):
        read_particles(particle_files / "particles.star")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_particles(particle_files: Path, count: int) -> None:
    path = particle_files / "particles.star"
    lines = path.read_text().split("\n")
    rows = [line for line in lines if "@" in line]
    path.write_text("\n".join([line for line in lines if "@" not in line] + rows[:count] + [""]))
    with pytest.raises(InputError, match="no rows" if count == 0 else rf"{count} particle\(s\); two half sets"):
        read_particles(path)
    if count:
        assert read_particles(path, needs=()).n == count


def test_the_table_of_a_run_finds_the_stacks_of_the_table_that_it_was_made_from(
    particle_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also the table of a run of the table of a run, from whatever folder."""
    before = tmp_path / "data"
    before.mkdir()
    for name in ("particles.star", "particles.mrcs"):
        shutil.move(particle_files / name, before)
    for run, read in (("first", "data/particles.star"), ("second", "first/run_data.star")):
        (tmp_path / run).mkdir()
        shutil.copy(before / "particles.star", tmp_path / run / "run_data.star")
        (tmp_path / run / "experiment.json").write_text(to_json({"command": [run], "options": {"particles": read}}))
        (tmp_path / run / "provenance.json").write_text(to_json({"directory": str(tmp_path)}))
    monkeypatch.chdir("/")
    stacks = read_particles(tmp_path / "second" / "run_data.star").stacks
    assert stacks[0].path.resolve() == before / "particles.mrcs"
    (tmp_path / "first" / "provenance.json").write_text("{")
    with pytest.raises(InputError, match="does not exist"):
        read_particles(tmp_path / "second" / "run_data.star")


def test_paths_are_resolved_in_order(particle_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    project = tmp_path / "project"
    job = project / "Refine3D" / "job012"
    job.mkdir(parents=True)
    star = shutil.copy(particle_files / "particles.star", job)
    with pytest.raises(InputError, match="does not exist"):
        read_particles(star)

    def stack() -> Path:
        return read_particles(star, datadir=tmp_path / "data").stacks[0].path.resolve()

    places = [tmp_path / "data", tmp_path / "here", job]
    for place in places:
        place.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    for place in (project, *places):  # each one is looked at before those before it
        shutil.copy(particle_files / "particles.mrcs", place)
        assert stack() == place / "particles.mrcs"
    os.remove(job / "particles.mrcs")
    (job / "particles.mrcs").symlink_to(particle_files / "particles.mrcs")
    assert stack() == particle_files / "particles.mrcs"


def test_absolute_paths_and_single_images(particle_files: Path) -> None:
    image = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    with mrcfile.new(particle_files / "one.mrc") as file:
        file.set_data(image)
    _set(particle_files, "rlnImageName", {2: str(particle_files / "one.mrc")})
    particles = read_particles(particle_files / "particles.star")
    np.testing.assert_array_equal(particles.images(np.array([2]))[0], image)
    everything = particles.images()
    np.testing.assert_array_equal(everything[2], image)
    with _open(particle_files / "particles.mrcs") as file:
        np.testing.assert_array_equal(np.delete(everything, 2, axis=0), np.delete(file.data, 2, axis=0))


def test_images_that_cannot_be_used_are_named(particle_files: Path) -> None:
    with _open(particle_files / "particles.mrcs", mode="r+") as file:
        data = file.data
        data[4, 5, 6] = np.nan
        data[7] = 2.5
    particles = read_particles(particle_files / "particles.star")
    batch = np.array([2, 4, 7])
    with pytest.raises(
        InputError, match=r"particles.mrcs, image 5 .*line 39 .*pixel row 5, column 6 .* is nan \(2 such"
    ):
        particles.check_finite(particles.images(batch), batch)
    with pytest.raises(InputError, match=r"image 8 .*all pixels are 2\.5"):
        particles.check_finite(particles.images(slice(7, 9)), slice(7, 9))
    particles.check_finite(particles.images(slice(0, 4)), slice(0, 4))


def test_repeated_particles_are_a_warning(particle_files: Path) -> None:
    particles = read_particles(_edit(particle_files, "000003@", "000004@"))
    assert "2 of 12 rows name an image that another row names too" in particles.findings[0].what
    assert "into both halves" in particles.findings[1].what


def test_labels_of_the_manual_are_accepted(particle_files: Path) -> None:
    before = read_particles(particle_files / "particles.star")
    _edit(particle_files, "_rlnOriginXAngst", "_rlnOriginXAngstrom")
    after = read_particles(_edit(particle_files, "_rlnOriginYAngst", "_rlnOriginYAngstrom"))
    np.testing.assert_array_equal(after.origins, before.origins)
    assert "rlnOriginXAngstrom" in after.findings[0].what
    assert "rlnOriginXAngst" in after.table


def test_what_is_not_supported_is_refused_or_named(particle_files: Path) -> None:
    text = (particle_files / "particles.star").read_text()
    old, row = "_rlnImageDimensionality #8 \n", "4.000000 16 2"
    for label, value, message in (
        ("rlnCtfDataAreCtfPremultiplied", "1", "multiplied with their CTF"),
        ("rlnCtfDataArePhaseFlipped", "1", "phase-flipped"),
        ("rlnBeamTiltX", "0.2", "rlnBeamTiltX ignored"),
        ("rlnEvenZernike", "[0,1.5]", "rlnEvenZernike ignored"),
        ("rlnMagMat00", "1.02", "anisotropic magnification"),
    ):
        path = particle_files / "particles.star"
        path.write_text(text.replace(old, f"{old}_{label} #9 \n").replace(row, f"{row} {value}"))
        if value == "1":
            with pytest.raises(InputError, match=message):
                read_particles(path)
        else:
            assert message in read_particles(path).findings[0].what
        neutral = "[0,0]" if value[0] == "[" else "1.0" if "Mat" in label else "0"
        path.write_text(text.replace(old, f"{old}_{label} #9 \n").replace(row, f"{row} {neutral}"))
        assert read_particles(path).findings == ()


def test_half_sets(particle_files: Path) -> None:
    particles = read_particles(particle_files / "particles.star")
    np.testing.assert_array_equal(particles.half_sets(3), [1, 2] * 6)
    _edit(particle_files, "_rlnRandomSubset", "_rlnOther")
    drawn = read_particles(particle_files / "particles.star")
    assert drawn.random_subset is None
    first, again, other = drawn.half_sets(1), drawn.half_sets(1), drawn.half_sets(2)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert np.bincount(first).tolist() == [0, 6, 6]


def test_selection_keeps_rows_together(particle_files: Path) -> None:
    particles = read_particles(particle_files / "particles.star")
    rows = np.array([7, 0, 3])
    chosen = particles.select(rows)
    assert chosen.n == 3
    np.testing.assert_array_equal(chosen.images(), particles.images(rows))
    np.testing.assert_array_equal(chosen.rotations, particles.rotations[rows])
    assert chosen.table.text("rlnImageName") == [
        "000008@particles.mrcs",
        "000001@particles.mrcs",
        "000004@particles.mrcs",
    ]
    write_star(particle_files / "chosen.star", [chosen.optics, chosen.table])
    np.testing.assert_array_equal(read_particles(particle_files / "chosen.star", needs=()).origins, chosen.origins)


def test_unknown_columns_survive_the_reading(particle_files: Path) -> None:
    _edit(particle_files, "_rlnMicrographName", "_myOwnColumn")
    _set(particle_files, "myOwnColumn", {0: "0012", 1: "'quoted'", 2: "1.2e-7"})
    particles = read_particles(particle_files / "particles.star")
    write_star(particle_files / "again.star", [particles.optics, particles.table])
    before = read_star(particle_files / "particles.star")["particles"].columns["myOwnColumn"]
    assert list(read_star(particle_files / "again.star")["particles"].columns["myOwnColumn"]) == list(before)


def test_a_pickle_is_never_opened(particle_files: Path) -> None:
    """A canary that would leave a file behind if anything unpickled it, as STAR file and as stack."""
    import pickle

    class Canary:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {particle_files}/executed",))

    (particle_files / "evil.mrcs").write_bytes(pickle.dumps(Canary()) + b"\0" * 4096)
    (particle_files / "evil.star").write_bytes(pickle.dumps(Canary(), protocol=0))
    _set(particle_files, "rlnImageName", {0: "1@evil.mrcs"})
    for name in ("particles.star", "evil.star"):
        with pytest.raises(InputError):
            read_particles(particle_files / name, needs=ALL_NEEDS)
    assert not (particle_files / "executed").exists()


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, sciml_cryoem.files.particles; print([m for m in ('torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
