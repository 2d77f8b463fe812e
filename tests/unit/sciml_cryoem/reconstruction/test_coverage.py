"""What fills Fourier space, and what a result says of it: one view is no volume, and that is a result of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem import ImageSettings, ReconstructOptions, read_particles, reconstruct
from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.maps.fsc import FSCCurves
from sciml_cryoem.maps.fsc_findings import fsc_findings
from sciml_cryoem.reconstruction.coverage import Coverage


def _directions(tilt: float, count: int = 60) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    tilt = np.radians(tilt)
    return np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.full(count, np.cos(tilt))], 1)


def test_completeness_counts_what_lies_within_a_radius() -> None:
    size = 16
    inner = (fourier.squared_radii(size, 3) < 16).astype(np.float32)
    whole = fourier.squared_radii(size, 3) < 64
    coverage = Coverage.of(inner, _directions(90.0), point_group("C1"))
    assert coverage.within_half == 1.0
    assert coverage.completeness == pytest.approx(inner[whole].mean())
    assert coverage.spread == pytest.approx(0.5), "views around the equator"
    assert coverage.enough
    assert len(coverage.findings()) == 0


def test_one_view_is_not_enough_unless_symmetry_turns_it() -> None:
    weights = np.ones((8, 8, 5), np.float32)
    assert not Coverage.of(weights, _directions(1.0), point_group("C1")).enough
    assert not Coverage.of(weights, _directions(0.0), point_group("C4")).enough
    assert Coverage.of(weights, _directions(0.0), point_group("T")).enough
    empty = Coverage.of(weights * 0, _directions(90.0), point_group("C1"))
    assert not empty.enough
    assert "empty" in empty.findings()[0].what


def test_the_result_of_one_view_is_no_coverage(pristine: Path) -> None:
    particles = read_particles(pristine / "particles.star")
    assert reconstruct(particles).result == "CONVERGED"
    flat = replace(particles, angles_deg=particles.angles_deg * [1.0, 0.0, 1.0])
    result = reconstruct(flat)
    assert result.result == "NO_COVERAGE"
    assert any(finding.where == "coverage" and finding.severity == "severe" for finding in result.findings)


def test_few_images_and_a_diameter_of_a_pixel_are_named(pristine: Path) -> None:
    particles = read_particles(pristine / "particles.star")
    found = " ".join(str(finding) for finding in reconstruct(particles).findings)
    assert "There are 12 images" in found
    assert "diameter" not in found
    tiny = ReconstructOptions(settings=ImageSettings(diameter=3.0))
    assert any(
        "A diameter of 3 Angstrom is 0.8 pixels" in finding.what for finding in reconstruct(particles, tiny).findings
    )


def _curves(values: np.ndarray, randomized: float = 0.0) -> FSCCurves:
    random = np.full(len(values), randomized)
    return FSCCurves(2 * len(values) - 2, 2.0, values, values, random, values, len(values) // 3)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.linspace(1.0, 0.2, 33), "gives no resolution"),
        (np.full(33, 0.9), "gives no resolution"),
        (np.r_[np.full(10, 1.0), 0.1, np.full(22, 0.3)], "gives no resolution"),
        (np.r_[1.0, np.zeros(32)], "do not correlate"),
        (np.maximum(1.0 - np.arange(33) / 20, 0.0), ""),
        (np.r_[np.full(29, 0.99), 0.5, 0.1, 0.0, 0.0], ""),
    ],
)
def test_an_fsc_that_never_falls_gives_no_resolution(values: np.ndarray, word: str) -> None:
    found = fsc_findings(_curves(values))
    assert (len(found) == 1 and word in found[0].what) if word else found == []


def test_a_tight_mask_is_named_where_it_takes_part() -> None:
    (finding,) = fsc_findings(_curves(np.maximum(1.0 - np.arange(33) / 20, 0.0), randomized=0.2))
    assert "correlates the halves by 0.20" in finding.what
