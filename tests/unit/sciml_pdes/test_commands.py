"""`sciml pde ...` from the inside: exit codes, the JSON object, the files; and two equations solved to six digits."""

import json
from pathlib import Path

import pytest
from sciml_pdes import CATALOG, make

import sciml
from sciml.command_line import main as cli


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict, str]:
    code = cli.main(["pde", *words, "--json"])
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    return code, json.loads(lines[-1]) if lines else {}, captured.err


def test_list_names_every_equation(capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = run(capsys, "list")
    assert code == 0
    assert [row["name"] for row in answer["pdes"]] == list(CATALOG)
    assert cli.main(["pde", "list"]) == 0
    assert "u_t + 40 u_x = 0" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["poisson_1d", "heat", "wave"])
def test_a_solve_without_time_exits_with_3_and_writes_everything(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, answer, errors = run(capsys, "solve", name, "--seconds", "0.3", "--seed", "1", "--out", str(out))
    assert (code, answer["result"]) == (3, "MAX_STEPS")
    assert "did not converge" in errors
    assert {"relative_l2", "loss", "evaluations", "seconds", "switch", "held_out_residual"} <= answer.keys()
    assert {"phase", "step", "reason", "snr", "batch"} <= answer["switch"][0].keys()
    assert 0 < answer["relative_l2"] < 10
    for file in ("experiment.json", "summary.json", "report.html", "figures/solution.png",
                 f"stages/{name}/metrics.jsonl"):  # fmt: skip
        assert (out / file).stat().st_size > 0, file
    assert json.loads((out / "experiment.json").read_text(encoding="utf-8"))["options"]["seed"] == 1


def test_converged_between_its_points_only_is_no_success(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciml_pdes.commands.UNSOLVED", 1e-14)
    monkeypatch.setattr("sciml_pdes.equations.poisson.Poisson1D.tolerance", 1e-2)
    code, answer, errors = run(capsys, "solve", "poisson_1d", "--out", str(tmp_path / "run"))
    assert (code, answer["result"]) == (3, "HELD_OUT_FAILED")
    assert "held-out points" in errors
    assert len(answer["warnings"]) == 1


def test_without_a_time_it_ends_when_more_work_no_longer_pays(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[sciml.GaussNewton] = []

    def quick(problem, model, phases, **options):  # type: ignore[no-untyped-def]
        asked.extend(phases)
        options["budget"] = sciml.Budget(evaluations=5)
        return solve(problem, model, phases, **options)

    solve = sciml.solve
    monkeypatch.setattr("sciml.solve", quick)
    run(capsys, "solve", "heat", "--out", str(tmp_path / "open"))
    run(capsys, "solve", "heat", "--seconds", "9", "--out", str(tmp_path / "timed"))
    assert [phase.payoff for phase in asked] == [2.0, None]


def test_the_payoff_of_twice_the_iterations_is_asked_for_where_it_is_given() -> None:
    problem = make("heat")
    problem.points = 600

    def end(payoff: float | None) -> dict:
        phase = sciml.GaussNewton(payoff=payoff, patience=5, check=5, steps=40)
        return sciml.solve(problem, problem.model(0), [phase], seed=0).switch[0]

    early, late = end(1e30), end(None)  # more than any work brings: the end comes as soon as it may
    assert early["step"] == 20
    assert "twice the iterations" in early["reason"]
    assert late["step"] == 40
    assert end(1.5)["step"] == 40  # twice the iterations bring more than that here
    with pytest.raises(sciml.InputError, match="a factor above 1"):
        sciml.GaussNewton(payoff=0.5)


def test_a_switch_asks_for_adam_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("solve", "poisson_1d", "--switch", "30", "--seconds", "2", "--out", str(tmp_path / "run"))
    first, second = run(capsys, *words)[1]["switch"]
    assert (first["phase"], first["step"], second["phase"]) == ("Adam", 30, "GaussNewton")


def test_wrong_options_exit_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["pde", "solve", "poisson_3d", "--out", str(tmp_path / "run")]) == 2
    assert "'poisson_3d': choose one of poisson_1d" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert cli.main(["pde", "draw"]) == 2
    assert cli.main(["pde", "solve", "heat"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisson_1d", "poisson_2d"])
def test_poisson_is_solved_to_six_digits(name: str) -> None:
    problem = make(name)
    solution = sciml.solve(problem, problem.model(0), problem.phases(), seed=0)
    assert solution.result is sciml.Result.CONVERGED
    assert problem.evaluate(solution.model)["relative_l2"] < 1e-6
