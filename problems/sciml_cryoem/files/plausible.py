"""Values that are well-formed and cannot be, or hardly can: wrong units, poses that are none, columns mixed up.

Refused is what makes sense in no reading; what looks like another unit, or is unusual, is a finding. Underfocus is
positive. Single images at up to 0.5 um of overfocus occur (per-particle defocus in thick ice, close to focus); a whole
set is not taken there on purpose.
"""

import numpy as np

from sciml_cryoem.files.faults import Faults
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.ranges import LooksLike, Range, Rows

_UNITS_OF_DEFOCUS = (
    LooksLike(0.0, 1e-3, "meters", "Multiply it by 1e10."),
    LooksLike(1e-3, 10.0, "micrometers", "Multiply it by 10,000."),
)
_CTF_COLUMNS = (
    Range("rlnDefocusU", "Angstrom", (-1e6, 1e6), (-1e6, 1e5), _UNITS_OF_DEFOCUS),
    Range("rlnDefocusV", "Angstrom", (-1e6, 1e6), (-1e6, 1e5), _UNITS_OF_DEFOCUS),
    Range("rlnDefocusAngle", "degrees", (-1e5, 1e5), (-720.0, 720.0)),
    Range("rlnPhaseShift", "degrees", (-1e5, 1e5), (-360.0, 360.0)),
    Range("rlnCtfBfactor", "Angstrom^2", (-1e5, 1e5), (-5e3, 5e3)),
    Range("rlnCtfScalefactor", "a factor", (-1e3, 1e3), (0.02, 10.0)),
)
_ANGLES = [Range(f"rlnAngle{name}", "degrees", (-1e5, 1e5), (-720.0, 720.0)) for name in ("Rot", "Tilt", "Psi")]
_OVERFOCUS = 5000.0
"""Angstrom of overfocus that a single image may have."""
_CLOSE_TO_FOCUS = 3000.0
"""Angstrom of median defocus below which a set without a phase plate may be in nanometers."""
_FOCUSED = 300.0
"""Angstrom of mean defocus below which no image is taken on purpose."""
_ENOUGH = 10
"""Rows from which a distribution says something."""


def check_ctf(particles: Particles, faults: Faults) -> None:
    """Report implausible CTF values."""
    rows = Rows(particles.table, range(len(particles)), faults)
    for known in _CTF_COLUMNS:
        if known.label in particles.table:
            known.check(particles.table.numbers(known.label), rows)
    _check_focus(particles, rows)
    _check_unit_of_set(particles, faults)
    _check_envelope(particles, rows)
    shift, angle = particles.phase_shift_deg, particles.table.numbers("rlnDefocusAngle")
    remedy = "They look like radians; wanted are degrees."
    if np.abs(shift).max() < 3.2:
        rows.report(shift != 0, f"rlnPhaseShift is {np.abs(shift).max():.3g} at most", remedy)
    astigmatic = particles.defocus_u - particles.defocus_v > 0.01 * np.abs(particles.defocus_u)
    if len(particles) >= _ENOUGH and astigmatic.mean() > 0.5 and np.abs(angle).max() < 3.2 and np.ptp(angle) > 0.2:
        rows.report(astigmatic, f"rlnDefocusAngle is {np.abs(angle).max():.3g} at most", remedy)


def _check_focus(particles: Particles, rows: Rows) -> None:
    """The mean of both defoci, and their difference."""
    mean = 0.5 * (particles.defocus_u + particles.defocus_v)
    difference = particles.defocus_u - particles.defocus_v
    known = np.abs(mean) <= 1e6  # what is beyond is refused already
    in_other_units = (np.abs(mean) <= 10.0) & (mean != 0)
    over = known & (mean < -_OVERFOCUS)
    rows.report(
        over, f"the defocus is {_first(mean, over)} Angstrom", "Underfocus is positive: reverse the sign.", "fault"
    )
    over = known & (mean < 0) & ~over & ~in_other_units
    what = f"the defocus is {_first(mean, over)} Angstrom, overfocus"
    rows.report(over, what, "Underfocus is positive: check the sign.")
    focused = (mean >= 0) & (mean < _FOCUSED) & ~in_other_units
    what = f"the defocus is {_first(mean, focused)} Angstrom, hardly any"
    rows.report(focused, what, "Check the unit (Angstrom), and that the CTF was estimated.")
    stretched = known & (difference > np.maximum(5000.0, 0.5 * np.abs(mean)))
    what = (
        f"rlnDefocusU and V differ by {_first(difference, stretched)} Angstrom at a mean of {_first(mean, stretched)}"
    )
    rows.report(stretched, what, "Look for a unit or a column mixed up.")


def _first(values: np.ndarray, which: np.ndarray) -> str:
    return f"{values[np.argmax(which)]:.5g}"


