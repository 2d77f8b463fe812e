"""The loops of `polish_kernels` and `misfit_kernels` as torch operations, all images of a chunk at once: for GPUs.

Same steps, acceptance and stopping; numbers agree to what single precision leaves. Levenberg-Marquardt runs in lockstep
over the images that have not stopped. Products of the seven rows (five derivatives, prediction, residual) of each image
are one batched matrix product, from which everything else is 5 x 5 algebra in double precision.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from sciml_cryoem.imaging.devices import in_parts, torch_device
from sciml_cryoem.poses.polish_values import PolishOptions, ReferenceSpectrum
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

_CHUNK = 1 << 22  # points at once on a GPU, about 1.5 GB
_CHUNK_CPU = 1 << 17


@dataclass(frozen=True)
class _DeviceImages:
    """One chunk of whitened images, and the points."""

    flat: Complex[Tensor, " voxels"]
    shape: tuple[int, int, int]
    k: Float[Tensor, "2 points"]
    values: Complex[Tensor, "images points"]
    transfer: Float[Tensor, "images points"]
    turn: float
    padding: float

    def take(self, which: Int[Tensor, " some"]) -> "_DeviceImages":
        """Some of the images."""
        return replace(self, values=self.values[which], transfer=self.transfer[which])


def _slices(data: _DeviceImages, axes: Float[Tensor, "images 3 3"]) -> tuple[Tensor, Tensor, Tensor]:
    """P, Z and D of `misfit_kernels`: slice values and the derivatives that rotations need."""
    kx, ky = data.k
    place = axes[:, 0, :, None] * kx + axes[:, 1, :, None] * ky
    mate = place[:, 0] < 0
    place = torch.where(mate[:, None], -place, place)
    lower = place.floor()
    fx, fy, fz = (place - lower).unbind(1)
    x, y, z = lower.long().unbind(1)
    _, lines, columns = data.shape
    center = (data.shape[0] - 1) // 2
    base = ((z + center) * lines + y + center) * columns + x
    step_y, step_z = columns, lines * columns

    def edge(offset: int) -> tuple[Tensor, Tensor]:
        """Value and derivative along one edge in x."""
        first = data.flat[base + offset]
        change = data.flat[base + (offset + 1)] - first
        return first + fx * change, change

    (v00, x00), (v01, x01), (v10, x10), (v11, x11) = (edge(o) for o in (0, step_y, step_z, step_z + step_y))
    y0, y1 = v01 - v00, v11 - v10
    u0, u1 = v00 + fy * y0, v10 + fy * y1
    dz = u1 - u0
    x0, x1 = x00 + fy * (x01 - x00), x10 + fy * (x11 - x10)
    value, dx, dy = u0 + fz * dz, x0 + fz * (x1 - x0), y0 + fz * (y1 - y0)
    along = ky * axes[:, 0, :, None] - kx * axes[:, 1, :, None]
    across = axes[:, 2, :, None]
    view = across[:, 0] * dx + across[:, 1] * dy + across[:, 2] * dz
    plane = along[:, 0] * dx + along[:, 1] * dy + along[:, 2] * dz
    value = torch.where(mate, value.conj(), value)
    view, plane = (torch.where(mate, -g.conj(), g) for g in (view, plane))
    return data.transfer * value, data.transfer * view, data.transfer * plane


def _evaluate(
    data: _DeviceImages, pose: Float[Tensor, "images 4 3"], options: PolishOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Misfit at the best scale, that scale, and the Gauss-Newton equations (images, 5, 6); double precision."""
    kx, ky = data.k
    start = pose[:, 3, 2]
    p, z, d = _slices(data, (pose[:, :3] * data.padding).float())
    angle = (data.turn * (pose[:, 3, 0:1] * kx.double() + pose[:, 3, 1:2] * ky.double())).float()
    residual = data.values * torch.polar(torch.ones_like(angle), -angle) - start[:, None].float() * p
    rows = torch.stack([-ky * z, kx * z, d, 1j * data.turn * kx * p, 1j * data.turn * ky * p, p, residual], 1)
    rows = torch.view_as_real(rows.resolve_conj()).flatten(2)
    gram = 2.0 * (rows @ rows.mT).double()  # each point speaks for its Friedel mate as well
    lowest, highest = options.scale_range
    power, free = gram[:, 5, 5], torch.zeros_like(start, dtype=torch.bool)
    scale = start
    if options.scale:
        scale = (start + torch.where(power > 0, gram[:, 5, 6] / power, 0.0)).clamp(lowest, highest)
        free = (scale > lowest) & (scale < highest) & (power > 0)
    change = scale - start
    misfit = gram[:, 6, 6] - 2.0 * change * gram[:, 5, 6] + change**2 * power
    cross = gram[:, :5, 5]
    cross = torch.cat([cross[:, :3], torch.zeros_like(cross[:, 3:])], 1)  # zero but for rounding
    inverse = torch.where(free, 1.0 / power, 0.0)
    matrix = gram[:, :5, :5] - inverse[:, None, None] * cross[:, :, None] * cross[:, None, :]
    right = gram[:, :5, 6] - change[:, None] * cross
    return misfit, scale, torch.cat([matrix * (scale**2)[:, None, None], (right * scale[:, None])[..., None]], 2)


