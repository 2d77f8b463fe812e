"""The same implausible particle sets given to `sciml cryoem reconstruct` and to `relion_reconstruct`: who says a word?

    python benchmarks/implausible_sets.py [KIND ...]

Every kind of the tests' table (`tests/unit/sciml_cryoem/files/test_plausible.py`) changes columns of one simulated
set. Both programs reconstruct it as whole processes. A program *refuses* where it ends with an error, *names* the fault
where it prints a warning (RELION: a line with "warning" or "error"; sciml: a finding above a note in its JSON), and is
*silent* otherwise. Resolutions are those of RELION's map against the truth, 0.5 of the Fourier shell correlation,
beside that of the unchanged set: what the silence costs. Without `relion_reconstruct` its columns stay empty. Writes
benchmarks/results/implausible_sets.json.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sciml_cryoem.files.mrc import read_map
from sciml_cryoem.files.star import write_star
from sciml_cryoem.maps.fsc import fsc, resolution
from sciml_cryoem.maps.masks import soft_sphere

from sciml.runs.files import to_json, write_atomic

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tests.unit.sciml_cryoem.files.test_plausible import CORRECT, IMPLAUSIBLE, PIXEL, make_set, tables_of  # noqa: E402

SCIML = Path(sys.executable).with_name("sciml")


def by_sciml(star: Path, out: Path) -> str:
    """What `sciml cryoem reconstruct` does: "refused", "named (severity)" or "silent"."""
    command = [SCIML, "cryoem", "reconstruct", star, "--out", out, "--json", "--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        return "refused"
    findings = json.loads(done.stdout.strip().splitlines()[-1])["findings"]
    worst = [severity for severity in ("severe", "warning") if any(f["severity"] == severity for f in findings)]
    return f"named ({worst[0]})" if worst else "silent"


def by_relion(star: Path, truth: Path) -> tuple[str, float | None]:
    """What `relion_reconstruct` does, and the resolution of its map against the truth, Angstrom."""
    if shutil.which("relion_reconstruct") is None:
        return "", None
    out = star.with_name("relion.mrc")
    out.unlink(missing_ok=True)
    command = ["relion_reconstruct", "--i", star.name, "--o", out.name, "--ctf"]
    try:
        done = subprocess.run(command, cwd=star.parent, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return "no end in 2 minutes", None
    if done.returncode or not out.exists():
        return "refused", None
    words = (done.stdout + done.stderr).lower()
    named = "named" if "warning" in words or "error" in words else "silent"
    made, true = read_map(out), read_map(truth)
    mask = soft_sphere(len(true.array))
    return named, resolution(fsc(made.array * mask, true.array * mask), len(true.array), PIXEL, 0.5)


def main() -> None:
    """Run all kinds and print the table."""
    kinds = {"(nothing wrong)": (CORRECT["as simulated"], ""), **IMPLAUSIBLE}
    asked = sys.argv[1:] or list(kinds)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = make_set(Path(name))
        print(f"{'kind':<42} {'sciml':<18} {'RELION':<22} {'its map, A':>10}")
        for kind in asked:
            change, _ = kinds[kind]
            star = write_star(folder / "changed.star", change(*tables_of(folder)))
            relion, reached = by_relion(star, folder / "truth.mrc")
            rows.append(
                {"kind": kind, "sciml": by_sciml(star, folder / "out"), "relion": relion, "relion_fsc_05": reached}
            )
            print(
                f"{kind:<42} {rows[-1]['sciml']:<18} {relion:<22} {'' if reached is None else f'{reached:.1f}':>10}",
                flush=True,
            )
    wrong = [row for row in rows if row["kind"] in IMPLAUSIBLE]
    for program in ("sciml", "relion"):
        said = sum(row[program] not in ("silent", "") for row in wrong)
        print(f"{program}: a word on {said} of {len(wrong)} kinds.")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    write_atomic(results / "implausible_sets.json", to_json({"rows": rows}).encode())


if __name__ == "__main__":
    main()
