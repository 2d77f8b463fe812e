"""`sciml rod ...` from the inside: exit codes, the JSON object, the files, resuming."""

import json
from pathlib import Path

import pytest

from sciml.command_line import main as cli
from sciml.runs.run import Run


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict, str]:
    code = cli.main(["rod", *words, "--json"])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


@pytest.mark.rounding
def test_solve_reaches_the_bar_and_writes_everything(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, answer, _ = run(capsys, "solve", "--form", "energy", "--case", "bimaterial", "--out", str(out))
    assert (code, answer["result"]) == (0, "CONVERGED")
    assert answer["relative_l2"] < 1e-5
    assert answer["held_out_balance"] < 1e-3
    assert {"loss", "evaluations", "seconds", "switch", "held_out_gap", "warnings"} <= answer.keys()
    assert {"phase", "step", "reason", "snr", "batch"} <= answer["switch"][0].keys()
    for name in ("experiment.json", "summary.json", "solution.csv", "report.html", "figures/solution.png",
                 "figures/checks.png", "stages/energy/metrics.jsonl"):  # fmt: skip
        assert (out / name).stat().st_size > 0, name
    header, *rows = (out / "solution.csv").read_text(encoding="utf-8").splitlines()
    assert header == "x_m,displacement_m,reference_displacement_m,force_n,reference_force_n"
    x, u, exact, force, _ = (float(value) for value in rows[-1].split(","))
    assert len(rows) == 500
    assert u == pytest.approx(exact, rel=1e-5)
    assert force == pytest.approx(11 - 10 * x, rel=1e-3)


@pytest.mark.rounding
def test_without_the_interface_it_warns_names_the_place_and_exits_with_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("solve", "--case", "bimaterial", "--no-interface", "--seconds", "2", "--out", str(tmp_path / "run"))
    code, answer, errors = run(capsys, *words)
    assert code == 3
    assert answer["result"] != "CONVERGED"
    assert "x = 0.5 m, where EA jumps from 1 N to 10 N" in errors
    assert "not in equilibrium" in errors
    assert answer["relative_l2"] > 0.3
    assert answer["held_out_balance"] > 0.3
    assert len(answer["warnings"]) == 2


def test_a_converged_solve_out_of_equilibrium_is_no_success(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciml_rod.commands.UNBALANCED", 1e-12)
    words = ("solve", "--form", "energy", "--case", "bimaterial", "--out", str(tmp_path / "run"))
    code, answer, errors = run(capsys, *words)
    assert (code, answer["result"]) == (3, "HELD_OUT_FAILED")
    assert "not in equilibrium" in errors


def test_a_finished_run_answers_again_without_solving(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("solve", "--form", "energy", "--case", "bimaterial", "--out", str(tmp_path / "run"))
    _, first, _ = run(capsys, *words)
    _, second, _ = run(capsys, *words)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert Run.open(tmp_path / "run").finished


def test_wrong_options_exit_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert cli.main(["rod", "solve", "--form", "weak", "--no-interface", "--out", out]) == 2
    assert "no interface condition to leave out: weak form, case smooth" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["rod", "solve", "--case", "rough", "--out", out]) == 2
    assert cli.main(["rod", "bend"]) == 2
    assert cli.main(["rod", "solve"]) == 2


@pytest.mark.slow
def test_variance_writes_table_and_figure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ("variance", "--quick", "--batches", "12", "--steps", "40", "--out", str(out))
    code, answer, _ = run(capsys, *words)
    assert code == 0
    keys = {"case", "form", "sampling", "state", "relative_l2", "relative_variance", "ratio_to_strong", "ci_low",
            "ci_high", "seed"}  # fmt: skip
    assert all(keys <= row.keys() for row in answer["rows"])
    assert {row["form"] for row in answer["rows"]} == {"strong", "energy", "weak sines", "weak hats"}
    assert {row["seed"] for row in answer["rows"]} == {0}
    assert len((out / "variance.csv").read_text(encoding="utf-8").splitlines()) == len(answer["rows"]) + 1
    assert len(answer["summary"]) == len(answer["rows"])  # one seed
    assert json.loads((out / "variance.json").read_text(encoding="utf-8"))["rows"] == answer["rows"]
    assert len((out / "descent_summary.csv").read_text(encoding="utf-8").splitlines()) == len(answer["descent"]) + 1
    assert len(answer["verdict"]["sentences"]) == 9 + 3  # estimators that are not strong; claims about SGD
    for name in ("ratios", "variance", "descent", "steps"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
