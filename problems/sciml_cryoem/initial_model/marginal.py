"""A density from particles without poses, as a stochastic problem: poses are summed over, not chosen.

    J(V) = mean over images of -log mean over (R, s) of exp L(image, R, s)  +  <V, T V> / 2

with L the log likelihood of `poses.search` on a grid of orientations that is turned at random with every batch. Its
gradient is a sum over orientations, 2 (denominator P_R - numerator_R), carried into the volume by the projector's
adjoint. The accumulated weight, averaged over the latest images, is the preconditioner (`weight_metric`), so that a
step of size lr is expectation maximization with a memory of 1 - lr (a natural-gradient step). T is a tenth of that
weight.

Shells beyond the scored ones are collected as well, to see whether the map predicts them (`frontier`). They are in the
gradient and not in J: they have no say in the poses.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import sciml
from sciml import distributed
from sciml.problem import Evaluation, Statistics
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import point_group
from sciml_cryoem.initial_model.frontier import frontier_sums, learn_frontier
from sciml_cryoem.initial_model.likeliest_poses import LikeliestPoses
from sciml_cryoem.initial_model.map_slices import MapSlices, TurnedGrid
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.offset_range import OffsetRange
from sciml_cryoem.initial_model.search_plan import SearchPlan
from sciml_cryoem.initial_model.slice_sums import SliceSums
from sciml_cryoem.initial_model.weight_metric import WeightMetric
from sciml_cryoem.poses.search import search, together
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra
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
        slices: of the maps.
        sums: of slices, and what they mean for the maps.
        metric: what the remembered weight is used for.
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
        self.slices = MapSlices(plan, images.disc, self.group)
        self.sums = SliceSums(plan.side, images.disc, self.group)
        self.turn = orientations.random_turns(1, np.random.default_rng([seed, 1]))[0].astype(np.float32)
        # What the last evaluation of the whole set found, and of which model: `poses` may be asked for the same.
        self._whole_before: tuple[tuple[Tensor, float, float], SearchResult] | None = None

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
        views = orientations.half_turn_grid(1)
        weights = np.tile(np.square(images.transfer).mean(0, np.float64) / len(views), (len(views), 1))
        (grid,) = self.sums.empty(1)
        axes = slice_axes(views, 2)
        self.sums.add(grid, axes, np.zeros(weights.shape, np.complex128), weights)
        complete(grid)
        return self.metric.spherical(self.metric.shell_mean(self.sums.weight(grid[..., 2])))

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

    def _search(
        self, model: MarginalDensity, where: TurnedGrid, images: ImageSpectra, gather: bool, device: str
    ) -> tuple[SearchResult, np.ndarray, np.ndarray]:
        """What images (up to the collected radius) say at the present map; axes and slices of the grid.

        Of several processes each searches a part of the images: The result holds what is said of all images, but only
        the process's own part of the sums.
        """
        axes, slices = self.slices.of(model, where)
        grid = PoseGrid(self.slices.orientations(where), self.offsets.tried(model))
        flat, wanted = slices.reshape(-1, slices.shape[-1]), SearchRequest(sums=gather)
        mine = distributed.share(len(images), together(len(flat), len(grid.shifts)))
        found = search(images.take(mine), flat, grid, where.radius, wanted, device)
        return _of_all(found, mine, len(images)), axes, slices

    def _searches(
        self, model: MarginalDensity, batch: ParticleBatch, gather: bool
    ) -> Iterator[tuple[SearchResult, np.ndarray, np.ndarray]]:
        """`_search` of the images of a batch, those with the same turn together."""
        radius = float(model.radius)
        collected = self.images.up_to(radius + self.plan.frontier)
        turns, which = np.unique(batch.turns.reshape(-1, 9).numpy(), axis=0, return_inverse=True)
        for number, turn in enumerate(turns):
            rows = batch.rows[torch.from_numpy(which.ravel() == number)]
            everyone = len(rows) == self.size and len(rows.unique()) == self.size
            images = collected if everyone else collected.take(rows.numpy())  # all of them need no copy
            # In the first steps from a blob, on small batches, differences grow several times a step, until those of
            # rounding decide how a map is turned, and its hand. Left to the compiled loops, a GPU and a CPU find the
            # same map.
            device = self.device if everyone or len(rows) >= LARGE else "cpu"
            where = TurnedGrid(radius, turn.reshape(3, 3))
            found, axes, slices = self._search(model, where, images, gather, device)
            if everyone and np.array_equal(where.turn, self.turn):
                self._whole_before = (self._state(model), replace(found, numerator=_NOTHING, denominator=_NOTHING.real))
            yield found, axes, slices

    @staticmethod
    def _state(model: MarginalDensity) -> tuple[Tensor, float, float]:
        """What the likeliest poses of the whole set are a function of."""
        return model.voxels.detach().clone(), float(model.radius), float(model.shift_range)

    @torch.no_grad()
    def gradient(self, model: MarginalDensity, batch: ParticleBatch) -> tuple[Mapping[str, Tensor], Tensor, Statistics]:
        """Both terms of the loss, the gradient, and what `learn` remembers, per image: the weight of each point of
        the padded grid, both parts of rho, and whether the likeliest offset is at the end of the range."""
        images, grids = len(batch.rows), self.sums.empty(len(model.voxels))
        likelihood, outermost, ahead = 0.0, 0.0, np.zeros(2)
        for found, axes, slices in self._searches(model, batch, gather=True):
            likelihood += float(found.log_likelihood.sum())
            outermost += self.offsets.outermost(model, found)
            ahead += self._add(grids, model, found, axes, slices)
        distributed.add(*grids, ahead)
        complete_grids = [self.sums.completed(grid.astype(np.float32)) for grid in grids]
        weight = np.stack([grid[..., 2] for grid in complete_grids]) / np.float32(images)
        data = np.stack([self.sums.adjoint(grid) * self.slices.mask for grid in complete_grids]) * (2.0 / images)
        prior = self.metric.prior_gradient(model)
        seen = {
            "weight": torch.from_numpy(weight),  # of the padded grid, which `learn` averages
            "frontier": torch.from_numpy(ahead / images),
            "outermost": torch.tensor(outermost / images, dtype=torch.float64),
        }
        flat = (torch.from_numpy(data).to(model.voxels) + prior).reshape(-1)
        return self._terms(model, likelihood / images, prior), flat, Statistics(mean=seen)

    def _add(
        self, grids: list[np.ndarray], model: MarginalDensity, found: SearchResult, axes: np.ndarray, slices: np.ndarray
    ) -> Float[np.ndarray, "2"]:
        """Add what a search found to the half grids of the classes; both parts of rho, not per image."""
        scored, ahead = self.images.disc.within(float(model.radius)), np.zeros(2)
        numerators, denominators = found.numerator.reshape(slices.shape), found.denominator.reshape(slices.shape)
        for grid, numerator, denominator, of_class in zip(grids, numerators, denominators, slices, strict=True):
            likely = np.flatnonzero(denominator.any(1))  # most orientations are unlikely for all images
            numerator, denominator, chosen = numerator[likely], denominator[likely], of_class[likely]
            differences = denominator * chosen
            differences -= numerator
            self.sums.add(grid, axes[likely], differences, denominator)
            ahead += frontier_sums(numerator, denominator, chosen, scored)
        return ahead

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
        weight = np.stack([self.sums.weight(of_class.numpy()) for of_class in mean["weight"]])
        self.metric.learn(model, torch.from_numpy(weight), images)
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
        grid = PoseGrid(self.slices.orientations(where), self.offsets.tried(model))
        found = self._found_before(model) if images is None else None
        if found is None:
            some = (self.images if images is None else images).up_to(where.radius + self.plan.frontier)
            found, *_ = self._search(model, where, some, False, self.device)
        rotations, offsets = grid.poses(found.places[:, 0])
        return LikeliestPoses(rotations, offsets, found.places[:, 0, 1] // len(grid.rotations), found.log_likelihood)

    def _found_before(self, model: MarginalDensity) -> SearchResult | None:
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


_NOTHING = np.empty((0, 0), np.complex128)


def _of_all(found: SearchResult, mine: slice, count: int) -> SearchResult:
    """What is said of each image, from what the processes say of theirs."""
    if distributed.size() == 1:
        return found
    likelihood, places = np.empty(count), np.empty((count, *found.places.shape[1:]), np.int64)
    likelihood[mine], places[mine] = found.log_likelihood, found.places
    distributed.gather(mine, likelihood, places)
    return replace(found, log_likelihood=likelihood, places=places)
