"""A small particle set on disk, written by the project's simulator, for tests that damage it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles


def blobs(box: int) -> np.ndarray:
    """Three Gaussian blobs of different weight: a density without symmetry."""
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    places = ((0.0, 0.0, 0.0, 1.0), (0.2, 0.05, -0.1, 0.7), (-0.1, 0.2, 0.15, 0.5))
    terms = [
        weight * np.exp(-((z - a * box) ** 2 + (y - b * box) ** 2 + (x - c * box) ** 2) / (2 * (0.06 * box) ** 2))
        for a, b, c, weight in places
    ]
    return np.sum(terms, axis=0).astype(np.float32)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with particles.star, particles.mrcs (12 images of 16 x 16) and truth.mrc; not to be changed."""
    folder = tmp_path_factory.mktemp("pristine")
    simulation = Simulation(number=12, box=16, pixel_size=4.0, snr=0.5, shift=4.0)
    write_particles(simulation, scale_to_snr(simulation, blobs(16)), folder)
    return folder


@pytest.fixture
def particle_files(pristine: Path, tmp_path: Path) -> Path:
    """A copy of `pristine` to damage."""
    for file in pristine.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path
