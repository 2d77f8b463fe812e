"""Runs the numerical tests as other processors would and prints which of them change sides.

`python tests/portability.py` runs every test under every setting; `--quick` runs the tests marked `rounding` under
three. A test that passes on this machine must not owe that to how this machine rounds: other vector instructions,
another number of threads and initial parameters moved by 1e-12 stand for other machines. What one run of one seed does
after a few hundred steps is decided by such roundings, so a test says what most of several seeds do, or what holds on
every path. Claims about bits are for one machine and one seed, and hold under each setting by itself.

Exit code 0: no test changes sides; 1: some do; 2: the tests could not be run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PLAIN = "this machine as it is"
OLD = {
    "ATEN_CPU_CAPABILITY": "default",  # torch's loops without AVX
    "MKL_CBWR": "COMPATIBLE",  # torch's linear algebra with SSE2
    "NUMBA_CPU_NAME": "generic",  # compiled loops for the oldest 64-bit processor
    "OPENBLAS_CORETYPE": "Haswell",  # linear algebra of numpy and scipy
}
MOVED = {"SCIML_PERTURB": "1e-12"}
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}  # threads that spin keep busy cores from the others
QUICK = {
    "old processor": OLD,
    "initial parameters moved by 1e-12": MOVED,
    "two threads": THREADS,
}
FULL = {
    **QUICK,
    "torch without AVX": {"ATEN_CPU_CAPABILITY": "default"},
    "torch with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "linear algebra with SSE2": {"MKL_CBWR": "COMPATIBLE"},
    "initial parameters moved by 1e-11": {"SCIML_PERTURB": "1e-11"},
}
SET_HERE = {name for setting in FULL.values() for name in setting}


@dataclass
class Outcome:
    """One run of the tests: of each test the message of its failure, or None where it did not fail."""

    messages: dict[str, str | None]
    seconds: float

    @property
    def failed(self) -> set[str]:
        return {test for test, message in self.messages.items() if message is not None}


def run(setting: dict[str, str], words: list[str], processes: int) -> Outcome:
    """The tests that pytest's words choose, under these environment variables."""
    plain = {name: value for name, value in os.environ.items() if name not in SET_HERE}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), "-p", "no:cacheprovider"]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--junitxml", report, *words],
            cwd=ROOT,
            env={**plain, "OMP_NUM_THREADS": "1", **setting},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or not report.exists():
            print(done.stdout, file=sys.stderr)
            sys.exit(2)
        return Outcome(read(report), time.monotonic() - began)


def read(report: Path) -> dict[str, str | None]:
    """Of each test in a JUnit file the last line of what went wrong."""
    found: dict[str, str | None] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [part for part in case if part.tag in ("failure", "error")]
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = (wrong[0].get("message") or "failed").splitlines()[0] if wrong else None
    return found


def marked() -> list[str]:
    """The files with a test marked `rounding`: collecting them alone is quick."""
    files = Path(__file__).parent.rglob("test_*.py")
    return sorted(str(file) for file in files if "mark.rounding" in file.read_text(encoding="utf-8"))


def main() -> int:
    """Run, print the table, and say whether anything changed sides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the tests marked `rounding`, under three settings")
    parser.add_argument("--processes", type=int, default=2, help="of pytest (default: 2)")
    parser.add_argument(
        "--seeds", type=int, default=0, help="also with this many other seeds, to find tests of one seed"
    )
    parser.add_argument("words", nargs="*", help="after --: words for pytest, e.g. -- -k switch")
    options = parser.parse_args()
    settings = dict(QUICK if options.quick else FULL)
    settings |= {f"seeds shifted by {k}": {"SCIML_SEED_SHIFT": str(k)} for k in range(1, options.seeds + 1)}
    words = ["-m", "rounding", *marked()] if options.quick else ["-m", "not gpu and not relion"]
    words += options.words

    plain = run({}, words, options.processes)
    width = max(map(len, [PLAIN, *settings]))
    print(f"{'setting':<{width}}  tests  red  changed sides  seconds")
    print(
        f"{PLAIN:<{width}}  {len(plain.messages):5}  {len(plain.failed):3}  {'':13}  {plain.seconds:7.0f}", flush=True
    )
    changes: list[str] = []
    for name, setting in settings.items():
        found = run(setting, words, options.processes)
        changed = sorted(found.failed ^ plain.failed)
        changes += [
            f"{test}, {name}: {found.messages.get(test) or 'green, but red on this machine'}" for test in changed
        ]
        numbers = f"{len(found.messages):5}  {len(found.failed):3}  {len(changed):13}  {found.seconds:7.0f}"
        print(f"{name:<{width}}  {numbers}", flush=True)
    for change in changes:
        print(change)
    print(f"{len(changes)} changes of side." if changes else "No test changes sides.")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
