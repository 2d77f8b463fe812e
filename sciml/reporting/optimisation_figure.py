"""A solve in one figure: loss and error, the gradient's signal-to-noise ratio and what it makes stochastic steps worth,
items used, and resolution if there is one.

The horizontal axis counts loss-and-gradient evaluations per item, the unit in which Adam and a quasi-Newton method can
be compared. Phases are shaded. Their ends are numbered, and the reasons stand below.
"""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml.runs.stage import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = dict[str, Any]

SHADES = ("#dbe8f8", "#fdecd2", "#dff1df", "#f3e1f0", "#ececec")
LOSS, ERROR, SNR, BATCH, SET, CRITICAL = "#1f4e8c", "#c2410c", "#7a2d8c", "#2f6f4f", "#111111", "#b08900"
RESOLUTION, WORTH, CEILING = "#0f7a8a", "#8a3b12", "#9a9a9a"
MOST_POINTS = 4000
REASON_WIDTH = 112


@dataclass(frozen=True)
class _Trace:
    """The records of one stage, by kind. A span is (phase, first evaluations, last evaluations)."""

    steps: list[Record]
    noise: list[Record]
    errors: list[Record]
    resolutions: list[Record]
    switches: list[Record]
    spans: list[tuple[str, float, float]]


def optimisation_figure(source: "str | Path | Sequence[Record]") -> "Figure":
    """Draw the metrics of one solve.

    Args:
        source: the stage's folder, which holds metrics.jsonl, or the records themselves (`solution.history`).

    Returns:
        A figure that belongs to no window; `figure.savefig(path)` writes it, and a notebook shows it.
    """
    records = read_metrics(Path(source) / "metrics.jsonl") if isinstance(source, str | Path) else source
    trace = _trace(records)
    reasons = _reasons(trace.switches)
    sized = any(step.get("batch") for step in trace.steps)
    panels = [_draw_loss]
    panels += [_draw_noise] if trace.noise else []
    panels += [_draw_worth] if any(record.get("worth") is not None for record in trace.noise) else []
    panels += [_draw_sizes] if sized else []
    panels += [_draw_resolution] if trace.resolutions else []
    heights = [HEIGHTS[panel.__name__] for panel in panels]
    heights += [0.19 * reasons.count("\n") + 0.3] if reasons else []
    figure = _shown_figure()(figsize=(8.6, sum(heights) + 0.7), layout="constrained")
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    axes = [figure.add_subplot(grid[0])]
    axes += [figure.add_subplot(grid[row], sharex=axes[0]) for row in range(1, len(panels))]
    for panel, own in zip(panels, axes, strict=True):
        panel(own, trace)
    _finish_axes(axes, trace)
    if reasons:
        notes = figure.add_subplot(grid[-1])
        notes.axis("off")
        text = notes.text(-0.05, 1, reasons, va="top", ha="left", fontsize=9, transform=notes.transAxes)
        text.set_in_layout(False)  # a long reason must not narrow the panels
    return figure


