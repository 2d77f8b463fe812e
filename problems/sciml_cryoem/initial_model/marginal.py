"""A density from particles without poses, as a stochastic problem: poses are summed over, not chosen.

    J(V) = mean over images of -log mean over (R, s) of exp L(image, R, s)  +  <V, T V> / 2

with L the log likelihood of `poses.search` on a grid that is turned at random with every batch. Its gradient is a sum
over orientations, 2 (denominator P_R - numerator_R), carried into the volume by the projector's adjoint; the
accumulated weight, averaged over the latest images, is the preconditioner, so that a step of size lr is expectation
maximisation with a memory of 1 - lr (a natural-gradient step). T is a tenth of that weight.

Resolution grows by prediction. Poses are scored on shells |k| < r only, but two shells more are collected. There the
map, made of earlier images, is compared with what the next images say at poses that these shells had no part in: the
fraction

    rho = Re <numerator, P> / <denominator, |P|^2>

is the share of signal in the map's power; noise gives it a mean of 0 however long one iterates, and the numerator a
variance of <denominator, |P|^2> / 2. When it is clearly there, r grows. These shells are in the gradient and not in J:
they have no say in the poses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

import sciml
from sciml import distributed
from sciml_cryoem.imaging import fourier, kernels, orientations
from sciml_cryoem.imaging.projection import correct_gridding
from sciml_cryoem.imaging.rotations import slice_axes
from sciml_cryoem.imaging.symmetry import asymmetric_unit, point_group, symmetrize_sums
from sciml_cryoem.initial_model.offset_range import OffsetRange
from sciml_cryoem.initial_model.search_plan import FRONTIER, HALF_LIFE, Plan
from sciml_cryoem.maps.masks import cosine_edge
from sciml_cryoem.poses import search_kernels
from sciml_cryoem.poses.search import search, together
from sciml_cryoem.poses.search_result import PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra
from sciml_cryoem.reconstruction.insertion import complete

PREDICTED = 0.25
"""Share of signal in the map at the frontier from which the next shell is scored."""
CERTAIN = 3.0
"""Standard deviations above what noise gives from which that share counts: a faint map has one by chance."""
GROWTH = 0.25
"""Fourier pixels by which the scored radius grows at a time; twice that while the map predicts more than half."""
PRIOR = 0.1
"""Prior precision as a share of the mean weight of its shell."""
PROBED = 2_000
"""Images that the power of the signal is measured in."""
LARGE = 256
"""Images of a draw from which a GPU searches them."""


class MarginalDensity(torch.nn.Module):
    """A density on a coarse grid that spans the box of the images, with what its optimisation remembers.

    Attributes:
        voxels: (classes, m, m, m) float32, origin at m // 2.
        weight: (classes, m, m, m//2 + 1) running mean of the weight that one image gives each Fourier voxel.
        seen: what the running mean is to be divided by. radius: scored. predicted: running sums of both parts of rho,
            of the variance that noise gives the first, and the number of images since the radius grew.
        turn: of the grid on which the whole set was last searched.
        shift_range: of the offsets tried. edge: running numbers of images at the end of that range, and of all.
    """

    weight: Tensor
    seen: Tensor
    radius: Tensor
    predicted: Tensor
    turn: Tensor
    shift_range: Tensor
    edge: Tensor

    def __init__(self, plan: Plan, blob: Float[np.ndarray, "classes m m m"]) -> None:
        super().__init__()
        side = plan.side
        self.voxels = torch.nn.Parameter(torch.from_numpy(blob.astype(np.float32)))
        self.register_buffer("weight", torch.zeros(len(blob), side, side, side // 2 + 1))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("radius", torch.tensor([plan.start]))
        self.register_buffer("predicted", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("turn", torch.eye(3, dtype=torch.float64))
        self.register_buffer("shift_range", torch.tensor([plan.shift_range], dtype=torch.float64))
        self.register_buffer("edge", torch.zeros(2, dtype=torch.float64))


@dataclass(frozen=True)
class Drawn:
    """A batch: which images, and how the grid of orientations is turned (the same for all of them).

    Attributes:
        rows: (batch,) int64. turn: (batch, 3, 3) float64. whole: (batch,) bool, whether it is the whole set.
    """

    rows: Tensor
    turn: Tensor
    whole: Tensor


@dataclass(frozen=True)
class Poses:
    """Most likely poses of images: rotations A, offsets (x, y) in pixels, class from 0, and the log of the mean
    likelihood over all poses."""

    rotations: Float[np.ndarray, "n 3 3"]
    offsets: Float[np.ndarray, "n 2"]
    classes: Int[np.ndarray, " n"]
    log_likelihood: Float[np.ndarray, " n"]

    def take(self, rows: Int[np.ndarray, " some"] | slice) -> "Poses":
        """Some of them."""
        return Poses(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @classmethod
    def joined(cls, parts: Sequence["Poses"]) -> "Poses":
        """Several sets, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


class Marginal(sciml.Problem[MarginalDensity, Drawn]):
    """Find the density, without poses.

    Attributes:
        size: number of images.
        offsets: which are tried.
        device: where the whole set, and large draws, are searched, and all is polished: "cpu" (compiled loops), "torch"
            (on the CPU) or "cuda".
    """

    size: int
    divides = False  # `_search` shares the images of a batch among the processes

    def __init__(self, images: ImageSpectra, plan: Plan, symmetry: str = "C1", device: str = "cpu") -> None:
        self.images, self.plan, self.size, self.device = images, plan, len(images), device
        self.group = point_group(symmetry)
        side = plan.side
        self.offsets = OffsetRange(plan)
        self.grids = {order: orientations.half_turn_grid(order) for order in (1, 2)}
        radius = np.sqrt(fourier.squared_radii(side, 3))
        self._shell = np.minimum(np.rint(radius).astype(np.int64), side)
        self._count = np.maximum(np.bincount(self._shell.ravel(), minlength=side + 1), 1)
        self.mask = self.sphere(side)
        self._cache: tuple[Any, ...] | None = None
        self._whole: tuple[Tensor, SearchResult] | None = None

    def sphere(self, side: int) -> Float[np.ndarray, "m m m"]:
        """Where the particle may be, on a grid of this side."""
        axis = np.arange(side) - side // 2
        distance = np.sqrt(sum(np.square(a) for a in np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)))
        return cosine_edge((distance - self.plan.mask_radius * side).astype(np.float32), 0.07 * side)

    def blob(self, classes: int, draw: np.random.Generator) -> Float[np.ndarray, "classes m m m"]:
        """A start that knows nothing but where the particle is; several classes differ by a little noise."""
        side = self.plan.side
        axis = (np.arange(side) - side // 2) / (0.36 * self.plan.mask_radius * side)
        line = np.exp(-0.5 * axis**2)
        blob = line[:, None, None] * line[None, :, None] * line[None, None, :]
        noise = 0.1 * draw.standard_normal((classes, side, side, side)) if classes > 1 else 0.0
        return 1e-3 * blob * (1.0 + noise) + np.zeros((classes, 1, 1, 1))

    def sample(self, size: int | None, generator: torch.Generator) -> Drawn:
        """Images drawn without replacement, and a turn of the grid; None for all of them."""
        whole = size is None or size >= self.size
        rows = torch.arange(self.size) if whole else torch.randperm(self.size, generator=generator)[:size].sort().values
        seed = int(torch.randint(2**31, (1,), generator=generator))
        turn = torch.from_numpy(orientations.random_turns(1, np.random.default_rng(seed)))
        count = len(rows)
        return Drawn(rows, turn.expand(count, 3, 3), torch.full((count,), whole))

    def enlarged(self, model: MarginalDensity) -> MarginalDensity:
        """The same density and radius on the grid of this plan, with nothing remembered."""
        volumes = [fourier.resample(volume, self.plan.side) for volume in model.voxels.detach().cpu().numpy()]
        larger = MarginalDensity(self.plan, np.stack(volumes))
        larger.radius.copy_(model.radius)
        return larger

    def spectra(self, model: MarginalDensity) -> Complex[np.ndarray, "classes P P half"]:
        """Padded transforms of the classes."""
        volumes = model.voxels.detach().cpu().numpy() * self.mask
        corrected = [correct_gridding(volume, 2) for volume in volumes]
        return np.stack([fourier.transform_padded(volume, 2 * self.plan.side) for volume in corrected])

    def _slices(self, model: MarginalDensity, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Axes of the grid, slices of every class, and the number of points collected; kept for the next micro-batch
        of the same step."""
        radius = float(model.radius)
        voxels = model.voxels.detach()
        if self._cache is not None:
            before, known_turn, known_radius, result = self._cache
            if known_radius == radius and np.array_equal(known_turn, turn) and torch.equal(before, voxels):
                return result
        grid = self.orientations(radius, turn)
        axes = slice_axes(grid, 2)
        disc = self.images.disc
        points = disc.within(radius + FRONTIER)
        slices = np.empty((len(voxels), len(grid), points), np.complex64)
        for spectrum, out in zip(self.spectra(model), slices, strict=True):
            kernels.gather(spectrum.astype(np.complex64), axes, disc.kx[:points], disc.ky[:points], out)
        self._cache = (voxels.clone(), turn, radius, (axes, slices))
        return axes, slices

    def orientations(self, radius: float, turn: np.ndarray) -> Float[np.ndarray, "n 3 3"]:
        """The grid for a scored radius, turned; only views of one asymmetric unit."""
        grid = orientations.turned(self.grids[self.plan.order(radius)], turn)
        return grid if len(self.group) == 1 else grid[asymmetric_unit(grid[:, 2], self.group)]

    def _batch(self, model: MarginalDensity, batch: Drawn, gather: bool) -> tuple[SearchResult, np.ndarray, np.ndarray]:
        """`_search` of the images of a batch."""
        images = self.images.up_to(float(model.radius) + FRONTIER)
        if len(batch.rows) < self.size:  # else all of them in order, which need no copy
            images = images.take(batch.rows.numpy())
        # In the first steps from a blob, on small draws, differences grow several times a step, until those of rounding
        # decide how a map is turned, and its hand. Left to the compiled loops, a GPU and a CPU find the same map.
        device = self.device if bool(batch.whole[0]) or len(batch.rows) >= LARGE else "cpu"
        return self._search(model, batch.turn[0].numpy(), images, gather, device)

    def _search(
        self, model: MarginalDensity, turn: np.ndarray, images: ImageSpectra, gather: bool, device: str
    ) -> tuple[SearchResult, np.ndarray, np.ndarray]:
        """What images (up to the collected radius) say at the present map; axes and slices of the grid.

        Of several processes each searches a part of the images: the result holds what is said of all images, but only
        the process's own part of the sums.
        """
        axes, slices = self._slices(model, turn)
        grid = PoseGrid(self.orientations(float(model.radius), turn), self.offsets.tried(model))
        flat, wanted = slices.reshape(-1, slices.shape[-1]), SearchRequest(sums=gather)
        mine = distributed.share(len(images), together(len(flat), len(grid.shifts)))
        found = search(images.take(mine), flat, grid, float(model.radius), wanted, device)
        return _of_all(found, mine, len(images)), axes, slices

    @torch.no_grad()
    def gradient(self, model: MarginalDensity, batch: Drawn) -> tuple[Mapping[str, Tensor], Tensor]:
        """Both terms of the loss, and the gradient. A batch that is not the whole set also moves the running weight
        and, when the map predicts the frontier, the scored radius."""
        found, axes, slices = self._batch(model, batch, gather=True)
        shape = slices.shape
        numerator, denominator = found.numerator.reshape(shape), found.denominator.reshape(shape)
        learning = not bool(batch.whole[0])
        if not learning and len(batch.rows) == self.size:
            model.turn.copy_(batch.turn[0])
            self._whole = (model.voxels.detach().clone(), found)
        grids = self._insert(axes, denominator * slices - numerator, denominator, self.plan.side)
        images = len(batch.rows)
        if learning:
            self._predict(model, numerator, denominator, slices, images)
            self.offsets.watch(model, found, images)
        weight = np.stack([fourier.optimal_circulant(grid[..., 2], self.plan.side) for grid in grids]) / images
        self._remember(model, np.maximum(weight, 0.0).astype(np.float32), images, learning)
        data = np.stack([self._adjoint(grid) for grid in grids]) * (2.0 / images)
        prior = self._prior_gradient(model)
        terms = {
            "data": torch.tensor(-found.log_likelihood.mean()),
            "prior": 0.5 * (model.voxels.detach() * prior).sum(dtype=torch.float64),
        }
        return terms, (torch.from_numpy(data).to(model.voxels) + prior).reshape(-1)

    @torch.no_grad()
    def loss(self, model: MarginalDensity, batch: Drawn) -> Mapping[str, Tensor]:
        """The terms alone."""
        found, *_ = self._batch(model, batch, gather=False)
        prior = 0.5 * (model.voxels.detach() * self._prior_gradient(model)).sum(dtype=torch.float64)
        return {"data": torch.tensor(-found.log_likelihood.mean()), "prior": prior}

    def poses(self, model: MarginalDensity, images: ImageSpectra | None = None) -> "Poses":
        """The most likely poses of the images, or of others, on a grid of the present radius, turned as it last was."""
        turn, radius = model.turn.numpy(), float(model.radius)
        grid = PoseGrid(self.orientations(radius, turn), self.offsets.tried(model))
        if images is None and self._whole is not None and torch.equal(self._whole[0], model.voxels.detach()):
            found = self._whole[1]  # the last evaluation of the finish
        else:
            images = self.images if images is None else images
            found, *_ = self._search(model, turn, images.up_to(radius + FRONTIER), False, self.device)
        rotations, offsets = grid.poses(found.places[:, 0])
        return Poses(rotations, offsets, found.places[:, 0, 1] // len(grid.rotations), found.log_likelihood)

    def log_likelihood(self, model: MarginalDensity, rows: np.ndarray, turn: np.ndarray, radius: float) -> float:
        """Mean over some images of the log of the mean likelihood, up to a radius given: what starts are ranked by."""
        kept = model.radius.clone()
        model.radius.fill_(radius)
        images = self.images.up_to(radius + FRONTIER).take(rows)
        found, *_ = self._search(model, turn, images, False, self.device)
        model.radius.copy_(kept)
        return float(found.log_likelihood.mean())

    def _insert(self, axes: np.ndarray, values: np.ndarray, weights: np.ndarray, side: int) -> list[np.ndarray]:
        """Slices of every class added up in half grids of (real, imaginary, weight), for a box of a side."""
        padded, points = 2 * side, values.shape[-1]
        disc, grids = self.images.disc, []
        for of_class, weight in zip(values, weights, strict=True):
            grid = np.zeros((padded, padded, padded // 2 + 1, 3))  # float64: see `SearchResult`
            search_kernels.insert_slices(grid, axes, disc.kx[:points], disc.ky[:points], of_class, weight)
            grids.append(grid)
        distributed.add(*grids)
        return [self.completed(grid.astype(np.float32)) for grid in grids]

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

    def _remember(self, model: MarginalDensity, weight: np.ndarray, images: int, learning: bool) -> None:
        """Renew the running mean of the weight; the whole set, seen first, sets it."""
        if not learning and float(model.seen) > 0:
            return
        keep = 0.5 ** (images / HALF_LIFE)
        model.weight.mul_(keep).add_(torch.from_numpy(weight).to(model.weight), alpha=1.0 - keep)
        model.seen.mul_(keep).add_(1.0 - keep)

    def _predict(
        self, model: MarginalDensity, numerator: np.ndarray, denominator: np.ndarray, slices: np.ndarray, images: int
    ) -> None:
        """How well the map predicts the frontier; a larger scored radius when it does."""
        first = self.images.disc.within(float(model.radius))
        ahead = slices[..., first:]
        product = np.sum(np.real(numerator[..., first:] * np.conj(ahead)))
        sums = np.array([product, np.sum(denominator[..., first:] * np.square(np.abs(ahead)))], np.float64)
        distributed.add(sums)
        product, power = sums.tolist()
        keep = 0.5 ** (images / HALF_LIFE)
        model.predicted.mul_(torch.tensor([keep, keep, keep**2, 1.0], dtype=torch.float64))
        model.predicted.add_(torch.tensor([product, power, 0.5 * power, float(images)], dtype=torch.float64))
        rho = self.predicted(model)
        if rho is not None and rho > PREDICTED and float(model.radius) < self.plan.stop:
            model.radius.add_(GROWTH if rho < 0.5 else 2 * GROWTH).clamp_(max=self.plan.stop)
            model.predicted.zero_()

    def predicted(self, model: MarginalDensity) -> float | None:
        """Share of signal in the map's power beyond the scored radius, 0 where noise explains it; None before enough
        images have been seen."""
        product, power, variance, images = model.predicted.tolist()
        if images <= HALF_LIFE:
            return None
        return product / max(power, 1e-30) if product > CERTAIN * variance**0.5 else 0.0

    def signal(self, radius: float) -> float:
        """Mean power of the images above that of the noise, within a radius: the log likelihood of the true poses under
        the true map."""
        some = self.images.up_to(radius).take(slice(None, None, -(-self.size // PROBED)))
        noise = len(some.disc) - 0.5  # the origin counts half
        return float(np.square(np.abs(some.values)).sum(1).mean()) - noise

    def _precision(self, model: MarginalDensity) -> tuple[Tensor, Tensor]:
        """Weight and prior precision of each Fourier voxel, for one image."""
        weight = model.weight / model.seen.clamp_min(1e-30)
        side = self.plan.side
        table = []
        for of_class in weight.cpu().numpy():
            mean = np.bincount(self._shell.ravel(), of_class.ravel(), side + 1) / self._count
            prior = PRIOR * mean + 1e-3 * mean.max()
            # Beyond the collected shells only leakage of the mask is found: held at zero.
            prior[int(float(model.radius)) + FRONTIER :] = mean.max()
            table.append(prior[self._shell])
        return weight, torch.from_numpy(np.stack(table)).to(weight)

    def _prior_gradient(self, model: MarginalDensity) -> Tensor:
        """T V, with T acting on the grid of the box."""
        side = self.plan.side
        _, precision = self._precision(model)
        spectrum = fourier.transform(model.voxels.detach(), 3) * precision
        return fourier.inverse_transform(spectrum, side, 3) * float(2 * side) ** 3

    def preconditioner(self, model: MarginalDensity) -> Callable[[Tensor], Tensor]:
        """Flat voxels -> D F^-1 [F D v / (W + T)], close to the inverse Hessian (see `density.DensityProblem`)."""
        side = self.plan.side
        roll_off = torch.from_numpy(1.0 / correct_gridding(np.ones((side,) * 3, np.float32), 2))

        def apply(vector: Tensor) -> Tensor:
            weight, precision = self._precision(model)
            line = roll_off.to(vector)
            spectrum = fourier.transform(vector.reshape(-1, side, side, side) * line, 3) / (weight + precision).to(
                vector
            )
            return (fourier.inverse_transform(spectrum, side, 3) * line).reshape(-1) / float(2 * side) ** 3

        return apply


def _of_all(found: SearchResult, mine: slice, count: int) -> SearchResult:
    """What is said of each image, from what the processes say of theirs."""
    if distributed.size() == 1:
        return found
    likelihood, places = np.empty(count), np.empty((count, *found.places.shape[1:]), np.int64)
    likelihood[mine], places[mine] = found.log_likelihood, found.places
    distributed.gather(mine, likelihood, places)
    return replace(found, log_likelihood=likelihood, places=places)
