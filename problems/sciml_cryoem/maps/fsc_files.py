"""FSC curves as files: the STAR table of `relion_postprocess`, and the XML that EMDB takes at deposition."""

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
from jaxtyping import Float

from sciml.runs.files import write_atomic
from sciml_cryoem.files.star import write_star
from sciml_cryoem.files.table import Table, make_table
from sciml_cryoem.maps.fsc import FSCCurves


def write_fsc_xml(
    path: str | Path, curve: Float[np.ndarray, " shells"], box: int, pixel_size: float, title: str = ""
) -> Path:
    """Write one curve in EMDB's form: frequency in 1/Angstrom against correlation.

    Raises:
        OSError: it cannot be written.
    """
    points = "".join(
        f"  <coordinate>\n    <x>{shell / (box * pixel_size):.6f}</x>\n    <y>{value:.6f}</y>\n  </coordinate>\n"
        for shell, value in enumerate(curve)
    )
    head = f'<fsc title={quoteattr(title)} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">'
    return write_atomic(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{head}\n{points}</fsc>\n')


def write_fsc_star(
    path: str | Path, curves: FSCCurves, general: Mapping[str, str] | None = None, guinier: Table | None = None
) -> Path:
    """Write all curves in the form of RELION's postprocess.star.

    Args:
        path: the file.
        curves: block `fsc`; its final resolution and where the phases were randomized go into the block `general`.
        general: more single values of that block, or others in place of these, as text that is quoted where it must be.
        guinier: the block `guinier`, if there is one.

    Raises:
        OSError: it cannot be written.
    """
    values = {
        "rlnFinalResolution": f"{curves.final_resolution:.6f}",
        "rlnRandomiseFrom": f"{_angstrom(curves, curves.randomized_from):.6f}",
        **(general or {}),
    }
    shells = range(len(curves.unmasked))
    columns = {
        "rlnSpectralIndex": [str(shell) for shell in shells],
        "rlnResolution": [f"{frequency:.6f}" for frequency in curves.frequencies],
        "rlnAngstromResolution": [f"{_angstrom(curves, shell):.6f}" for shell in shells],
        "rlnFourierShellCorrelationCorrected": curves.corrected,
        "rlnFourierShellCorrelationUnmaskedMaps": curves.unmasked,
        "rlnFourierShellCorrelationMaskedMaps": curves.masked,
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": curves.randomized,
    }
    texts = {k: v if isinstance(v, list) else [f"{value:.6f}" for value in v] for k, v in columns.items()}
    tables = [make_table("general", {k: [v] for k, v in values.items()}, loop=False), make_table("fsc", texts)]
    return write_star(path, tables if guinier is None else [*tables, guinier])


def _angstrom(curves: FSCCurves, shell: int) -> float:
    """RELION writes 999 for the infinite resolution of shell 0."""
    return curves.box * curves.pixel_size / shell if shell else 999.0
