"""The loops of `kernels.py` as torch operations: for GPUs, and for machines without a working numba.

Same layout and, to rounding, the same numbers. Tensors on the CPU are handed to the compiled loops where numba imports,
because they are several times faster there.
"""

from functools import cache

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from sciml_cryoem.imaging import ctf as ctf_module

_CHUNK = 1 << 20  # points whose eight corners are in memory at once


@cache
def _compiled() -> bool:
    """Whether the numba loops can be used."""
    try:
        from sciml_cryoem.imaging import kernels  # noqa: F401
    except ImportError:
        return False
    return True


def _use_compiled(*tensors: Tensor) -> bool:
    return all(t.device.type == "cpu" and not t.requires_grad for t in tensors) and _compiled()


def corners(
    axes: Float[Tensor, "batch 2 3"], kx: Float[Tensor, " points"], ky: Float[Tensor, " points"], size: int
) -> tuple[list[tuple[Int[Tensor, "batch points"], Float[Tensor, "batch points"]]], Tensor]:
    """The eight grid points around each slice point.

    Returns:
        Pairs of flat index (int64: with int32, index_add_ is ten times slower) into a (size, size, size/2 + 1) half
        spectrum and trilinear weight, and the mask of points that were conjugated to reach x >= 0.
    """
    x, y, z = (axes[:, 0, j, None] * kx + axes[:, 1, j, None] * ky for j in range(3))
    mate = x < 0
    sign = torch.where(mate, -1.0, 1.0).to(x)
    x, y, z = x * sign, y * sign, z * sign
    x0, y0, z0 = (c.floor() for c in (x, y, z))
    fx, fy, fz = x - x0, y - y0, z - z0
    half = size // 2 + 1
    planes = [((z0.long() + j) % size, fz if j else 1 - fz) for j in (0, 1)]
    lines = [((y0.long() + j) % size, fy if j else 1 - fy) for j in (0, 1)]
    columns = [(x0.long() + j, fx if j else 1 - fx) for j in (0, 1)]
    found = [
        ((zi * size + yi) * half + xi, tz * ty * tx) for zi, tz in planes for yi, ty in lines for xi, tx in columns
    ]
    return found, mate


def _per_chunk(batch: int, points: int) -> range:
    return range(0, batch, max(1, _CHUNK // points))


def gather(
    spectrum: Complex[Tensor, "z y x"],
    axes: Float[Tensor, "batch 2 3"],
    kx: Float[Tensor, " points"],
    ky: Float[Tensor, " points"],
) -> Complex[Tensor, "batch points"]:
    """Trilinear values of a half spectrum on central slices (see `kernels.gather`)."""
    size = spectrum.shape[0]
    if _use_compiled(spectrum, axes):
        from sciml_cryoem.imaging import kernels

        out = spectrum.new_empty((len(axes), len(kx)))
        kernels.gather(spectrum.contiguous().numpy(), axes.contiguous().numpy(), kx.numpy(), ky.numpy(), out.numpy())
        return out
    flat, parts = spectrum.reshape(-1), []
    step = _per_chunk(len(axes), len(kx)).step
    for start in range(0, len(axes), step):
        found, mate = corners(axes[start : start + step], kx, ky, size)
        value = sum((flat[index] * weight for index, weight in found[1:]), flat[found[0][0]] * found[0][1])
        parts.append(torch.where(mate, value.conj(), value))
    return torch.cat(parts)


def scatter(
    grid: Complex[Tensor, "z y x"],
    values: Complex[Tensor, "batch points"],
    axes: Float[Tensor, "batch 2 3"],
    kx: Float[Tensor, " points"],
    ky: Float[Tensor, " points"],
) -> None:
    """Transpose of `gather`: add values to a contiguous half spectrum, in place (see `kernels.scatter`)."""
    if _use_compiled(values, axes):
        from sciml_cryoem.imaging import kernels

        arguments = (axes.contiguous().numpy(), kx.numpy(), ky.numpy(), values.resolve_conj().contiguous().numpy())
        kernels.scatter(grid.numpy(), *arguments)
        return
    flat = torch.view_as_real(grid.view(-1))
    step = _per_chunk(len(axes), len(kx)).step
    for start in range(0, len(axes), step):
        found, mate = corners(axes[start : start + step], kx, ky, grid.shape[0])
        part = values[start : start + step]
        rows = torch.view_as_real(torch.where(mate, part.conj(), part).resolve_conj())
        for index, weight in found:
            flat.index_add_(0, index.reshape(-1), (rows * weight[..., None]).reshape(-1, 2))


def insert(
    grid: Float[Tensor, "z y x 3"],
    values: Complex[Tensor, "batch points"],
    axes: Float[Tensor, "batch 2 3"],
    coefficients: Float[Tensor, "batch 10"],
    weights: Float[Tensor, "batch points"],
    plane: tuple[Float[Tensor, " points"], Float[Tensor, " points"]],
) -> None:
    """Add CTF- and noise-weighted image values to (real, imaginary, weight) sums (see `kernels.insert`), in place.

    `values` are shifted already; `weights` are those of independent points (`NoiseModel.weights`).
    """
    flat = grid.view(-1, 3)
    step = _per_chunk(len(axes), values.shape[1]).step
    for start in range(0, len(axes), step):
        part = slice(start, start + step)
        found, mate = corners(axes[part], *plane, grid.shape[0])
        transfer = ctf_module.evaluate(coefficients[part], *plane)
        value = values[part] * (transfer * weights[part])
        imaginary = torch.where(mate, -value.imag, value.imag)
        rows = torch.stack([value.real, imaginary, transfer.square() * weights[part]], -1)
        for index, weight in found:
            flat.index_add_(0, index.reshape(-1), (rows * weight[..., None]).reshape(-1, 3))
