"""What the README shows works as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


def blocks(root: Path, language: str) -> list[str]:
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", (root / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    return [text for name, text in found if name == language]


@pytest.mark.slow
def test_the_equation_of_ones_own_reaches_1e_5(root: Path, tmp_path: Path) -> None:
    code = next(block for block in blocks(root, "python") if "class Poisson" in block)
    code += "\nassert solution.result.name == 'CONVERGED', solution.result\nassert error < 1e-5, error\n"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)


@pytest.mark.slow
def test_the_density_in_python(root: Path, tmp_path: Path) -> None:
    star = root / "data" / "particles" / "particles.star"
    cubes = "maps.full.shape == maps.std.shape == final.map.shape == density.full.shape == start.maps.shape[1:]"
    code = next(block for block in blocks(root, "python") if "read_particles" in block)
    code = code.replace('"particles.star"', repr(str(star)))
    subprocess.run([sys.executable, "-c", f"{code}\nassert {cubes}\n"], check=True, cwd=tmp_path, timeout=600)


def test_every_command_shown_exists(root: Path) -> None:
    shown = {
        tuple(words.split()) for words in re.findall(r"^sciml ([a-z]+ [a-z]+) ", "\n".join(blocks(root, "")), re.M)
    }
    assert len(shown) >= 4
    for words in sorted(shown):
        done = subprocess.run([sys.executable, "-m", "sciml", *words, "--help"], capture_output=True, timeout=60)
        assert done.returncode == 0, words


def test_every_folder_of_the_map_exists(root: Path) -> None:
    table = (root / "README.md").read_text(encoding="utf-8").split("## Map")[1]
    folders = re.findall(r"^\| `([a-z/]+)/`", table, flags=re.MULTILINE)
    assert len(folders) >= 6
    assert [folder for folder in folders if not (root / folder).is_dir()] == []
