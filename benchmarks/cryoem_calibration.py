"""Is the error bar of a map right? Deviation of (map - truth) / run_std over simulated particle sets with known poses.

    python benchmarks/cryoem_calibration.py [PARTICLES.star TRUTH.mrc] [--seeds N]

The deviation should be 1. Columns: inside 0.40 box with `--mask sphere`, its part within 0.20 box, its outer part;
then with an automatic mask where the mask is above one half, where it is below, and everywhere inside 0.40 box. Where
an automatic mask has nothing to take away, map and truth are both 0 and the error bar is what the images cannot
exclude: there the deviation is small, and rightly. Medians over the seeds of the simulation. Writes
benchmarks/results/cryoem_calibration.json.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.particles import read_particles
from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
from sciml_cryoem.reconstruction.direct import reconstruct
from sciml_cryoem.simulation.flaws import Flaws
from sciml_cryoem.simulation.model_density import read_density
from sciml_cryoem.simulation.simulate import Simulation, scale_to_snr, write_particles
from sciml_cryoem.validation.uncertainty import uncertainty

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "data" / "model.cif"
COLUMNS = ("sphere", "inner", "outer", "in the mask", "beside it", "both")


def beads(box: int, extent: tuple[float, float, float], copies: int = 1) -> np.ndarray:
    """Sixty Gaussian beads at random in an ellipsoid of these half axes (voxels), repeated about z."""
    draw = np.random.default_rng(1)
    direction = draw.normal(size=(60, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    places = direction * draw.random((60, 1)) ** (1 / 3) * extent
    line = np.arange(box) - box // 2
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    density = np.zeros((box,) * 3)
    for turn in 2 * np.pi * np.arange(copies) / copies:
        c, s = np.cos(turn), np.sin(turn)
        for a, b, k in places + ((0.0, 0.0, 0.0) if copies == 1 else (0.25 * box, 0.0, 0.0)):
            density += np.exp(-((x - c * a + s * b) ** 2 + (y - s * a - c * b) ** 2 + (z - k) ** 2) / 2.5)
    return density.astype(np.float32)


def family() -> Iterator[tuple[str, Simulation, np.ndarray]]:
    """Name, simulation and density of each set."""
    plain = Simulation(number=800, box=64, pixel_size=3.5, snr=0.1)
    model = read_density(MODEL, 64, 3.5, 50.0)
    for snr in (0.1, 0.02, 0.005, 1.0, 100.0):
        yield f"800 images, SNR {snr:g}", dataclasses.replace(plain, snr=snr), model
    odd = dataclasses.replace(plain, box=51, pixel_size=4.4)
    yield "odd box 51", odd, read_density(MODEL, 51, 4.4, 50.0)
    small = dataclasses.replace(plain, box=100)
    yield "small particle, box 100", small, read_density(MODEL, 100, 3.5, 50.0)
    flawed = {
        "half of the images with three times the noise": Flaws(noise=(1.0, 3.0)),
        "two optics groups, coloured noise": Flaws(noise=(1.0, 1.4), noise_color=(4.0, 12.0)),
        "80 % of views within 30 degrees": Flaws(preferred=0.8),
        "all views within 40 degrees": Flaws(preferred=1.0, cone_deg=40.0),
    }
    for name, flaws in flawed.items():
        yield name, dataclasses.replace(plain, flaws=flaws), model
    yield "beads in a rod", plain, beads(64, (6.0, 6.0, 22.0))
    yield "beads in a ball", plain, beads(64, (15.0, 15.0, 15.0))
    yield "four balls in a ring", plain, beads(64, (5.0, 5.0, 9.0), copies=4)


def scores(star: Path, truth: Path) -> list[float]:
    """The deviations of COLUMNS."""
    particles, density = read_particles(star), read_map(truth).array
    line = (np.arange(len(density)) - len(density) // 2) / len(density)
    radius = np.sqrt(line[:, None, None] ** 2 + line[:, None] ** 2 + line**2)
    inside, found = radius < 0.4, []
    for name in ("sphere", "auto"):
        result = reconstruct(particles, ReconstructOptions(mask=name))
        z, mask = (result.full - density) / uncertainty(result).std, result.prior.mask
        assert mask is not None
        regions = {
            "sphere": [inside, radius < 0.2, inside & (radius >= 0.2)],
            "auto": [inside & (mask > 0.5), inside & (mask <= 0.5), inside],
        }
        found += [float(z[region].std()) if region.any() else float("nan") for region in regions[name]]
    return found


def simulated(seeds: int) -> Iterator[tuple[str, list[list[float]]]]:
    """Name and one row of deviations a seed, set by set."""
    for name, simulation, density in family():
        rows = []
        for seed in range(seeds):
            drawn = dataclasses.replace(simulation, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                write_particles(drawn, scale_to_snr(drawn, density), Path(folder))
                rows.append(scores(Path(folder) / "particles.star", Path(folder) / "truth.mrc"))
        yield name, rows


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("particles", type=Path, nargs="?")
    parser.add_argument("truth", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    if options.particles is None or options.truth is None:
        sets = simulated(options.seeds)
    else:
        sets = iter([(options.particles.stem, [scores(options.particles, options.truth)])])
    print(f"{'':<48}" + "".join(f"{column:>12}" for column in COLUMNS))
    record = []
    for name, rows in sets:
        medians = np.median(rows, axis=0)
        print(f"{name:<48}" + "".join(f"{value:12.2f}" for value in medians), flush=True)
        record.append(
            {"set": name, "seeds": len(rows), **dict(zip(COLUMNS, medians.tolist(), strict=True)), "rows": rows}
        )
    (HERE / "results").mkdir(exist_ok=True)
    write_atomic(HERE / "results" / "cryoem_calibration.json", to_json(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
