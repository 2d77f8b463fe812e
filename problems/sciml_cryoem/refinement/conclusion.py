"""The end of a refinement: the final maps from its poses, without the junk, and how far to trust them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from sciml.errors import InputError
from sciml.findings import Finding
from sciml.runs.stage import Stage
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.reference_map import read_reference
from sciml_cryoem.imaging import rotations
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.maps.fsc import FSCCurves
from sciml_cryoem.maps.masks import AutomaticMask, soft_sphere
from sciml_cryoem.poses.pose_error import PoseError, pose_error
from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
from sciml_cryoem.reconstruction.direct import Reconstruction, reconstruct
from sciml_cryoem.refinement import refine as engine
from sciml_cryoem.refinement.half_agreement import CLEAR
from sciml_cryoem.refinement.half_maps import Iteration
from sciml_cryoem.refinement.image_set import RefineOptions
from sciml_cryoem.refinement.refine import Refined
from sciml_cryoem.validation.directional_fsc import ConicalFSC, conical_fsc
from sciml_cryoem.validation.local_resolution import LocalResolution, local_resolution
from sciml_cryoem.validation.orientation_diagnostics import OrientationDiagnostics, diagnose
from sciml_cryoem.validation.uncertainty import Uncertainty, uncertainty

JUNK = 0.5
"""Weight below which an image is called junk and left out of the final maps."""


@dataclass(frozen=True)
class RefinedMaps:
    """Final maps, their diagnostics, and the refinement behind them.

    Attributes:
        refined: poses and record of the refinement.
        reconstruction: half maps, full map, mask and FSC of the images that are no junk.
        uncertainty: posterior standard deviation of the full map.
        junk: which images fit the map in no pose found.
        junk_kept: whether the junk is in the maps all the same, because a half set would else be too small.
        orientation: diagnostics of the view directions of the images used.
        cones: FSC of the half maps by direction.
        molecule: where local resolution means something: the mask given, or one found in the map.
        local: local resolution.
        pose_error: distance to the poses of the input; None if it had none.
        symmetry: point group.
    """

    refined: Refined
    reconstruction: Reconstruction = field(repr=False)
    uncertainty: Uncertainty = field(repr=False)
    junk: Bool[np.ndarray, " images"] = field(repr=False)
    junk_kept: bool
    orientation: OrientationDiagnostics = field(repr=False)
    cones: ConicalFSC = field(repr=False)
    molecule: Float[np.ndarray, "n n n"] = field(repr=False)
    local: LocalResolution = field(repr=False)
    pose_error: PoseError | None = field(repr=False)
    symmetry: str

    @property
    def full(self) -> Float[np.ndarray, "n n n"]:
        """The final map of both half sets, filtered by the FSC, times the mask if there is one."""
        return self.reconstruction.full

    @property
    def half1(self) -> Float[np.ndarray, "n n n"]:
        """Unfiltered, unmasked map of half set 1."""
        return self.reconstruction.half1

    @property
    def half2(self) -> Float[np.ndarray, "n n n"]:
        """Unfiltered, unmasked map of half set 2."""
        return self.reconstruction.half2

    @property
    def std(self) -> Float[np.ndarray, "n n n"]:
        """Posterior standard deviation of each voxel of the full map."""
        return self.uncertainty.std

    @property
    def mask(self) -> Float[np.ndarray, "n n n"] | None:
        """The mask of full map and FSC, 0 to 1; None for none."""
        return self.reconstruction.mask

    @property
    def curves(self) -> FSCCurves:
        """FSC of the half maps: unmasked, masked, and corrected for the mask."""
        return self.reconstruction.curves

    @property
    def particles(self) -> Particles:
        """The set with its new poses and half sets, junk included."""
        return self.refined.particles

    @property
    def iterations(self) -> list[Iteration]:
        """The record of the steps."""
        return self.refined.iterations

    @property
    def converged(self) -> bool:
        """Whether resolution and poses had come to rest."""
        return self.refined.converged

    @property
    def shared(self) -> float:
        """Resolution up to which the halves share the reference, Angstrom."""
        return self.particles.box * self.particles.pixel_size / self.iterations[0].radius

    @property
    def resolution(self) -> float:
        """Where the FSC of the half maps, corrected for the mask, falls to 0.143; Angstrom.

        A mask carries the agreement of shared shells into the next ones. So a resolution within two shells of what the
        halves share counts as what they share.
        """
        found, radius = self.curves.resolution(), self.iterations[0].radius
        return max(found, self.shared) if self.shared * radius / found < radius + CLEAR else found

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What to know about images and maps before believing them."""
        return self.reconstruction.findings

    @property
    def local_quantiles(self) -> tuple[float, float, float]:
        """Local resolution of the molecule: 5th percentile, median, 95th percentile, Angstrom."""
        return self.local.quantiles(self.molecule)


