"""A density from particles with known poses: `sciml cryoem reconstruct` beside `relion_reconstruct`, whole processes
in turn.

    python benchmarks/cryoem_known_poses.py [PARTICLES.star TRUTH.mrc] [--repeats N]

Both programs get one thread. CPU seconds are user + system of the whole process, memory is its maximum resident set.
Maps are compared with the truth in a soft sphere of 0.40 box. `sciml` makes two half maps, the full map, FSC,
uncertainty and figures in that time; `relion_reconstruct` one map. Without arguments a set of 2,000 particles is
simulated. Writes benchmarks/results/cryoem_known_poses.json.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from cases.processes import measure
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import soft_sphere

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
SCIML = Path(sys.executable).with_name("sciml")


def quality(path: Path, truth: np.ndarray, pixel_size: float) -> dict[str, float]:
    """FSC resolutions (Angstrom) against the truth, and the correlation, inside the sphere."""
    mask = soft_sphere(len(truth))
    volume = read_map(path).array
    curve = fsc(volume * mask, truth * mask)
    inside = mask > 0
    return {
        "fsc_05": resolution(curve, len(truth), pixel_size, 0.5),
        "fsc_0143": resolution(curve, len(truth), pixel_size, 0.143),
        "correlation": float(np.corrcoef((volume * mask)[inside], (truth * mask)[inside])[0, 1]),
    }


def simulate(folder: Path) -> tuple[Path, Path]:
    """2,000 particles of 64^2 in float32, which every RELION reads, and their truth."""
    model = HERE.parent / "data" / "model.cif"
    command = ["cryoem", "simulate", model, "--number", "2000", "--box", "64", "--pixel", "3.5", "--snr", "0.1"]
    subprocess.run([SCIML, *command, "--out", folder / "set"], check=True, capture_output=True)
    return folder / "set" / "particles.star", folder / "set" / "truth.mrc"


def programs(star: Path, pixel_size: float, folder: Path) -> dict[str, tuple[list[str], Path, Path]]:
    """Command, working folder and map of each program that is installed."""
    known = {
        "sciml": (
            [str(SCIML), "cryoem", "reconstruct", str(star), "--out", "sciml", "--overwrite"],
            folder,
            "sciml/run_class001.mrc",
        ),
        # RELION looks for stacks beside the place it is started in
        "relion_reconstruct": (
            [
                "relion_reconstruct",
                "--i",
                star.name,
                "--o",
                f"{folder}/relion.mrc",
                "--ctf",
                "--angpix",
                f"{pixel_size}",
            ],
            star.parent,
            "relion.mrc",
        ),
    }
    found = {
        name: (command, place, folder / out)
        for name, (command, place, out) in known.items()
        if shutil.which(command[0])
    }
    for name in known.keys() - found.keys():
        print(f"{name} is not installed and is left out (Debian: apt-get install relion).")
    return found


def compare(star: Path, truth_path: Path, repeats: int, folder: Path) -> list[dict[str, float | str]]:
    """Run the programs in turn; one row each, medians over the repeats."""
    pixel_size = read_particles(star).pixel_size
    truth = read_map(truth_path).array
    found = programs(star, pixel_size, folder)
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for repeat in range(repeats + 1):  # the first round warms files and compiled kernels
        for name, (command, place, _) in found.items():
            cost = measure(command, place)
            if repeat:
                costs[name].append(cost)
    rows = []
    for name, (_, _, output) in found.items():
        cpu, memory = (statistics.median(column) for column in zip(*costs[name], strict=True))
        row = {"program": name, "cpu_seconds": cpu, "peak_mb": memory}
        rows.append(row | quality(output, truth, pixel_size))
    return rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("particles", type=Path, nargs="?")
    parser.add_argument("truth", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.particles is None or options.truth is None:
            star, truth = simulate(folder)
        else:
            star, truth = options.particles.resolve(), options.truth.resolve()
        rows = compare(star, truth, options.repeats, folder)
    for row in [dict.fromkeys(rows[0], ""), *rows]:
        cells = (value if isinstance(value, str) else f"{value:.4g}" for value in row.values())
        print("  ".join(f"{cell or key:>18}" for key, cell in zip(row, cells, strict=True)))
    (HERE / "results").mkdir(exist_ok=True)
    record = {"particles": star.name, "repeats": options.repeats, "rows": rows}
    write_atomic(HERE / "results" / "cryoem_known_poses.json", to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