def _check_unit_of_set(particles: Particles, faults: Faults) -> None:
    """Nanometers, which only the set as a whole shows: all images close to focus, or two groups a factor apart."""
    mean = np.sort(0.5 * (particles.defocus_u + particles.defocus_v))
    mean = mean[(mean >= _FOCUSED) & (mean <= 1e6)]
    if len(mean) < _ENOUGH:
        return
    place, median = f"data_{particles.table.name}", float(np.median(mean))
    if median < _CLOSE_TO_FOCUS and not particles.phase_shift_deg.any():
        fault = f"the defocus is {median:.0f} Angstrom (median), closer to focus than is usual without a phase plate."
        faults.warning(particles.path, place, fault, "If these are nanometers, multiply them by 10.")
    edge = max(1, len(mean) // 20)
    ratio = (mean[1:] / mean[:-1])[edge - 1 : len(mean) - edge]
    if len(mean) >= 3 * _ENOUGH and ratio.max() > 3.0:
        above = int(np.argmax(ratio)) + edge
        fault = (
            f"the defoci are of two kinds: {above:,} are up to {mean[above - 1]:.0f}, and {len(mean) - above:,} from "
            f"{mean[above]:.0f} Angstrom on."
        )
        faults.severe(particles.path, place, fault, "Look at their units: 1 nanometer is 10 Angstrom.")


def _check_envelope(particles: Particles, rows: Rows) -> None:
    """B factor and scale, which multiply the whole CTF."""
    bfactor, zero = particles.bfactor, particles.scale == 0
    gain = np.exp(np.clip(-bfactor / (4.0 * particles.pixel_size) ** 2, -700, 700))  # at Nyquist, 1 / (2 pixels)
    grows = gain > 2.0
    what = f"rlnCtfBfactor is {_first(bfactor, grows)} Angstrom^2: the CTF grows by {gain.max():.2g} up to Nyquist"
    rows.report(grows, what, "A positive value dampens; some programs write the opposite sign.")
    if zero.all():
        what = "rlnCtfScalefactor is 0: the images say nothing"
        rows.report(zero, what, "Correct the column, or remove it.", "fault")


def check_poses(particles: Particles, faults: Faults) -> None:
    """Report implausible angles and origins."""
    table, angles, count = particles.table, particles.angles_deg, len(particles)
    rows = Rows(table, range(count), faults)
    for known, values in zip(_ANGLES, angles.T, strict=True):
        known.check(values, rows)
    place, largest = f"data_{table.name}", np.abs(angles).max()
    if count > 1 and not np.ptp(angles, axis=0).any():
        fault = f"all {count:,} rows have the angles {', '.join(f'{value:g}' for value in angles[0] + 0.0)}."
        faults.severe(table.path, place, fault, "One view gives no volume: find poses with `sciml cryoem abinitio`.")
    elif count >= _ENOUGH and not np.sin(np.radians(angles[:, 1])).any():
        fault = "rlnAngleTilt is 0 in all rows: all images show one view, as after 2D classification."
        faults.severe(table.path, place, fault, "Find poses with `sciml cryoem abinitio`.")
    elif count >= _ENOUGH and largest < 6.3 and len(np.unique(angles, axis=0)) > 5:
        fault = f"no angle is above {largest:.3g}: these look like radians; wanted are degrees."
        faults.severe(table.path, place, fault, "Multiply them by 180 / pi.")
    extent = particles.box * particles.pixel_size
    distance = np.abs(particles.origins).max(axis=1)
    outside = distance > 0.5 * extent
    x, y = particles.origins[int(np.argmax(outside))]
    what = f"the origin ({x:g}, {y:g} Angstrom) lies outside of the box, {extent:g} Angstrom wide"
    remedy = "Check the unit (Angstrom since RELION 3.1), or extract the particles again."
    nowhere = outside.mean() > 0.5 and float(np.median(distance)) > extent
    rows.report(outside, what, remedy, "fault" if nowhere else "by share")


def check_set(particles: Particles, faults: Faults) -> None:
    """Report what is odd about the set as a whole."""
    extent, place = particles.box * particles.pixel_size, f"data_{particles.table.name}"
    if not 20.0 <= extent <= 6000.0:
        fault = f"the box is {extent:.4g} Angstrom wide ({particles.box} pixels of {particles.pixel_size:g})."
        faults.warning(particles.path, "data_optics", fault, "Check the pixel size.")
    classes, sizes = np.unique(particles.class_number, return_counts=True)
    if len(classes) > 1:
        listed = ", ".join(f"{number} ({size:,})" for number, size in list(zip(classes, sizes, strict=True))[:8])
        fault = f"images of {len(classes)} classes are taken together: rlnClassNumber is {listed}."
        faults.warning(particles.path, place, fault, "Choose one with --class.")
    if particles.random_subset is not None and len(particles) >= _ENOUGH:
        half = np.bincount(particles.random_subset, minlength=3)[1:]
        if half.min() < 0.2 * half.max():
            fault = f"the half sets have {half[0]:,} and {half[1]:,} images."
            faults.warning(particles.path, place, fault, "The FSC is that of the smaller one: remove rlnRandomSubset.")
