"""The main job on small data: the rod in its forms, how noisy their gradients are, densities with and without poses.

The demo runs the other commands as a person at the terminal would, and imports no problem.
"""

import contextlib
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sciml import distributed
from sciml.command_line import console
from sciml.command_line.console import Main
from sciml.command_line.devices import Device
from sciml.errors import InputError
from sciml.runs.run import Run

BUNDLED = Path(__file__).resolve().parents[2] / "data" / "particles" / "particles.star"
MODEL = Path(__file__).resolve().parents[1] / "demo_model.cif"

SECONDS = 40
"""The most that one solve may take, so that the demo stays short on a slow machine."""

ENOUGH = 1e-4
"""A solve that ran out of time still counts as done if its relative L2 error, which the table shows, is below this."""

COLUMNS = {
    "part": "part",
    "result": "result",
    "relative_l2": "L2 error",
    "resolution_0143": "resolution (A)",
    "loss": "loss",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Options:
    """The main job on small data: the rod in its forms and a density from particles, in one report."""

    out: Path
    """Folder for the runs and report.html."""
    seed: int = 0
    """Seed of everything random."""
    device: Device = "auto"
    """Where to compute."""
    overwrite: bool = False
    """Repeat what an earlier demo in the folder already did."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass(frozen=True)
class Part:
    """One command of the demo.

    Attributes:
        name: of its folder.
        title: what to call it.
        words: the command after `sciml`, less `--out`.
    """

    name: str
    title: str
    words: tuple[str, ...]


def parts(options: Options) -> list[Part]:
    """The commands that the demo runs, in order."""
    common = ("--seed", str(options.seed), "--device", options.device)
    found = [
        Part(f"rod-{form}", f"rod, {form} form", ("rod", "solve", "--form", form, "--seconds", str(SECONDS), *common))
        for form in ("strong", "weak", "energy")
    ]
    found.append(Part("rod-variance", "gradient variance of the forms", ("rod", "variance", "--quick", *common)))
    star = BUNDLED
    if not star.exists():
        star = options.out / "particles" / "particles.star"
        words = ("cryoem", "simulate", str(MODEL), "--number", "600", "--pixel", "3.5", *common)
        found.append(Part("particles", "simulated particles", words))
    found.append(Part("density", "density from particles", ("cryoem", "reconstruct", str(star), *common)))
    found.append(Part("start", "start map, poses unknown", ("cryoem", "abinitio", str(star), *common)))
    reference = str(options.out / "start" / "run_class001.mrc")
    words = ("cryoem", "refine", str(star), "--reference", reference, *common)
    found.append(Part("refined", "refined from that start", words))
    return found


def run(options: Options, main: Main) -> int:
    """Run all parts, then write one report. A part that is finished already is repeated only with `overwrite`.

    Args:
        options: the options of the command.
        main: serves the command of a part.

    Returns:
        0 when every part succeeded (or ran out of time with an error below `ENOUGH`), otherwise the exit code of the
        first that did not.
    """
    begin = time.monotonic()
    whole = Run.create(options.out, options=asdict(options), overwrite=options.overwrite)
    todo = parts(options)
    rows = []
    codes = []
    for number, part in enumerate(todo, 1):
        console.say(f"[{number}/{len(todo)}] {part.title} ...")
        code, seconds = _serve(part, options, main)
        distributed.barrier()  # its files are there: the next part may read them
        row = _row(part, options.out / part.name, code, seconds)
        code = console.DONE if _good_enough(row) else code
        console.say(f"      {_outcome(row)}")
        rows.append(row)
        codes.append(code)
    distributed.followers_leave()
    failed = [code for code in codes if code]
    summary = {
        "result": "FAILED" if failed else "CONVERGED",
        "seconds": time.monotonic() - begin,
        "rows": rows,
    }
    whole.write_summary(summary)
    page = _report(options.out)
    if options.json:
        console.print_json(summary)
    else:
        _print_table(rows)
        print(f"\n{summary['seconds']:.0f} s in all. Report: {page}")
    return failed[0] if failed else console.DONE


def _serve(part: Part, options: Options, main: Main) -> tuple[int, float]:
    """Run one part in this process, so that torch is imported once. What it prints is not shown."""
    folder = options.out / part.name
    earlier = distributed.led(lambda: _earlier(folder, options.overwrite))
    if earlier is not None:
        return earlier, 0.0
    begin = time.monotonic()
    with _silent():
        try:
            code = main([*part.words, "--out", str(folder)])
        except Exception:  # a fault in one part must not hide the others
            traceback.print_exc()
            code = 1
    if code == console.INTERRUPTED:
        raise KeyboardInterrupt
    return code, time.monotonic() - begin


def _earlier(folder: Path, overwrite: bool) -> int | None:
    """The exit code of a part that is finished already, else None. A part to be repeated is removed."""
    if not (folder / "experiment.json").exists():
        return None
    if overwrite:
        shutil.rmtree(folder)
        return None
    return _code_of(Run.open(folder).summary) if Run.open(folder).finished else None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as sink, contextlib.redirect_stdout(sink):
        yield


def _code_of(summary: dict[str, Any]) -> int:
    return console.DONE if summary.get("result") in (None, "CONVERGED") else console.NOT_CONVERGED


def _row(part: Part, folder: Path, code: int, seconds: float) -> dict[str, Any]:
    try:
        summary = Run.open(folder).summary
    except InputError:
        summary = {}
    known = {name: summary.get(name) for name in ("relative_l2", "resolution_0143", "loss")}
    result = summary.get("result") or ("DONE" if code == console.DONE else f"exit {code}")
    return {"part": part.title, "result": result, **known, "seconds": summary.get("seconds") or seconds}


def _good_enough(row: dict[str, Any]) -> bool:
    """Whether a solve ended only because its time was up, with an error that is small already."""
    error = row["relative_l2"]
    return row["result"] == "MAX_STEPS" and error is not None and error <= ENOUGH


def _outcome(row: dict[str, Any]) -> str:
    numbers = [
        f"{COLUMNS[name]} {row[name]:.3g}" for name in ("relative_l2", "resolution_0143") if row[name] is not None
    ]
    return ", ".join([str(row["result"]).replace("_", " ").lower(), *numbers, f"{row['seconds']:.1f} s"])


def _report(out: Path) -> Path:
    from sciml.reporting import report

    return report.render([out], out / "report.html")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name, title in COLUMNS.items():
        table.add_column(title, justify="left" if name in ("part", "result") else "right")
    for row in rows:
        cells = [
            "" if row[name] is None else f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name])
            for name in COLUMNS
        ]
        table.add_row(*cells)
    Console(file=sys.stdout).print(table)
