"""The copy of a particle set on a scratch disk: the same images to half precision, or a refusal."""

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from sciml_cryoem import read_particles
from sciml_cryoem.files.scratch import copy_images, scratch_file

from sciml.errors import InputError


def test_a_copy_holds_the_images_less_their_means(particle_files: Path, tmp_path: Path) -> None:
    particles = replace(read_particles(particle_files / "particles.star"), inverted=True)
    particles = particles.select(np.array([7, 2, 11, 0]))
    done: list[int] = []
    copy = copy_images(tmp_path / "copy.mrcs", particles, done.append)
    assert done == [4]
    wanted = particles.images()
    wanted -= wanted.mean((1, 2))[:, None, None]
    np.testing.assert_allclose(copy.images(), wanted, rtol=2**-10, atol=1e-4 * wanted.std())
    np.testing.assert_array_equal(copy.images(np.array([3, 1])), copy.images()[[3, 1]])
    assert copy.stacks[0].mode == 12
    assert copy.table is particles.table  # the names of the images stay what they were
    np.testing.assert_array_equal(copy.angles_deg, particles.angles_deg)


def test_a_run_names_its_copy_alike_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert scratch_file(Path("/fast"), Path("out")) == scratch_file(Path("/fast"), tmp_path / "out")
    assert scratch_file(Path("/fast"), Path("out")) != scratch_file(Path("/fast"), Path("other"))


def test_what_half_precision_does_not_suit_is_refused(particle_files: Path, tmp_path: Path) -> None:
    stack = particle_files / "particles.mrcs"
    with mrcfile.open(stack, "r+") as file:
        assert file.data is not None
        file.data[:] *= 1e5 / file.data.std()
    particles = read_particles(particle_files / "particles.star")
    with pytest.raises(InputError, match=r"deviation of .*e\+0.*0\.01 to 1000"):
        copy_images(tmp_path / "copy.mrcs", particles, lambda _: None)
    assert not list(tmp_path.glob("copy*"))
    with pytest.raises(InputError, match="no such folder"):
        copy_images(tmp_path / "missing" / "copy.mrcs", particles, lambda _: None)


def test_a_full_disk_is_said_before_anything_is_written(
    particle_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr("sciml_cryoem.files.scratch.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(InputError, match=r"0 MB are free, and the copy"):
        copy_images(tmp_path / "copy.mrcs", read_particles(particle_files / "particles.star"), lambda _: None)
    assert not list(tmp_path.glob("copy*"))


def test_an_unusable_image_is_named_as_the_user_knows_it(particle_files: Path, tmp_path: Path) -> None:
    with mrcfile.open(particle_files / "particles.mrcs", "r+") as file:
        assert file.data is not None
        file.data[4, 3, 2] = np.nan
    with pytest.raises(InputError, match=r"particles.mrcs, image 5 .*row 3, column 2"):
        copy_images(tmp_path / "copy.mrcs", read_particles(particle_files / "particles.star"), lambda _: None)
