"""FSC: against an independent program, exact answers, and the statistics of the mask correction."""

import importlib.util
import time
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.star import read_star
from sciml_cryoem.maps.fsc import corrected_fsc, fsc, last_shell_before, resolution, shell_sums
from sciml_cryoem.maps.fsc_files import write_fsc_star, write_fsc_xml
from sciml_cryoem.maps.masks import soft_sphere

from sciml.errors import InputError


@pytest.fixture(scope="module")
def peer(shared: Path) -> ModuleType:
    """A small independent FSC program."""
    spec = importlib.util.spec_from_file_location("peer_fsc", shared / "peers/fsc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _noise(box: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((box, box, box)).astype(np.float32)


def _full_spectrum_fsc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition, over the whole spectrum in float64."""
    box = len(a)
    line = np.fft.fftfreq(box) * box
    shell = np.rint(np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2)).astype(int)
    fa, fb = np.fft.fftn(a.astype(float)), np.fft.fftn(b.astype(float))
    curve = []
    for number in range(box // 2 + 1):
        x, y = fa[shell == number], fb[shell == number]
        curve.append((x * y.conj()).sum().real / np.sqrt((abs(x) ** 2).sum() * (abs(y) ** 2).sum()))
    return np.array(curve)


@pytest.mark.parametrize("box", [8, 9, 16, 17])
def test_equals_the_definition_for_even_and_odd_boxes(box: int) -> None:
    a = _noise(box, 0)
    b = a + _noise(box, 1)
    np.testing.assert_allclose(fsc(a, b), _full_spectrum_fsc(a, b), atol=2e-6)


@pytest.mark.parametrize("box", [8, 9])
def test_shell_sums_count_the_whole_spectrum(box: int) -> None:
    half = np.ones((box, box, box // 2 + 1), np.float32)
    line = np.fft.fftfreq(box) * box
    shell = np.rint(np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None] ** 2)).astype(int)
    np.testing.assert_array_equal(shell_sums(half, box), np.bincount(shell.ravel())[: box // 2 + 1])


def test_agrees_with_the_peer_program(peer: ModuleType, shared: Path) -> None:
    truth = read_map(shared / "data/p64/truth64.mrc").array
    noisy = truth + 0.2 * _noise(64, 3)
    theirs = peer.compare(truth.astype(float), noisy.astype(float), 5.0)
    mask = soft_sphere(64)
    for name, curve in (("unmasked", fsc(truth, noisy)), ("masked", fsc(truth * mask, noisy * mask))):
        np.testing.assert_allclose(curve, theirs[name]["curve"], atol=6e-5)  # it prints four digits
        for key, threshold in (("r05", 0.5), ("r0143", 0.143)):
            assert resolution(curve, 64, 5.0, threshold) == pytest.approx(theirs[name][key], abs=0.01)


def test_exact_cases() -> None:
    a = _noise(16, 0)
    np.testing.assert_allclose(fsc(a, a), 1.0, atol=1e-6)
    np.testing.assert_allclose(fsc(a, -3 * a), -1.0, atol=1e-6)
    np.testing.assert_array_equal(fsc(a, np.zeros_like(a)), 0.0)


def test_expected_value_for_signal_and_noise() -> None:
    """Two halves of equal signal and noise power s: E FSC = s / (s + 1), up to 1 / sqrt(points in the shell)."""
    signal = _noise(48, 0)
    for power in (0.25, 1.0, 4.0):
        scaled = np.float32(np.sqrt(power)) * signal
        curve = fsc(scaled + _noise(48, 1), scaled + _noise(48, 2))
        np.testing.assert_allclose(curve[12:], power / (power + 1), atol=0.06)


def test_resolution_interpolates_between_shells() -> None:
    curve = np.array([1.0, 1.0, 0.9, 0.6, 0.2, 0.1, 0.0])
    assert resolution(curve, 12, 2.0, 0.5) == pytest.approx(24 / 3.25)
    assert resolution(curve, 12, 2.0, 0.143) == pytest.approx(24 / 4.57)
    assert resolution(np.ones(7), 12, 2.0, 0.143) == 4.0
    assert resolution(np.array([1.0, 0.1, 0.1, 0.1]), 6, 2.0, 0.5) == 12.0
    assert last_shell_before(curve, 0.5) == 3
    assert last_shell_before(np.ones(7), 0.5) == 6
    assert last_shell_before(np.array([1.0, 0.1, 0.9]), 0.5) == 0


def test_mask_correction_removes_what_the_mask_correlates() -> None:
    """Smooth signal, independent noise, sharp mask: it spreads the signal over all shells, where nothing is shared."""
    box = 48
    signal, mask = 3 * soft_sphere(box, 2.0, 20.0), soft_sphere(box, 8.0, 0.0)
    halves = [(signal + _noise(box, 2 * trial), signal + _noise(box, 2 * trial + 1)) for trial in range(6)]
    curves = [corrected_fsc(*pair, mask, 2.0, seed) for seed, pair in enumerate(halves)]
    assert np.mean([curve.unmasked[7:20] for curve in curves]) < 0.05
    assert np.mean([curve.masked[7:20] for curve in curves]) > 0.5
    assert abs(np.mean([curve.corrected[7:] for curve in curves])) < 0.05
    assert all(curve.mask_is_tight for curve in curves)
    assert not corrected_fsc(*halves[0], np.ones_like(mask), 2.0).mask_is_tight


def test_correction_begins_two_shells_after_the_randomisation() -> None:
    box = 32
    signal = 30 * soft_sphere(box, 6.0, 4.0)
    curves = corrected_fsc(signal + _noise(box, 0), signal + _noise(box, 1), soft_sphere(box, 9.0, 4.0), 3.0)
    start = curves.randomized_from
    assert curves.unmasked[start] < 0.8
    assert (curves.unmasked[1:start] >= 0.8).all()
    np.testing.assert_array_equal(curves.corrected[: start + 2], curves.masked[: start + 2])
    beyond = slice(start + 2, None)
    expected = (curves.masked[beyond] - curves.randomized[beyond]) / (1 - curves.randomized[beyond])
    np.testing.assert_allclose(curves.corrected[beyond], expected)
    np.testing.assert_allclose(curves.randomized[: start - 2], curves.masked[: start - 2], atol=0.05)


def test_same_seed_same_bits() -> None:
    volumes = _noise(24, 0), _noise(24, 1), soft_sphere(24)
    first, again, other = (corrected_fsc(*volumes, 2.0, seed).corrected for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_maps_that_cannot_be_compared() -> None:
    a = _noise(8, 0)
    with pytest.raises(InputError, match="cubes of one size"):
        fsc(a, _noise(9, 0))
    with pytest.raises(InputError, match="cubes of one size"):
        fsc(a[:4], a[:4])
    broken = a.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        fsc(a, broken)


def test_files(tmp_path: Path) -> None:
    curves = corrected_fsc(_noise(16, 0), _noise(16, 0) + _noise(16, 1), soft_sphere(16), 2.5)
    root = ElementTree.parse(write_fsc_xml(tmp_path / "fsc.xml", curves.corrected, 16, 2.5, 'A & "B"')).getroot()
    assert root.tag == "fsc"
    assert root.attrib == {"title": 'A & "B"', "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"}
    points = [(float(c.findtext("x", "")), float(c.findtext("y", ""))) for c in root.findall("coordinate")]
    np.testing.assert_allclose([x for x, _ in points], np.arange(9) / 40, atol=1e-6)
    np.testing.assert_allclose([y for _, y in points], curves.corrected, atol=1e-6)
    tables = read_star(write_fsc_star(tmp_path / "fsc.star", curves))
    table = tables["fsc"]
    np.testing.assert_allclose(table.numbers("rlnFourierShellCorrelationUnmaskedMaps"), curves.unmasked, atol=1e-6)
    np.testing.assert_allclose(table.numbers("rlnAngstromResolution")[1:], 40 / np.arange(1, 9), atol=1e-5)
    np.testing.assert_allclose(tables["general"].numbers("rlnFinalResolution"), curves.final_resolution, atol=1e-6)


def test_it_is_fast() -> None:
    a, b = _noise(128, 0), _noise(128, 1)
    fsc(a, b)
    began = time.process_time()
    fsc(a, b)
    assert time.process_time() - began < 0.5
