"""A density on a given grid, from an atomic model or from a map."""

from pathlib import Path

import gemmi
import numpy as np
import scipy.fft
from jaxtyping import Float

from sciml.errors import InputError
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.maps.masks import cosine_edge

MODEL_SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
_FINE_SPACING = 1.3  # Angstrom; atoms are narrower than the voxels they end up in
_LARGEST_GRID = 480


def read_density(path: str | Path, box: int, pixel_size: float, b_factor: float) -> Float[np.ndarray, "n n n"]:
    """The density of a model (mmCIF, PDB) or a map (MRC) in a cubic box, float32, origin at box // 2.

    Args:
        path: the file; its suffix tells a model (.cif, .mmcif, .pdb, .ent) from a map (anything else).
        box: voxels along the side.
        pixel_size: Angstrom.
        b_factor: Angstrom^2, added to that of the atoms; maps are taken as they are.

    Raises:
        InputError: a missing or faulty file, a model without atoms or wider than the box, a map without pixel size.
    """
    path = Path(path)
    if any(suffix.lower() in MODEL_SUFFIXES for suffix in path.suffixes[-2:]):
        return _density_of_atoms(_read_model(path), path, (box, pixel_size), b_factor)
    volume = read_map(path)
    if volume.pixel_size is None:
        raise InputError(f"{path}, header field cella: the pixel size is not set; write it into the header.")
    return resample(volume.array, volume.pixel_size, box, pixel_size)


def resample(
    volume: Float[np.ndarray, "nz ny nx"], old_size: float, box: int, pixel_size: float
) -> Float[np.ndarray, "n n n"]:
    """A map on another grid, origin on origin (n // 2): exact for what both can hold, zero outside the old box.

    Each axis is a small matrix: the trigonometric polynomial through the old samples, cut at the lower Nyquist
    frequency, at the places of the new samples. So any ratio of pixel sizes and any boxes will do; an equal pixel size
    means cropping and padding.
    """
    for axis, count in enumerate(volume.shape):
        matrix = _interpolation(count, old_size, box, pixel_size)
        volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(volume, dtype=np.float32)


def _interpolation(count: int, old_size: float, box: int, pixel_size: float) -> Float[np.ndarray, "new old"]:
    """Values at the new samples of one axis from those at the old ones, float32."""
    places = (np.arange(box) - box // 2) * (pixel_size / old_size)
    old = np.arange(count) - count // 2
    if abs(pixel_size / old_size - 1) < 1e-5:
        return (np.rint(places)[:, None] == old).astype(np.float32)
    highest = min((count - 1) // 2, int(np.ceil(count * old_size / (2 * pixel_size))) - 1)
    half_phase = np.pi / count * (places[:, None] - old[None, :])
    sine = np.sin(half_phase)
    peak = np.abs(sine) < 1e-9
    # Dirichlet's kernel, the sum of the frequencies -highest ... highest; at its peak it is their number.
    kernel = np.sin((2 * highest + 1) * half_phase) / np.where(peak, 1.0, sine)
    kernel = np.where(peak, 2 * highest + 1, kernel) / count
    outside = (places < old[0] - 0.5) | (places > old[-1] + 0.5)  # the polynomial repeats there, the map does not
    kernel[outside] = 0.0
    return kernel.astype(np.float32)


def _read_model(path: Path) -> gemmi.Model:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    try:
        structure = gemmi.read_structure(str(path))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a readable atomic model ({error}).") from None
    if not len(structure) or not structure[0].count_atom_sites():
        raise InputError(f"{path}: the model has no atoms.")
    return structure[0]


def _density_of_atoms(
    model: gemmi.Model, path: Path, grid: tuple[int, float], b_factor: float
) -> Float[np.ndarray, "n n n"]:
    """Electron scattering density of the atoms, their middle at the origin, band-limited to the grid (box, pixel)."""
    box, pixel_size = grid
    side = box * pixel_size
    positions = np.array([site.atom.pos.tolist() for site in model.all()])
    middle = 0.5 * (positions.min(axis=0) + positions.max(axis=0))
    width = 2 * float(np.linalg.norm(positions - middle, axis=1).max())
    if width > 0.98 * side:
        raise InputError(f"{path}: {width:.0f} Angstrom wide, the box only {side:.0f}; enlarge --box or --pixel.")
    for site in model.all():
        site.atom.pos = gemmi.Position(*(np.array(site.atom.pos.tolist()) + (box // 2) * pixel_size - middle))
    fine = min(int(np.ceil(pixel_size / _FINE_SPACING)), max(1, _LARGEST_GRID // box))
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min = 2 * pixel_size / fine
    calculator.grid.set_unit_cell(gemmi.UnitCell(side, side, side, 90, 90, 90))
    calculator.grid.set_size(box * fine, box * fine, box * fine)
    calculator.set_refmac_compatible_blur(model)
    # The blur that gemmi asks for keeps narrow atoms from falling between grid points; more is what the caller wants.
    calculator.blur = max(calculator.blur, b_factor)
    calculator.add_model_density_to_grid(model)
    density = np.array(calculator.grid, dtype=np.float32).transpose(2, 1, 0)
    return _band_limit(density, box, fine)


def _band_limit(density: Float[np.ndarray, "m m m"], box: int, fine: int) -> Float[np.ndarray, "n n n"]:
    """Every `fine`-th sample after a filter that ends at the coarse grid's Nyquist frequency, a soft edge before it."""
    spectrum = np.asarray(scipy.fft.rfftn(density))
    line = (np.fft.fftfreq(len(density)) * len(density)).astype(np.float32)
    half = np.arange(len(density) // 2 + 1, dtype=np.float32)
    radius = np.sqrt(line[:, None, None] ** 2 + line[None, :, None] ** 2 + half[None, None, :] ** 2)
    edge = 0.1 * box
    spectrum *= cosine_edge(radius - (box / 2 - edge), edge)
    filtered = np.asarray(scipy.fft.irfftn(spectrum, density.shape))
    return np.ascontiguousarray(filtered[::fine, ::fine, ::fine], dtype=np.float32)
