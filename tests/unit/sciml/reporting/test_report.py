"""The report page: self-contained, complete, and made from whatever a run left behind."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sciml.errors import InputError
from sciml.findings import Finding
from sciml.reporting import report
from sciml.reporting.optimisation_figure import optimisation_figure
from sciml.reporting.page import short, table
from sciml.runs.run import Run

MakeRun = Callable[..., Run]


class Outline(HTMLParser):
    """Collects what the page loads from elsewhere and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.sources += [value for name in ("src", "href") if (value := values.get(name))]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_one_run(watched_run: MakeRun, tmp_path: Path) -> None:
    run = watched_run()
    picture = Figure(figsize=(2, 1))
    picture.savefig(run.figure("displacement", "The displacement <u>."))
    text = report.render([run.path], tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.open == []
    assert len(outline.sources) == 2  # the problem's figure and the optimisation's
    assert all(source.startswith("data:image/png;base64,") for source in outline.sources)
    assert "<script" not in text
    assert "The displacement &lt;u&gt;." in text
    assert "Adam ended at step 450: its rate of progress fell" in text
    assert "sciml rod solve --form weak" in text
    assert "3.2e-07" in text


def test_the_answer_stands_before_the_figures_and_the_settings_after(watched_run: MakeRun, tmp_path: Path) -> None:
    text = report.render([watched_run().path], tmp_path / "report.html").read_text(encoding="utf-8")
    places = [
        text.index(word) for word in ("converged", "Adam ended", "<img", "Ends of phases", "Settings", "To reproduce")
    ]
    assert places == sorted(places)


def test_several_runs_and_a_folder_of_runs(watched_run: MakeRun, tmp_path: Path) -> None:
    first, second = watched_run("first"), watched_run("second", energy=True)
    named = report.render([first.path, second.path], tmp_path / "named.html").read_text(encoding="utf-8")
    folder = report.render([tmp_path], tmp_path / "folder.html").read_text(encoding="utf-8")
    for text in (named, folder):
        assert len(re.findall("<h2", text)) == 2
        assert {'href="#run0"', 'href="#run1"'} <= set(re.findall(r'href="#run\d"', text))
    assert "rod solve (second)" in named


def test_a_run_killed_early_is_reported(watched_run: MakeRun, tmp_path: Path) -> None:
    killed = watched_run("killed", finished=False)
    with killed.stage("weak").metrics.open("a") as file:
        file.write('{"kind": "st')
    text = report.render([killed.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "not finished" in text
    assert "has not ended" in text
    (killed.path / "provenance.json").unlink()
    empty = Run.create(tmp_path / "empty")
    assert report.render([killed.path, empty.path], tmp_path / "report.html").exists()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        report.render([tmp_path], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_lists_of_records_become_tables(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    rows = [{"form": form, "ratio_to_strong": ratio} for form, ratio in (("weak", 0.125), ("energy", None))]
    run.write_summary({"rows": rows, "curve": list(range(100))})
    text = report.render([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<th>form</th><th>ratio to strong</th>" in text
    assert '<td>weak</td><td class="number">0.125</td>' in text
    assert "100 values" in text


def test_figure_panels(watched_run: MakeRun) -> None:
    figure = optimisation_figure(watched_run().path / "stages" / "weak")
    loss, noise, sizes, _ = figure.axes
    assert [axes.get_yscale() for axes in (loss, noise, sizes)] == ["log"] * 3
    assert loss.get_shared_x_axes().joined(loss, sizes)
    assert {line.get_label() for line in loss.lines} >= {"loss", "relative $L^2$ error"}
    assert loss.get_xlim()[1] == pytest.approx(182.25 * 1.005)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("rate of progress" in text for text in texts)


def test_a_signal_not_seen_is_marked_not_hidden(watched_run: MakeRun) -> None:
    noise = optimisation_figure(watched_run().path / "stages" / "weak").axes[1]
    marks = [line for line in noise.lines if line.get_label() == "no signal seen"]
    assert len(marks) == 1
    assert len(np.asarray(marks[0].get_xdata())) == 3  # the synthetic SNR is negative three times


def test_a_negative_loss_is_drawn_above_its_lowest(watched_run: MakeRun) -> None:
    loss = optimisation_figure(watched_run("energy", energy=True).path / "stages" / "weak").axes[0]
    assert "loss above its lowest" in {line.get_label() for line in loss.lines}


def test_awkward_metrics_can_be_drawn() -> None:
    step = {"kind": "step", "phase": "LBFGS", "index": 0, "step": 1, "evaluations": 0.0, "loss": None}
    for records in ([], [step], [step, {**step, "evaluations": 1.0, "loss": 0.0}]):
        optimisation_figure(records).savefig("/dev/null", format="png")


def test_a_short_first_phase_stays_visible() -> None:
    first = [
        {"kind": "step", "phase": "Adam", "index": 0, "step": i, "evaluations": i / 50, "loss": 1.0} for i in range(50)
    ]
    second = [
        {"kind": "step", "phase": "LBFGS", "index": 1, "step": i, "evaluations": 1.0 + i, "loss": 0.1}
        for i in range(99)
    ]
    assert optimisation_figure(first + second).axes[0].get_xscale() == "log"


def test_a_notebook_shows_the_figure(watched_run: MakeRun) -> None:
    figure = optimisation_figure(watched_run().stage("weak").read_metrics())
    assert figure._repr_png_()[:4] == b"\x89PNG"  # type: ignore[attr-defined]


def test_page_pieces() -> None:
    assert (
        table([["a<b", 1.23456789e-7]])
        == '<div class="wide"><table><tr><th>a&lt;b</th><td class="number">1.235e-07</td></tr></table></div>'
    )
    assert [short(value) for value in (None, True, 12345, 0.5, [1, 2.0], {"a": 1})] == [
        "–",
        "yes",
        "12,345",
        "0.5",
        "1, 2",
        "a 1",
    ]


def test_resolution_over_the_steps_is_drawn_where_it_is_known(watched_run: MakeRun) -> None:
    records = watched_run().stage("weak").read_metrics()
    before = len(optimisation_figure(records).axes)
    steps = [record for record in records if record["kind"] == "step"][::50]
    found = [{**step, "kind": "evaluate", "values": {"resolution": 40.0 - 0.01 * step["step"]}} for step in steps]
    axes = optimisation_figure(records + found).axes
    assert len(axes) == before + 1
    panel = next(own for own in axes if "resolution" in own.get_ylabel())
    assert panel.yaxis_inverted()  # finer is higher
    assert panel.get_lines()[0].get_ydata() == pytest.approx([record["values"]["resolution"] for record in found])


def test_findings_stand_at_the_top_the_worst_first(watched_run: MakeRun, tmp_path: Path) -> None:
    run = watched_run(finished=False)
    findings = [
        Finding("Either hand is <possible>.", severity="note"),
        Finding("Defocus of 1.5 Angstrom.", "rlnDefocusU", "severe", "It looks like micrometres."),
    ]
    run.write_summary({"result": "CONVERGED", "findings": findings, "loss": 1.0})
    text = report.render([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("Either hand is &lt;possible&gt;.") == 1
    severe = text.index("SEVERE: rlnDefocusU: Defocus of 1.5 Angstrom. It looks like micrometres.")
    assert severe < text.index("Either hand") < text.index("<img")
    assert 'class="tile bad"' in text
    run.write_summary({"result": "CONVERGED", "findings": findings[:1], "loss": 1.0})
    assert 'class="tile bad"' not in report.render([run.path], tmp_path / "report.html").read_text(encoding="utf-8")
