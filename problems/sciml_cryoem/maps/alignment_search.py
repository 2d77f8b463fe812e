"""The search behind `alignment`: all rotations of a grid with all shifts, then Levenberg-Marquardt on the best.

Everything works with orthogonal matrices Q, proper or not: the transform of a map moved by Q and t is that of the map
at Q^T k, times exp(-2 pi i k.t / n). Points k and shifts t are (x, y, z), in Fourier pixels and voxels.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from jaxtyping import Complex, Float

from sciml_cryoem.imaging import fourier
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.maps.masks import cosine_edge

ROTATIONS = 4608  # neighbors about 15 degrees apart
_PADDING = 3  # trilinear reading errs by a few per cent at the edge of the box, which moves no optimum
_COARSE_RADIUS = 7.0  # shells; beyond, a grid of 15 degrees misses the peak of a molecule that fills its box
_COARSE_BOX = 20
_STAGES = ((_COARSE_RADIUS, 24, 6), (11.0, 8, 4), (np.inf, 3, 5))  # shells, candidates a hand, Gauss-Newton steps
_APART_DEG = 12.0
_DIFFERENCE = 0.4  # Fourier pixels by which a turn moves the outermost point in the difference quotients
_BATCH = 256


def rotation_grid(number: int, seed: int) -> Float[np.ndarray, "number 3 3"]:
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


def masked(volume: np.ndarray, center: np.ndarray | None = None, radius: float = 0.4) -> Float[np.ndarray, "n n n"]:
    """A map inside a soft sphere of some radius (in boxes) about a center (x, y, z voxels from the origin)."""
    n = len(volume)
    x, y, z = (np.arange(n, dtype=np.float32) - n // 2 - c for c in (np.zeros(3) if center is None else center))
    distance = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
    return volume * cosine_edge((distance - radius * n).astype(np.float32), min(5.0, 0.1 * n))


class _Reader:
    """Reads the transform of a map between its grid points, for |k| up to a radius: trilinear in a padded grid."""

    def __init__(self, volume: np.ndarray, radius: float) -> None:
        n = len(volume)
        size = 2 * int(np.ceil(radius)) + 4
        rows = fourier.frequencies(size)
        kept = np.ix_(rows % n, rows % n, np.arange(size // 2 + 1))
        half = fourier.transform(np.asarray(volume, np.float32), 3)[kept]
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


class Search:
    """Finds the best pose of one map in another, for one hand at a time."""

    def __init__(self, fixed: np.ndarray, moving: np.ndarray, radius: float) -> None:
        self._radius, self._moving = radius, np.asarray(moving, np.float32)
        self._spectrum = fourier.transform(np.asarray(fixed, np.float32), 3)
        self._wide = _Reader(masked(self._moving, radius=0.45), min(radius, _STAGES[-2][0]))

    def run(self, grid: Float[np.ndarray, "number 3 3"]) -> tuple[np.ndarray, np.ndarray]:
        """The best matrix Q of those near a grid of matrices, and its shift (x, y, z voxels)."""
        found = self._coarse(grid)
        reader = self._wide
        for stage, (radius, count, steps) in enumerate(_STAGES):
            if stage == len(_STAGES) - 1:
                # The place is known now: cut the moving map to the sphere that will lie on that of the fixed one.
                reader = _Reader(masked(self._moving, -found[0].matrix.T @ found[0].shift), self._radius)
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
        # A map with an axis of full symmetry leaves a turn free; the small multiple of 1 keeps it where it is.
        floor = 1e-9 * np.trace(matrix) * np.eye(6)
        move = np.linalg.solve(matrix + damping * np.diag(np.diag(matrix)) + floor, right)
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