def _shown_figure() -> "type[Figure]":
    """A figure that a notebook shows by itself, which otherwise only figures of pyplot, with its global state, are."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

    return ShownFigure


def _trace(records: Sequence[Record]) -> _Trace:
    by_kind: dict[str, list[Record]] = {"step": [], "noise": [], "evaluate": [], "switch": []}
    for record in records:
        if record.get("kind") in by_kind and isinstance(record.get("evaluations"), int | float):
            by_kind[record["kind"]].append(record)
    spans: dict[int, tuple[str, float, float]] = {}
    for step in by_kind["step"]:
        index, at = int(step.get("index", 0)), float(step["evaluations"])
        name, first, last = spans.get(index, (str(step.get("phase", "")), at, at))
        spans[index] = (name, min(first, at), max(last, at))
    errors = [record for record in by_kind["evaluate"] if "relative_l2" in (record.get("values") or {})]
    resolutions = [record for record in by_kind["evaluate"] if "resolution" in (record.get("values") or {})]
    order = [spans[index] for index in sorted(spans)]
    return _Trace(by_kind["step"], by_kind["noise"], errors, resolutions, by_kind["switch"], order)


def _draw_loss(axes: "Axes", trace: _Trace) -> None:
    at, loss = _column(trace.steps, "evaluations"), _column(trace.steps, "loss")
    label = "loss"
    if np.nanmin(loss, initial=np.inf) <= 0:  # an energy: only its distance to the lowest can be shown in decades
        last = _column([step for step in trace.steps if step.get("index") == trace.steps[-1].get("index")], "loss")
        loss, label = loss - np.nanmin(last), "loss above its lowest"
    loss = np.where(loss > 0, loss, np.nan)
    index = _column(trace.steps, "index")
    for phase in np.unique(index):
        own = index == phase
        noisy = own.sum() > 400 and np.nanstd(np.diff(np.log(loss[own]))) > 0.1
        x, y = _thin(at[own]), _thin(loss[own])
        axes.plot(x, y, color=LOSS, lw=0.7 if noisy else 1.4, alpha=0.35 if noisy else 1.0)
        if noisy:
            axes.plot(*_smooth(at[own], loss[own]), color=LOSS, lw=1.6)
    axes.plot([], [], color=LOSS, lw=1.6, label=label)
    if trace.errors:
        values = np.array([record["values"]["relative_l2"] for record in trace.errors], dtype=float)
        axes.plot(
            _column(trace.errors, "evaluations"), values, "o-", color=ERROR, ms=3, lw=1.2, label="relative $L^2$ error"
        )
    axes.set_yscale("log")
    axes.set_ylabel("loss and error" if trace.errors else label)


def _draw_noise(axes: "Axes", trace: _Trace) -> None:
    noise = trace.noise
    at, snr = _column(noise, "evaluations"), _column(noise, "snr")
    low, high = _column(noise, "snr_low"), _column(noise, "snr_high")
    known = snr[snr > 0]
    floor = 10.0 ** np.floor(np.log10(max(min(known.min(initial=1.0), 1.0), 1e-3)))
    axes.fill_between(
        at, np.maximum(low, floor), np.maximum(high, floor), color=SNR, alpha=0.2, lw=0, label="95 % interval"
    )
    axes.plot(at, np.where(snr > 0, snr, np.nan), color=SNR, lw=1.4, label="gradient SNR")
    drowned = snr <= 0
    if drowned.any():
        axes.plot(
            at[drowned], np.full(drowned.sum(), floor), "v", color=SNR, ms=4, label="no signal seen", clip_on=False
        )
    axes.axhline(1.0, color="#888888", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.set_ylabel("signal / noise")


def _draw_worth(axes: "Axes", trace: _Trace) -> None:
    """E, with what it must fall below for the default rule to hand over (`sciml.watching.worth`)."""
    noise = trace.noise
    at, batch, size = _column(noise, "evaluations"), _column(noise, "batch"), _column(trace.steps, "set")
    value, low, high = (_column(noise, name) for name in ("worth", "worth_low", "worth_high"))
    ceiling = np.interp(at, _column(trace.steps, "evaluations"), size) / batch
    axes.fill_between(at, low, high, color=WORTH, alpha=0.2, lw=0)
    axes.plot(at, value, color=WORTH, lw=1.4, label="worth E of a gradient's steps, 95 %")
    axes.plot(at, ceiling, color=CEILING, lw=1.0, ls="--", label="if all were signal: N / B")
    known = [switch["details"] for switch in trace.switches if "worth" in (switch.get("details") or {})]
    enough = next((details["threshold"] for details in known if details.get("threshold")), None)
    if enough:
        axes.axhline(enough, color="#111111", lw=0.9, ls=":", label=f"A = {enough:g}: below it, hand over")
    axes.set_ylim(0, 1.4 * max(np.nanmax(ceiling), enough or 0.0))  # room for the legend
    axes.set_ylabel("full-batch steps")


def _draw_sizes(axes: "Axes", trace: _Trace) -> None:
    at = _column(trace.steps, "evaluations")
    for name, color, style in (("batch", BATCH, "-"), ("set", SET, "--")):
        values = _column(trace.steps, name)
        if np.isfinite(values).any():
            axes.plot(_thin(at), _thin(values), style, color=color, lw=1.3, label=name, drawstyle="steps-post")
    critical = _column(trace.noise, "critical_batch")
    critical = np.where(critical > 0, critical, np.nan)
    if np.isfinite(critical).any():
        axes.plot(_column(trace.noise, "evaluations"), critical, color=CRITICAL, lw=1.0, label="critical batch")
    axes.set_yscale("log")
    axes.set_ylabel("items")


def _draw_resolution(axes: "Axes", trace: _Trace) -> None:
    at = _column(trace.resolutions, "evaluations")
    values = np.array([record["values"]["resolution"] for record in trace.resolutions], dtype=float)
    axes.plot(at, values, "o-", color=RESOLUTION, ms=3, lw=1.3, label="resolution used", drawstyle="steps-post")
    axes.invert_yaxis()  # finer is higher
    axes.set_ylabel("resolution (Å)")


HEIGHTS = {"_draw_loss": 3.0, "_draw_noise": 1.7, "_draw_worth": 1.7, "_draw_sizes": 1.4, "_draw_resolution": 1.4}
"""Of the panels, inches."""


def _finish_axes(axes: "list[Axes]", trace: _Trace) -> None:
    """Phases, ends of phases, limits, legends: the same on every panel."""
    from matplotlib.patches import Patch

    end = max((last for _, _, last in trace.spans), default=1.0)
    starts = [first for _, first, _ in trace.spans]
    for panel in axes:
        for number, begin in enumerate(starts):
            stop = starts[number + 1] if number + 1 < len(starts) else end
            panel.axvspan(begin, stop, color=SHADES[number % len(SHADES)], lw=0, zorder=0)
        for switch in trace.switches:
            panel.axvline(float(switch["evaluations"]), color="#444444", lw=0.9, ls="--")
        panel.grid(True, which="major", color="white", lw=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for number, switch in enumerate(trace.switches, 1):
        place = (float(switch["evaluations"]), 1.01)
        transform = axes[0].get_xaxis_transform()
        axes[0].text(*place, str(number), transform=transform, ha="center", va="bottom", fontsize=9, weight="bold")
    phases = [Patch(color=SHADES[number % len(SHADES)], label=name) for number, (name, _, _) in enumerate(trace.spans)]
    for place, panel in enumerate(axes):
        handles = panel.get_legend_handles_labels()[0] + (phases if place == 0 else [])
        corner = "lower right" if panel.yaxis_inverted() else "upper right"
        panel.legend(handles=handles, fontsize=8, loc=corner, framealpha=0.9, ncols=2 if place == 0 else 3)
        if place < len(axes) - 1:
            panel.tick_params(labelbottom=False)
    axes[-1].set_xlabel("loss-and-gradient evaluations per item")
    if len(starts) > 1 and end > 0 and starts[1] < 0.04 * end:  # a short first phase would vanish on a linear axis
        positive = [float(step["evaluations"]) for step in trace.steps if float(step["evaluations"]) > 0]
        axes[0].set_xscale("log")
        axes[0].set_xlim(min(positive), end)
    elif end > 0:
        axes[0].set_xlim(0, end * 1.005)


def _reasons(switches: list[Record]) -> str:
    lines: list[str] = []
    for number, switch in enumerate(switches, 1):
        text = f"{switch.get('phase')} ended at step {switch.get('step')}: {switch.get('reason')}"
        first, *rest = textwrap.wrap(text, REASON_WIDTH) or [""]
        lines += [f"{number}   {first}", *(f"     {line}" for line in rest)]
    return "".join(line + "\n" for line in lines)


def _column(records: list[Record], name: str) -> np.ndarray:
    """One field as numbers; NaN where it is missing or was not finite."""
    return np.array([np.nan if record.get(name) is None else record[name] for record in records], dtype=float)


def _thin(values: np.ndarray) -> np.ndarray:
    """Every k-th value: more points than pixels only make the file large."""
    return values[:: max(1, len(values) // MOST_POINTS)]


def _smooth(at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians over eighty windows of equal length: what a noisy batch loss does on the whole."""
    parts = [part for part in np.array_split(np.arange(len(at)), 80) if len(part)]
    return np.array([at[part].mean() for part in parts]), np.array([np.nanmedian(values[part]) for part in parts])
