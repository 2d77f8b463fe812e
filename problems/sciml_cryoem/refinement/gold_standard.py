"""Gold-standard refinement as a stochastic problem: two half maps, each compared with the images of its own half only.

    J(V1, V2) = mean over images i of w_i (|t_i P(V_h(i); pose_i) - y_i|^2 - |y_i|^2)  +  <V, T V>,     h(i) the half

with t the transfer function of an image times its contrast, w the share of it that is not explained by junk, and the
pose refined against the masked map of its half (`image_pass`). The gradient of a half map is the sum of what the map
leaves of the images, carried back into the volume; divided by the weight of the same images it is the step to the map
that they make, so that SGD with a step size of 1 is expectation maximization, on a batch or on all images.

What a step shows is learned afterwards: poses, weights and noise of its images, and from the two half maps that they
make the FSC, which sets the prior T of each half and the radius up to which images are compared in the next step. What
the halves share is the start map below a stated resolution and the mask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import sciml
from sciml.problem import Evaluation, Statistics
from sciml_cryoem.imaging import fourier, orientations
from sciml_cryoem.imaging.symmetry import symmetric_distance
from sciml_cryoem.maps.fsc import last_shell_before
from sciml_cryoem.maps.masks import soft_sphere
from sciml_cryoem.reconstruction.accumulation import positive
from sciml_cryoem.reconstruction.back_projection import apply_in_fourier, back_project, box_weights, precondition
from sciml_cryoem.refinement.defocus import PRIOR, prior_spread
from sciml_cryoem.refinement.half_agreement import agreement, prior_precision
from sciml_cryoem.refinement.half_maps import HalfMaps, Iteration, RefinementState
from sciml_cryoem.refinement.half_noise import Residuals
from sciml_cryoem.refinement.image_pass import ImagePass, PassResult, offset_range
from sciml_cryoem.refinement.image_set import AHEAD, ImageSet
from sciml_cryoem.refinement.particle_weights import share_of_majority, share_of_something, shrunk_contrast
from sciml_cryoem.refinement.refined_poses import Poses
from sciml_cryoem.refinement.start import Start

MARGIN = 2
"""Shells beyond the FSC's 0.143 up to which images are compared with the map."""
JUMPS = 0.005
"""All images are searched again where more than this share of those that had a pose jumped to a better one, by two
standard errors."""
AGREEMENT = 0.9
"""FSC up to the first radius that the half maps of a first batch are to have."""
FEWEST = 1000
"""Images of a first batch at least."""
EARLY = 4
"""The set is at least so many times the first batch, or the refinement begins with all images."""
LEAST = 1e-2
"""Signal over noise of a half map that a shell is taken to have at the start, at least: where the start map has none it
is not known to be zero, and a steep prior would weigh what its sharp edge leaves there."""
RAW = 1e-2
"""Prior precision of unfiltered half maps, as a share of the mean weight of the shell."""


@dataclass(frozen=True)
class ImageBatch:
    """A batch.

    Attributes:
        rows: (batch,) int64, which images, in ascending order.
        turn: (batch, 3, 3) float64, of the grid of orientations; the same for all.
    """

    rows: Tensor
    turn: Tensor


