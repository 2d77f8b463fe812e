"""What is thought of each image of a refinement: the share of it that is a particle, and its contrast."""

import numpy as np
from jaxtyping import Float

from problems.cryoem.refined_poses import Poses


def share_of_particle(evidence: Float[np.ndarray, " n"], expected: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Share of each image that is a particle: Bayes' rule between two normal distributions of its evidence.

    A good image has evidence S +- sqrt(2 S), S the power of its projection over the noise; one without the particle
    has -S +- sqrt(2 S) at a given pose, and at the best of 10,000 about 4 deviations more.

    Args:
        evidence: log likelihood of each pose against no particle at all. expected: S.
    """
    expected = np.maximum(expected, 1e-3)
    spread = np.sqrt(2.0 * expected)
    junk = -expected + 4.0 * spread
    odds = (np.square(evidence - junk) - np.square(evidence - expected)) / (4.0 * expected)
    return 1.0 / (1.0 + 0.1 * np.exp(-np.clip(odds, -50, 50)))


def shrunk_contrast(poses: Poses) -> Float[np.ndarray, " n"]:
    """Contrast of each image, drawn to the common one as far as its noise, 1 / (2 S), explains its deviation."""
    good = poses.weights > 0.5
    if not good.any():
        return poses.scale
    center = float(np.median(poses.scale[good]))
    noise = 0.5 / np.maximum(poses.expected, 1e-3)
    spread = (1.4826 * float(np.median(np.abs(poses.scale[good] - center)))) ** 2
    own = max(spread - float(np.median(noise[good])), 0.0)
    return np.where(good, 1.0 + (poses.scale / center - 1.0) * own / (own + noise), 1.0)
