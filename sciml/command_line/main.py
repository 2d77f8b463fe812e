"""The command line `sciml`: finds the command, imports only what it needs, and turns every end into an exit code.

Exit codes: 0 done; 2 wrong usage or bad input; 3 the solve did not converge (its outputs are written); 74 a file could
not be written or read, or another process of the run is gone; 130 interrupted; 141 the reader of the output left;
143 terminated (SIGTERM).

Under torchrun one process leads. The others print nothing, and exit with 0 when only writing is left to do. A process
that fails alone says so and exits with a code of its own.
"""

import ast
import contextlib
import errno
import importlib.metadata
import importlib.util
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import Token
from pathlib import Path

from sciml import distributed
from sciml.command_line import console
from sciml.command_line.console import say
from sciml.errors import ConvergenceError, InputError
from sciml.runs.run import CommandLine, served

BUILT_IN = {
    "demo": "The main job on small data: the rod in its forms and a density from particles, in one report.",
    "solve": "Solve a problem of your own: `sciml solve my_pde.py:Beam --out DIR`.",
    "resume": "Go on with a run that was stopped, or say that it is finished.",
    "report": "One page for one or several runs.",
    "verify": "Compare the files of a run with what it wrote.",
}

GRACE = 3.0
"""Seconds that a failing process waits if it does not lead. torchrun ends all processes once one has failed; the leader
mostly meets the same error, and needs the time to print it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one command line.

    Args:
        arguments: what was typed after `sciml`; None takes the arguments of this process.

    Returns:
        The exit code; see the module. An exception that is a fault of this program is raised with its traceback.
    """
    _open_streams()
    words = [str(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    line = CommandLine(tuple(words))
    token = served.set(line)
    code = _code(words, line, token)
    if code != console.DONE and not distributed.leader():
        time.sleep(GRACE)
    return code


def _code(words: list[str], line: CommandLine, token: Token[CommandLine | None]) -> int:
    """Serve the command line, print the message of an error, and return the exit code."""
    try:
        with _terminable(line), _silent_follower():
            code = _serve(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # how the option parser leaves, after its own message
        return stop.code if isinstance(stop.code, int) else console.DONE if stop.code is None else console.BAD_INPUT
    except InputError as error:
        _tell(error)
        return console.BAD_INPUT
    except ConvergenceError as error:
        say(f"sciml: {error}")
        return console.NOT_CONVERGED
    except KeyboardInterrupt:
        # If it came while Python ran a text, as imports do, CPython would end the process by SIGINT, whatever the exit
        # code here. Running another text makes it forget that.
        exec("")
        what = "Terminated" if line.signal == signal.SIGTERM else "Interrupted"
        say(f"{what}. Go on with: sciml resume {shlex.quote(str(line.run))}" if line.run else f"{what}.")
        return console.TERMINATED if line.signal == signal.SIGTERM else console.INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        console.discard(sys.stdout)
        return console.BROKEN_PIPE
    except OSError as error:
        if error.errno == errno.ENOSPC and error.filename is None:  # files name themselves
            error = OSError(error.errno, error.strerror, "standard output")
            console.discard(sys.stdout)
        _tell(error)
        return console.INPUT_OUTPUT
    finally:
        served.reset(token)


def _open_streams() -> None:
    """Make standard output and error fit to print on: where one is closed, nothing is printed, and no file that is
    opened next takes its number; characters that it cannot show are printed as their codes."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor > number and not _is_open(number):
                os.dup2(descriptor, number)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _tell(error: Exception) -> None:
    """Print an error. A process that does not lead prints only what the leader may not know."""
    if distributed.leader():
        say(f"sciml: {error}")
    elif distributed.speaks_for_its_machine() or not isinstance(error, InputError | distributed.RankError):
        print(f"sciml: process {distributed.rank()} of {distributed.size()}: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _terminable(line: CommandLine) -> Iterator[None]:
    """Make SIGTERM, with which schedulers and containers end a process, an interrupt that cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        line.signal = number
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silent_follower() -> Iterator[None]:
    """Discard what a process that does not lead prints. An error that ends it is printed later, by `_tell`."""
    if distributed.leader():
        yield
        return
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _check_environment() -> None:
    """Refuse a number of threads that numba would answer with a traceback.

    Raises:
        InputError: the variable holds no whole number of at least 1.
    """
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (threads.isascii() and threads.isdigit() and int(threads) >= 1):
        raise InputError(f"the environment has NUMBA_NUM_THREADS={threads}; give a whole number from 1, or unset it.")


def _serve(words: list[str]) -> int:
    _check_environment()
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return console.DONE if words else console.BAD_INPUT
    if words[0] in ("-V", "--version"):
        print(f"sciml {importlib.metadata.version('sciml-lab')}")
        return console.DONE
    name, rest = words[0], words[1:]
    if name in BUILT_IN:
        from sciml.command_line import commands

        return commands.serve(name, rest, main)
    found = _entry_points()
    if name not in found:
        raise console.unknown_command("sciml", name, [*BUILT_IN, *found])
    code = found[name].load()(rest)
    return console.DONE if code is None else int(code)


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group="sciml.commands")
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def _overview() -> str:
    rows = BUILT_IN | {name: _description(entry) for name, entry in _entry_points().items()}
    text = "Watched stochastic optimisation for inverse problems."
    return f"usage: sciml COMMAND ...\n\n{text}\n\n{console.aligned(rows)}\n\nMore about one: sciml COMMAND --help"


def _description(entry: importlib.metadata.EntryPoint) -> str:
    """The first line of the docstring of a command's module, read from the source: an import could take seconds."""
    package, *inner = entry.module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in (Path(folder, *inner).with_suffix(".py"), Path(folder, *inner, "__init__.py")):
            if file.is_file():
                return console.first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))
    return ""
