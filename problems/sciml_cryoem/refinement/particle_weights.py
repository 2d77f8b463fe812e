"""What is thought of each image of a refinement: the share of it that is a particle, and its contrast.

Two questions are asked of an image. Does it show anything of the map (`share_of_something`)? A likelihood ratio answers
that, image by image. Does it show the map like the others do (`share_of_majority`)? What is neither the molecule nor
noise (another molecule, ice, broken particles) still correlates with the map at its best pose, only less, and more so
when it took part in the map; and it comes to lie where the map's projections are weak. With P the projection at the
pose of an image, S its power and <S> the mean power of all views under the CTF of the image, its contrast <y, P> / S
and the strength of its view, (S / <S>)^1/2, of all images of an optics group form one cloud, or two.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from sciml_cryoem.refinement.refined_poses import Poses

UNTOLD = 8.0
"""Power S of a projection below which its image cannot be told from noise at the best of 10,000 poses."""
FEWEST = 50
"""Images below which no distribution is looked at."""
VALLEY = 0.5
"""Between two kinds of images there are fewer than this share of what lies at the rarer one's mean, on equal width."""
LOWER = 0.85
"""Most contrast of junk, over that of particles. Views that are weak only have the contrast of the others."""
SMALLEST_SHARE = 0.1
"""The least share of images that particles have: a few images of unusual contrast are no reason to drop all others."""
_SAMPLE = 2000  # images that the distributions are fitted to
_QUANTILES = (0.05, 0.25, 0.6)  # of the contrast: where the fit starts from, junk is what lies below
_STEPS = 40  # of a fit


