"""The search of `poses.search` as torch operations, a chunk of images at once: for GPUs.

Same scores, cutoff and choice of poses; numbers agree to single precision. The sums of a chunk are matrix products over
all its poses, however few of them are likely: on a GPU that is cheaper than to select them. Nothing is fetched from the
device before the last chunk.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from sciml_cryoem.imaging.devices import in_parts, memory_budget, torch_device
from sciml_cryoem.poses.search_result import APART_DEG, CUTOFF, PoseGrid, SearchRequest, SearchResult
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

_BYTES, _BYTES_CPU = 1 << 30, 1 << 23  # of a chunk: enough to keep a GPU busy; near what the caches of a CPU hold


@dataclass(frozen=True)
class _DeviceGrid:
    """Slices and shifts on the device.

    Attributes:
        real: twice the real part of the slices.
        imaginary: twice the imaginary part.
        power: of the slices.
        phases: of the shifts.
        turns: rotation of each slice.
    """

    real: Float[Tensor, "slices scored"]
    imaginary: Float[Tensor, "slices scored"]
    power: Float[Tensor, "slices scored"]
    phases: Complex[Tensor, "shifts points"]
    turns: Float[Tensor, "slices 9"]

    @classmethod
    def sent(cls, slices: np.ndarray, grid: PoseGrid, phases: np.ndarray, place: torch.device) -> "_DeviceGrid":
        """Slices up to the radius that is scored; of several references in turn, which share the grid."""
        here = torch.view_as_real(_send(slices, place))
        real, imaginary = (2.0 * part for part in here.unbind(-1))
        turns = _send(grid.rotations.reshape(-1, 9).astype(np.float32), place)
        turns = turns.repeat(len(slices) // len(turns), 1)
        return cls(real, imaginary, here.square().sum(-1), _send(phases, place), turns)

    def bytes_per_image(self) -> int:
        """Memory that an image takes at most while it is worked on: three arrays of scores, a mask and a product, three
        arrays of shifted values, and the best shift of each slice with what choosing among these takes."""
        (shifts, points), slices = self.phases.shape, len(self.real)
        return shifts * slices * 18 + shifts * points * 24 + slices * 96


def _send(array: np.ndarray, place: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(place, non_blocking=True)


@torch.no_grad()
def search(
    images: ImageSpectra,
    slices: Complex[np.ndarray, "orientations points"],
    grid: PoseGrid,
    radius: float,
    wanted: SearchRequest,
    device: str,
) -> SearchResult:
    """Score images on a grid of poses; see `search.search`.

    Args:
        images: up to a radius at which the sums are wanted.
        slices: of the reference, one a rotation of the grid.
        grid: the poses that are tried.
        radius: only points within it are scored.
        wanted: the results to compute.
        device: "torch" for torch on the CPU, else a torch device.

    Raises:
        InputError: a GPU whose memory does not hold one image.
    """
    place, disc = torch_device(device), images.disc
    count, n, points = len(slices), len(images), len(images.disc)
    tried = _DeviceGrid.sent(slices[:, : disc.within(radius)], grid, disc.phases(grid.shifts), place)
    log_likelihood = torch.empty(n, dtype=torch.float64, device=place)
    places = torch.empty((n, wanted.poses, 3), dtype=torch.int64, device=place)
    # Real part, imaginary part, weight; of the chunks in double precision, as those of the compiled loops.
    shape = (count, points) if wanted.sums else (0, 0)
    sums = [torch.zeros(shape, dtype=torch.float64, device=place) for _ in range(3)]

    def work(part: slice) -> None:
        values, transfer = _send(images.values[part], place), _send(images.transfer[part], place)
        shifted = torch.view_as_real((values * transfer)[:, None, :] * tried.phases)
        real, imaginary = (shifted[..., j].reshape(-1, points) for j in (0, 1))
        del shifted
        squares = transfer.square()
        plus, minus, log_likelihood[part] = _posterior(*_scores(tried, real, imaginary, squares))
        if wanted.sums:
            of_slice = plus.sum(1).T @ squares
            products = plus.flatten(0, 1).T @ real, minus.flatten(0, 1).T @ imaginary, of_slice
        places[part] = _likeliest(plus, minus, tried.turns, wanted.poses)
        if wanted.sums:  # last, and in place: a chunk whose memory runs out has added nothing
            for total, product in zip(sums, products, strict=True):
                total += product

    in_parts(n, max(1, memory_budget(place, _BYTES, _BYTES_CPU) // tried.bytes_per_image()), work)
    return SearchResult(
        numerator=torch.complex(sums[0], sums[1]).cpu().numpy(),
        denominator=sums[2].cpu().numpy(),
        log_likelihood=log_likelihood.cpu().numpy() - np.log(2.0 * count * len(grid.shifts)),
        places=places.cpu().numpy(),
        evaluated=2 * count * len(grid.shifts) * n,
    )


def _scores(tried: _DeviceGrid, real: Tensor, imaginary: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Half the sum, and half the difference, of the scores at psi and at psi + 180 degrees.

    Args:
        tried: the grid.
        real: (images x shifts, points), CTF times shifted values.
        imaginary: likewise.
        squares: (images, points) CTF^2.

    Returns:
        Each (images, shifts, slices).
    """
    scored = tried.real.shape[1]
    shape = (len(squares), -1, len(tried.real))
    a = (real[:, :scored] @ tried.real.T).reshape(shape)
    b = (imaginary[:, :scored] @ tried.imaginary.T).reshape(shape)
    return a.sub_((squares[:, :scored] @ tried.power.T)[:, None]), b


