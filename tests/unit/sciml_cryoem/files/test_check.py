"""The preflight: every fault at once, each with file, place, fault and remedy; nothing written."""

from pathlib import Path

import mrcfile
import numpy as np
from sciml_cryoem.files.check import check_particles
from sciml_cryoem.files.particles import ALL_NEEDS, Source
from sciml_cryoem.files.star import read_star, write_star


def _check(folder: Path, pixels: bool = True):
    return check_particles(Source(folder / "particles.star"), ALL_NEEDS, pixels)


def test_a_good_set_has_no_faults(particle_files: Path) -> None:
    report = _check(particle_files)
    assert (report.particles, report.faults, report.fatal) == (12, (), 0)
    assert report.folders == (particle_files,)


def test_all_faults_of_all_kinds_are_found_in_one_run(particle_files: Path) -> None:
    tables = read_star(particle_files / "particles.star")
    names = tables["particles"].text("rlnImageName")
    names[1], names[2], names[3] = "000000@particles.mrcs", "000099@particles.mrcs", "1@missing.mrcs"
    names[4], names[5] = "1@cut.mrcs", "1@mode.mrcs"
    stack = (particle_files / "particles.mrcs").read_bytes()
    (particle_files / "cut.mrcs").write_bytes(stack[:-100])
    (particle_files / "mode.mrcs").write_bytes(stack[:12] + (4).to_bytes(4, "little") + stack[16:])
    defocus = list(tables["particles"].columns["rlnDefocusU"])
    defocus[6] = "many"
    subset = list(tables["particles"].columns["rlnRandomSubset"])
    subset[7] = "3"
    particles = tables["particles"].with_column("rlnImageName", names).with_column("rlnDefocusU", defocus)
    particles = particles.with_column("rlnRandomSubset", subset).without(["rlnAnglePsi"])
    optics = tables["optics"].without(["rlnVoltage"])
    write_star(particle_files / "particles.star", [optics, particles])
    before = sorted(particle_files.iterdir())
    report = _check(particle_files)
    assert sorted(particle_files.iterdir()) == before
    found = " | ".join(f"{Path(fault.file).name}: {fault.place}: {fault.fault}" for fault in report.faults)
    for part in (
        "column rlnAnglePsi is missing",
        "column rlnVoltage is missing",
        "images are counted from 1",
        "past the end",
        "missing.mrcs does not exist",
        "cut.mrcs: header fields nx, ny, nz: truncated",
        "mode.mrcs: header field mode: mode 4",
        "rlnDefocusU is 'many'",
        "rlnRandomSubset is 3",
    ):
        assert part in found, part
    assert report.fatal == 9
    assert report.particles == 12
    assert all(fault.file and fault.fault and fault.remedy for fault in report.faults)


def test_pixels(particle_files: Path) -> None:
    with mrcfile.open(particle_files / "particles.mrcs", mode="r+") as file:
        data = file.data
        assert data is not None
        data[1, 2, 3] = np.inf
        data[4] = 0.0
        data[6, 8, 8] = 900.0
        data[8] += 10.0
    assert _check(particle_files, pixels=False).faults == ()
    report = _check(particle_files)
    fatal = [str(fault) for fault in report.faults if fault.fatal]
    assert len(fatal) == 1, "one of a kind"
    assert "image 2 " in fatal[0]
    assert "pixel row 2, column 3 (from 0) is inf" in fatal[0]
    assert "1 more of this kind, the last: " in fatal[0]
    assert "image 5 " in fatal[0]
    warnings = [str(fault) for fault in report.faults if not fault.fatal]
    assert len(warnings) == 2
    assert "row 7 " in warnings[0]
    assert "1 image(s) with pixels more than 20 deviations" in warnings[0]
    assert "row 9 " in warnings[1]
    assert "background not of mean 0" in warnings[1]


def test_files_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    report = _check(tmp_path)
    assert report.particles == 0
    assert [fault.fault for fault in report.faults] == ["no such file."]
    (tmp_path / "particles.star").write_text("data_particles\nloop_\n_rlnImageName\n")
    report = _check(tmp_path)
    assert "no rows" in report.faults[0].fault
    (tmp_path / "particles.star").write_text("data_micrographs\nloop_\n_rlnMicrographName\na.mrc\n")
    assert "rlnImageName is missing (blocks of the file: micrographs)" in _check(tmp_path).faults[0].fault


def test_real_sets(shared: Path) -> None:
    p64 = check_particles(Source(shared / "data/p64/p64.star"), ALL_NEEDS)
    assert (p64.particles, p64.faults) == (2000, ())
    groups = check_particles(Source(shared / "data/io/relion31/relion31.6opticsgroups.star"), ALL_NEEDS)
    (missing,) = [fault.fault for fault in groups.faults if "does not exist" in fault.fault]
    assert "0003_shiny.mrcs" in missing and "138 more of this kind" in missing
    assert sum("rlnImagePixelSize differs" in fault.fault for fault in groups.faults) == 1
    assert any("Zernike" in fault.fault for fault in groups.faults if not fault.fatal)