def refine(
    particles: Particles,
    reference: Float[np.ndarray, "n n n"] | str | Path,
    options: RefineOptions | None = None,
    watch: Callable[[Iteration], None] | None = None,
    stage: Stage | None = None,
) -> RefinedMaps:
    """Refine poses from a reference map, and make the final maps from them.

    Args:
        particles: the set; its half sets are kept, its poses not used but compared with at the end.
        reference: start map at the box of the images, or a map file (MRC) of any box and pixel size.
        options: how.
        watch: called after every step of the refinement.
        stage: where the solve keeps its metrics and checkpoints. If it holds one, the refinement goes on from there.

    Raises:
        InputError: a reference of another box, an unusable image, or a checkpoint of other images.
        KeyboardInterrupt: the solve was interrupted; with a stage, the same call goes on.
    """
    options = options or RefineOptions()
    if not isinstance(reference, np.ndarray):
        reference, _ = read_reference(reference, particles.box, particles.pixel_size)
    return conclude(particles, engine.refine(particles, reference, options, watch, stage), options)


def conclude(particles: Particles, refined: Refined, options: RefineOptions) -> RefinedMaps:
    """Maps and diagnostics from refined poses: one more pass over the images, at full size.

    Args:
        particles: as they came in; if they have poses, the refined ones are compared with these.
        refined: what the refinement found.
        options: that it ran with.

    Raises:
        InputError: an unusable image.
    """
    group, posed = point_group(options.symmetry), refined.particles
    junk = refined.poses.weights < JUNK
    kept, junk_kept = _without(posed, junk)
    how = ReconstructOptions(options.seed, options.symmetry, options.mask, options.settings)
    reconstruction = reconstruct(kept, how)
    half1, half2 = reconstruction.half1, reconstruction.half2
    region = soft_sphere(posed.box) if reconstruction.mask is None else reconstruction.mask
    return RefinedMaps(
        refined=refined,
        reconstruction=reconstruction,
        uncertainty=uncertainty(reconstruction),
        junk=junk,
        junk_kept=junk_kept,
        orientation=diagnose(kept.rotations[:, 2], group=group),
        cones=conical_fsc(half1, half2, posed.pixel_size, region),
        molecule=_molecule(reconstruction, options.mask),
        local=local_resolution(half1, half2, posed.pixel_size),
        pose_error=_error(particles, refined, junk, group) if particles.has_poses else None,
        symmetry=options.symmetry,
    )


def _molecule(result: Reconstruction, asked: str | np.ndarray) -> np.ndarray:
    """The molecule: its mask, or one found in the half maps; the sphere where none can be found."""
    box, pixel_size = result.half_sums.box, result.half_sums.pixel_size
    if result.prior.mask is not None and not (isinstance(asked, str) and asked == "sphere"):
        return result.prior.mask
    lowpass = 1.3 * result.prior.curves.resolution(0.5)
    try:
        return AutomaticMask(lowpass).find(0.5 * (result.half1 + result.half2), pixel_size)
    except InputError:
        return soft_sphere(box)


def _without(posed: Particles, junk: np.ndarray) -> tuple[Particles, bool]:
    """The set less its junk, unless a half set would then be left with fewer than two images."""
    if not junk.any():
        return posed, False
    assert posed.random_subset is not None
    left = posed.random_subset[~junk]
    if min(int((left == half).sum()) for half in (1, 2)) < 2:
        return posed, True
    return posed.select(np.flatnonzero(~junk)), False


def _error(particles: Particles, refined: Refined, junk: np.ndarray, group: np.ndarray) -> PoseError:
    """Against the poses of the input, over rotation, shift, hand and symmetry of the map; offsets in Angstrom."""
    posed = refined.particles
    found = rotations.matrices(posed.angles_deg)
    return pose_error(particles.rotations, particles.origins, found, posed.origins, ~junk, group)
