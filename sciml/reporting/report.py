"""`report.html`: one self-contained page about one or several runs, made from their folders alone."""

import io
import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sciml.errors import InputError
from sciml.findings import Finding, by_severity, worst
from sciml.reporting.optimisation_figure import optimisation_figure
from sciml.reporting.page import GENERATOR, Markup, element, figure, fold, page, short, table
from sciml.runs.files import keep_ledger, write_atomic
from sciml.runs.manifest import Manifest, inside
from sciml.runs.run import Run
from sciml.runs.stage import read_metrics

LABELS = {
    "relative_l2": "relative L² error",
    "resolution_0143": "resolution in Å (half maps, FSC 0.143)",
    "resolution_05": "resolution in Å (FSC 0.5)",
    "resolution": "resolution used, in Å",
    "pixel_size": "pixel size in Å",
    "peak_rss_mb": "peak memory in MB",
    "evaluations": "evaluations per item",
}
SHORT_LABELS = {"relative_l2": "L² error", "resolution_0143": "resolution (Å)", "resolution_05": "FSC 0.5 (Å)"}
HEADLINE = (
    "result",
    "relative_l2",
    "resolution_0143",
    "resolution_05",
    "resolution",
    "loss",
    "particles",
    "evaluations",
    "seconds",
)
MOST_ROWS = 60

__all__ = ["optimisation_figure", "render"]


