"""Resolution grows by prediction: whether a map predicts images on shells that had no say in their poses.

Poses are scored on shells |k| < r only, but a few shells more are collected. There the map, made of earlier images, is
compared with what the next images say at poses that these shells had no part in: the fraction

    rho = Re <numerator, P> / <denominator, |P|^2>

is the share of signal in the map's power. Noise gives it a mean of 0 however long one iterates, and the numerator a
variance of <denominator, |P|^2> / 2. When the share is clearly there, r grows.
"""

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import HALF_LIFE, SearchPlan

PREDICTED = 0.25
"""Share of signal in the map at the frontier from which the next shell is scored."""
CERTAIN = 3.0
"""Standard deviations above what noise gives from which that share counts: a faint map has one by chance."""
GROWTH = 0.25
"""Fourier pixels by which the scored radius grows at a time; twice that while the map predicts more than half."""


def frontier_sums(
    numerator: Complex[np.ndarray, "... points"],
    denominator: Float[np.ndarray, "... points"],
    slices: Complex[np.ndarray, "... points"],
    scored: int,
) -> Float[np.ndarray, "2"]:
    """Both parts of rho, summed over all slices.

    Args:
        numerator: what the images say at the points of each slice.
        denominator: the weights of what they say.
        slices: of the map.
        scored: the number of points, from the first, that the poses were scored on; the others are the frontier.
    """
    ahead = slices[..., scored:]
    product = np.sum(np.real(numerator[..., scored:] * np.conj(ahead)))
    return np.array([product, np.sum(denominator[..., scored:] * np.square(np.abs(ahead)))], np.float64)


def learn_frontier(model: MarginalDensity, plan: SearchPlan, mean: Float[Tensor, "2"], images: int) -> None:
    """Remember what a batch says of the frontier; a larger scored radius when the map predicts it.

    Args:
        model: its buffers `frontier` and `radius` change.
        plan: the largest radius.
        mean: both parts of rho, per image.
        images: in the batch.
    """
    product, power = (images * mean.double()).tolist()
    keep = 0.5 ** (images / HALF_LIFE)
    model.frontier.mul_(torch.tensor([keep, keep, keep**2, 1.0], dtype=torch.float64))
    model.frontier.add_(torch.tensor([product, power, 0.5 * power, float(images)], dtype=torch.float64))
    rho = predicted_share(model)
    if rho is not None and rho > PREDICTED and float(model.radius) < plan.stop:
        model.radius.add_(GROWTH if rho < 0.5 else 2 * GROWTH).clamp_(max=plan.stop)
        model.frontier.zero_()


def predicted_share(model: MarginalDensity) -> float | None:
    """Share of signal in the map's power beyond the scored radius, 0 where noise explains it; None before enough images
    have been seen."""
    product, power, variance, images = model.frontier.tolist()
    if images <= HALF_LIFE:
        return None
    return product / max(power, 1e-30) if product > CERTAIN * variance**0.5 else 0.0
