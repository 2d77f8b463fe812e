"""The figures of the variance study. Rows are those of `variance.summarize` and `descent`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml_rod.figures import MARK, blank, plain, save
from sciml_rod.noise_study.descent import DIVERGED, EXACT
from sciml_rod.noise_study.estimators import EVALUATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]

COLORS = {"strong": "#1f4e8c", "energy": "#c2410c", "weak sines": "#7a2d8c", "weak hats": "#2f6f4f"}
MARKERS = {"strong": "o", "energy": "s", "weak sines": "^", "weak hats": "v"}
GROUPS = {
    "points drawn uniformly": ("points uniform", "points, two halves"),
    "points drawn stratified": ("points stratified",),
    "items with their own quadrature": ("cells", "cells stratified", "test functions", "test functions stratified"),
}
LINES = {"points, two halves": ":", "cells stratified": ":", "test functions stratified": ":"}


def draw_ratios(path: Path, summary: Sequence[Row]) -> Path:
    """One field per estimator, bar and state: how many times noisier than the strong form it is.

    Args:
        path: the PNG to write.
        summary: rows across seeds.
    """
    from matplotlib.colors import SymLogNorm

    estimators = list(dict.fromkeys((r["form"], r["sampling"]) for r in summary if r["form"] != "strong"))
    columns = list(dict.fromkeys((r["case"], r["state"]) for r in summary))
    table = {(r["form"], r["sampling"], r["case"], r["state"]): r for r in summary}
    figure = blank(4.4 + 0.82 * len(columns), 1.9 + 0.4 * len(estimators))
    axes = figure.add_subplot()
    values = np.array([[np.log10(table[(*e, *c)]["ratio_to_strong"]) for c in columns] for e in estimators])
    image = axes.imshow(values, cmap="RdBu_r", norm=SymLogNorm(1, vmin=-16, vmax=16), aspect="auto")
    for i, estimator in enumerate(estimators):
        for j, column in enumerate(columns):
            row = table[(*estimator, *column)]
            sure = row["compared"] in ("lower", "higher")
            color = "white" if abs(values[i, j]) > 3 else "black"
            text = factor(row["ratio_to_strong"]) if sure else f"({factor(row['ratio_to_strong'])})"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color)
    errors = {c: next(r["relative_l2"] for r in summary if (r["case"], r["state"]) == c) for c in columns}
    axes.set_xticks(range(len(columns)), [f"{state}\n{errors[case, state]:.0e}" for case, state in columns], fontsize=8)
    axes.set_yticks(range(len(estimators)), [f"{form}: {sampling}" for form, sampling in estimators], fontsize=9)
    for case in dict.fromkeys(case for case, _ in columns):
        own = [j for j, column in enumerate(columns) if column[0] == case]
        axes.text(float(np.mean(own)), -0.62, f"{case} bar", ha="center", va="bottom", fontsize=10, weight="bold")
        if own[0]:
            axes.axvline(own[0] - 0.5, color="white", linewidth=4)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("state of the training, with the relative L² error of the displacement there")
    figure.suptitle("Gradient variance relative to the strong form: × noisier (red), ÷ less noisy (blue)", fontsize=11)
    bar = figure.colorbar(image, ax=axes, ticks=[-8, -1, 0, 1, 8], shrink=0.9, pad=0.01)
    bar.ax.set_yticklabels(["÷ 10⁸", "÷ 10", "equal", "× 10", "× 10⁸"], fontsize=8)
    return save(figure, path)


def factor(ratio: float) -> str:
    """`× 120`, `÷ 3.4`, `× 2e7`."""
    sign, size = ("×", ratio) if ratio >= 1 else ("÷", 1 / ratio)
    if size < 999.5:
        return f"{sign} {size:.0f}" if size >= 9.95 else f"{sign} {size:.2g}"
    digits, exponent = f"{size:.0e}".split("e")
    return f"{sign} {digits}e{int(exponent)}"


def draw_variance(path: Path, summary: Sequence[Row]) -> Path:
    """Relative variance at the states of the training: a row of panels per way of drawing, a column per bar.

    Args:
        path: the PNG to write.
        summary: rows across seeds: lines are medians, bands reach from the smallest to the largest seed.
    """
    cases = list(dict.fromkeys(row["case"] for row in summary))
    figure = blank(3.4 * len(cases) + 2.6, 7.6)
    panels = figure.subplots(len(GROUPS), len(cases), sharey=True, squeeze=False)
    for (title, samplings), line in zip(GROUPS.items(), panels, strict=True):
        base = samplings[0] if samplings[0].startswith("points") else "points uniform"
        for axes, case in zip(line, cases, strict=True):
            own = [row for row in summary if row["case"] == case]
            pairs = [(r["form"], r["sampling"]) for r in own if r["sampling"] in samplings and r["form"] != "strong"]
            for form, sampling in dict.fromkeys([("strong", base), *pairs]):
                _variance_line(axes, [r for r in own if (r["form"], r["sampling"]) == (form, sampling)])
            axes.axhline(1.0, color=MARK, linestyle="--", linewidth=1)
            axes.set_yscale("log")
            states = {row["state"]: row["relative_l2"] for row in own}
            axes.set_xticks(range(len(states)), [f"{state}\n{error:.0e}" for state, error in states.items()])
            axes.set_title(f"{case} bar: {title}", fontsize=9)
            axes.tick_params(labelsize=8)
            plain(axes)
        line[0].set_ylabel("noise² / signal²")
        handles, labels = line[0].get_legend_handles_labels()
        line[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=8)
    text = (
        "state of the training, with the relative L² error of the displacement there; dashed: as much noise as signal"
    )
    figure.supxlabel(text, fontsize=10)
    return save(figure, path)


def _variance_line(axes: "Axes", rows: Sequence[Row]) -> None:
    form, sampling = rows[0]["form"], rows[0]["sampling"]
    place = range(len(rows))
    value, low, high = ([row[f"relative_variance{end}"] for row in rows] for end in ("", "_min", "_max"))
    axes.fill_between(place, low, high, color=COLORS[form], alpha=0.15, linewidth=0)
    axes.plot(
        place, value, MARKERS[form], linestyle=LINES.get(sampling, "-"), color=COLORS[form], markersize=4,
        linewidth=1.4, label=f"{form}: {sampling}",
    )  # fmt: skip


def draw_descent(path: Path, rows: Sequence[Row], every: int) -> Path:
    """Plain SGD at the largest stable step: the error against network evaluations, and the same with exact gradients.

    Args:
        path: the PNG to write.
        rows: of `descent.descend`, with curves.
        every: steps between two looks.
    """
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = blank(11.5, 3.5 * len(cases) + 0.4)
    panels = figure.subplots(len(cases), 3, sharey="row", squeeze=False)
    titles = ("stratified draws", "uniform draws", "exact gradient (no noise)")
    for line, case in zip(panels, cases, strict=True):
        own = [row for row in rows if row["case"] == case and row["fraction"] == 1.0]
        for axes, title in zip(line, titles, strict=True):
            chosen = [row for row in own if _panel(row["sampling"]) == title]
            for form, sampling in dict.fromkeys((row["form"], row["sampling"]) for row in chosen):
                _error_line(axes, [r for r in chosen if (r["form"], r["sampling"]) == (form, sampling)], every)
            axes.set_yscale("log")
            axes.set_title(f"{case} bar: {title}", fontsize=10)
            axes.legend(frameon=False, fontsize=7.5, loc="lower left")
            axes.set_xlim(left=0)
            plain(axes)
        line[0].set_ylabel("relative L² error of the displacement")
        line[0].set_ylim(top=3)
    for axes, title in zip(panels[-1], titles, strict=True):
        axes.set_xlabel("steps" if "exact" in title else f"steps of {EVALUATIONS} network evaluations")
    figure.suptitle("Plain SGD at the largest stable step of each form (median and range of the seeds)", fontsize=11)
    return save(figure, path)


def _panel(sampling: str) -> str:
    if sampling == EXACT:
        return "exact gradient (no noise)"
    return "stratified draws" if sampling.endswith("stratified") else "uniform draws"


def _error_line(axes: "Axes", rows: Sequence[Row], every: int) -> None:
    curves = np.array([row["curve"] for row in rows], dtype=float)
    curves = np.where(np.isfinite(curves), np.minimum(curves, DIVERGED), DIVERGED)
    steps = np.arange(curves.shape[1]) * every
    form, sampling = rows[0]["form"], rows[0]["sampling"]
    what = sampling.removesuffix(" stratified").removesuffix(" uniform")
    label = form if sampling == EXACT else f"{form}: {what}"
    style = "--" if what in ("cells", "test functions") else ":" if "halves" in what else "-"
    axes.fill_between(steps, curves.min(0), curves.max(0), color=COLORS[form], alpha=0.12, linewidth=0)
    axes.plot(steps, np.median(curves, 0), color=COLORS[form], linestyle=style, linewidth=1.3, label=label)


def draw_steps(path: Path, summary: Sequence[Row]) -> Path:
    """How much of its own noise-free stable step each estimator keeps.

    Args:
        path: the PNG to write.
        summary: of `descent.summarize`.
    """
    cases = list(dict.fromkeys(row["case"] for row in summary))
    full = [row for row in summary if row["fraction"] == 1.0 and row["sampling"] != EXACT]
    names = list(dict.fromkeys((row["form"], row["sampling"]) for row in full))
    figure = blank(3.6 * len(cases) + 2.4, 0.34 * len(names) + 1.5)
    for axes, case in zip(
        figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0], cases, strict=True
    ):
        for row in (row for row in full if row["case"] == case):
            place = names[::-1].index((row["form"], row["sampling"]))
            broken = row["diverged"] > 0
            axes.plot([1, row["step_kept"]], [place, place], color=COLORS[row["form"]], linewidth=2.5, alpha=0.35)
            face = "white" if broken else COLORS[row["form"]]
            axes.plot(row["step_kept"], place, MARKERS[row["form"]], color=COLORS[row["form"]], markerfacecolor=face)
        axes.axvline(1.0, color=MARK, linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:.0f}")
        axes.set_yticks(range(len(names)), [f"{form}: {sampling}" for form, sampling in names[::-1]], fontsize=9)
        axes.set_title(f"{case} bar", fontsize=10)
        axes.set_xlabel("largest stable step with noise\n/ without noise (open: diverged later)")
        plain(axes)
    return save(figure, path)
