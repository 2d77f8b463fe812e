"""Bring one map onto another: rotation, shift and hand, as a map reconstructed without poses needs before any FSC.

A map known up to these is the same map, so the correlation is maximised over them. All of it happens in Fourier space,
where both maps are a few shells: the transform of the moved map at k is that of the moving one at Q^T k, times
exp(-2 pi i k.t / n), with Q a rotation, or a rotation after the mirror z -> -z where the hand is flipped. A grid of
rotations is tried with all shifts at once (one small FFT each); the best are refined by Gauss-Newton steps, fewer
candidates at more shells, up to the low-pass asked for.

Geometry is that of the package: columns (x, y, z), origin at sample n // 2 (README.md).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float

from problems.cryoem import fourier
from problems.cryoem.masks import cosine_edge
from problems.cryoem.projection import correct_gridding
from sciml.errors import InputError

MIRROR = np.diag([1.0, 1.0, -1.0])
"""The mirror that changes the hand: z -> -z about the origin n // 2."""

_ROTATIONS = 4608  # neighbors about 15 degrees apart
_PADDING = 3  # trilinear reading errs by a few per cent at the edge of the box, which moves no optimum
_COARSE_RADIUS = 7.0  # shells; beyond, a grid of 15 degrees misses the peak of a molecule that fills its box
_COARSE_BOX = 20
_STAGES = ((_COARSE_RADIUS, 24, 6), (11.0, 8, 4), (np.inf, 3, 5))  # shells, candidates a hand, Gauss-Newton steps
_APART_DEG = 12.0
_DIFFERENCE = 0.4  # Fourier pixels by which a turn moves the outermost point in the difference quotients
_BATCH = 256


