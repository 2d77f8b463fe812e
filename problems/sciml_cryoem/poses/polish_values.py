"""Options, reference and result of a refinement of poses, for the compiled loops and for torch alike."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.imaging.half_plane import Disc

if TYPE_CHECKING:
    from sciml_cryoem.poses.misfit_kernels import SliceGrid


@dataclass(frozen=True)
class PolishOptions:
    """When a refinement of poses stops, and which parameters are free.

    Attributes:
        tolerance_deg: a step that turns less, and moves less than `tolerance`, is the last.
        tolerance: in pixels.
        gain: a step that promises to raise the log-likelihood by less is the last; .05 is .3 standard deviations,
            of which that last step leaves about a fifth.
        evaluations: of the misfit of an image, at most; a Levenberg-Marquardt step costs one.
        scale: whether each image has a free scale.
        scale_range: its bounds.
        step_deg: longest turn of one step.
        step: longest move of one step, pixels.
        damping: of the first step, as a fraction of the diagonal.
    """

    tolerance_deg: float = 0.02
    tolerance: float = 0.005
    gain: float = 0.05
    evaluations: int = 20
    scale: bool = False
    scale_range: tuple[float, float] = (0.25, 4.0)
    step_deg: float = 6.0
    step: float = 2.0
    damping: float = 1e-2


@dataclass(frozen=True)
class ReferenceSpectrum:
    """A map to compare with, as its transform near the origin.

    Attributes:
        spectrum: padded half spectrum (P, P, P/2 + 1) from `Projector.spectrum`, axes z y x, z and y in FFT order. It
            may be cropped in Fourier space: a step of the grid is 1 / padding of a frequency of the images. A numpy
            array, or for torch a tensor.
        plane: the Fourier points of the images, at which they are compared.
        padding: of the spectrum.
    """

    spectrum: Any
    plane: Disc
    padding: int = 2

    def __post_init__(self) -> None:
        side = self.spectrum.shape[0]
        if side % 2 or tuple(self.spectrum.shape) != (side, side, side // 2 + 1):
            raise ValueError(f"a half spectrum of even side is wanted, not one of shape {tuple(self.spectrum.shape)}")
        if self.padding * self.extent > side / 2:
            raise ValueError(f"a spectrum of side {side} at padding {self.padding} ends before |k| = {self.extent:.1f}")

    @property
    def extent(self) -> float:
        """Largest |k| of the points."""
        return math.sqrt(float(np.max(self.plane.kx**2 + self.plane.ky**2)))

    @cached_property
    def grid(self) -> Float[np.ndarray, "S S X 2"]:
        """The part that slices read: origin in the middle of z and y, real and imaginary part, float32."""
        from sciml_cryoem.poses import misfit_kernels

        reach = int(self.padding * self.extent) + 1
        out = np.empty((2 * reach + 2, 2 * reach + 2, reach + 2, 2), np.float32)
        misfit_kernels.crop(self.spectrum, out)
        return out

    def slice_grid(self) -> "SliceGrid":
        """The reference as the compiled loops take it."""
        from sciml_cryoem.poses.misfit_kernels import SliceGrid

        reach = int(max(self.plane.kx.max(), np.abs(self.plane.ky).max()))
        rows = np.rint(self.plane.ky).astype(np.int32) + reach
        return SliceGrid(
            grid=self.grid,
            points=np.stack([self.plane.kx, self.plane.ky]).astype(np.float32),
            index=np.stack([self.plane.columns, rows]).astype(np.int32),
            turn=2.0 * math.pi / self.plane.size,
            padding=float(self.padding),
            reach=reach,
        )

    def within(self, radius: float) -> "ReferenceSpectrum":
        """The same reference for the points |k| < radius only."""
        return replace(self, plane=Disc(self.plane.size, min(radius, self.plane.size / 2)))


@dataclass(frozen=True)
class PolishResult:
    """Refined poses.

    Attributes:
        rotations: matrices A, float64.
        offsets: (x, y) in pixels.
        scale: of each image; 1 where it was not free.
        misfit: at the end.
        gain: by how much the log-likelihood rose, half the fall of the misfit; never negative.
        covariance: of (rotation vector in the axes of the view, radian; offset, pixels), from the Gauss-Newton matrix;
            infinite on the diagonal where the image says nothing.
        iterations: evaluations of the misfit.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    scale: Float[np.ndarray, " n"]
    misfit: Float[np.ndarray, " n"]
    gain: Float[np.ndarray, " n"]
    covariance: Float[np.ndarray, "n 5 5"]
    iterations: Int[np.ndarray, " n"]

    def take(self, which: Int[np.ndarray, " some"]) -> "PolishResult":
        """The results of some images."""
        return PolishResult(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def replaced(self, which: Int[np.ndarray, " some"], others: "PolishResult") -> "PolishResult":
        """A copy in which the results of some images are replaced by others."""
        out = PolishResult(*(np.array(getattr(self, name)) for name in self.__dataclass_fields__))
        for name in self.__dataclass_fields__:
            getattr(out, name)[which] = getattr(others, name)
        return out

    def or_better(self, other: "PolishResult") -> "PolishResult":
        """Of two refinements of the same images, the one with the smaller misfit of each image."""
        better = other.misfit < self.misfit
        pairs = [(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return PolishResult(*(np.where(better.reshape(-1, *([1] * (a.ndim - 1))), b, a) for a, b in pairs))
