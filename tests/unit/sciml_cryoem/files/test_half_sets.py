"""Halves share nothing: what belongs together is found, kept in one half, and named where given halves split it."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
from sciml_cryoem import read_particles, reconstruct
from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.half_sets import Places, belonging_together, can_be_halved, draw_half_sets
from sciml_cryoem.files.star import read_star, write_star
from sciml_cryoem.files.table import Table, make_table

SEVERAL = {"rlnMicrographName": ["a", "a", "a", "b", "b", "b"]}


def _found(columns: dict[str, list[str]], places: list[tuple[float, float]] | None = None):
    count = len(next(iter(columns.values())))
    image = np.stack([np.zeros(count, int), np.arange(count)], 1)
    where = Places(image, None if places is None else np.array(places), 100.0)
    return belonging_together(make_table("particles", columns), where, Faults())


def _sizes(groups: np.ndarray) -> list[int]:
    return sorted(np.unique(groups, return_counts=True)[1].tolist())


def test_picks_are_compared_on_their_own_micrograph_only() -> None:
    at = [(0.0, 0.0), (10.0, 10.0), (50.0, 0.0), (0.0, 0.0), (16.0, 0.0), (32.0, 0.0)]
    together = _found(SEVERAL, at)
    assert _sizes(together.groups) == [1, 1, 1, 1, 2], "10 and 10 apart: one particle; 16 apart: neighbors"
    assert together.groups[0] == together.groups[1]
    assert together.reasons == ("picks of one particle",)
    chain = _found(SEVERAL, [(0.0, 0.0), (10.0, 0.0), (20.0, 0.0), (0.0, 0.0), (0.0, 0.0), (99.0, 0.0)])
    assert _sizes(chain.groups) == [1, 2, 3], "linked through others, and at one place"


def test_tubes_tilts_and_micrographs() -> None:
    tubes = _found({**SEVERAL, "rlnHelicalTubeID": ["1", "1", "2", "1", "2", "2"]})
    assert _sizes(tubes.strict) == [1, 1, 2, 2], "tube 1 of one micrograph is not tube 1 of another"
    tilts = {
        "rlnMicrographName": [f"t{row % 4}" for row in range(12)],
        "rlnGroupName": [f"p{row // 4}" for row in range(12)],
    }
    assert _sizes(_found(tilts).strict) == [4, 4, 4]
    micrographs = {"rlnMicrographName": [f"m{row // 4}" for row in range(40)]}
    micrographs["rlnGroupName"] = micrographs["rlnMicrographName"]
    together = _found(micrographs)
    assert _sizes(together.groups) == [4] * 10, "drawn from whole micrographs"
    assert _sizes(together.strict) == [1] * 40, "but half sets may split them"


def test_symmetry_expansion_is_told_from_repeated_rows() -> None:
    def said(angles: list[str], image: list[int]) -> list[str]:
        faults = Faults()
        where = Places(np.stack([np.zeros(4, int), np.array(image)], 1), None, 100.0)
        together = belonging_together(make_table("particles", {"rlnAngleRot": angles}), where, faults)
        assert len(np.unique(together.groups)) == len(set(image))
        return [fault.fault for fault in faults.found]

    (expanded,) = said(["0", "90", "0", "90"], [0, 0, 1, 1])
    assert "symmetry expansion" in expanded
    (repeated,) = said(["0", "0", "90", "90"], [0, 0, 1, 1])
    assert "4 of 4 rows" in repeated
    (some,) = said(["0", "90", "0", "90"], [0, 0, 1, 2])
    assert "2 of 4 rows" in some


@pytest.mark.parametrize("seed", range(4))
def test_whole_groups_are_drawn_into_equal_halves(seed: int) -> None:
    groups = np.repeat(np.arange(60), np.random.default_rng(seed).integers(1, 12, 60))
    halves = draw_half_sets(groups, seed)
    for group in range(60):
        assert len(set(halves[groups == group])) == 1
    assert abs(int((halves == 1).sum()) - int((halves == 2).sum())) <= 2
    assert (halves != draw_half_sets(groups, seed + 1)).any()
    alone = draw_half_sets(np.arange(101), seed)
    assert np.bincount(alone).tolist() == [0, 51, 50]
    assert not can_be_halved(np.zeros(10, int))
    assert np.bincount(draw_half_sets(np.zeros(10, int), seed)).tolist() == [0, 5, 5]


@pytest.fixture(scope="module")
def twice(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """400 images of the shared set, each twice: under its name, and moved by 3 pixels as a second pick of it."""
    folder = tmp_path_factory.mktemp("twice")
    tables = read_star(shared / "data/p64/p64.star")
    with mrcfile.open(shared / "data/p64/p64.mrcs") as file:
        images = np.asarray(file.data)[:400]
    stack = np.stack([images, np.roll(images, 3, axis=2)], 1).reshape(800, 64, 64)
    with mrcfile.new(folder / "twice.mrcs") as file:
        file.set_data(stack)
        file.set_image_stack()
        file.voxel_size = 5.0
    table = tables["particles"].select(np.repeat(np.arange(400), 2)).without(["rlnRandomSubset"])
    x = table.numbers("rlnOriginXAngst").copy()
    x[1::2] -= 15.0
    draw = np.random.default_rng(0)
    at = [np.repeat(draw.uniform(0, 4000, 400), 2) for _ in range(2)]
    at[0][1::2] -= 3.0

    def written(name: str, table: Table, names: list[str], moved: bool) -> Path:
        columns = {"rlnImageName": names}
        if moved:
            columns |= {"rlnOriginXAngst": [f"{value:.6f}" for value in x]}
            columns |= {
                f"rlnCoordinate{axis}": [f"{v:.3f}" for v in place] for axis, place in zip("XY", at, strict=True)
            }
            columns["rlnMicrographName"] = [f"m{row // 40}" for row in range(800)]
        for label, values in columns.items():
            table = table.with_column(label, values)
        return write_star(folder / name, [tables["optics"], table])

    copies = [f"{row - row % 2 + 1:06d}@twice.mrcs" for row in range(800)]
    return {
        "single": written("single.star", table.select(np.arange(0, 800, 2)), copies[::2], moved=False),
        "exact": written("exact.star", table, copies, moved=False),
        "near": written("near.star", table, [f"{row + 1:06d}@twice.mrcs" for row in range(800)], moved=True),
    }


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_a_particle_twice_gives_the_resolution_of_once(kind: str, twice: dict[str, Path]) -> None:
    """22.8 Angstrom; drawn without a look at what belongs together it is Nyquist, 10.0."""
    once = reconstruct(read_particles(twice["single"])).resolution
    assert 20.0 < once < 25.0
    result = reconstruct(read_particles(twice[kind]))
    assert result.resolution == pytest.approx(once, abs=1.5)
    assert any(finding.severity == "severe" for finding in result.findings)


def test_copies_under_other_names_are_told_by_their_pixels(twice: dict[str, Path]) -> None:
    """Nothing in the table says it: the FSC and a hash of the pixels do."""
    table = read_star(twice["exact"])
    folder = twice["exact"].parent
    with mrcfile.open(folder / "twice.mrcs") as file:
        images = np.asarray(file.data)
    with mrcfile.new(folder / "copies.mrcs") as file:
        file.set_data(np.repeat(images[::2], 2, axis=0))
        file.set_image_stack()
        file.voxel_size = 5.0
    names = [f"{row + 1:06d}@copies.mrcs" for row in range(800)]
    path = write_star(folder / "copies.star", [table["optics"], table["particles"].with_column("rlnImageName", names)])
    result = reconstruct(read_particles(path))
    assert result.resolution == 10.0
    found = " ".join(finding.what for finding in result.findings)
    assert "have a copy of themselves in the other half set" in found
    assert "it gives no resolution" in found
