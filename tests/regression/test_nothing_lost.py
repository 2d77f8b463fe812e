"""Nothing of anyone's is replaced or removed: foreign files, inputs, edited outputs, folders in use, changed inputs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sciml_cryoem.files.mrc import write_map

from sciml import Run
from sciml.command_line.main import main
from sciml.errors import InputError
from sciml.reporting.report import render
from sciml.runs import lock
from sciml.runs.beginning import Files
from sciml.runs.files import write_atomic
from sciml.runs.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set: STAR file, stack, and the map they are projections of."""
    folder = tmp_path_factory.mktemp("particles") / "set"
    words = ["--number", "60", "--box", "24", "--pixel", "9", "--snr", "1"]
    assert main(["cryoem", "simulate", str(ROOT / "data/model.cif"), *words, "--out", str(folder)]) == 0
    write_map(folder / "other.mrc", np.random.default_rng(0).standard_normal((24, 24, 24)).astype(np.float32), 9.0)
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _words(command: str, particles: Path, out: Path) -> list[str]:
    star, truth = str(particles / "particles.star"), str(particles / "truth.mrc")
    words = {
        "reconstruct": ["cryoem", "reconstruct", star],
        "abinitio": ["cryoem", "abinitio", star, "--diameter", "150"],
        "refine": ["cryoem", "refine", star, "--reference", truth],
        "simulate": ["cryoem", "simulate", truth, "--number", "5", "--box", "24", "--pixel", "9"],
        "postprocess": ["cryoem", "postprocess", truth, "--half2", str(particles / "other.mrc")],
        "fsc": ["cryoem", "fsc", truth, truth],
        "check": ["cryoem", "check", star],
        "rod": ["rod", "solve", "--seconds", "1"],
        "variance": ["rod", "variance", "--quick"],
        "pde": ["pde", "solve", "poisson_1d", "--seconds", "1"],
        "demo": ["demo"],
    }[command]
    return [*words, "--out", str(out)]


