"""From particles without poses to a map: `sciml cryoem abinitio`, then `refine`, beside `relion_refine --sgd`, whole
processes in turn, one thread each.

    python benchmarks/cryoem_unknown_poses.py [PARTICLES.star TRUTH.mrc] [--seeds N] [--relion] [--no-refine]

CPU seconds are user + system of the whole process, memory is its maximum resident set. Maps are aligned with the truth
over rotation, shift and hand (`sciml_cryoem.maps.alignment`), then compared in a soft sphere of 0.40 box. Pose
errors are those against the poses in the STAR file, which neither program looks at. Without arguments a set of 2,000
particles is simulated. `--relion` runs RELION's ab initio as well, with a schedule shortened to about eight CPU minutes
for 2,000 images of 64 x 64. Writes benchmarks/results/cryoem_unknown_poses.json.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from cases.processes import measure
from cryoem_known_poses import HERE, SCIML, simulate
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.maps.alignment import align
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import soft_sphere

from sciml.runs.files import to_json, write_atomic

RELION = (  # noqa: SIM905
    "--sgd --denovo_3dref --ctf --K 1 --sym C1 --flatten_solvent --zero_mask --pool 10 --pad 1 --oversampling 1 "
    "--healpix_order 1 --offset_range 4 --offset_step 2 --maxsig 200 --sgd_ini_iter 15 --sgd_inbetween_iter 25 "
    "--sgd_fin_iter 10 --sgd_ini_resol 40 --sgd_fin_resol 20 --sgd_ini_subset 60 --sgd_fin_subset 150 "
    "--sgd_write_iter 10 --norm --scale --j 1 --random_seed 1"
).split()
"""The published schedule with fewer iterations and smaller subsets."""

Row = dict[str, Any]


def judge(path: Path, truth: np.ndarray, pixel_size: float) -> Row:
    """Correlation at 20 Angstrom and FSC resolutions of a map after alignment with the truth."""
    found = align(read_map(path).array, truth, pixel_size)
    mask = soft_sphere(len(truth))
    curve = fsc(found.aligned * mask, truth * mask)
    return {
        "correlation": found.correlation,
        "fsc_05": resolution(curve, len(truth), pixel_size, 0.5),
        "fsc_0143": resolution(curve, len(truth), pixel_size, 0.143),
        "flipped": found.flipped,
    }


def ours(star: Path, seed: int, refine: bool, folder: Path) -> list[tuple[Row, Path]]:
    """Both commands of one seed: costs and maps."""
    start, final = folder / f"abinitio{seed}", folder / f"refine{seed}"
    command = [str(SCIML), "cryoem", "abinitio", str(star), "--out", str(start), "--seed", str(seed)]
    cpu, memory = measure(command, folder)
    begun: Row = {"program": "sciml abinitio", "seed": seed, "cpu_seconds": cpu, "peak_mb": memory}
    rows = [(begun, start / "run_class001.mrc")]
    if refine:
        reference = str(start / "run_class001.mrc")
        command = [str(SCIML), "cryoem", "refine", str(star), "--reference", reference, "--out", str(final)]
        more, memory = measure(command, folder)
        summary = json.loads((final / "summary.json").read_text(encoding="utf-8"))
        row: Row = {"program": "sciml abinitio + refine", "seed": seed, "cpu_seconds": cpu + more}
        row |= {"peak_mb": max(memory, begun["peak_mb"]), "half_maps_0143": summary["resolution_0143"]}
        row |= {"junk": summary["junk"]}
        if error := summary["pose_error"]:  # against the poses in the STAR file, if it has any
            row |= {"error_deg": error["median_deg"], "error_angstrom": error["median_shift"]}
        rows.append((row, final / "run_class001.mrc"))
    return rows


def relion(star: Path, diameter: float, folder: Path) -> list[tuple[Row, Path]]:
    """RELION's ab initio, if it is installed."""
    if shutil.which("relion_refine") is None:
        print("relion_refine is not installed and is left out (Debian: apt-get install relion).")
        return []
    (folder / "relion").mkdir()
    command = ["relion_refine", "--o", str(folder / "relion" / "run"), "--i", star.name, *RELION]
    cpu, memory = measure([*command, "--particle_diameter", f"{diameter:.0f}"], star.parent)
    maps = sorted((folder / "relion").glob("run_it*_class001.mrc"))
    return [({"program": "relion_refine --sgd", "seed": 1, "cpu_seconds": cpu, "peak_mb": memory}, maps[-1])]


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("particles", type=Path, nargs="?")
    parser.add_argument("truth", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--relion", action="store_true", help="run RELION's ab initio as well: minutes")
    parser.add_argument("--refine", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        star, truth_path = options.particles, options.truth
        if star is None or truth_path is None:
            star, truth_path = simulate(folder)
        star, truth = star.resolve(), read_map(truth_path).array
        particles = read_particles(star, needs=("ctf",))
        ours(star, 0, options.refine, folder)  # the first run compiles the kernels
        shutil.rmtree(folder / "abinitio0")
        shutil.rmtree(folder / "refine0", ignore_errors=True)
        found = [pair for seed in range(options.seeds) for pair in ours(star, seed, options.refine, folder)]
        if options.relion:
            found += relion(star, 0.875 * particles.box * particles.pixel_size, folder)
        for row, path in found:
            rows.append(row | judge(path, truth, particles.pixel_size))
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()))
    for program in dict.fromkeys(row["program"] for row in rows):
        own = [row for row in rows if row["program"] == program]
        middle = {k: statistics.median(r[k] for r in own) for k in ("cpu_seconds", "correlation", "fsc_05", "fsc_0143")}
        good = sum(row["correlation"] >= 0.9 for row in own)
        cells = "  ".join(f"{key} {value:.4g}" for key, value in middle.items())
        print(f"median of {len(own)}: {program}: {cells}  correlation of at least 0.9: {good} of {len(own)}")
    (HERE / "results").mkdir(exist_ok=True)
    record = to_json({"set": star.name, "rows": rows}, indent=1)
    write_atomic(HERE / "results" / "cryoem_unknown_poses.json", record + "\n")


if __name__ == "__main__":
    main()
