"""`Particles`: what a STAR file says about its images, and the images themselves, read when asked for."""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sciml.findings import Finding
from sciml_cryoem.files.faults import Fault, FaultError
from sciml_cryoem.files.half_sets import draw_half_sets
from sciml_cryoem.files.mrc import MappedStack
from sciml_cryoem.files.mrc_header import Header
from sciml_cryoem.files.table import Table
from sciml_cryoem.imaging.ctf import CTF
from sciml_cryoem.imaging.rotations import matrices

_OPEN_STACKS = 64  # a set may have one stack a micrograph, thousands; each open one holds a file descriptor


class _StackCache:
    """The stacks opened last."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, MappedStack] = OrderedDict()

    def get(self, header: Header) -> MappedStack:
        stack = self._open.pop(header.path, None) or MappedStack(header)
        self._open[header.path] = stack
        if len(self._open) > _OPEN_STACKS:
            self._open.popitem(last=False)
        return stack


@dataclass(frozen=True)
class Particles:
    """A particle set, one entry a row of its STAR file, in the order of the file. Made by `read_particles`.

    Attributes:
        path: the STAR file.
        box: pixels along the side of every image.
        pixel_size: Angstrom, the same for all.
        angles_deg: (rot, tilt, psi), RELION's convention; zeros when `has_poses` is False.
        origins: (x, y) in Angstrom; they move the observation into the reference frame.
        defocus_u: Angstrom, positive = underfocus; at least `defocus_v`.
        defocus_v: Angstrom.
        defocus_angle_deg: from the x axis to the U axis.
        phase_shift_deg: of a phase plate.
        bfactor: of the CTF, Angstrom^2.
        scale: factor on the CTF.
        voltage_kv: of the optics group.
        cs_mm: spherical aberration of the optics group.
        amplitude_contrast: fraction, of the optics group.
        optics_group: number of the optics group, as in the file.
        class_number: rlnClassNumber, 1 where the file has none.
        random_subset: half set 1 or 2; None when the file does not say (`half_sets` draws them).
        stacks: the checked headers of all stacks.
        stack: which of `stacks` holds the image.
        section: its place in that stack, from 0.
        optics: the optics table in the form of RELION 3.1, every column kept as text.
        table: the particle table, likewise.
        has_poses: whether the file has angles.
        has_ctf: whether the file has defocus and optics values.
        groups: number of the group that the image belongs to, from 0; see `Together.groups`.
        findings: what a user should know about the input.
        inverted: whether images are multiplied by -1 as they are read: particles are dark in the files.
    """

    path: Path
    box: int
    pixel_size: float
    angles_deg: Float[np.ndarray, "n 3"]
    origins: Float[np.ndarray, "n 2"]
    defocus_u: Float[np.ndarray, " n"]
    defocus_v: Float[np.ndarray, " n"]
    defocus_angle_deg: Float[np.ndarray, " n"]
    phase_shift_deg: Float[np.ndarray, " n"]
    bfactor: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    voltage_kv: Float[np.ndarray, " n"]
    cs_mm: Float[np.ndarray, " n"]
    amplitude_contrast: Float[np.ndarray, " n"]
    optics_group: Int[np.ndarray, " n"]
    class_number: Int[np.ndarray, " n"]
    random_subset: Int[np.ndarray, " n"] | None
    stacks: tuple[Header, ...]
    stack: Int[np.ndarray, " n"]
    section: Int[np.ndarray, " n"]
    optics: Table
    table: Table
    has_poses: bool
    has_ctf: bool
    groups: Int[np.ndarray, " n"]
    findings: tuple[Finding, ...] = ()
    inverted: bool = False
    _cache: _StackCache = field(default_factory=_StackCache, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.section)

    def __len__(self) -> int:
        return self.n

    @cached_property
    def rotations(self) -> Float[np.ndarray, "n 3 3"]:
        """Rotation matrices A of the poses; they take reference coordinates (x, y, z) to the view."""
        return matrices(self.angles_deg)

    @property
    def ctf(self) -> CTF:
        """The CTF of every particle, in Angstrom, radian and volt.

        Raises:
            InputError: the file has no CTF values (`read_particles(..., needs=...)` without "ctf" lets it pass).
        """
        if not self.has_ctf:
            fault = "the file has no CTF values."
            raise FaultError(Fault(str(self.path), "", fault, "Run CTF estimation, or work without the CTF."))
        return CTF(
            self.defocus_u,
            self.defocus_v,
            np.radians(self.defocus_angle_deg),
            self.voltage_kv * 1e3,
            self.cs_mm * 1e7,
            self.amplitude_contrast,
            np.radians(self.phase_shift_deg),
            self.bfactor,
            self.scale,
        )

    def images(self, indices: Int[np.ndarray, " batch"] | slice = slice(None)) -> Float[np.ndarray, "batch box box"]:
        """Read images as float32, contiguous, native byte order. Cheapest for runs of neighbors in one stack.

        Args:
            indices: which particles (from 0), in any order; or a slice.
        """
        images = self._read(np.arange(self.n)[indices])
        return np.negative(images, out=images) if self.inverted else images

    def _read(self, which: np.ndarray) -> np.ndarray:
        stacks = self.stack[which]
        if len(which) and bool((stacks == stacks[0]).all()):
            return self._cache.get(self.stacks[stacks[0]]).read(self.section[which])
        images = np.empty((len(which), self.box, self.box), dtype=np.float32)
        for number in np.unique(stacks):
            rows = np.flatnonzero(stacks == number)
            images[rows] = self._cache.get(self.stacks[number]).read(self.section[which[rows]])
        return images

    def check_finite(
        self, images: Float[np.ndarray, "batch box box"], indices: Int[np.ndarray, " batch"] | slice = slice(None)
    ) -> None:
        """Refuse images that cannot be used: a pixel that is NaN or infinite, or all pixels equal. Costs two passes.

        Args:
            images: what `images(indices)` returned.
            indices: the same.

        Raises:
            InputError: it names the stack, the image in it and the row of the STAR file.
        """
        bad = unusable(images)
        if bad.any():
            which = np.arange(self.n)[indices]
            row = int(np.argmax(bad))
            raise FaultError(self.image_fault(int(which[row]), images[row], int(bad.sum())))

    def image_fault(self, row: int, image: Float[np.ndarray, "box box"], count: int = 1) -> Fault:
        """What is wrong with an unusable image of particle `row` (from 0); `count` of them were found."""
        if np.isfinite(image).all():
            fault = f"all pixels are {image[0, 0]:g}"
        else:
            y, x = np.argwhere(~np.isfinite(image))[0]
            fault = f"pixel row {y}, column {x} (from 0) is {image[y, x]}"
        more = f" ({count} such images)" if count > 1 else ""
        place = f"image {self.section[row] + 1} ({self.path}, {self.table.place(row)})"
        remedy = "Remove the row from the STAR file, or extract the particle again."
        return Fault(str(self.stacks[self.stack[row]].path), place, f"{fault}{more}.", remedy, kind="unusable image")

    def half_sets(self, seed: int = 0) -> Int[np.ndarray, " n"]:
        """Half set, 1 or 2, of every particle: as in the file, else drawn from the seed by what belongs together."""
        return draw_half_sets(self.groups, seed) if self.random_subset is None else self.random_subset

    def select(self, rows: Int[np.ndarray, " kept"]) -> "Particles":
        """The set of these rows (from 0), in this order."""
        names = ("angles_deg", "origins", "defocus_u", "defocus_v", "defocus_angle_deg", "phase_shift_deg", "bfactor")
        names += (
            "scale",
            "voltage_kv",
            "cs_mm",
            "amplitude_contrast",
            "optics_group",
            "class_number",
            "groups",
            "stack",
            "section",
        )
        picked = {name: getattr(self, name)[rows] for name in names}
        subset = None if self.random_subset is None else self.random_subset[rows]
        return replace(self, **picked, random_subset=subset, table=self.table.select(rows))


def unusable(images: Float[np.ndarray, "batch box box"]) -> Bool[np.ndarray, " batch"]:
    """Which images hold a NaN or an infinity, or the same value everywhere."""
    low, high = images.min(axis=(1, 2)), images.max(axis=(1, 2))  # NaN passes through both
    return ~(np.isfinite(low) & np.isfinite(high)) | (low == high)