FOREIGN = [
    *[("reconstruct", name) for name in ("run_class001.mrc", "run_data.star", "fsc.xml", "report.html")],
    *[("reconstruct", name) for name in ("stages/x", "figures/x")],
    *[("abinitio", name) for name in ("run_class001.mrc", "run_data.star", "summary.json")],
    *[("refine", name) for name in ("run_data.star", "run_locres.mrc", "mask.mrc", "manifest.json")],
    *[("simulate", name) for name in ("particles.mrcs", "particles.star", "truth.mrc")],
    *[("postprocess", name) for name in ("postprocess.mrc", "deposition/x", "fsc.xml")],
    *[("fsc", "fsc.xml"), ("fsc", "fsc.png"), ("check", "check.json")],
    *[("rod", name) for name in ("solution.csv", "figures/solution.png", "report.html")],
    *[("variance", "variance.json"), ("demo", "report.html")],
    ("pde", "stages/solve/checkpoints/000000000001.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "name"), FOREIGN)
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_what_no_run_wrote_is_refused_before_anything_is_computed(
    command: str, name: str, more: list[str], particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if more and command in ("simulate", "fsc", "check"):
        pytest.skip("the command has no --overwrite")
    out = tmp_path / "job"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_bytes(b"of someone else")
    before = _contents(tmp_path)
    assert main([*_words(command, particles, out), *more]) == 2
    assert _contents(tmp_path) == before
    assert "Choose another" in (told := capsys.readouterr().err) or "damaged" in told or "not valid JSON" in told


@pytest.mark.parametrize("command", ["refine", "reconstruct", "abinitio"])
@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_no_output(command: str, link: bool, particles: Path, tmp_path: Path) -> None:
    """`refine job/run_data.star --out job`, also where the name is a link to it."""
    job = tmp_path / "job"
    job.mkdir()
    for file in ("particles.star", "particles.mrcs"):
        (tmp_path / file).write_bytes((particles / file).read_bytes())
    star = tmp_path / "particles.star"
    if link:
        (job / "run_data.star").symlink_to(star)
    else:
        (job / "run_data.star").write_bytes(star.read_bytes())
        (job / "particles.mrcs").write_bytes((particles / "particles.mrcs").read_bytes())
        star = job / "run_data.star"
    before = _contents(tmp_path)
    words = _words(command, particles, job)
    words[2] = str(star)
    assert main(words) == 2
    assert _contents(tmp_path) == before


def test_single_files_are_never_replaced(particles: Path, tmp_path: Path) -> None:
    truth = particles / "truth.mrc"
    victim = tmp_path / "victim.mrc"
    write_map(victim, np.ones((24, 24, 24), np.float32), 9.0)
    before = victim.read_bytes()
    assert main(["cryoem", "fsc", str(truth), str(truth), "--aligned", str(victim)]) == 2
    assert main(["cryoem", "fsc", str(truth), str(victim), "--aligned", str(victim)]) == 2
    assert victim.read_bytes() == before
    page = tmp_path / "page.html"
    page.write_text("<html>mine</html>", encoding="utf-8")
    assert main(["report", str(particles), "--out", str(page)]) == 2
    assert page.read_text(encoding="utf-8") == "<html>mine</html>"
    page.unlink()
    assert main(["report", str(particles), "--out", str(page)]) == 0
    assert main(["report", str(particles), "--out", str(page)]) == 0  # its own page it may replace


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(particles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = _words("reconstruct", particles, out)
    assert main(words) == 0
    written = set(_contents(out))
    listed = set(json.loads((out / "manifest.json").read_text(encoding="utf-8"))["files"])
    assert written == listed | {"manifest.json"}
    for name in ("notes.txt", "figures/mine.png", "stages/mine.txt"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"mine")
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert {name for name, content in _contents(out).items() if content == b"mine"} == {
        "notes.txt", "figures/mine.png", "stages/mine.txt",
    }  # fmt: skip
    (out / "mask.mrc").write_bytes(b"edited")
    before = _contents(out)
    assert main([*words, "--seed", "2", "--overwrite"]) == 2
    assert _contents(out) == before


def test_verify_names_what_is_missing_and_what_was_changed(
    particles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(_words("reconstruct", particles, out)) == 0
    assert main(["verify", str(out)]) == 0
    (out / "run_std.mrc").unlink()
    with (out / "run_class001.mrc").open("r+b") as file:
        file.seek(2000)
        file.write(b"\x01")
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 2
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["differences"] == ["run_class001.mrc was changed", "run_std.mrc is missing"]


HOLD = """
import sys, time
from sciml import Run
run = Run.create(sys.argv[1], command=["test"])
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_and_one_left_locked_is_taken_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"process {process.pid} on .* this is process {os.getpid()}"):
        Run.create(folder, command=["test"])
    process.kill()
    process.communicate()
    assert (folder / ".lock").exists()
    run = Run.create(folder, command=["test"])
    assert run.resumed
    assert f"process {process.pid}, which is gone" in capfd.readouterr().err
    again = Run.create(folder, command=["test"])  # the same process may
    assert again.resumed
    again.release()
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("content", ['{"host": "elsewhere", "pid": 1}', "", "null", '{"host": 3, "pid": "x"}'])
def test_a_lock_of_another_host_or_none_that_can_be_read_holds(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="delete"):
        Run.create(tmp_path, command=["test"])


def test_of_two_processes_that_take_over_one_wins(tmp_path: Path) -> None:
    """Both have read the same lock of a process that is gone; the slower one must see that it no longer stands."""
    file, gone = tmp_path / ".lock", {"host": "here", "pid": 1, "began": "0"}
    file.write_text(json.dumps(gone), encoding="utf-8")
    assert lock._take_over(file, gone, {"pid": 2})
    assert not lock._take_over(file, gone, {"pid": 3})
    assert json.loads(file.read_text(encoding="utf-8")) == {"pid": 2}


@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_an_output_that_was_edited_is_kept_and_named(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rod", "solve", "--seconds", "1", "--out", str(tmp_path / "out")]
    main(words)
    file = tmp_path / "out" / "solution.csv"
    file.write_bytes(b"mine")
    assert main([*words, *more]) == 2
    assert file.read_bytes() == b"mine" and "solution.csv" in capsys.readouterr().err


def test_an_edited_answer_of_a_command_without_a_run_is_kept(particles: Path, tmp_path: Path) -> None:
    words = _words("check", particles, tmp_path / "out")
    main(words)
    main(words)  # its own it may replace
    file = tmp_path / "out" / "check.json"
    file.write_bytes(b"mine")
    assert main(words) == 2
    assert file.read_bytes() == b"mine"


def test_a_kill_between_list_and_file_is_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list says what the file will be, and the file is still what it was."""
    run = Run.create(tmp_path / "run", command=["test"])
    file = run.path / "map.mrc"
    write_atomic(file, b"old")
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == file:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    for content in (b"new", b"newer"):
        with pytest.raises(KeyboardInterrupt):
            write_atomic(file, content)
    monkeypatch.undo()
    run.release()
    manifest = Manifest.read(run.path)
    assert manifest is not None and file.read_bytes() == b"old" and not manifest.edited()
    file.write_bytes(b"mine")
    assert manifest.edited() == ["map.mrc"]


def test_a_report_while_a_run_goes_on_does_not_stop_it(watched_run: Callable[..., Run]) -> None:
    """`sciml report DIR` in another terminal writes the page that the run will write at its end."""
    run = watched_run(finished=False)
    code = "import sys; from sciml.command_line.main import main; sys.exit(main(['report', sys.argv[1]]))"
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True, capture_output=True)
    write_atomic(run.path / "later.txt", "more")
    render([run.path], run.path / "report.html")
    manifest = Manifest.read(run.path)
    assert manifest is not None and {"report.html", "later.txt"} <= manifest.files.keys() and not manifest.differences()


@pytest.mark.parametrize("place", ["figures", "stages", "stages/solve/checkpoints", "solution.csv", "experiment.json"])
def test_nothing_is_written_through_a_link(place: str, tmp_path: Path) -> None:
    """A folder from elsewhere may hold links: what a run writes, and the checkpoints that it clears, stay in it."""
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    for name in ("000000000001.safetensors", "solution.png", "file"):
        (outside / name).write_bytes(b"mine")
    words = ["rod", "solve", "--seconds", "1"]
    Run.create(out, command=words, files=Files(outputs=("solution.csv",))).release()
    (out / place).parent.mkdir(parents=True, exist_ok=True)
    (out / place).unlink(missing_ok=True)
    (out / place).symlink_to(outside / "file" if "." in place else outside)
    before = _contents(outside)
    for more in ([], ["--overwrite"]):
        assert main([*words, *more, "--out", str(out)]) == 2
        assert _contents(outside) == before


@pytest.mark.parametrize("change", ["longer", "other bytes", "same bytes, later"])
def test_changed_inputs_are_noticed(change: str, tmp_path: Path) -> None:
    stack, folder = tmp_path / "stack.mrcs", tmp_path / "run"
    stack.write_bytes(bytes(5000))
    files = Files(inputs=[stack])
    Run.create(folder, command=["test"], files=files).release()
    if change == "same bytes, later":
        os.utime(stack, (1e9, 1e9))
        assert Run.create(folder, command=["test"], files=files).resumed
        return
    stack.write_bytes(bytes(6000) if change == "longer" else bytes(4999) + b"\x01")
    with pytest.raises(InputError, match="5000 bytes then and has 6000" if change == "longer" else "another content"):
        Run.create(folder, command=["test"], files=files)


KILLED_WRITE = """
import os, signal, sys
from sciml.runs.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("name", ["map.mrc", "figures/views.png", "stages/refine/checkpoints/step.safetensors"])
def test_what_a_killed_write_left_is_swept(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run.create(folder, command=["test"]).release()
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", KILLED_WRITE, str(target)], check=False)
    (left,) = target.parent.glob(f".{target.stem}.*")
    foreign = folder / ".notes.12345.txt"
    foreign.write_bytes(b"mine")
    Run.create(folder, command=["test"])
    assert not left.exists() and foreign.read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reconstruct", "refine", "simulate"])
def test_sigterm_ends_a_command_with_143_and_nothing_half_written(
    command: str, particles: Path, tmp_path: Path
) -> None:
    """As Slurm and containers end a process; `simulate` draws so many images that it is caught at work."""
    out = tmp_path / "out"
    words = _words(command, particles, out)
    if command == "simulate":
        words[words.index("--number") + 1] = "60000"
    process = subprocess.Popen([sys.executable, "-m", "sciml", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "experiment.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it had ended before the signal came")
    assert process.returncode == 143
    assert f"Terminated. Go on with: sciml resume {out}" in told
    assert not list(out.glob(".*.mrc*")) and not (out / ".lock").exists()
    assert main(["resume", str(out)]) in (0, 3)
