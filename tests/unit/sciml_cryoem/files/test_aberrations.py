"""The resolution at which an aberration matters follows from its size: closed forms, and the phase integrated."""

import numpy as np
import pytest
from sciml_cryoem.files.aberrations import (
    beam_tilt_resolution,
    check_aberrations,
    largest_stretch,
    stretch_resolution,
)
from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.table import Table, make_table


def _optics(**values: str) -> Table:
    columns = {"rlnVoltage": ["300"], "rlnSphericalAberration": ["2.7"]}
    return make_table("optics", {**columns, **{label: [value] for label, value in values.items()}})


@pytest.mark.parametrize(("tilt", "voltage", "cs"), [(0.2, 300.0, 2.7), (12.0, 300.0, 2.7), (3.0, 100.0, 1.6)])
def test_coma_averaged_over_all_directions_is_a_half_there(tilt: float, voltage: float, cs: float) -> None:
    volts = voltage * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    k = 1 / beam_tilt_resolution(tilt, voltage, cs)
    along = np.cos(np.linspace(0, 2 * np.pi, 1000, endpoint=False))
    phase = 2 * np.pi * cs * 1e7 * wavelength**2 * tilt * 1e-3 * k**3 * along
    assert np.exp(1j * phase).mean() == pytest.approx(0.5, abs=1e-3)


def test_a_stretched_disc_is_a_half_there() -> None:
    k, radius = 1 / stretch_resolution(0.08, 100.0), 100.0
    line = np.linspace(-radius, radius, 801)
    x, y = np.meshgrid(line, line)
    inside = x**2 + y**2 <= radius**2
    assert np.cos(2 * np.pi * 0.08 * k * x[inside]).mean() == pytest.approx(0.5, abs=2e-3)


def test_the_stretch_is_along_any_axis() -> None:
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([1.02, 0.99]) @ turn.T
    names = ("rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11")
    optics = _optics(**{name: f"{value:.8f}" for name, value in zip(names, matrix.ravel(), strict=True)})
    assert largest_stretch(optics, 0) == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize(("tilt", "severity"), [("0.02", "note"), ("12", "warning"), ("200", "severe")])
def test_the_words_follow_the_size(tilt: str, severity: str) -> None:
    faults = Faults()
    check_aberrations(_optics(rlnBeamTiltX=tilt), [0], 300.0, 2.8, faults)
    (finding,) = faults.findings
    assert finding.severity == severity
    assert f"halves the amplitudes at {beam_tilt_resolution(float(tilt), 300.0, 2.7):.2g} Angstrom" in finding.what
    nothing = Faults()
    check_aberrations(_optics(rlnBeamTiltX="0", rlnOddZernike="[0,0]"), [0], 300.0, 2.8, nothing)
    assert nothing.found == []
