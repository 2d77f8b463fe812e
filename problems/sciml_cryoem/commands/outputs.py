"""The files of a reconstruction, under the names that RELION's users and tools expect."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from sciml_cryoem.files.mrc import write_map
from sciml_cryoem.files.particle_set import Particles
from sciml_cryoem.files.star import write_star
from sciml_cryoem.files.table import Table, make_table
from sciml_cryoem.maps.fsc_files import write_fsc_xml
from sciml_cryoem.postprocessing.halves import HALF_MAPS
from sciml_cryoem.reconstruction.direct import Reconstruction
from sciml_cryoem.reconstruction.noise import NoiseModel
from sciml_cryoem.validation.uncertainty import Uncertainty

FULL_MAP = "run_class001.mrc"
OUTPUTS = (FULL_MAP, "run_std.mrc", *HALF_MAPS, "mask.mrc", "run_data.star", "run_model.star", "fsc.xml")
"""Names of all that `write_outputs` writes."""


def write_outputs(folder: Path, particles: Particles, result: Reconstruction, spread: Uncertainty) -> dict[str, Path]:
    """Write every map and table of a reconstruction; a file is either complete or absent.

    Returns:
        Name -> path: map, half1, half2, std, mask (unless there is none), data, model, fsc.

    Raises:
        OSError: a file cannot be written.
    """
    pixel_size = particles.pixel_size
    maps = {"map": (FULL_MAP, result.full), "std": ("run_std.mrc", spread.std)}
    maps |= {"half1": (HALF_MAPS[0], result.half1), "half2": (HALF_MAPS[1], result.half2)}
    if result.prior.mask is not None:
        maps["mask"] = ("mask.mrc", result.prior.mask)
    written = {name: write_map(folder / file, volume, pixel_size) for name, (file, volume) in maps.items()}
    written["data"] = write_star(folder / "run_data.star", data_tables(particles, result.half_sums.halves))
    written["model"] = write_star(folder / "run_model.star", model_tables(particles, result))
    curves = result.prior.curves
    title = "half maps, masked and corrected" if result.prior.mask is not None else "half maps, unmasked"
    written["fsc"] = write_fsc_xml(folder / "fsc.xml", curves.corrected, curves.box, pixel_size, title)
    return written


def data_tables(particles: Particles, halves: Int[np.ndarray, " particles"]) -> list[Table]:
    """The optics and particle tables of the input, every column kept as text, with the half sets that were used."""
    table = particles.table
    if particles.random_subset is None:
        table = table.with_column("rlnRandomSubset", [str(half) for half in halves])
    return [particles.optics, table]


def model_tables(particles: Particles, result: Reconstruction) -> list[Table]:
    """The blocks of RELION's model.star for a single reference: general, classes, class 1, noise of each group."""
    box, pixel_size, curves = particles.box, particles.pixel_size, result.prior.curves
    general = {
        "rlnReferenceDimensionality": "3",
        "rlnDataDimensionality": "2",
        "rlnOriginalImageSize": str(box),
        "rlnCurrentResolution": f"{curves.resolution():.6f}",
        "rlnCurrentImageSize": str(box),
        "rlnPaddingFactor": f"{result.half_sums.sums[0].padding:.6f}",
        "rlnPixelSize": f"{pixel_size:.6f}",
        "rlnNrClasses": "1",
        "rlnNrBodies": "1",
        "rlnNrGroups": "1",
        "rlnNormCorrectionAverage": "1.000000",
        "rlnSigmaOffsetsAngst": "0.000000",
        "rlnTau2FudgeFactor": "1.000000",
    }
    classes = {
        "rlnReferenceImage": FULL_MAP,
        "rlnClassDistribution": "1.000000",
        "rlnAccuracyRotations": "0.000000",
        "rlnAccuracyTranslationsAngst": "0.000000",
        "rlnEstimatedResolution": f"{curves.resolution():.6f}",
        "rlnOverallFourierCompleteness": f"{result.half_sums.coverage.completeness:.6f}",
    }
    tables = [
        make_table("model_general", {label: [value] for label, value in general.items()}, loop=False),
        make_table("model_classes", {label: [value] for label, value in classes.items()}),
        make_table("model_class_1", _shell_columns(result)),
    ]
    return tables + _noise_tables(particles, result.half_sums.noise)


def _shells(box: int, pixel_size: float) -> dict[str, list[str]]:
    """Shell number, 1/Angstrom, Angstrom (999 for the origin, as RELION has it)."""
    count = box // 2 + 1
    angstrom = [999.0, *(box * pixel_size / shell for shell in range(1, count))]
    return {
        "rlnSpectralIndex": [str(shell) for shell in range(count)],
        "rlnResolution": [f"{shell / (box * pixel_size):.6f}" for shell in range(count)],
        "rlnAngstromResolution": [f"{value:.6f}" for value in angstrom],
    }


def _shell_columns(result: Reconstruction) -> dict[str, list[str]]:
    """Signal and noise of the map by shell; variances are those of a Fourier voxel of the padded grid."""
    prior, half_sums = result.prior, result.half_sums
    full = 2.0 * prior.half_fsc / (1.0 + prior.half_fsc)
    columns = {
        "rlnSsnrMap": full / (1.0 - full),
        "rlnGoldStandardFsc": prior.curves.corrected,
        "rlnReferenceSigma2": 1.0 / np.maximum(half_sums.shell_weights(), 1e-30),
        "rlnReferenceTau2": 1.0 / prior.precision,
    }
    shells = _shells(half_sums.box, half_sums.pixel_size)
    return shells | {label: _numbers(values) for label, values in columns.items()}


def _noise_tables(particles: Particles, noise: NoiseModel) -> list[Table]:
    """Noise power of each optics group, per pixel as RELION counts it: E|F|^2 / (2 n^4)."""
    shells = _shells(particles.box, particles.pixel_size)
    shells.pop("rlnAngstromResolution")
    scale = 2.0 * float(particles.box) ** 4
    return [
        make_table(f"model_optics_group_{number}", shells | {"rlnSigma2Noise": _numbers(power / scale)})
        for number, power in zip(np.unique(particles.optics_group), noise.power, strict=True)
    ]


def _numbers(values: Float[np.ndarray, " shells"]) -> list[str]:
    return [f"{value:.6g}" for value in values]
