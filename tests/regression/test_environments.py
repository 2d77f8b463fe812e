"""Where commands run: closed or full streams, a full disk, names that are no UTF-8, no home, damaged files of a run."""

import errno
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sciml_cryoem.files.mrc import write_stack

from sciml.command_line.main import main
from sciml.errors import InputError
from sciml.reporting import report
from sciml.runs.files import write_atomic
from sciml.runs.lock import Lock
from sciml.runs.run import Run
from sciml.runs.stage import read_metrics

posix = pytest.mark.skipif(os.name == "nt", reason="the shell of POSIX closes streams and gives the file that is full")


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the file that is always full")
@pytest.mark.parametrize(
    ("streams", "code", "told"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), ("2>&-", 0, ""), (">/dev/full", 74, "standard output")],
)
def test_a_stream_that_cannot_be_printed_on(streams: str, code: int, told: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m sciml --version {streams}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert told in ended.stderr and "Traceback" not in ended.stderr


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the file that is always full")
def test_words_that_nobody_can_read_do_not_end_a_command() -> None:
    command = f"{shlex.quote(sys.executable)} -m sciml nosuch 2>/dev/full"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 2


@posix
def test_what_is_opened_next_does_not_take_the_number_of_a_closed_stream() -> None:
    """Else what a library prints would land in a file of the run."""
    code = "import os, sys; from sciml.command_line.main import main; main(['--version'])\n"
    code += "free = os.open(os.devnull, os.O_RDONLY); sys.exit(0 if free > 2 else 1)"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0


def test_an_ascii_locale_prints_names_as_codes(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "sciml", "report", str(tmp_path / "\u00e9\u212b")]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "no such folder" in ended.stderr


@posix
@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold UTF-8 only")
def test_a_folder_whose_name_is_no_utf8(
    tmp_path: Path, watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run(os.fsdecode(b"run-\xff"))
    write_atomic(run.figure("loss", f"of {run.path}"), bytes(24))
    page = report.render([run.path], run.path / "report.html")
    assert "run-" in page.read_text(encoding="utf-8")
    run.release()
    assert main(["verify", str(run.path)]) == 0
    assert main(["report", str(run.path), "--out", str(run.path / "report.html")]) == 0


def _full(*words: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="where room cannot be reserved")
def test_a_full_disk_under_a_stack_is_named_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack is written through a memory map: on a full disk that ends in a bus error, which nobody can catch."""
    images = np.ones((3, 8, 8), np.float32)
    file = write_stack(tmp_path / "sound.mrcs", [images], images.shape, 2.0)
    assert file.stat().st_blocks * 512 >= file.stat().st_size
    monkeypatch.setattr(os, "posix_fallocate", _full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_stack(tmp_path / "stack.mrcs", [images], images.shape, 2.0)
    assert caught.value.filename == str(tmp_path / "stack.mrcs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sound.mrcs"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the file that is always full")
def test_a_full_disk_under_metrics_is_named(tmp_path: Path) -> None:
    stage = Run.create(tmp_path).stage()
    stage.metrics = Path("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        stage.append_metrics([{"step": step} for step in range(300)])
    assert caught.value.filename == "/dev/full"
    stage._lines.clear()


def test_a_full_disk_leaves_no_lock_that_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sciml.runs.lock.json.dump", _full)
    with pytest.raises(OSError, match="No space left") as caught:
        Lock(tmp_path)
    assert caught.value.filename == str(tmp_path / ".lock")
    assert not (tmp_path / ".lock").exists()


def test_loops_are_compiled_anew_where_they_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from sciml_cryoem.imaging import compiled

    original = compiled.numba.njit

    def homeless(*functions: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return original(*functions, **options)

    monkeypatch.setattr(compiled.numba, "njit", homeless)
    assert compiled.compiled(_twice)(3.0) == 6.0


def test_a_full_folder_of_compiled_loops_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from sciml_cryoem.imaging import compiled

    loop: Any = compiled.compiled(_twice)
    kept = loop._cache.cache
    monkeypatch.setattr(kept, "load_overload", _full)
    monkeypatch.setattr(kept, "save_overload", _full)
    assert loop(3.0) == 6.0


def _twice(x):
    return 2 * x


def test_without_the_module_resource_peak_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    from sciml_cryoem.commands import parts

    assert parts.peak_rss_mb() > 10
    monkeypatch.setattr(parts.Path, "exists", lambda path: False)
    assert parts.peak_rss_mb() > 10  # as on macOS
    monkeypatch.setitem(sys.modules, "resource", None)
    assert np.isnan(parts.peak_rss_mb())


ODD: list[Any] = [
    [],
    {},
    {"command": 3},
    {"command": ["rod"], "options": [1]},
    {"findings": [None, 3, {"what": []}], "switch": {"phase": 1}, "result": []},
    {"resumed": [3, None], "directory": 7, "signature": {}, "versions": []},
    {"files": {"a": {"size": "x"}}},
    {"files": {"../a": {"size": 1, "sha256": "x"}}},
    {"created": "yesterday"},
]
"""Sound JSON that none of these files holds."""


@pytest.mark.parametrize("name", ["experiment.json", "provenance.json", "summary.json", "manifest.json", "stage.json"])
def test_a_damaged_file_of_a_run_is_one_message(
    name: str, watched_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it holds: 0 where the command does not need it, else 2 and its name."""
    run = watched_run(finished=name == "summary.json")
    run.release()
    (run.path / "stages" / "weak" / "metrics.jsonl").unlink()  # drawing it takes longer than all else
    file = next(run.path.rglob(name), run.path / name)
    broken = [b"[" * 100_000, b"\xff\xfe{}", b"", b'{"command": ["rod']
    for content in [*broken, *(json.dumps(value).encode() for value in ODD)]:
        file.write_bytes(content)
        for words in (["report", str(run.path)], ["verify", str(run.path)], ["resume", str(run.path)]):
            capsys.readouterr()
            code = main(words)
            told = capsys.readouterr().err
            assert code in (0, 2, 3), content
            assert code != 2 or any(text in told for text in (name, "--trust", "a different run")), (content, told)


@pytest.mark.parametrize(
    "line",
    ["3", "[]", '{"kind": []}', '{"kind": "step", "index": "x"}', '{"evaluations": [1]}', '{"terms": 3}',
     '{"kind": "evaluate", "values": {"relative_l2": "x"}}', '{"loss": 1' + "0" * 400 + "}", "[" * 100_000],
)  # fmt: skip
def test_an_odd_line_of_metrics_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "step", "step": 1, "loss": null}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"metrics.jsonl, line 2: "):
        read_metrics(file)


def test_room_that_was_reserved_is_what_the_stack_takes(tmp_path: Path) -> None:
    """Reserving the room of a stack leaves its header and its length as they were."""
    images = np.arange(4 * 8 * 8, dtype=np.float32).reshape(4, 8, 8)
    file = write_stack(tmp_path / "stack.mrcs", [images[:2], images[2:]], images.shape, 2.0)
    assert file.stat().st_size == 1024 + images.nbytes
    assert np.array_equal(np.fromfile(file, "<f4", offset=1024), images.ravel())