def share_of_something(evidence: Float[np.ndarray, " n"], expected: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Probability that an image shows the map at all: Bayes' rule between two normal distributions of its evidence.

    A good image has evidence S +- sqrt(2 S), S the power of its projection over the noise; one without the particle
    has -S +- sqrt(2 S) at a given pose, and at the best of 10,000 about 4 deviations more. Below S = 8
    (`UNTOLD`) the two cannot be told apart, and all images are kept.

    Args:
        evidence: log likelihood of each pose against no particle at all.
        expected: S, what that is for a good image.
    """
    expected = np.maximum(expected, 1e-3)
    junk = np.minimum(-expected + 4.0 * np.sqrt(2.0 * expected), expected)
    odds = (np.square(evidence - junk) - np.square(evidence - expected)) / (4.0 * expected)
    return 1.0 / (1.0 + 0.1 * np.exp(-np.clip(odds, -50, 50)))


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions, of junk (contrast lower) and of particles, over (contrast, strength).

    Attributes:
        share: of the images in each.
        mean: of each.
        covariance: of each.
        log_likelihood: of all images.
    """

    share: Float[np.ndarray, "2"]
    mean: Float[np.ndarray, "2 2"]
    covariance: Float[np.ndarray, "2 2 2"]
    log_likelihood: float = -np.inf

    def log_density(self, seen: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
        """Log of share times density."""
        apart = seen[:, None] - self.mean
        distance = np.einsum("nki,kij,nkj->nk", apart, np.linalg.inv(self.covariance), apart)
        return np.log(self.share) - 0.5 * (distance + np.log(np.linalg.det(2.0 * np.pi * self.covariance)))

    @property
    def direction(self) -> Float[np.ndarray, "2"]:
        """The line on which the two are furthest apart (Fisher's discriminant)."""
        return np.linalg.solve(self.covariance.mean(0), self.mean[1] - self.mean[0])

    def particle(self, seen: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        """Probability of being a particle; on the far side of the particles' mean it does not fall again."""
        beyond = np.maximum((seen - self.mean[1]) @ self.direction, 0.0)
        back = self.mean[1] - self.mean[0]
        seen = seen - beyond[:, None] * back / (back @ self.direction)
        logs = self.log_density(seen)
        return 1.0 / (1.0 + np.exp(np.clip(logs[:, 0] - logs[:, 1], -50, 50)))

    def is_two(self, seen: Float[np.ndarray, "n 2"]) -> bool:
        """Whether there are two kinds of images: of different contrast, with a valley between. A broad or a skewed
        distribution has none, however well two normal ones describe it."""
        if not (self.mean[0, 0] < LOWER * self.mean[1, 0] and self.share[1] > SMALLEST_SHARE):
            return False
        line = seen @ self.direction
        low, high = self.mean @ self.direction
        width = 0.25 * (high - low)
        centers = low + width * np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
        count = (np.abs(line[:, None] - centers) < 0.5 * width).sum(0)
        peak = float(min(count[0], count[-1]))
        return bool(count[1:-1].min() < VALLEY * peak - np.sqrt(peak))  # less what chance makes of such a number


def fit_mixture(seen: Float[np.ndarray, "n 2"]) -> Mixture:
    """Two normal distributions of most likelihood, by expectation maximisation from several starts.

    Args:
        seen: contrast and strength of each image.
    """
    found = [_maximised(seen, seen[:, 0] > np.quantile(seen[:, 0], quantile)) for quantile in _QUANTILES]
    return max(found, key=lambda mixture: mixture.log_likelihood)


def _maximised(seen: Float[np.ndarray, "n 2"], upper: Bool[np.ndarray, " n"]) -> Mixture:
    """Expectation maximisation from a division into two."""
    belongs = np.stack([~upper, upper], 1).astype(float)
    floor = 1e-3 * np.diag(seen.var(0)) + 1e-12 * np.eye(2)
    mixture, likelihood = _moments(seen, belongs, floor), -np.inf
    for _ in range(_STEPS):
        logs = mixture.log_density(seen)
        top = logs.max(1, keepdims=True)
        weights = np.exp(logs - top)
        total = weights.sum(1, keepdims=True)
        before, likelihood = likelihood, float((np.log(total) + top).sum())
        mixture = _moments(seen, weights / total, floor, likelihood)
        if likelihood < before + 0.01:
            break
    return mixture


def _moments(seen: np.ndarray, belongs: np.ndarray, floor: np.ndarray, likelihood: float = -np.inf) -> Mixture:
    """The mixture of images that belong to each by these shares."""
    number = belongs.sum(0) + 1e-6
    mean = belongs.T @ seen / number[:, None]
    apart = seen[:, None] - mean
    covariance = np.einsum("nk,nki,nkj->kij", belongs, apart, apart) / number[:, None, None] + floor
    order = np.argsort(mean[:, 0])
    return Mixture((number / number.sum())[order], mean[order], covariance[order], likelihood)


def share_of_majority(
    contrast: Float[np.ndarray, " n"], strength: Float[np.ndarray, " n"], kinds: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Probability that an image shows the map like the majority does; 1 where all are of one kind.

    Args:
        contrast: of each image with its projection.
        strength: of its view, the root of the power of its projection over the mean of all views.
        kinds: images that are looked at together have the same number: those of one half set and one optics group.
    """
    out = np.ones(len(contrast))
    seen = np.stack([contrast, strength], 1)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        if len(rows) < FEWEST:
            continue
        some = seen[rows[np.unique(np.linspace(0, len(rows) - 1, min(_SAMPLE, len(rows))).astype(np.int64))]]
        mixture = fit_mixture(some)
        if mixture.is_two(some):
            out[rows] = mixture.particle(seen[rows])
    return out


def shrunk_contrast(poses: Poses, halves: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Contrast of each image, drawn to the common one of its half set as far as its noise, 1 / (2 S), explains its
    deviation."""
    out = poses.scale.copy()
    noise = 0.5 / np.maximum(poses.expected, 1e-3)
    for half in np.unique(halves):
        mine = halves == half
        good = mine & (poses.weights > 0.5)
        if not good.any():
            continue
        center = float(np.median(poses.scale[good]))
        spread = (1.4826 * float(np.median(np.abs(poses.scale[good] - center)))) ** 2
        own = max(spread - float(np.median(noise[good])), 0.0)
        believed = 1.0 + (poses.scale / center - 1.0) * own / (own + noise)
        out[mine] = np.where(good, believed, 1.0)[mine]
    return out