def _step(normal: Tensor, damping: Tensor, options: PolishOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Damped step, whether it is the last, and whether the damped matrix was positive."""
    diagonal = torch.diagonal(normal[:, :, :5], dim1=1, dim2=2)
    root = diagonal.clamp(min=0.0).sqrt()
    root = torch.where(root > 0, root, 1.0)
    scaled = normal[:, :, :5] / root[:, :, None] / root[:, None, :]
    scaled = scaled + torch.diag_embed(damping[:, None] * (diagonal > 0))
    lower, failed = torch.linalg.cholesky_ex(scaled)
    good = (failed == 0) & (torch.diagonal(lower, dim1=1, dim2=2).square() > 1e-12).all(1)
    eye = torch.eye(5, dtype=normal.dtype, device=normal.device)
    right = (normal[:, :, 5] / root)[..., None]
    step = torch.cholesky_solve(right, torch.where(good[:, None, None], lower, eye))[..., 0] / root
    step = torch.where(good[:, None], step, 0.0)
    promise = 0.5 * (step * normal[:, :, 5]).sum(1)
    angle, move = step[:, :3].norm(dim=1), step[:, 3:].norm(dim=1)
    small = (angle < math.radians(options.tolerance_deg)) & (move < options.tolerance)
    turn = (math.radians(options.step_deg) / angle.clamp(min=1e-30)).clamp(max=1.0)
    slide = (options.step / move.clamp(min=1e-30)).clamp(max=1.0)
    step = torch.cat([step[:, :3] * turn[:, None], step[:, 3:] * slide[:, None]], 1)
    return step, good & (small | (promise < options.gain)), good


def _turned(pose: Tensor, step: Tensor) -> Tensor:
    """The poses after a step: exp([w]) A, offset plus offset."""
    x, y, z = step[:, 0], step[:, 1], step[:, 2]
    zero = torch.zeros_like(x)
    generator = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)
    turn = step[:, :3].norm(dim=1)[:, None, None] / math.pi
    # Rodrigues' formula: torch's matrix_exp waits for a GPU several times.
    first = generator @ pose[:, :3]
    out = pose.clone()
    out[:, :3] += torch.sinc(turn) * first + 0.5 * torch.sinc(0.5 * turn).square() * (generator @ first)
    out[:, 3, :2] += step[:, 3:]
    return out


def _search(data: _DeviceImages, pose: Tensor, options: PolishOptions) -> tuple[Tensor, Tensor, Tensor]:
    """Refine the poses of a chunk: changes `pose`, returns (first misfit, last misfit, evaluations) and equations."""
    misfit, pose[:, 3, 2], normal = _evaluate(data, pose, options)
    first, used = misfit.clone(), torch.ones_like(misfit)
    damping = torch.full_like(misfit, options.damping)
    active = torch.arange(len(pose), device=pose.device)
    for _ in range(options.evaluations - 1):
        step, last, good = _step(normal[active], damping[active], options)
        trial = _turned(pose[active], step)
        found, trial[:, 3, 2], equations = _evaluate(data.take(active), trial, options)
        used[active] += 1
        better = (found < misfit[active]) & good
        won = active[better]
        misfit[won], pose[won], normal[won] = found[better], trial[better], equations[better]
        raised = (10.0 * damping[active]).clamp(min=1.0)
        damping[active] = torch.where(better, 0.1 * damping[active], raised)
        active = active[~last & (damping[active] <= 1e8)]
        if not len(active):
            break
    return torch.stack([first, misfit, used], 1), normal, pose


def _grid(reference: ReferenceSpectrum, device: torch.device) -> Complex[Tensor, "S S X"]:
    """`ReferenceSpectrum.grid` on the device; made there of a spectrum that is a tensor."""
    if isinstance(reference.spectrum, np.ndarray):
        return torch.view_as_complex(torch.from_numpy(reference.grid)).to(device)  # a fraction of the whole to send
    spectrum = reference.spectrum.to(device)
    reach = int(reference.padding * reference.extent) + 1
    around = torch.arange(2 * reach + 2, device=device) - (2 * reach + 1) // 2
    around = around % spectrum.shape[0]
    columns = torch.arange(reach + 2, device=device).clamp(max=spectrum.shape[0] // 2)
    return spectrum[around][:, around][:, :, columns].to(torch.complex64)


def refine(
    reference: ReferenceSpectrum,
    images: ImageSpectra,
    which: Int[np.ndarray, " jobs"],
    poses: Float[np.ndarray, "jobs 4 3"],
    options: PolishOptions,
    device: str,
) -> tuple[Float[np.ndarray, "jobs 3"], Float[np.ndarray, "jobs 5 6"]]:
    """Refine poses, which are changed in place; see `polish_kernels.refine` for arguments and results."""
    place = torch_device(device)
    grid, plane = _grid(reference, place), reference.plane
    points = torch.from_numpy(np.stack([plane.kx, plane.ky])).to(place)
    turn = 2.0 * math.pi / plane.size
    shape = (grid.shape[0], grid.shape[1], grid.shape[2])
    report, normals = np.empty((len(which), 3)), np.empty((len(which), 5, 6))

    @torch.no_grad()
    def work(part: slice) -> None:
        mine = images.take(which[part])
        values, transfer = (torch.from_numpy(array).to(place) for array in (mine.values, mine.transfer))
        data = _DeviceImages(grid.reshape(-1), shape, points, values, transfer, turn, float(reference.padding))
        found, equations, pose = _search(data, torch.from_numpy(poses[part]).to(place, copy=True), options)
        report[part], normals[part], poses[part] = found.cpu(), equations.cpu(), pose.cpu()

    in_parts(len(which), max(1, (_CHUNK_CPU if place.type == "cpu" else _CHUNK) // len(plane)), work)
    return report, normals
