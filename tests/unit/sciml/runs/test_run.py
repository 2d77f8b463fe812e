"""Run directories: what is recorded, what is refused, and what survives a crash."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sciml.errors import InputError
from sciml.runs.files import atomic_path, read_json, to_json, write_atomic
from sciml.runs.run import CommandLine, Run, served
from sciml.runs.stage import read_metrics


@dataclasses.dataclass(frozen=True)
class Options:
    out: Path
    form: str = "weak"
    seed: int = 0
    json: bool = False


def test_experiment_and_provenance_are_recorded(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "deep" / "run", command=["rod", "solve"], options=Options(tmp_path, seed=3))
    experiment = json.loads((run.path / "experiment.json").read_text(encoding="utf-8"))
    assert experiment["command"] == ["rod", "solve"]
    assert experiment["options"]["seed"] == 3
    provenance = json.loads((run.path / "provenance.json").read_text(encoding="utf-8"))
    assert provenance["versions"]["numpy"] == np.__version__
    assert not run.resumed
    assert not run.finished


def test_same_experiment_resumes_whatever_the_order_of_its_flags(tmp_path: Path) -> None:
    Run.create(tmp_path, command=["rod", "solve", "--seed", "1", "--form", "weak"], options=Options(tmp_path, seed=1))
    again = Run.create(
        tmp_path, command=["rod", "solve", "--form=weak", "--seed=1"], options=Options(Path("other"), seed=1)
    )
    assert again.resumed
    assert len(json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"))["resumed"]) == 1
    assert again.command[2] == "--form=weak" or read_json(tmp_path / "experiment.json")["command"][2] == "--seed"


def test_presentation_does_not_decide_the_result(tmp_path: Path) -> None:
    Run.create(tmp_path, command=["rod", "solve"], options=Options(tmp_path))
    assert Run.create(tmp_path, command=["rod", "solve", "--json"], options=Options(tmp_path, json=True)).resumed


@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        (["rod", "solve"], {"seed": 1}, "seed: 0 there, 1 now"),
        (["rod", "variance"], {"seed": 0}, "rod solve"),
        (["rod", "solve"], {"seed": 0, "form": "weak"}, "form"),
    ],
)
def test_another_experiment_is_refused_and_named(tmp_path: Path, command: list[str], options: dict, named: str) -> None:
    Run.create(tmp_path, command=["rod", "solve"], options={"seed": 0})
    with pytest.raises(InputError, match=named):
        Run.create(tmp_path, command=command, options=options)
    assert read_json(tmp_path / "experiment.json")["options"] == {"seed": 0}


def test_a_positional_word_may_stand_anywhere(tmp_path: Path) -> None:
    options = {"particles": "p.star", "seed": 0}
    Run.create(tmp_path, command=["cryoem", "reconstruct", "p.star", "--seed", "0"], options=options)
    assert Run.create(tmp_path, command=["cryoem", "reconstruct", "--seed", "0", "p.star"], options=options).resumed


def test_overwrite_removes_the_outputs_and_nothing_else(tmp_path: Path) -> None:
    run = Run.create(tmp_path, options={"seed": 0})
    run.stage("solve").append_metrics([{"kind": "step"}])
    run.write_summary({"result": "CONVERGED"})
    (tmp_path / "notes.txt").write_text("mine")
    fresh = Run.create(tmp_path, options={"seed": 1}, overwrite=True)
    assert not fresh.finished
    assert not (tmp_path / "stages").exists()
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_served_words_are_recorded_in_place_of_guesses(tmp_path: Path) -> None:
    line = CommandLine(("rod", "solve", "--seed", "5"))
    token = served.set(line)
    try:
        run = Run.create(tmp_path, command=["rod", "solve"], options={"seed": 5})
    finally:
        served.reset(token)
    assert run.command == ["rod", "solve", "--seed", "5"]
    assert line.run == tmp_path


def test_a_finished_run_says_so_and_an_interrupted_one_does_not(tmp_path: Path) -> None:
    run = Run.create(tmp_path, options={})
    run.write_summary({"result": "INTERRUPTED"})
    assert not Run.open(tmp_path).finished
    run.write_summary({"result": "MAX_STEPS"})
    assert Run.open(tmp_path).finished


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Run.open(tmp_path / "missing")
    with pytest.raises(InputError, match="not a run directory"):
        Run.open(tmp_path)
    (tmp_path / "experiment.json").write_text("{\n broken")
    with pytest.raises(InputError, match="line 2"):
        Run.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Run.create(tmp_path / "file")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_stage_names_are_folder_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="stage"):
        Run.create(tmp_path).stage(name)


def test_stages_are_listed_in_the_order_they_began(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    names = ["weak", "strong", "energy"]
    for name in names:
        run.stage(name)
    run.stage("weak").append_metrics([{"kind": "step"}])
    assert [path.name for path in Run.open(tmp_path).stage_paths()] == names


def test_metrics_are_truncated_to_the_checkpoint(tmp_path: Path) -> None:
    stage = Run.create(tmp_path).stage("solve")
    stage.append_metrics([{"step": 1}, {"step": 2}])
    offset = stage.metrics_offset()
    stage.append_metrics([{"step": 3}])
    stage.flush()
    again = Run.open(tmp_path).stage("solve")
    again.truncate_metrics(offset)
    again.append_metrics([{"step": 3, "resumed": True}])
    assert again.read_metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "resumed": True}]
    with pytest.raises(InputError, match="checkpoint saw 100000"):
        again.truncate_metrics(100_000)


def test_metrics_are_buffered(tmp_path: Path) -> None:
    stage = Run.create(tmp_path).stage("solve")
    stage.append_metrics([{"step": 1}])
    assert not stage.metrics.exists()
    stage.append_metrics({"step": step} for step in range(300))
    assert len(stage.metrics.read_text(encoding="utf-8").splitlines()) == 301


def test_a_torn_last_line_is_left_out_and_a_broken_line_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"ste')
    assert read_metrics(file) == [{"step": 1}]
    file.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2"):
        read_metrics(file)


def test_json_holds_no_nan_and_reads_back_exactly() -> None:
    value = {"a": np.float64(0.1), "b": [float("nan"), np.inf], "c": np.arange(3), "d": Path("x"), "e": np.int64(3)}
    assert json.loads(to_json(value)) == {"a": 0.1, "b": [None, None], "c": [0, 1, 2], "d": "x", "e": 3}
    with pytest.raises(TypeError, match="object"):
        to_json({"a": object()})


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "map.mrc"
    write_atomic(file, b"old")

    def fail() -> None:
        with atomic_path(file) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_atomic_files_keep_their_suffix_and_obey_the_umask(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "map.mrc") as temporary:
        assert temporary.suffix == ".mrc"
        temporary.write_bytes(b"x")
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert (tmp_path / "map.mrc").stat().st_mode == plain.stat().st_mode


def test_the_core_starts_without_torch() -> None:
    modules = "sciml.command_line.main, sciml.reporting.report, sciml.reporting.progress"
    code = f"import sys, {modules}; sciml.Run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_exported_name_can_be_loaded() -> None:
    import sciml

    missing = [name for name in sciml.__all__ if getattr(sciml, name, None) is None]
    assert missing == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sciml.nothing  # type: ignore[attr-defined]
