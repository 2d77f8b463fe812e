"""The unknowns of a refinement, two half maps, with all that it remembers from one step to the next.

Everything lies in the buffers of a module, so that the checkpoints of a solve hold it. `RefinementState` is the same as
a value: functions read one and return another, and `HalfMaps.store` is the only place that writes.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciml_cryoem.refinement.refined_poses import Poses

DOUBTFUL = 2.5
"""Standard deviations below the median from which the evidence of a pose is doubted."""


@dataclass(frozen=True)
class RefinementState:
    """What the steps so far have shown, apart from the poses of the images.

    Attributes:
        radius: Fourier pixels up to which images are compared with the maps.
        steps: how many have been learned from.
        jumping: whether so many images jumped to a better pose that all are to be searched again.
        focusing: whether the defocus of the particles is to be refined.
        prior_spread: (2,) deviation of the prior of the defocus in each half set, Angstrom.
        noise_power: (kinds, shells) of the images' noise (`half_noise.kinds_of`).
        mask: (n, n, n) what the references of the poses are multiplied by.
        weight: (2, n, n, n // 2 + 1) mean weight that an image of the batch gives each Fourier voxel of a half map.
        precision: (2, shells) prior precision of each half map, in the units of the weight.
    """

    radius: float
    steps: int
    jumping: bool
    focusing: bool
    prior_spread: Float[np.ndarray, "2"]
    noise_power: Float[np.ndarray, "kinds shells"]
    mask: Float[np.ndarray, "n n n"]
    weight: Float[np.ndarray, "2 n n half"]
    precision: Float[np.ndarray, "2 radii"]


@dataclass(frozen=True)
class Iteration:
    """What one step of the refinement did: a line of the report.

    Attributes:
        number: of the step, from 0.
        radius: Fourier pixels up to which poses were compared.
        searched: whether most images were searched on the whole grid.
        resolution: Angstrom, FSC 0.143 of the halves in the mask.
        turn_deg: median turn of the poses that were known before, degrees.
        pose_error_deg: median standard deviation of a pose, degrees, from the curvature of its likelihood.
        move: median change of their offsets, pixels.
        junk: images with a weight below a half.
        log_likelihood: mean of the images of the step.
        refocused: whether the defocus of particles was refined.
        images: that took part.
        next_radius: Fourier pixels up to which the next step compares.
        fsc: of the halves in the mask.
    """

    number: int
    radius: float
    searched: bool
    resolution: float
    turn_deg: float
    pose_error_deg: float
    move: float
    junk: int
    log_likelihood: float
    refocused: bool
    images: int
    next_radius: float
    fsc: Float[np.ndarray, " shells"]


_COLUMNS: dict[str, Any] = {field.name: field.type for field in fields(Iteration) if field.name != "fsc"}


class ImageStates(torch.nn.Module):
    """Poses of all images and what is thought of them (`Poses`), as buffers.

    Attributes:
        known: (images,) whether a pose has been found.
        searches: (images,) how often one was searched for in a map that this refinement had made.
    """

    known: Tensor
    searches: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        for field in fields(Poses):
            self.register_buffer(field.name, torch.from_numpy(getattr(Poses.unknown(count), field.name)))
        self.register_buffer("known", torch.zeros(count, dtype=torch.bool))
        self.register_buffer("searches", torch.zeros(count, dtype=torch.int32))

    def unsearched(self, rows: Int[np.ndarray, " some"]) -> Bool[np.ndarray, " some"]:
        """Which of some images are to be searched for on the whole grid: those that never were in a map of this
        refinement's own making, and once more those whose pose explains far less than the poses of others do.

        A good pose has evidence S +- sqrt(2 S), S its expectation; of all images the median and the spread of that
        deviation are looked at, so that the grey scale of the map does not matter.
        """
        searches, poses = self.searches.numpy(), self.poses
        once = np.flatnonzero(searches == 1)
        wanted = searches == 0
        if len(once):
            deviation = (poses.evidence[once] - poses.expected[once]) / np.sqrt(2.0 * poses.expected[once] + 1e-3)
            middle = np.median(deviation)
            spread = 1.4826 * np.median(np.abs(deviation - middle))
            wanted[once] = deviation < middle - DOUBTFUL * spread
        return wanted[rows]

    @property
    def poses(self) -> Poses:
        """The poses; arrays that share the memory of the buffers."""
        return Poses(**{field.name: getattr(self, field.name).numpy() for field in fields(Poses)})


class HalfMaps(torch.nn.Module):
    """Two half maps at the box of the images, unmasked, with the state of the refinement.

    Attributes:
        voxels: (2, n, n, n) float32, origin at n // 2, on the grey scale of the whitened images.
        images: poses and what is thought of the images.
    """

    weight: Tensor
    precision: Tensor
    mask: Tensor
    noise_power: Tensor
    prior_spread: Tensor
    numbers: Tensor
    rows: Tensor
    curves: Tensor

    def __init__(self, maps: Float[np.ndarray, "2 n n n"], state: RefinementState, images: int, steps: int) -> None:
        """Begin.

        Args:
            maps: start of each half.
            state: at the beginning.
            images: how many there are.
            steps: that are recorded at most.
        """
        super().__init__()
        box = maps.shape[-1]
        self.voxels = torch.nn.Parameter(torch.from_numpy(maps.astype(np.float32)))
        self.images = ImageStates(images)
        for name, value in asdict(state).items():
            if isinstance(value, np.ndarray):
                self.register_buffer(name, torch.from_numpy(np.array(value)))
        self.register_buffer("numbers", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("rows", torch.zeros(steps, len(_COLUMNS), dtype=torch.float64))
        self.register_buffer("curves", torch.zeros(steps, box // 2 + 1, dtype=torch.float64))
        self.store(state)

    @property
    def state(self) -> RefinementState:
        """The state as a value; its arrays are copies."""
        radius, steps, jumping, focusing = self.numbers.tolist()
        names = ("prior_spread", "noise_power", "mask", "weight", "precision")
        arrays = {name: getattr(self, name).numpy().copy() for name in names}
        return RefinementState(radius, int(steps), bool(jumping), bool(focusing), **arrays)

    def store(self, state: RefinementState) -> None:
        """Remember a state."""
        numbers = [state.radius, state.steps, state.jumping, state.focusing]
        self.numbers.copy_(torch.tensor([float(number) for number in numbers], dtype=torch.float64))
        for name in ("prior_spread", "noise_power", "mask", "weight", "precision"):
            getattr(self, name).copy_(torch.from_numpy(np.asarray(getattr(state, name))))

    def record(self, iteration: Iteration) -> None:
        """Add a line to the record."""
        values = [float(getattr(iteration, name)) for name in _COLUMNS]
        self.rows[iteration.number] = torch.tensor(values, dtype=torch.float64)
        self.curves[iteration.number] = torch.from_numpy(iteration.fsc)

    @property
    def iterations(self) -> list[Iteration]:
        """The record so far."""
        found = []
        for row, curve in zip(self.rows[: self.steps].tolist(), self.curves.numpy(), strict=False):
            values = {name: kind(value) for (name, kind), value in zip(_COLUMNS.items(), row, strict=True)}
            found.append(Iteration(**values, fsc=curve.copy()))
        return found

    @property
    def steps(self) -> int:
        """How many steps have been learned from."""
        return int(self.numbers[1])
