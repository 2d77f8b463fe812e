"""Gives the package what it must withstand, and prints a table: kind, how many were tried, how many were met rightly.

`python tests/torture.py` makes 100,000 files wrong, kills commands 100 times, and runs the tests of attacks and of
implausible inputs; `--files N --kills N` makes it shorter. Exit code 0: nothing wrong happened; 1: something did.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kills
from mutations import Tally, torment

from sciml.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SUITES = {
    "a received folder that attacks": ["tests/regression/test_trust.py"],
    "outputs of others, two processes, changed inputs": ["tests/regression/test_nothing_lost.py"],
    "problems that cannot be solved as they are": ["tests/unit/sciml/loop/test_probe.py"],
    "implausible particle sets and maps": ["tests/unit/sciml_cryoem/files/test_plausible.py"],
}
"""Tests with a case a parameter; each case is one thing tried."""


@dataclass(frozen=True)
class Reader:
    """What reads one kind of file.

    Attributes:
        kind: name of the row.
        file: that is made wrong.
        read: reads it.
        weight: share of the wrong files; small where reading takes long, as of a run whose report is drawn.
    """

    kind: str
    file: Path
    read: Callable[[], object]
    weight: float = 1.0


def wrong_files(folder: Path, count: int, seed: int) -> Iterator[Tally]:
    """Wrong files of every kind that is read, about `count` in all."""
    readers = [*_particle_readers(folder / "particles"), *_run_readers(folder / "run")]
    whole = sum(reader.weight for reader in readers)
    for number, reader in enumerate(readers):
        share = max(round(count * reader.weight / whole), 1)
        yield torment(reader.kind, reader.file, reader.read, share, seed + number)


def _particle_readers(folder: Path) -> list[Reader]:
    import numpy as np
    from sciml_cryoem.files.check import check_particles
    from sciml_cryoem.files.mrc import read_map, write_map
    from sciml_cryoem.files.particles import Source
    from sciml_cryoem.files.reference_map import read_reference

    words = ["--number", "12", "--box", "16", "--pixel", "14", "--out", str(folder)]
    command = [sys.executable, "-m", "sciml", "cryoem", "simulate", str(ROOT / "data/model.cif"), *words]
    subprocess.run(command, check=True, capture_output=True)
    write_map(folder / "map.mrc", np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32), 4.0)
    star, stack, volume = folder / "particles.star", folder / "particles.mrcs", folder / "map.mrc"

    def check() -> None:
        found = check_particles(Source(star), ("poses", "ctf", "halves"))
        if found.fatal:
            raise InputError("refused")

    def read_volume() -> None:
        read_map(volume)
        read_reference(volume, 16, 3.0)

    return [Reader("STAR file", star, check), Reader("stack", stack, check), Reader("map", volume, read_volume)]


def _run_readers(folder: Path) -> list[Reader]:
    from sciml.reporting import report
    from sciml.runs import checkpoint
    from sciml.runs.run import Run

    words = ["rod", "solve", "--form", "energy", "--seconds", "2", "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "sciml", *words], check=False, capture_output=True)
    saved = sorted(folder.rglob("*.safetensors"), key=lambda file: "checkpoints" not in file.parts)[0]
    sound = checkpoint.read(saved)

    def read_run() -> None:
        run = Run.open(folder)
        _ = (run.command, run.summary, run.finished)
        report.render([folder], folder / "report.html")

    def read_checkpoint() -> None:
        found = checkpoint.read(saved)
        if found is not None and (sound is None or repr(found) != repr(sound)):
            raise AssertionError("a checkpoint that was changed is taken for sound")

    names = ["experiment.json", "provenance.json", "summary.json", "manifest.json"]
    files = [*(folder / name for name in names), *folder.rglob("stage.json"), *folder.rglob("metrics.jsonl")]
    readers = [Reader(file.name, file, read_run, 0.01) for file in files if file.exists()]
    return [*readers, Reader("checkpoint", saved, read_checkpoint)]


def suites() -> Iterator[Tally]:
    """The tests whose cases are attacks or implausible inputs."""
    for kind, words in SUITES.items():
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder, "report.xml")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", str(table), *words]
            subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
            cases = list(ElementTree.parse(table).iter("testcase"))
        red = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
        yield Tally(kind, len(cases), len(cases) - len(red), [f"{kind}: {case.get('name')}" for case in red])


def main() -> int:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000, help="wrong files")
    parser.add_argument("--kills", type=int, default=100, help="killed commands")
    parser.add_argument("--seed", type=int, default=0, help="another one, other files and other moments")
    options = parser.parse_args()
    wrong: list[str] = []
    warnings.simplefilter("ignore")  # of wrong numbers that NumPy computes with
    print(f"{'kind':<52} {'tried':>7} {'refused or right':>17} {'wrong':>6} {'slowest':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for tally in _all(folder, options):
            wrong += tally.wrong
            slowest = f"{tally.slowest:.2f} s" if tally.slowest else ""
            numbers = f"{tally.tried:7,} {tally.refused:17,} {len(tally.wrong):6} {slowest:>9}"
            print(f"{tally.kind:<52} {numbers}", flush=True)
    for line in wrong:
        print(line)
    print(f"{len(wrong)} wrong." if wrong else "Nothing wrong.")
    return 1 if wrong else 0


def _all(folder: Path, options: argparse.Namespace) -> Iterator[Tally]:
    yield from wrong_files(folder, options.files, options.seed)
    if options.kills:
        yield from kills.torment(folder, options.kills, options.seed)
    yield from suites()


if __name__ == "__main__":
    sys.exit(main())