def flip_hand(volume: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
    """The mirror image z -> -z of a map, origin n // 2 kept for even and odd n: V'(x, y, z) = V(x, y, -z).

    The plane z = -n / 2 of an even box stays in place, as its mirror image is itself in a periodic box.
    """
    flipped = volume[::-1]
    return np.ascontiguousarray(flipped if len(volume) % 2 else np.roll(flipped, 1, axis=0))


def flip_hand_poses(rotations: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """The poses M A M, M = diag(1, 1, -1), under which the flipped map has the very same projections.

    A point c of the map is at M c in the flipped one, and (M A M) M c = M (A c) lands where A c did: the mirror turns
    only the depth over. So images, CTFs and origin offsets stay as they are. In angles: (rot + 180, tilt, psi + 180).
    """
    return MIRROR @ rotations @ MIRROR


@dataclass(frozen=True)
class Alignment:
    """How one map was brought onto another.

    A point c (x, y, z from the origin) of the moving map comes to R M c + t, M the mirror if `flipped`, else 1.

    Attributes:
        rotation: R, proper.
        shift: t (x, y, z), Angstrom.
        flipped: whether the hand was changed first (`flip_hand`).
        correlation: of the fixed and the aligned map, both low-passed, inside a soft sphere of 0.40 box.
        other_hand: the best correlation with the other hand; None if only one was tried.
        aligned: the moving map in its new place, not filtered.
        pixel_size: Angstrom.
        resolution: of the low-pass, Angstrom.
    """

    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, " 3"]
    flipped: bool
    correlation: float
    other_hand: float | None
    aligned: Float[np.ndarray, "n n n"]
    pixel_size: float
    resolution: float

    @property
    def summary(self) -> dict[str, Any]:
        """The figures, as lists of plain numbers."""
        return {
            "flipped": self.flipped,
            "rotation": self.rotation.tolist(),
            "shift": self.shift.tolist(),
            "correlation": self.correlation,
            "correlation_other_hand": self.other_hand,
        }

    def move_map(self, volume: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "n n n"]:
        """Another map (a half map, a mask) moved in the same way, float32."""
        matrix = self.rotation @ MIRROR if self.flipped else self.rotation
        return _turn(volume, matrix, self.shift / self.pixel_size)

    def move_poses(
        self, rotations: Float[np.ndarray, "batch 3 3"], offsets: Float[np.ndarray, "batch 2"]
    ) -> tuple[Float[np.ndarray, "batch 3 3"], Float[np.ndarray, "batch 2"]]:
        """Poses (matrices A; origin offsets in Angstrom) under which the aligned map has the same projections."""
        moved = (flip_hand_poses(rotations) if self.flipped else rotations) @ self.rotation.T
        return moved, offsets + moved[:, :2] @ self.shift


def align(
    moving: Float[np.ndarray, "_ _ _"],
    fixed: Float[np.ndarray, "_ _ _"],
    pixel_size: float,
    resolution: float = 20.0,
    hands: bool = True,
    seed: int = 0,
) -> Alignment:
    """Find the rotation, shift and hand that bring a map onto another.

    Args:
        moving: the map to move.
        fixed: where to; a cube of the same size.
        pixel_size: Angstrom.
        resolution: Angstrom to which both are low-passed; at least 4 pixels are used.
        hands: try the mirror image too.
        seed: of the turn of the grid of rotations.

    Raises:
        InputError: the maps are not cubes of one size, not finite, or constant.
    """
    _check(moving, fixed)
    n = len(fixed)
    radius = min(n * pixel_size / max(resolution, 4 * pixel_size), (n - 1) / 2 - 1)
    search = _Search(_masked(fixed), moving, radius)
    grid = _rotations(_ROTATIONS, seed)
    best = [search.run(grid @ hand) for hand in ((np.eye(3), MIRROR) if hands else (np.eye(3),))]
    scores = [_correlation(moving, fixed, matrix, shift, radius) for matrix, shift in best]
    flipped = bool(hands and scores[1] > scores[0])
    matrix, shift = best[flipped]
    other = scores[1 - flipped] if hands else None
    rotation = matrix @ MIRROR if flipped else matrix
    aligned = _turn(moving, matrix, shift)
    return Alignment(
        rotation, shift * pixel_size, flipped, scores[flipped], other, aligned, pixel_size, n * pixel_size / radius
    )


def _check(*volumes: np.ndarray) -> None:
    shapes = {volume.shape for volume in volumes}
    if len(shapes) != 1 or len(set(volumes[0].shape)) != 1 or len(volumes[0]) < 8:
        listed = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        raise InputError(f"Maps to align must be cubes of one size of at least 8 voxels, not {listed}; resample one.")
    for name, volume in zip(("moving", "fixed"), volumes, strict=True):
        if not np.isfinite(volume).all():
            raise InputError(f"The {name} map holds values that are not finite; it cannot be aligned.")
        if np.ptp(volume) == 0:
            raise InputError(f"The {name} map is constant; any rotation fits it.")


def _rotations(number: int, seed: int) -> Float[np.ndarray, "number 3 3"]:
    """Evenly spread rotations, a super-Fibonacci spiral (M. Alexa, CVPR 2022), turned at random."""
    from scipy.spatial.transform import Rotation

    place = np.arange(number) + 0.5
    inner, outer = np.sqrt(place / number), np.sqrt(1 - place / number)
    a, b = 2 * np.pi * place / np.sqrt(2.0), 2 * np.pi * place / 1.533751168755204288118041
    quaternions = np.stack([inner * np.sin(a), inner * np.cos(a), outer * np.sin(b), outer * np.cos(b)], axis=1)
    turn = Rotation.from_quat(np.random.Generator(np.random.Philox(key=seed)).standard_normal(4))
    return (turn * Rotation.from_quat(quaternions)).as_matrix()


def _turns(vectors: Float[np.ndarray, "batch 3"]) -> Float[np.ndarray, "batch 3 3"]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(vectors).as_matrix()


def _masked(volume: np.ndarray, center: np.ndarray | None = None, radius: float = 0.4) -> Float[np.ndarray, "n n n"]:
    """A map inside a soft sphere about a center (x, y, z voxels from the origin), radius in boxes, edge 5 voxels."""
    n = len(volume)
    x, y, z = (np.arange(n, dtype=np.float32) - n // 2 - c for c in (np.zeros(3) if center is None else center))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    return volume * cosine_edge((distance - radius * n).astype(np.float32), min(5.0, 0.1 * n))


def _turn(volume: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> Float[np.ndarray, "n n n"]:
    """The map whose value at Q c + t (voxels) is that of the map at c, by cubic splines; 0 beyond the box."""
    from scipy import ndimage

    # In index order (z, y, x) the matrix has both axes reversed.
    back: Any = matrix.T[::-1, ::-1]
    center = np.full(3, len(volume) // 2)
    offset: Any = center - back @ (center + shift[::-1])
    moved = ndimage.affine_transform(np.asarray(volume, np.float32), back, offset, order=3, output=np.float32)
    return np.asarray(moved)


def _low_passed(volume: np.ndarray, radius: float) -> Float[np.ndarray, "n n n"]:
    """The map's Fourier components |k| < radius."""
    spectrum = np.asarray(scipy.fft.rfftn(np.asarray(volume, np.float32)))
    spectrum[fourier.squared_radii(len(volume), 3) >= radius**2] = 0
    return np.asarray(scipy.fft.irfftn(spectrum, volume.shape))


def _correlation(moving: np.ndarray, fixed: np.ndarray, matrix: np.ndarray, shift: np.ndarray, radius: float) -> float:
    """Correlation of two low-passed maps inside the sphere of 0.40 box, the first moved."""
    moved = _turn(_low_passed(moving, radius), matrix, shift)
    first, second = _masked(moved).ravel(), _masked(_low_passed(fixed, radius)).ravel()
    return float(np.corrcoef(first, second)[0, 1])


class _Reader:
    """Reads the transform of a map between its grid points, for |k| up to a radius: trilinear in a padded grid."""

    def __init__(self, volume: np.ndarray, radius: float) -> None:
        n = len(volume)
        size = 2 * int(np.ceil(radius)) + 4
        rows = fourier.frequencies(size)
        half = fourier.transform(np.asarray(volume, np.float32), 3)[
            np.ix_(rows % n, rows % n, np.arange(size // 2 + 1))
        ]
        half[fourier.squared_radii(size, 3) > (radius + 1) ** 2] = 0
        small = correct_gridding(fourier.inverse_transform(half, size, 3), _PADDING)
        self._padded = size * _PADDING  # even, as size is
        self._scale = np.float32(self._padded / size)
        self._grid = fourier.transform_padded(small, self._padded).ravel()

    def __call__(self, points: Float[np.ndarray, "*batch 3"]) -> Complex[np.ndarray, "*batch"]:
        """Values at points k (x, y, z)."""
        side, half = self._padded, self._padded // 2 + 1
        mate = points[..., 0] < 0
        scaled = np.where(mate[..., None], -points, points) * self._scale
        low = np.floor(scaled)
        part = scaled - low
        index = low.astype(np.int64)
        rows = [
            (np.where(c < 0, c + side, c), np.where(c < -1, c + 1 + side, c + 1))
            for c in (index[..., 1], index[..., 2])
        ]
        weights = [(1 - part[..., axis], part[..., axis]) for axis in range(3)]
        total = np.zeros(points.shape[:-1], np.complex64)
        for k in (0, 1):
            for j in (0, 1):
                place = (rows[1][k] * side + rows[0][j]) * half + index[..., 0]
                line = self._grid[place] * weights[0][0] + self._grid[place + 1] * weights[0][1]
                total += line * (weights[1][j] * weights[2][k])
        return np.where(mate, total.conj(), total)


@dataclass(frozen=True)
class _Candidate:
    """An orthogonal matrix Q, a shift (x, y, z voxels) and the correlation found there."""

    matrix: np.ndarray
    shift: np.ndarray
    score: float


def _apart(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """The `count` best, no two of them within a few degrees of each other."""
    limit = 1 + 2 * np.cos(np.radians(_APART_DEG))
    kept: list[_Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        if all((candidate.matrix * other.matrix).sum() < limit for other in kept):
            kept.append(candidate)
        if len(kept) == count:
            break
    return kept


class _Ball:
    """Half a ball of Fourier points without its origin, and what the fixed map has there."""

    def __init__(self, spectrum: Complex[np.ndarray, "n n half"], radius: float) -> None:
        self.size = len(spectrum)
        squared = fourier.squared_radii(self.size, 3)
        z, y, x = np.nonzero((squared < radius**2) & (squared > 0))
        line = fourier.frequencies(self.size)
        points = np.stack([x, line[y], line[z]], axis=1)
        single = (x > 0) | (points[:, 1] > 0) | ((points[:, 1] == 0) & (points[:, 2] > 0))
        self.points = points[single].astype(np.float32)
        self.fixed = np.asarray(spectrum[z, y, x][single], np.complex64)
        self.norm = float(np.linalg.norm(self.fixed))

    def moved(self, values: Complex[np.ndarray, "*batch points"], shift: np.ndarray) -> np.ndarray:
        """Values of a map that is moved by a shift."""
        return values * np.exp((-2j * np.pi / self.size) * (self.points @ shift)).astype(np.complex64)

    def correlation(self, values: Complex[np.ndarray, " points"]) -> float:
        """With the fixed map."""
        return float(np.vdot(values, self.fixed).real / (self.norm * np.linalg.norm(values) + 1e-30))


class _Search:
    """Finds the best pose of one map in another, for one hand at a time."""

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, radius: float) -> None:
        self._radius, self._moving = radius, np.asarray(moving, np.float32)
        self._spectrum = fourier.transform(np.asarray(fixed, np.float32), 3)
        self._wide = _Reader(_masked(self._moving, radius=0.45), min(radius, _STAGES[-2][0]))

    def run(self, grid: Float[np.ndarray, "number 3 3"]) -> tuple[np.ndarray, np.ndarray]:
        """The best matrix Q of those near a grid of matrices, and its shift (x, y, z voxels)."""
        found = self._coarse(grid)
        reader = self._wide
        for stage, (radius, count, steps) in enumerate(_STAGES):
            if stage == len(_STAGES) - 1:
                # The place is known now: cut the moving map to the sphere that will lie on that of the fixed one.
                reader = _Reader(_masked(self._moving, -found[0].matrix.T @ found[0].shift), self._radius)
            ball = _Ball(self._spectrum, min(radius, self._radius))
            found = _apart([_refine(ball, reader, candidate, steps) for candidate in found[:count]], count)
        return found[0].matrix, found[0].shift

    def _coarse(self, grid: Float[np.ndarray, "number 3 3"]) -> list[_Candidate]:
        """All matrices of the grid with all shifts: one correlation map of a small box for each."""
        ball, box = _Ball(self._spectrum, min(_COARSE_RADIUS, self._radius)), _COARSE_BOX
        x, y, z = ball.points.astype(np.int64).T
        scores, places = np.empty(len(grid)), np.empty(len(grid), np.int64)
        for start in range(0, len(grid), _BATCH):
            batch = slice(start, start + _BATCH)
            values = self._wide(ball.points @ grid[batch].astype(np.float32))
            products = np.zeros((len(values), box, box, box // 2 + 1), np.complex64)
            products[:, z % box, y % box, x] = ball.fixed * values.conj()
            line = x == 0
            products[:, -z[line] % box, -y[line] % box, 0] = np.conj(products[:, z[line] % box, y[line] % box, 0])
            maps = np.asarray(scipy.fft.irfftn(products, (box,) * 3, axes=(1, 2, 3))).reshape(len(values), -1)
            places[batch] = maps.argmax(axis=1)
            scores[batch] = maps.max(axis=1) / (np.linalg.norm(values, axis=1) + 1e-30)
        scores *= box**3 / (2 * ball.norm)
        steps = np.stack(np.unravel_index(places, (box,) * 3)[::-1], axis=1)
        shifts = (steps - box * (steps > box // 2)) * (ball.size / box)
        likely = np.argsort(-scores)[:400]
        candidates = [_Candidate(grid[i], shifts[i].astype(np.float64), float(scores[i])) for i in likely]
        return _apart(candidates, _STAGES[0][1])


def _refine(ball: _Ball, reader: _Reader, start: _Candidate, steps: int) -> _Candidate:
    """Levenberg-Marquardt steps in three turns and three shifts; the scale of the map is eliminated."""
    turn = _DIFFERENCE / float(np.abs(ball.points).max())
    probes = _turns(np.concatenate([np.zeros((1, 3)), turn * np.eye(3), -turn * np.eye(3)]))
    best, damping, trial = start, 1e-3, start
    matrix, right = np.eye(6), np.zeros(6)
    for step in range(steps + 1):
        # A point k of the moved map is read at Q^T k: rows k times Q.
        values = ball.moved(reader(ball.points @ (probes @ trial.matrix).astype(np.float32)), trial.shift)
        score = ball.correlation(values[0])
        if step == 0 or score > best.score:
            best, damping = _Candidate(trial.matrix, trial.shift, score), 0.2 * damping
            matrix, right = _normal_equations(ball, values, turn)
        else:
            damping *= 25
        move = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)), right)
        move[:3] *= min(1.0, 0.2 / (np.linalg.norm(move[:3]) + 1e-30))
        trial = _Candidate(_turns(move[None, :3])[0] @ best.matrix, best.shift + move[3:], 0.0)
    return best


def _normal_equations(ball: _Ball, values: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """J^T J and J^T (residual) from the values at a pose and at small turns about x, y, z, there and back."""
    base = values[0]
    slopes = np.concatenate([(values[1:4] - values[4:]) / (2 * turn), (-2j * np.pi / ball.size) * ball.points.T * base])
    power = float(np.vdot(base, base).real) + 1e-30
    scale = float(np.vdot(base, ball.fixed).real) / power
    slopes = scale * (slopes - np.outer((slopes @ base.conj()).real / power, base))
    return (slopes @ slopes.conj().T).real, (slopes.conj() @ (ball.fixed - scale * base)).real
