"""A density from particles without poses, as a stochastic problem: poses are summed over, not chosen.

    J(V) = mean over images of -log mean over (R, s) of exp L(image, R, s)  +  <V, T V> / 2

with L the log likelihood of `poses.search` on a grid of orientations that is turned at random with every batch. Its
gradient is a sum over orientations, 2 (denominator P_R - numerator_R), carried into the volume by the projector's
adjoint. The accumulated weight, averaged over the latest images, is the preconditioner (`weight_metric`), so that a step
of size lr is expectation maximization with a memory of 1 - lr (a natural-gradient step). T is a tenth of that weight.

Shells beyond the scored ones are collected as well, to see whether the map predicts them (`frontier`). They are in the
gradient and not in J: they have no say in the poses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

import sciml
from sciml import distributed
from sciml.problem import Evaluation, Statistics
from sciml_cryoem.imaging import fourier, kernels, orientations
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.symmetry import asymmetric_unit, point_group, symmetrize_sums
from sciml_cryoem.initial_model.frontier import frontier_sums, learn_frontier
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.offset_range import OffsetRange
from sciml_cryoem.initial_model.search_plan import SearchPlan
from sciml_cryoem.initial_model.weight_metric import WeightMetric
from sciml_cryoem.maps.masks import cosine_edge
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.poses.image_spectra import ImageSpectra
from sciml_cryoem.poses.search import Found, Grid, Wanted, search, together
from sciml_cryoem.reconstruction.insertion import complete

PARTS = 2
"""Independent draws that a batch is made of, each with a turn of the grid of its own: one for each micro-batch that the
core cuts it into. Images that share a turn share the error of a coarse grid, so that micro-batches with the same turn
would be no independent estimates of the gradient; measured, they overstate its signal by a quarter. The chance of turn
and images is not that of images alone, either, and no finite-population factor fits both."""
PROBED = 2_000
"""Images that the power of the signal is measured in."""
LARGE = 256
"""Images of a batch from which a GPU searches them."""


@dataclass(frozen=True)
class ParticleBatch:
    """Which images, and how the grid of orientations is turned for each of them.

    Attributes:
        rows: (batch,) int64.
        turns: (batch, 3, 3) float32; images with the same turn are searched together.
    """

    rows: Tensor
    turns: Tensor


@dataclass(frozen=True)
class TurnedGrid:
    """Where the images of a batch are searched.

    Attributes:
        radius: of the scored shells, Fourier pixels.
        turn: of the grid of orientations.
    """

    radius: float
    turn: Float[np.ndarray, "3 3"]


@dataclass(frozen=True)
class LikeliestPoses:
    """The likeliest pose of each of some images.

    Attributes:
        rotations: A.
        offsets: (x, y) in pixels.
        classes: from 0.
        log_likelihood: log of the mean likelihood over all poses.
    """

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    classes: Int[np.ndarray, " n"]
    log_likelihood: Float[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "LikeliestPoses":
        """Those of some of the images."""
        return LikeliestPoses(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: Sequence["LikeliestPoses"]) -> "LikeliestPoses":
        """Several sets, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Marginal(sciml.Problem[MarginalDensity, ParticleBatch]):
    """Find the density, without poses.

    Args:
        images: whitened, up to the last collected shell at least.
        plan: how far the search goes.
        symmetry: point group that is imposed.
        device: see below.
        seed: decides how the grid is turned for the whole set.

    Attributes:
        size: number of images.
        offsets: which offsets are tried.
        turn: of the grid on which the whole set is searched.
        device: where the whole set, and large batches, are searched, and all is polished: "cpu" (compiled loops),
            "torch" (on the CPU) or "cuda".
    """

    size: int
    divides = False  # `_search` shares the images of a batch among the processes

    def __init__(
        self, images: ImageSpectra, plan: SearchPlan, symmetry: str = "C1", device: str = "cpu", seed: int = 0
    ) -> None:
        self.images, self.plan, self.size, self.device = images, plan, len(images), device
        self.group = point_group(symmetry)
        self.offsets = OffsetRange(plan)
        self.metric = WeightMetric(plan)
        self.grids = {order: orientations.half_turn_grid(order) for order in (1, 2)}
        self.turn = orientations.random_turns(1, np.random.default_rng([seed, 1]))[0].astype(np.float32)
        self.mask = self.sphere(plan.side)
        # Both hold the last result and what it is a function of; neither changes a result.
        self._slices_before: tuple[Tensor, TurnedGrid, tuple[np.ndarray, np.ndarray]] | None = None
        self._whole_before: tuple[tuple[Tensor, float, float], Found] | None = None

    def sphere(self, side: int) -> Float[np.ndarray, "m m m"]:
        """Where the particle may be, on a grid of this side."""
        axis = np.arange(side) - side // 2
        distance = np.sqrt(sum(np.square(a) for a in np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)))
        return cosine_edge((distance - self.plan.mask_radius * side).astype(np.float32), 0.07 * side)

    def blob(self, classes: int, draw: np.random.Generator) -> MarginalDensity:
        """A start that knows nothing but where the particle is; several classes differ by a little noise."""
        side = self.plan.side
        axis = (np.arange(side) - side // 2) / (0.36 * self.plan.mask_radius * side)
        line = np.exp(-0.5 * axis**2)
        blob = line[:, None, None] * line[None, :, None] * line[None, None, :]
        noise = 0.1 * draw.standard_normal((classes, side, side, side)) if classes > 1 else 0.0
        return self.density(1e-3 * blob * (1.0 + noise) + np.zeros((classes, 1, 1, 1)))

    def density(self, volumes: Float[np.ndarray, "classes m m m"]) -> MarginalDensity:
        """A model of which no image has been seen."""
        return MarginalDensity(self.plan, volumes, self.expected_weight / len(volumes))

    def enlarged(self, model: MarginalDensity) -> MarginalDensity:
        """The same density and radius on the grid of this plan, with nothing remembered."""
        volumes = [fourier.resample(volume, self.plan.side) for volume in model.voxels.detach().cpu().numpy()]
        larger = self.density(np.stack(volumes))
        larger.radius.copy_(model.radius)
        return larger

    @cached_property
    def expected_weight(self) -> Float[np.ndarray, "m m half"]:
        """What one image gives each Fourier voxel if its view may be any, the same everywhere in a shell."""
        images = self.images.up_to(self.plan.stop + self.plan.frontier)
        grid = self.grids[1]
        weights = np.tile(np.square(images.transfer).mean(0) / len(grid), (len(grid), 1))
        (sums,) = self._empty_sums(1)
        self._insert(sums, np.ascontiguousarray(2.0 * grid[:, :2], np.float32), np.zeros_like(weights, "c8"), weights)
        complete(sums)
        weight = fourier.optimal_circulant(sums[..., 2], self.plan.side)
        return self.metric.spherical(self.metric.shell_mean(weight))

    @property
    def population(self) -> None:
        """The parts of a batch are drawn independently (see `PARTS`)."""
        return

    def sample(self, size: int | None, generator: torch.Generator) -> ParticleBatch:
        """Independent draws of images (`PARTS`), each without replacement and with a turn of the grid; None for all
        images in order, and the turn of the whole set."""
        if size is None:
            return ParticleBatch(torch.arange(self.size), torch.from_numpy(self.turn).expand(self.size, 3, 3))
        edges = [size * part // PARTS for part in range(PARTS + 1)]
        draws = [torch.randperm(self.size, generator=generator)[: high - low] for low, high in pairwise(edges)]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        turns = torch.from_numpy(orientations.random_turns(PARTS, np.random.default_rng(seed))).float()
        return ParticleBatch(torch.cat(draws), turns.repeat_interleave(torch.tensor([len(draw) for draw in draws]), 0))

    def spectra(self, model: MarginalDensity) -> Complex[np.ndarray, "classes P P half"]:
        """Padded transforms of the classes."""
        volumes = model.voxels.detach().cpu().numpy() * self.mask
        corrected = [correct_gridding(volume, 2) for volume in volumes]
        return np.stack([fourier.transform_padded(volume, 2 * self.plan.side) for volume in corrected])

    def orientations(self, where: TurnedGrid) -> Float[np.ndarray, "n 3 3"]:
        """The grid for a scored radius, turned; only views of one asymmetric unit."""
        grid = orientations.turned(self.grids[self.plan.order(where.radius)], where.turn)
        return grid if len(self.group) == 1 else grid[asymmetric_unit(grid[:, 2], self.group)]

    def _slices(self, model: MarginalDensity, where: TurnedGrid) -> tuple[np.ndarray, np.ndarray]:
        """Axes of the grid, and slices of every class; kept for the next micro-batch of the same step."""
        voxels = model.voxels.detach()
        if self._slices_before is not None:
            before, known, result = self._slices_before
            if known.radius == where.radius and np.array_equal(known.turn, where.turn) and torch.equal(before, voxels):
                return result
        grid = self.orientations(where)
        axes = np.ascontiguousarray(2.0 * grid[:, :2], np.float32)
        disc = self.images.disc
        points = disc.within(where.radius + self.plan.frontier)
        slices = np.empty((len(voxels), len(grid), points), np.complex64)
        for spectrum, out in zip(self.spectra(model), slices, strict=True):
            kernels.gather(spectrum.astype(np.complex64), axes, disc.kx[:points], disc.ky[:points], out)
        self._slices_before = (voxels.clone(), where, (axes, slices))
        return axes, slices

    def _search(
        self, model: MarginalDensity, where: TurnedGrid, images: ImageSpectra, gather: bool, device: str
    ) -> tuple[Found, np.ndarray, np.ndarray]:
        """What images (up to the collected radius) say at the present map; axes and slices of the grid.

        Of several processes each searches a part of the images: `Found` holds what is said of all images, but only
        the process's own part of the sums.
        """
        axes, slices = self._slices(model, where)
        grid = Grid(self.orientations(where), self.offsets.tried(model))
        flat, wanted = slices.reshape(-1, slices.shape[-1]), Wanted(sums=gather)
        mine = distributed.share(len(images), together(len(flat), len(grid.shifts)))
        found = search(images.take(mine), flat, grid, where.radius, wanted, device)
        return _of_all(found, mine, len(images)), axes, slices

    def _searches(
        self, model: MarginalDensity, batch: ParticleBatch, gather: bool
    ) -> Iterator[tuple[Found, np.ndarray, np.ndarray]]:
        """`_search` of the images of a batch, those with the same turn together."""
        radius = float(model.radius)
        collected = self.images.up_to(radius + self.plan.frontier)
        turns, which = torch.unique(batch.turns.flatten(1), dim=0, return_inverse=True)
        for number, turn in enumerate(turns):
            rows = batch.rows[which == number]
            everyone = len(rows) == self.size and len(rows.unique()) == self.size
            images = collected if everyone else collected.take(rows.numpy())  # all of them need no copy
            # In the first steps from a blob, on small batches, differences grow several times a step, until those of
            # rounding decide how a map is turned, and its hand. Left to the compiled loops, a GPU and a CPU find the
            # same map.
            device = self.device if everyone or len(rows) >= LARGE else "cpu"
            where = TurnedGrid(radius, turn.reshape(3, 3).numpy())
            found, axes, slices = self._search(model, where, images, gather, device)
            if everyone and np.array_equal(where.turn, self.turn):
                self._whole_before = (self._state(model), replace(found, numerator=_NO_SUMS, denominator=_NO_SUMS))
            yield found, axes, slices

    @staticmethod
    def _state(model: MarginalDensity) -> tuple[Tensor, float, float]:
        """What the likeliest poses of the whole set are a function of."""
        return model.voxels.detach().clone(), float(model.radius), float(model.shift_range)

    @torch.no_grad()
    def gradient(
        self, model: MarginalDensity, batch: ParticleBatch
    ) -> tuple[Mapping[str, Tensor], Tensor, Statistics]:
        """Both terms of the loss, the gradient, and what `learn` remembers, per image: the weight of each Fourier
        voxel, both parts of rho, and whether the likeliest offset is at the end of the range."""
        images, classes = len(batch.rows), len(model.voxels)
        sums = self._empty_sums(classes)
        likelihood, outermost, ahead = 0.0, 0.0, np.zeros(2)
        scored = self.images.disc.within(float(model.radius))
        for found, axes, slices in self._searches(model, batch, gather=True):
            numerator, denominator = found.numerator.reshape(slices.shape), found.denominator.reshape(slices.shape)
            for own, of_class, weight in zip(sums, denominator * slices - numerator, denominator, strict=True):
                self._insert(own, axes, of_class, weight)
            likelihood += float(found.log_likelihood.sum())
            outermost += self.offsets.outermost(model, found)
            ahead += frontier_sums(numerator, denominator, slices, scored)
        distributed.add(*sums, ahead)
        complete_sums = [self.completed(own.astype(np.float32)) for own in sums]
        weight = np.stack([fourier.optimal_circulant(own[..., 2], self.plan.side) for own in complete_sums])
        data = np.stack([self._adjoint(own) for own in complete_sums]) * (2.0 / images)
        prior = self.metric.prior_gradient(model)
        seen = {
            "weight": torch.from_numpy((np.maximum(weight, 0.0) / images).astype(np.float32)),
            "frontier": torch.from_numpy(ahead / images),
            "outermost": torch.tensor(outermost / images, dtype=torch.float64),
        }
        flat = (torch.from_numpy(data).to(model.voxels) + prior).reshape(-1)
        return self._terms(model, likelihood / images, prior), flat, Statistics(mean=seen)

    @torch.no_grad()
    def loss(self, model: MarginalDensity, batch: ParticleBatch) -> Mapping[str, Tensor]:
        """The terms alone."""
        likelihood = sum(float(found.log_likelihood.sum()) for found, *_ in self._searches(model, batch, gather=False))
        return self._terms(model, likelihood / len(batch.rows), self.metric.prior_gradient(model))

    @staticmethod
    def _terms(model: MarginalDensity, likelihood: float, prior_gradient: Tensor) -> dict[str, Tensor]:
        prior = 0.5 * (model.voxels.detach() * prior_gradient).sum(dtype=torch.float64)
        return {"data": torch.tensor(-likelihood, dtype=torch.float64), "prior": prior}

    @torch.no_grad()
    def learn(self, model: MarginalDensity, batch: ParticleBatch, evaluation: Evaluation) -> None:
        """Renew the running weight, the counts of offsets, and, when the map predicts the frontier, the scored
        radius."""
        mean, images = evaluation.statistics.mean, len(batch.rows)
        self.metric.learn(model, mean["weight"], images)
        self.offsets.learn(model, mean["outermost"], images)
        learn_frontier(model, self.plan, mean["frontier"], images)

    def preconditioner(self, model: MarginalDensity) -> Callable[[Tensor], Tensor]:
        """The inverse of the running weight and the prior precision (`weight_metric`)."""
        return self.metric.preconditioner(model)

    def poses(self, model: MarginalDensity, images: ImageSpectra | None = None) -> LikeliestPoses:
        """The likeliest poses on the grid of the whole set at the present radius.

        Args:
            model: the maps.
            images: others than those of the problem.
        """
        where = TurnedGrid(float(model.radius), self.turn)
        grid = Grid(self.orientations(where), self.offsets.tried(model))
        found = self._found_before(model) if images is None else None
        if found is None:
            some = (self.images if images is None else images).up_to(where.radius + self.plan.frontier)
            found, *_ = self._search(model, where, some, False, self.device)
        rotations, offsets = grid.poses(found.places[:, 0])
        return LikeliestPoses(rotations, offsets, found.places[:, 0, 1] // len(grid.rotations), found.log_likelihood)

    def _found_before(self, model: MarginalDensity) -> Found | None:
        """What the last evaluation of the whole set found, if it was of this model: that of the finish is."""
        if self._whole_before is None:
            return None
        (voxels, *numbers), found = self._whole_before
        now, *present = self._state(model)
        return found if numbers == present and torch.equal(voxels, now) else None

    def log_likelihood(self, model: MarginalDensity, rows: np.ndarray, where: TurnedGrid) -> float:
        """Mean over some images of the log of the mean likelihood, at a radius given: what starts are ranked by."""
        images = self.images.up_to(where.radius + self.plan.frontier).take(rows)
        found, *_ = self._search(model, where, images, False, self.device)
        return float(found.log_likelihood.mean())

    def signal(self, radius: float) -> float:
        """Mean power of the images above that of the noise, within a radius: the log likelihood of the true poses under
        the true map."""
        some = self.images.up_to(radius).take(slice(None, None, -(-self.size // PROBED)))
        noise = len(some.disc) - 0.5  # the origin counts half
        return float(np.square(np.abs(some.values)).sum(1).mean()) - noise

    def _empty_sums(self, classes: int) -> list[Float[np.ndarray, "P P half 3"]]:
        """A half grid of (real, imaginary, weight) for each class; float64: see `Found`."""
        padded = 2 * self.plan.side
        return [np.zeros((padded, padded, padded // 2 + 1, 3)) for _ in range(classes)]

    def _insert(self, sums: np.ndarray, axes: np.ndarray, values: np.ndarray, weights: np.ndarray) -> None:
        """Add slices of one class to its half grid."""
        disc, points = self.images.disc, values.shape[-1]
        search_kernels.insert_slices(sums, axes, disc.kx[:points], disc.ky[:points], values, weights)

    def completed(self, grid: np.ndarray) -> np.ndarray:
        """A half grid of summed slices with what lies beyond its edges, and as symmetric as the group; changes it."""
        complete(grid)
        if len(self.group) == 1:
            return grid
        # A mean, not a sum: the posterior of an image is one, however many views are the same.
        return symmetrize_sums(grid, self.group) / np.float32(len(self.group))

    def _adjoint(self, grid: np.ndarray) -> np.ndarray:
        """From a complete half grid, which holds every slice point and its Friedel mate, to the voxels."""
        values = grid[..., 0] + 1j * grid[..., 1]
        side, padded = self.plan.side, 2.0 * self.plan.side
        return correct_gridding(fourier.inverse_transform_cropped(values, side), 2) * self.mask * (0.5 * padded**3)


_NO_SUMS = np.empty((0, 0))


def _of_all(found: Found, mine: slice, count: int) -> Found:
    """What is said of each image, from what the processes say of theirs."""
    if distributed.size() == 1:
        return found
    likelihood, places = np.empty(count), np.empty((count, *found.places.shape[1:]), np.int64)
    likelihood[mine], places[mine] = found.log_likelihood, found.places
    distributed.gather(mine, likelihood, places)
    return replace(found, log_likelihood=likelihood, places=places)
