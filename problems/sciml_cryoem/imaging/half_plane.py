"""The independent Fourier points of real images: which they are, and how offsets turn their phases."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Complex, Float, Int

from sciml_cryoem.imaging import fourier


@dataclass(frozen=True)
class HalfPlane:
    """The independent Fourier points of a real n x n image in a disc |k| < radius: kx > 0, or kx = 0 and ky >= 0.

    Each stands for itself and its Friedel mate, but the origin, which is its own mate. `radius` is at most n / 2, so
    that the Nyquist column of an even box, which mixes two frequencies, stays out.
    """

    size: int
    radius: float | None = None

    def __post_init__(self) -> None:
        if self.radius is not None and not 0 < self.radius <= self.size / 2:
            raise ValueError(
                f"radius {self.radius} of the Fourier disc is outside 0 ... {self.size / 2} for a box of {self.size}"
            )

    @cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        squared = fourier.squared_radii(self.size, 2)
        keep = squared < (self.size / 2 if self.radius is None else self.radius) ** 2
        keep[:, 0] &= fourier.frequencies(self.size) >= 0
        rows, columns = np.nonzero(keep)
        return rows, columns

    @property
    def rows(self) -> Int[np.ndarray, " points"]:
        """Row of each point in the half spectrum (FFT order)."""
        return self._points[0]

    @property
    def columns(self) -> Int[np.ndarray, " points"]:
        """Column of each point in the half spectrum, equal to its kx."""
        return self._points[1]

    @cached_property
    def kx(self) -> Float[np.ndarray, " points"]:
        """x frequency, float32."""
        return self.columns.astype(np.float32)

    @cached_property
    def ky(self) -> Float[np.ndarray, " points"]:
        """y frequency, float32."""
        return fourier.frequencies(self.size)[self.rows].astype(np.float32)

    @cached_property
    def shell(self) -> Int[np.ndarray, " points"]:
        """round(|k|)."""
        return fourier.shells(self.size, 2)[self.rows, self.columns]

    @cached_property
    def multiplicity(self) -> Float[np.ndarray, " points"]:
        """How many points of the full spectrum each stands for: 2, and 1 for the origin; float32."""
        return np.where((self.rows == 0) & (self.columns == 0), 1.0, 2.0).astype(np.float32)

    def __len__(self) -> int:
        return len(self.rows)

    def ramps(
        self, offsets: Float[np.ndarray, "batch 2"]
    ) -> tuple[Complex[np.ndarray, "batch half"], Complex[np.ndarray, "batch n"]]:
        """Phases that take `corner_transform` spectra to the origin n // 2 and undo each image's offset (x, y), pixels.

        The product of both, exp(2 pi i k.(n // 2 - offset) / n), undoes an observation that is the projection moved by
        minus its offset (RELION's rlnOriginX/Y): what was at n // 2 - offset comes to n // 2.

        Returns:
            Factors for the columns (kx) and for the rows (ky), complex64.
        """
        turn = 2j * np.pi / self.size
        moves = self.size // 2 - np.asarray(offsets, np.float64)
        columns = np.exp(turn * moves[:, :1] * fourier.half_frequencies(self.size))
        rows = np.exp(turn * moves[:, 1:] * fourier.frequencies(self.size))
        return columns.astype(np.complex64), rows.astype(np.complex64)

    def phases(self, offsets: Float[np.ndarray, "shifts 2"]) -> Complex[np.ndarray, "shifts points"]:
        """exp(-2 pi i k.o / n): undoes offsets o (x, y) in pixels; complex64."""
        along_x, along_y = self.phase_tables(offsets)
        columns, rows = self.table_places
        return along_x[:, columns] * along_y[:, rows]

    def phase_tables(
        self, offsets: Float[np.ndarray, "shifts 2"]
    ) -> tuple[Complex[np.ndarray, "shifts line"], Complex[np.ndarray, "shifts line"]]:
        """Factors of `phases` for kx and for ky (exponentials of two lines, not of every point); complex64."""
        line = (-2j * np.pi / self.size) * np.arange(-self._reach, self._reach + 1)
        return tuple(np.exp(offsets[:, axis, None] * line).astype(np.complex64) for axis in (0, 1))  # type: ignore

    @cached_property
    def table_places(self) -> tuple[Int[np.ndarray, " points"], Int[np.ndarray, " points"]]:
        """Where the factors of each point stand in `phase_tables`."""
        return self.kx.astype(np.int64) + self._reach, self.ky.astype(np.int64) + self._reach

    @cached_property
    def _reach(self) -> int:
        return int(max(np.abs(self.kx).max(), np.abs(self.ky).max())) if len(self) else 0

    def gather(
        self, images: Float[np.ndarray, "batch n n"], offsets: Float[np.ndarray, "batch 2"] | None = None
    ) -> Complex[np.ndarray, "batch points"]:
        """Fourier values of images at these points, origin at n // 2, offsets undone (see `ramps`)."""
        columns, rows = self.ramps(np.zeros((len(images), 2)) if offsets is None else offsets)
        values = fourier.corner_transform(images)[:, self.rows, self.columns]
        return values * rows[:, self.rows] * columns[:, self.columns]

    def scatter(self, values: Complex[np.ndarray, "batch points"]) -> Float[np.ndarray, "batch n n"]:
        """Real images (origin n // 2) whose spectra have these values inside the disc and zero outside."""
        spectra = np.zeros((len(values), self.size, self.size // 2 + 1), values.dtype)
        spectra[:, self.rows, self.columns] = values
        line = self.columns == 0
        spectra[:, (-self.rows[line]) % self.size, 0] = np.conj(values[:, line])
        return fourier.inverse_transform(spectra, self.size, 2)


@dataclass(frozen=True)
class Disc(HalfPlane):
    """The points of a half plane, sorted by |k|."""

    @cached_property
    def _points(self) -> tuple[np.ndarray, np.ndarray]:
        rows, columns = super()._points
        squares = fourier.frequencies(self.size)[rows] ** 2 + columns**2
        order = np.argsort(squares, kind="stable")
        return rows[order], columns[order]

    @cached_property
    def _squares(self) -> np.ndarray:
        return self.kx.astype(np.float64) ** 2 + self.ky.astype(np.float64) ** 2

    def within(self, radius: float) -> int:
        """How many points, from the first, have |k| < radius."""
        return int(np.searchsorted(self._squares, radius**2, side="left"))

    def phase_tables(
        self, offsets: Float[np.ndarray, "shifts 2"]
    ) -> tuple[Complex[np.ndarray, "shifts line"], Complex[np.ndarray, "shifts line"]]:
        """Factors of `phases` for kx and for ky: exponentials of two lines, not of every point; complex64."""
        line = (-2j * np.pi / self.size) * np.arange(-self._reach, self._reach + 1)
        along_x, along_y = (np.exp(offsets[:, axis, None] * line).astype(np.complex64) for axis in (0, 1))
        return along_x, along_y

    @cached_property
    def table_places(self) -> tuple[Int[np.ndarray, " points"], Int[np.ndarray, " points"]]:
        """Where the factors of each point stand in `phase_tables`."""
        return self.kx.astype(np.int64) + self._reach, self.ky.astype(np.int64) + self._reach

    @cached_property
    def _reach(self) -> int:
        return int(np.ceil(np.sqrt(self._squares[-1]))) if len(self._squares) else 0