def render(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page.

    What a run lacks is left out: figures, or all that comes late in a run that was killed early.

    Args:
        run_dirs: run directories in the order of the page. A folder of run directories stands for all of them.
        out: the page; its folder is made if missing.

    Returns:
        The path of the page.

    Raises:
        InputError: a folder is missing or holds no run, or the page exists and is not one of this program.
        OSError: the page cannot be written.
    """
    runs = [Run.open(path) for directory in run_dirs for path in _expand(Path(directory))]
    names = _names(runs)
    if len(runs) == 1:
        title = names[0]
        body = element("h1", title) + _run(runs[0])
    else:
        title = f"{len(runs)} runs"
        if len(run_dirs) == 1:  # a folder of runs: called by its own command if it has one
            own = runs[-1].path == Path(run_dirs[0])
            title = f"sciml {names[-1]}" if own else f"{title} in {Path(run_dirs[0]).resolve().name}"
        body = element("h1", title) + _overview(runs, names)
        for number, (run, name) in enumerate(zip(runs, names, strict=True)):
            body += element("h2", name, id=f"run{number}") + _run(run)
    target = Path(out)
    if target.exists() and GENERATOR.encode() not in target.read_bytes()[:500]:
        raise InputError(f"{target} exists and is no report of this program. Move it away, or name another with --out.")
    _enter_in_manifest(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_atomic(target, page(title, body).encode("utf-8", "backslashreplace"))


def _enter_in_manifest(target: Path) -> None:
    """Let the run in whose folder the page will lie list it, if there is one.

    Raises:
        InputError: the page there was changed since it was written.
    """
    manifest = Manifest.read(target.parent)
    if manifest is None:
        return
    if manifest.edited([target.name]):
        raise InputError(f"{target} was changed since it was written. Move it away, or name another page with --out.")
    keep_ledger(target.parent, manifest)


def _expand(directory: Path) -> list[Path]:
    """The runs in the subfolders, oldest first, then the run in the folder itself, which is about all of them."""
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder.")
    inner = [file.parent for file in directory.glob("*/experiment.json")]
    inner.sort(key=lambda path: (path / "experiment.json").stat().st_mtime)
    own = [directory] if (directory / "experiment.json").exists() else []
    if not own and not inner:
        raise InputError(f"{directory} is not a run directory: it has no experiment.json.")
    return inner + own


def _names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its command up to the first flag, or else its folder."""
    names = []
    for run in runs:
        words = []
        for word in run.command:
            if word.startswith("-"):
                break
            words.append(Path(word).name)
        names.append(" ".join(words) or run.path.resolve().name)
    return [
        f"{name} ({run.path.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def _overview(runs: Sequence[Run], names: Sequence[str]) -> str:
    summaries = [run.summary for run in runs]
    keys = [key for key in HEADLINE if any(key in summary for summary in summaries)]
    rows = []
    for number, (name, summary) in enumerate(zip(names, summaries, strict=True)):
        link = Markup(f'<a href="#run{number}">{escape(name)}</a>')
        rows.append([link, *("" if key not in summary else _state(summary[key]) for key in keys)])
    return table(rows, ["run", *(SHORT_LABELS.get(key, key) for key in keys)])


def _run(run: Run) -> str:
    """All about one run, the answer first."""
    stages = {path.name: read_metrics(path / "metrics.jsonl") for path in run.stage_paths()}
    summary = run.summary
    parts = [_headline(summary), _findings(summary), _switch_sentences(summary, stages), _figures(run)]
    for path in run.stage_paths():
        parts.append(_stage(path, stages[path.name], named=len(stages) > 1))
    parts += [_switch_table(stages), _numbers(summary), _settings(run), _provenance(run), _reproduce(run)]
    return "\n".join(part for part in parts if part)


def _headline(summary: dict[str, Any]) -> str:
    if not summary:
        return element("p", "This run is not finished: it has no summary yet.", kind="soft")
    tiles = ""
    trusted = summary.get("result") == "CONVERGED" and worst(_read_findings(summary)) != "severe"
    for key in HEADLINE:
        if summary.get(key) is not None:
            kind = "tile" if key != "result" else "tile good" if trusted else "tile bad"
            tiles += f'<div class="{kind}"><b>{escape(_state(summary[key]))}</b>{element("span", _label(key))}</div>'
    return f'<div class="tiles">{tiles}</div>'


def _read_findings(summary: dict[str, Any]) -> list[Finding]:
    entries = summary.get("findings")
    return [Finding.from_record(entry) for entry in entries] if isinstance(entries, list) else []


def _findings(summary: dict[str, Any]) -> str:
    """What a reader of only the top of the page should know, the worst first."""
    return "".join(
        element("p", str(finding), kind=f"finding {finding.severity}")
        for finding in by_severity(_read_findings(summary))
    )


def _switch_sentences(summary: dict[str, Any], stages: dict[str, list[dict[str, Any]]]) -> str:
    """Sentences that tell when each phase ended and why."""
    found = [(name, record) for name, records in stages.items() for record in _of_kind(records, "switch")]
    if not found:
        found = [("", record) for record in summary.get("switch") or [] if isinstance(record, dict)]
    sentences = []
    for name, record in found[:12]:
        where = f"{name}: " if len(stages) > 1 else ""
        reason = str(record.get("reason", "no reason was recorded")).rstrip(".")
        sentence = f"{where}{record.get('phase')} ended at step {record.get('step')}: {reason}."
        sentences.append(element("li", sentence))
    return f'<ul class="why">{"".join(sentences)}</ul>' if sentences else ""


def _figures(run: Run) -> str:
    parts = ""
    files = [file for file in (run.path / "figures").glob("*.png") if inside(run.path, file)]
    for file in sorted(files, key=lambda file: (file.stat().st_mtime, file.name)):  # as the command drew them
        caption = file.with_suffix(".txt")
        known = caption.exists() and inside(run.path, caption)
        text = caption.read_text(encoding="utf-8", errors="replace").strip() if known else file.stem.replace("_", " ")
        parts += figure(file.read_bytes(), text)
    return parts


def _stage(path: Path, records: list[dict[str, Any]], named: bool) -> str:
    steps = _of_kind(records, "step")
    if not steps:
        return ""
    buffer = io.BytesIO()
    optimisation_figure(path).savefig(buffer, format="png", dpi=130)
    caption = (
        "How the optimisation went, against its cost. Shades are phases; a dashed line is the end of one, numbered. "
        "Where the signal-to-noise ratio of the gradient falls below 1 (dotted), a step is mostly noise."
    )
    title = element("h3", f"Optimisation: {path.name}" if named else "Optimisation")
    return title + figure(buffer.getvalue(), caption) + _terms(steps[-1]) + _ending(records)


def _terms(step: dict[str, Any]) -> str:
    terms = step.get("terms") or {}
    return table(terms.items(), ["loss term", "last value"]) if len(terms) > 1 else ""


def _ending(records: list[dict[str, Any]]) -> str:
    ends = _of_kind(records, "end")
    if not ends:
        return element("p", "This solve has not ended yet.", kind="soft")
    end = ends[-1]
    text = f"Ended as {_state(end.get('result'))} at loss {short(end.get('loss'))}"
    text += f" after {short(end.get('evaluations'))} evaluations per item, {short(end.get('seconds'))} s."
    return element("p", text, kind="soft")


def _switch_table(stages: dict[str, list[dict[str, Any]]]) -> str:
    rows = []
    for name, records in stages.items():
        for record in _of_kind(records, "switch"):
            cells = [record.get(key) for key in ("phase", "step", "evaluations", "reason", "snr", "batch", "set")]
            details = table((record.get("details") or {}).items())
            rows.append([name, *cells, Markup(fold("numbers", details)) if record.get("details") else ""])
    if not rows:
        return ""
    head = ["stage", "phase", "step", "evaluations", "reason", "SNR", "batch", "set", "details"]
    return element("h3", "Ends of phases") + table(rows, head)


def _numbers(summary: dict[str, Any]) -> str:
    """All of the summary: single values in one table, lists of records in tables of their own."""
    others = {key: value for key, value in summary.items() if key not in ("findings", "switch")}
    plain = [(_label(key), value) for key, value in others.items() if not _is_table(value)]
    parts = fold("All numbers", table(plain)) if plain else ""
    for key, value in others.items():
        if _is_table(value):
            parts += element("h3", _label(key)) + _records(value)
    return parts


def _records(rows: list[dict[str, Any]]) -> str:
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = ([_state(row.get(name, "")) for name in head] for row in rows[:MOST_ROWS])
    text = table(cells, [SHORT_LABELS.get(name, _label(name)) for name in head])
    more = f"The first {MOST_ROWS} of {len(rows)} rows." if len(rows) > MOST_ROWS else ""
    return text + (element("p", more, kind="soft") if more else "")


def _settings(run: Run) -> str:
    options = run.experiment.get("options") or {}
    return fold("Settings", table(options.items())) if options else ""


def _provenance(run: Run) -> str:
    return fold("Provenance", table(_flat(run.provenance))) if run.provenance else ""


def _reproduce(run: Run) -> str:
    if not run.command:
        return ""
    return element("h3", "To reproduce") + element("pre", shlex.join(["sciml", *run.command]))


def _flat(record: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        elif name == "resumed" and isinstance(value, list):
            yield "resumed", [item.get("time") for item in value if isinstance(item, dict)]
        else:
            yield prefix + name, value


def _of_kind(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record.get("kind") == kind]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _label(key: str) -> str:
    return LABELS.get(key, key.replace("_", " "))


def _state(value: Any) -> str:
    """A value as the page shows it. Names of results lose their capitals."""
    return value.replace("_", " ").lower() if isinstance(value, str) and value.isupper() else short(value)
