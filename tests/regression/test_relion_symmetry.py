"""Point groups: the sets of matrices that RELION 3.1 prints."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.imaging.symmetry import point_group

pytestmark = [
    pytest.mark.relion,
    pytest.mark.skipif(shutil.which("relion_refine") is None, reason="RELION is not installed"),
]


def _printed(name: str, folder: Path) -> np.ndarray:
    words = ["relion_refine", "--sym", name, "--print_symmetry_ops"]
    text = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False).stdout
    blocks = re.split(r"R\(\d+\)=", text)[1:]
    return np.array([[float(word) for word in block.split()[:9]] for block in blocks]).reshape(-1, 3, 3)


@pytest.mark.parametrize("name", ["C1", "C2", "C5", "C12", "D2", "D3", "D4", "D7", "T", "O", "I1", "I2", "I3", "I4"])
def test_operators(name: str, tmp_path: Path) -> None:
    theirs, ours = _printed(name, tmp_path), point_group(name)
    assert len(theirs) == len(ours)
    distance = np.abs(theirs[:, None] - ours[None]).max((2, 3))
    # RELION builds products of matrices with five digits, and prints as many.
    assert distance.min(0).max() < 2e-4
    assert distance.min(1).max() < 2e-4
    assert len(ours) == 1 or np.sort(distance, 1)[:, 1].min() > 0.05