def _posterior(
    middle: Float[Tensor, "images shifts slices"], side: Float[Tensor, "images shifts slices"]
) -> tuple[Tensor, Tensor, Float[Tensor, " images"]]:
    """Sum and difference of the weights at psi and at psi + 180 degrees, and the log of the sum of all likelihoods.

    The arguments are overwritten, so that no more than three arrays of this size are held.
    """
    top = side.abs().add_(middle)
    best = top.amax((1, 2), keepdim=True)
    kept = top.sub_(best) >= -CUTOFF
    middle.sub_(best)
    first = torch.add(middle, side, out=top).exp_()
    second = middle.sub_(side).exp_()
    plus, minus = torch.add(first, second, out=side), first.sub_(second)
    plus.mul_(kept)
    minus.mul_(kept)
    total = plus.sum((1, 2), keepdim=True)
    scale = total.reciprocal()
    return plus.mul_(scale), minus.mul_(scale), (best.double() + total.double().log()).reshape(-1)


def _likeliest(
    plus: Float[Tensor, "images shifts slices"],
    minus: Float[Tensor, "images shifts slices"],
    turns: Float[Tensor, "slices 9"],
    poses: int,
) -> Int[Tensor, "images poses 3"]:
    """The likeliest poses of each image that lie apart; see `search_kernels.likeliest`."""
    slices = plus.shape[2]
    (up, up_shift), (down, down_shift) = (plus + minus).max(1), (plus - minus).max(1)
    best, shift = torch.cat([up, down], 1), torch.cat([up_shift, down_shift], 1)
    limit = 2.0 * float(np.float32(np.cos(np.radians(APART_DEG)))) + 1.0
    found: list[Tensor] = []
    for number in range(poses):
        top, where = best.max(1)
        view, half = where % slices, where // slices
        place = torch.stack([shift.gather(1, where[:, None])[:, 0], view, half], 1)
        found.append(torch.where(top[:, None] > 0, place, found[-1]) if found else place)
        if number + 1 < poses:
            # Traces of the turns from the one found; half a turn in the plane changes the sign of the first two rows.
            upper = turns[view, :6] @ turns[:, :6].T
            lower = turns[view, 6:] @ turns[:, 6:].T
            alike, mates = upper + lower > limit, lower - upper > limit
            near = torch.where(half[:, None] == 0, torch.cat([alike, mates], 1), torch.cat([mates, alike], 1))
            best = best.masked_fill(near, 0.0)
    return torch.stack(found, 1)
