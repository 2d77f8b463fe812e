"""The options that `reconstruct`, `abinitio` and `refine` share: which images, how they are read, where results go."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from sciml.runs.beginning import Files
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.files.particles import Need
    from sciml_cryoem.reconstruction.images import ImageSettings


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """A particle set, and the folder of a run."""

    particles: tyro.conf.Positional[Path]
    """STAR file of particles (RELION 3.0 or 3.1)."""
    out: Path
    """Folder of the run: maps, tables, figures, report.html."""
    diameter: float | None = None
    """Of the particle, Angstrom: where signal is expected, and where noise is measured. Default: the box."""
    ctf: bool = True
    """Off for images without a CTF."""
    invert_contrast: bool = False
    """Multiply the images by -1: particles are dark in them."""
    normalize: Literal["auto", "yes", "no"] = "auto"
    """Bring every image to one noise level; auto: when these differ by more than 10 percent."""
    datadir: Path | None = None
    """Folder that the stack paths start from, if not the STAR file's, the working folder or the RELION project."""
    mode0: Literal["auto", "signed", "unsigned"] = "auto"
    """How the bytes of 8-bit stacks are read: signed (RELION) or unsigned (cryoSPARC, cryoDRGN); auto: as IMOD's flag
    in the header says, else signed."""
    class_number: Annotated[int | None, tyro.conf.arg(name="class")] = None
    """Read only the images of this class (rlnClassNumber)."""
    seed: int = 0
    """Of all that is drawn at random: half sets where the file has none, batches, grids, random phases."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one and it pays."""
    overwrite: bool = False
    """Discard an earlier run in the folder."""
    json: bool = False
    """Print one JSON object as the last line."""

    def read(self, needs: "Collection[Need]") -> "Particles":
        """The particles, with what the command needs to know of them (and the CTF, unless it is off).

        Raises:
            InputError: a fault of the files, or a diameter that does not fit into the box.
        """
        from sciml_cryoem.commands.parts import check_diameter
        from sciml_cryoem.files.particles import read_particles

        wanted: list[Need] = [*needs, *(["ctf"] if self.ctf else [])]
        particles = read_particles(self.particles, self.datadir, self.mode0, wanted, self.class_number)
        check_diameter(self.diameter, particles)
        return replace(particles, inverted=self.invert_contrast)

    def files(self, particles: "Particles", outputs: Sequence[str], maps: Sequence[Path] = ()) -> "Files":
        """What the command reads and writes.

        Args:
            particles: as `read` gave them.
            outputs: names in the folder of the run.
            maps: further inputs.
        """
        from sciml.runs.beginning import Files

        return Files([self.particles, *(header.path for header in particles.stacks), *maps], outputs)

    def settings(self, device: str, **more: Any) -> "ImageSettings":
        """The same in the terms of the engine.

        Args:
            device: the one chosen (`parts.chosen_device`).
            more: further fields of `ImageSettings`.
        """
        from sciml_cryoem.reconstruction.images import ImageSettings

        return ImageSettings(
            device=device,
            use_ctf=self.ctf,
            diameter=self.diameter,
            normalize=self.normalize,
            **more,
        )