class Refinement(sciml.Problem[HalfMaps, ImageBatch]):
    """Find two half maps and the poses of their images.

    Args:
        images: the set.
        start: what it begins with.
        watch: called with the record of each step.
    """

    size: int
    divides = False  # a pass shares the images of a batch among the processes
    evaluate_every = 1
    long_steps = True

    def __init__(self, images: ImageSet, start: Start, watch: Callable[[Iteration], None] | None = None) -> None:
        self.images, self.start, self.watch = images, start, watch
        self.size = len(images)
        asked = max(start.images_for(AGREEMENT, images.first_radius), FEWEST)
        self.first_batch = int(2 * np.ceil(asked / 2)) if EARLY * asked <= len(images) else None
        self._shells = fourier.shells(images.box, 3)

    def model(self, steps: int) -> HalfMaps:
        """The unknowns at the start, with room for the record of so many steps."""
        images, start = self.images, self.start
        box, shells = images.box, images.box // 2 + 1
        # Of the weight only the mean of each shell is known before an image has a pose.
        radial = np.append(start.weight, np.zeros((2, 1)), 1)[:, np.minimum(self._shells, shells)]
        signal = 0.5 * (self.first_batch or self.size) * start.weight * start.power
        precision = np.stack([positive(w / np.maximum(x, LEAST)) for w, x in zip(start.weight, signal, strict=True)])
        # Of the images of a batch half are in a half set; a padded grid has 8 voxels where the box has one.
        share = 0.5 / 8.0
        state = RefinementState(
            radius=images.first_radius,
            steps=0,
            jumping=False,
            focusing=False,
            prior_spread=np.full(2, PRIOR),
            noise_power=images.noise.power,
            mask=soft_sphere(box, images.mask_radius * box, 0.08 * box),
            weight=(share * radial).astype(np.float32),
            precision=share * precision,
        )
        return HalfMaps(start.maps, state, self.size, steps)

    def sample(self, size: int | None, generator: torch.Generator) -> ImageBatch:
        """Images drawn without replacement, and a turn of the grid; None for all of them."""
        whole = size is None or size >= self.size
        rows = torch.arange(self.size) if whole else torch.randperm(self.size, generator=generator)[:size].sort().values
        seed = int(torch.randint(2**31, (1,), generator=generator))
        turn = torch.from_numpy(orientations.random_turns(1, np.random.default_rng(seed)))
        return ImageBatch(rows, turn.expand(len(rows), 3, 3))

    def _pass(self, model: HalfMaps, batch: ImageBatch) -> PassResult:
        rows, state = batch.rows.numpy(), model.state
        all_poses, known = model.images.poses, model.images.known.numpy()
        wanted = np.full(len(rows), True) if state.jumping else model.images.unsearched(rows)
        reach = offset_range(self.images.box, all_poses.take(np.flatnonzero(known))) if wanted.any() else None
        one = ImagePass(self.images, state, model.voxels.detach().numpy(), batch.turn[0].numpy(), reach)
        return one.run(rows, all_poses.take(rows), known[rows], wanted)

    @torch.no_grad()
    def gradient(self, model: HalfMaps, batch: ImageBatch) -> tuple[Mapping[str, Tensor], Tensor, Statistics]:
        """Both terms, their gradient, and what `learn` needs: weights and residual noise of an image in the mean, the
        new pose of each."""
        found, count = self._pass(model, batch), len(batch.rows)
        data = np.stack([back_project(grid, self.images.box) for grid in found.grids]) * np.float32(2.0 / count)
        weight = np.stack([box_weights(grid, self.images.box) for grid in found.grids]) / np.float32(count)
        mean = {
            "weight": torch.from_numpy(weight),
            "residual_power": torch.from_numpy(found.residuals.power / count),
            "residual_points": torch.from_numpy(found.residuals.points / count),
        }
        each = {name: torch.from_numpy(value) for name, value in vars(found.poses).items()}
        each |= {"searched": torch.from_numpy(found.searched), "jumped": torch.from_numpy(found.jumped)}
        prior = self._prior_gradient(model)
        gradient = torch.from_numpy(data).to(model.voxels) + prior
        return self._terms(model, found, prior), gradient.reshape(-1), Statistics(mean, each)

    @torch.no_grad()
    def loss(self, model: HalfMaps, batch: ImageBatch) -> Mapping[str, Tensor]:
        """The terms alone."""
        return self._terms(model, self._pass(model, batch), self._prior_gradient(model))

    def _terms(self, model: HalfMaps, found: PassResult, prior: Tensor) -> dict[str, Tensor]:
        prior_term = 0.5 * (model.voxels.detach() * prior).sum(dtype=torch.float64)
        return {"data": torch.tensor(found.misfit.mean()), "prior": prior_term}

    def _table(self, values: Float[np.ndarray, "2 shells"]) -> Tensor:
        """A value for each shell as one for each Fourier voxel; beyond the last shell that of the last."""
        index = np.minimum(self._shells, values.shape[1] - 1)
        return torch.from_numpy(values[:, index].astype(np.float32))

    def _prior_gradient(self, model: HalfMaps) -> Tensor:
        return apply_in_fourier(model.voxels.detach(), self._table(model.precision.numpy()))

    def preconditioner(self, model: HalfMaps) -> Callable[[Tensor], Tensor]:
        """Flat voxels divided by weight and prior precision in Fourier space: the metric of the noise, and the step."""

        def apply(vector: Tensor) -> Tensor:
            table = model.weight + self._table(model.precision.numpy())
            return precondition(vector.reshape(model.voxels.shape), table).reshape(-1)

        return apply

    @torch.no_grad()
    def learn(self, model: HalfMaps, batch: ImageBatch, evaluation: Evaluation) -> Tensor:
        """Take over the poses of the images, judge them, and set noise, prior, mask and radius of the next step; the
        gradient under the new prior."""
        state, rows = model.state, batch.rows.numpy()
        each = {name: value.numpy() for name, value in evaluation.statistics.each.items()}
        searched, jumped = each.pop("searched"), each.pop("jumped")
        known, searches = model.images.known.numpy(), model.images.searches.numpy()
        before, had = model.images.poses.take(rows), known[rows].copy()
        model.images.poses.put(rows, Poses(**each))
        known[rows] = True
        # Those that are searched once more because their pose is doubted jump more often than others.
        asked = searched & had & (state.jumping | (searches[rows] == 0))
        searches[rows] += searched & (state.steps > 0)
        self._judge(model, rows)
        mean = {name: value.numpy() for name, value in evaluation.statistics.mean.items()}
        weight = mean["weight"]
        data = evaluation.gradient.reshape(model.voxels.shape) - self._prior_gradient(model)
        curve, mask, precision = self._halves(model, data, weight, state.radius)
        resolution = float(self.images.extent / max(last_shell_before(curve, 0.143), 1))
        poses = model.images.poses
        mine = poses.take(rows)
        turn = symmetric_distance(before.rotations[had], mine.rotations[had], self.images.group)
        move = np.hypot(*(before.offsets - mine.offsets)[had].T)
        variance = np.trace(mine.covariance[:, :3, :3], axis1=1, axis2=2)
        iteration = Iteration(
            number=state.steps, radius=state.radius, searched=bool(searched.mean() > 0.5), resolution=resolution,
            turn_deg=float(np.median(turn)) if had.any() else 0.0,
            pose_error_deg=float(np.degrees(np.sqrt(np.median(variance)))),
            move=float(np.median(move)) if had.any() else 0.0, junk=int((poses.weights[known] < 0.5).sum()),
            log_likelihood=float(mine.evidence.mean()), refocused=state.focusing, images=len(rows),
            next_radius=self._next_radius(state.radius, resolution), fsc=curve,
        )  # fmt: skip
        few = JUMPS * asked.sum()
        jumping = bool(jumped[asked].sum() > few + 2.0 * np.sqrt(few)) if asked.any() else state.jumping
        model.store(
            replace(
                state,
                radius=iteration.next_radius,
                steps=state.steps + 1,
                jumping=jumping,
                focusing=self._focuses(resolution, jumping or not searches.all()),
                prior_spread=prior_spread(poses, self.images.halves, state.prior_spread),
                noise_power=self._noise(state, mean, len(rows)),
                mask=mask.astype(np.float32),
                weight=weight,
                precision=precision,
            )
        )
        model.record(iteration)
        if self.watch is not None:
            self.watch(iteration)
        return (data + self._prior_gradient(model)).reshape(-1)

    def _judge(self, model: HalfMaps, rows: np.ndarray) -> None:
        """Share of each image of the step that is a particle, judged among those known of its half set and optics
        group, and what of its contrast is believed.

        An image that is in the map correlates with it. One that was left out is judged against a map without it only
        after the next pass: without memory, junk would be in and out by turns.
        """
        known = np.flatnonzero(model.images.known.numpy())
        everyone = model.images.poses
        poses = everyone.take(known)
        judged = share_of_something(poses.evidence, poses.expected)
        judged *= share_of_majority(poses.contrast, poses.strength, self.images.views.groups[known])
        now = np.isin(known, rows, assume_unique=True)
        poses.weights[now] = np.minimum(judged, poses.judged)[now]
        poses.judged[now] = judged[now]
        poses.scale[now] = shrunk_contrast(poses, self.images.halves[known])[now]
        everyone.put(known, poses)

    def _halves(
        self, model: HalfMaps, data: Tensor, weight: np.ndarray, radius: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """FSC of the half maps that the images of a step make, its mask, and the prior that follows.

        Unfiltered, a half map is the present one less its data gradient over the weight."""
        shells = self.images.box // 2 + 1
        index = np.minimum(self._shells, shells).ravel()
        number = np.bincount(index, minlength=shells + 1)[:shells]
        means = np.stack([np.bincount(index, of_half.ravel(), shells + 1)[:shells] / number for of_half in weight])
        reach = self.images.reach(radius)
        beyond = np.arange(shells) >= reach  # where only leakage of the collected shells is found: held at zero
        held = lambda of_half, precision: np.where(beyond, of_half.max(), precision)
        floor = self._table(np.stack([held(of_half, positive(RAW * of_half)) for of_half in means]))
        raw = (model.voxels.detach() - precondition(data, torch.from_numpy(weight) + floor)).numpy()
        curve, mask = agreement(self.images, raw, reach)
        return curve, mask, np.stack([held(of_half, prior_precision(of_half, curve, mask)) for of_half in means])

    def _noise(self, state: RefinementState, mean: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        noise = replace(self.images.noise, power=state.noise_power)
        residuals = Residuals(noise, self.images.collected(state.radius))
        residuals.power[:], residuals.points[:] = (count * mean[name] for name in ("residual_power", "residual_points"))
        return residuals.noise_found().power

    def _next_radius(self, radius: float, resolution: float) -> float:
        shell = self.images.extent / resolution
        least = min(radius, self.images.search_radius)
        most = min(self.images.reach(radius) - AHEAD, self.images.box / 2)
        return float(np.clip(shell + MARGIN, least, most))

    def _focuses(self, resolution: float, searching: bool) -> bool:
        """Whether the defocus of particles is refined in the next step."""
        focus = self.images.focus
        return focus is not None and not searching and focus.can_tell(resolution)

    def evaluate(self, model: HalfMaps) -> dict[str, float]:
        """What the latest step says: resolution (Angstrom), turn of the poses (degrees), images known."""
        iterations = model.iterations
        if not iterations:
            return {}
        last = iterations[-1]
        return {"resolution": last.resolution, "turn_deg": last.turn_deg, "known": float(model.images.known.sum())}
