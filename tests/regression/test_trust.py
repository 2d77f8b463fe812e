"""A folder received from someone else runs nothing and writes nothing before the user says to trust it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sciml.command_line.main import main
from sciml.runs.run import Run

PROBLEM = """
import torch, sciml
class Line(sciml.Problem):
    def model(self):
        return torch.nn.Linear(1, 1).double()
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)
    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch).square().mean()}
"""
PAYLOAD = """
from pathlib import Path
Path(CANARY).write_text("executed")
""" + PROBLEM  # fmt: skip


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that must not come to be."""
    return tmp_path / "canary"


@pytest.fixture
def received(tmp_path: Path, canary: Path) -> Path:
    """A folder of a run that did not end, as it comes out of an archive, with a payload beside the run."""
    folder = tmp_path / "received"
    (folder / "stages" / "solve").mkdir(parents=True)
    (folder / "payload.py").write_text(PAYLOAD.replace("CANARY", repr(str(canary))), encoding="utf-8")
    return folder


def _record(folder: Path, command: list[str], **provenance: object) -> None:
    experiment = {"command": command, "options": {}, "inputs": {}}
    (folder / "experiment.json").write_text(json.dumps(experiment), encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps({"directory": str(folder), **provenance}), encoding="utf-8")
    (folder / "manifest.json").write_text('{"files": {}}', encoding="utf-8")


def _commands(folder: Path, canary: Path) -> dict[str, list[str]]:
    maps = [str(folder / "a.mrc"), str(folder / "b.mrc")]
    return {
        "a file beside it": ["solve", "payload.py:Line", "--out", "."],
        "an absolute path": ["solve", f"{folder / 'payload.py'}:Line", "--out", "."],
        "a module": ["solve", "payload:Line", "--out", "."],
        "a module of the standard library": ["solve", "antigravity:Line", "--out", "."],
        "another file overwritten": ["cryoem", "fsc", *maps, "--aligned", str(canary)],
        "another folder written": ["cryoem", "check", "x.star", "--out", str(canary)],
        "a report elsewhere": ["report", str(folder), "--out", str(canary)],
        "a plain solve": ["rod", "solve", "--form", "weak", "--seconds", "1", "--out", str(canary)],
        "resume of another": ["resume", str(folder)],
        "no command at all": [],
        "an option for trust": ["solve", "payload.py:Line", "--trust", "--out", "."],
    }


KINDS = list(_commands(Path("x"), Path("y")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("who", ["nobody", "me", "a forged signature"])
def test_a_received_folder_runs_nothing(
    kind: str,
    who: str,
    received: Path,
    canary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sciml.runs import trust

    known = {"nobody": {}, "me": trust.recorder(), "a forged signature": {**trust.recorder(), "signature": "0" * 64}}
    _record(received, _commands(received, canary)[kind], **known[who])
    monkeypatch.chdir(received)
    before = sorted(received.rglob("*"))
    assert main(["resume", str(received)]) == 2
    assert not canary.exists()
    assert sorted(received.rglob("*")) == before
    told = capsys.readouterr().err
    assert "--trust" in told or kind in ("resume of another", "no command at all")
    if kind == "a file beside it":
        assert "sciml solve payload.py:Line" in told  # what it would run is shown


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one's own that was stopped: it has no summary."""
    (tmp_path / "mine.py").write_text(PROBLEM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["solve", "mine.py:Line", "--out", "run"]) == 0
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def test_ones_own_run_goes_on_without_a_word(stopped: Path) -> None:
    assert main(["resume", str(stopped)]) == 0


@pytest.mark.parametrize(
    ("file", "field", "changed"),
    [
        ("experiment.json", "command", ["solve", "other.py:Line", "--out", "run"]),
        ("provenance.json", "signature", "0" * 64),
        ("provenance.json", "signature", "\u00e9"),
        ("provenance.json", "directory", "elsewhere"),  # another helper.py beside the same mine.py
        ("provenance.json", "directory", "\ud800"),
    ],
)
def test_a_run_changed_on_its_way_does_not(
    stopped: Path, file: str, field: str, changed: object, capsys: pytest.CaptureFixture[str]
) -> None:
    value = json.loads((stopped / file).read_text(encoding="utf-8"))
    (stopped / file).write_text(json.dumps({**value, field: changed}), encoding="utf-8")
    assert main(["resume", str(stopped)]) == 2
    assert "--trust" in capsys.readouterr().err


def test_trusted_it_runs(stopped: Path) -> None:
    (stopped / "provenance.json").unlink()
    assert main(["resume", str(stopped)]) == 2
    assert main(["resume", str(stopped), "--trust"]) == 0


def test_a_changed_source_is_refused_before_a_line_of_it_is_executed(
    stopped: Path, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = stopped.parent / "mine.py"
    source.write_text(PAYLOAD.replace("CANARY", repr(str(canary))), encoding="utf-8")
    assert main(["resume", str(stopped)]) == 2
    assert not canary.exists()
    assert "--accept-changed-source" in capsys.readouterr().err
    assert main(["resume", str(stopped), "--accept-changed-source"]) == 0
    assert canary.exists()
    (stopped / "summary.json").unlink()
    assert main(["resume", str(stopped)]) == 0  # the accepted source is the recorded one


def test_another_user_or_host_needs_trust(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciml.runs import trust

    monkeypatch.setattr(trust.socket, "gethostname", lambda: "elsewhere")
    assert not Run.open(stopped).is_own
    monkeypatch.undo()
    assert Run.open(stopped).is_own
    monkeypatch.setattr(trust.getpass, "getuser", lambda: "someone")
    assert not Run.open(stopped).is_own


def test_without_a_home_nothing_is_ones_own(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", os.devnull)
    assert not Run.open(stopped).is_own


def _secret(folder: Path) -> Path:
    file = folder / "secret.txt"
    file.write_text("SECRET-WORD", encoding="utf-8")
    return file


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "a caption": lambda run, secret: (run / "figures" / "loss.txt").symlink_to(secret),
    "a figure": lambda run, secret: (run / "figures" / "other.png").symlink_to(secret),
    "the figures": lambda run, secret: (shutil.rmtree(run / "figures"), (run / "figures").symlink_to(secret.parent)),
    "the summary": lambda run, secret: (
        (run / "summary.json").unlink(missing_ok=True),
        (run / "summary.json").symlink_to(secret),
    ),
    "a solve": lambda run, secret: (run / "stages" / "other").symlink_to(secret.parent),
    "metrics": lambda run, secret: (
        (run / "stages" / "solve" / "metrics.jsonl").unlink(),
        (run / "stages" / "solve" / "metrics.jsonl").symlink_to(secret),
    ),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_report_follows_no_link_out_of_the_folder(kind: str, stopped: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = _secret(outside)
    shutil.copy(secret, outside / "metrics.jsonl")
    shutil.copy(secret, outside / "x.png")
    (stopped / "figures").mkdir(exist_ok=True)
    (stopped / "figures" / "loss.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(24))
    LINKS[kind](stopped, secret)
    code = main(["report", str(stopped), "--out", str(tmp_path / "page.html")])
    assert code in (0, 2)
    if code == 0:
        page = (tmp_path / "page.html").read_bytes()
        assert b"SECRET-WORD" not in page
        assert b"U0VDUkVULVdPUkQ" not in page  # the same in base64
