"""The `sciml` command: finds the word, loads only what that word needs, and turns every end into an exit code.

Exit codes: 0 done; 2 wrong usage or bad input; 3 the solve did not converge (its outputs are written); 74 a file could
not be written or read, or another process of the run is gone; 130 interrupted.

Under torchrun one process leads; the others are silent, end with 0 when only writing is left to do, and with a code of
their own, told aloud, where they fail alone.
"""

import ast
import contextlib
import difflib
import importlib.metadata
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciml import distributed
from sciml.errors import ConvergenceError, InputError
from sciml.runs.files import to_json
from sciml.runs.run import CommandLine, Run, served

DONE, BAD_INPUT, NOT_CONVERGED, INPUT_OUTPUT, INTERRUPTED, BROKEN_PIPE = 0, 2, 3, 74, 130, 141

BUILT_IN = {
    "demo": "The main job on small data: the rod in its forms and a density from particles, in one report.",
    "solve": "Solve a problem of your own: `sciml solve my_pde.py:Beam --out DIR`.",
    "resume": "Go on with a run that was stopped, or say that it is finished.",
    "report": "One page for one or several runs.",
}

if TYPE_CHECKING:
    from contextvars import Token

GRACE = 3.0
"""Seconds that a failing process waits if it does not lead: torchrun ends all processes once one has failed, and the
leader, which mostly meets the same error, is to tell it."""

Commands = Mapping[str, tuple[type, Callable[[Any], int]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve one command line.

    Args:
        arguments: the words after `sciml`; None takes those of the process.

    Returns:
        The exit code; see the module. Faults of this program itself are raised, with their traceback.
    """
    words = [str(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    line = CommandLine(tuple(words))
    token = served.set(line)
    code = _code(words, line, token)
    if code != DONE and not distributed.leader():
        time.sleep(GRACE)
    return code


def _code(words: list[str], line: CommandLine, token: "Token[CommandLine | None]") -> int:
    """The exit code of a command line, its errors told."""
    try:
        with _silent_follower():
            code = _serve(words)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # how the option parser leaves, after its own message
        return stop.code if isinstance(stop.code, int) else DONE if stop.code is None else BAD_INPUT
    except InputError as error:
        _tell(error)
        return BAD_INPUT
    except ConvergenceError as error:
        say(f"sciml: {error}")
        return NOT_CONVERGED
    except KeyboardInterrupt:
        say(f"Interrupted. Go on with: sciml resume {line.run}" if line.run else "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        _tell(error)
        return INPUT_OUTPUT
    finally:
        served.reset(token)


def _tell(error: Exception) -> None:
    """An error in words; in a process that does not lead, only if the leader may not know it."""
    if distributed.leader():
        say(f"sciml: {error}")
    elif distributed.speaks_for_its_machine() or not isinstance(error, InputError | distributed.RankError):
        print(f"sciml: process {distributed.rank()} of {distributed.size()}: {error}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _silent_follower() -> Iterator[None]:
    """What a process that does not lead prints goes nowhere (errors that end it are told afterwards)."""
    if distributed.leader():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def _serve(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return DONE if words else BAD_INPUT
    if words[0] in ("-V", "--version"):
        print(f"sciml {importlib.metadata.version('sciml-lab')}")
        return DONE
    word, rest = words[0], words[1:]
    if word in BUILT_IN:
        from sciml.command_line import commands

        return commands.main(word, rest)
    found = _entry_points()
    if word not in found:
        raise InputError(_unknown("sciml", word, [*BUILT_IN, *found]))
    code = found[word].load()(rest)
    return DONE if code is None else int(code)


def dispatch(prog: str, commands: Commands, arguments: Sequence[str]) -> int:
    """Serve the subcommands of one word.

    Args:
        prog: what was typed so far, `"sciml rod"`.
        commands: subcommand -> (frozen dataclass of options, function that takes it and returns the exit code). The
            first line of the dataclass's docstring is what the overview says; its fields become flags.
        arguments: the words after `prog`.

    Returns:
        The exit code of the function.

    Raises:
        InputError: there is no such subcommand.
        SystemExit: the options are wrong (2) or `--help` was asked for (0), after the message.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        rows = {word: _first_line(options.__doc__) for word, (options, _) in commands.items()}
        print(f"usage: {prog} COMMAND [OPTIONS]\n\n{_rows(rows)}\n\nOptions of a command: {prog} COMMAND --help")
        return DONE if arguments else BAD_INPUT
    word = arguments[0]
    if word not in commands:
        raise InputError(_unknown(prog, word, list(commands)))
    options, function = commands[word]
    return function(parse(f"{prog} {word}", options, arguments[1:]))


def parse(prog: str, options: type, arguments: Sequence[str]) -> Any:
    """The options dataclass filled from the words.

    Raises:
        SystemExit: wrong options (2) or `--help` (0), after the message.
    """
    import tyro

    return tyro.cli(options, prog=prog, args=list(arguments))


def print_json(value: Any) -> None:
    """Print one JSON object on one line of standard output; call it last. Only the process that leads does."""
    if distributed.leader():
        print(to_json(value), flush=True)


def say(text: str) -> None:
    """Words for the person at the terminal, on standard error; only from the process that leads."""
    if distributed.leader():
        print(text, file=sys.stderr, flush=True)


def conclude(run: Run, summary: Mapping[str, Any], *, json: bool) -> int:
    """End a command: report, summary, the numbers printed, the exit code.

    Args:
        run: the run; its figures are already written.
        summary: what `--json` prints. Its `result`, if any, decides the exit code.
        json: print one JSON object; otherwise the single numbers as words.

    Returns:
        0 when converged (or when there is no `result`), 130 when interrupted, otherwise 3. Only the leader comes back.
    """
    distributed.followers_leave()
    from sciml.reporting import report

    result = summary.get("result")
    run.write_summary(summary)
    page = report.render([run.path], run.path / "report.html")
    if json:
        print_json(summary)
    else:
        print(_rows({name: _short(value) for name, value in summary.items() if not isinstance(value, list | dict)}))
        print(f"\nReport: {page}")
    if result == "INTERRUPTED":
        raise KeyboardInterrupt
    if result not in (None, "CONVERGED"):
        say(f"The solve did not converge ({result}). Its outputs are in {run.path}.")
        return NOT_CONVERGED
    return DONE


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group="sciml.commands")
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


def _overview() -> str:
    rows = BUILT_IN | {name: _description(entry) for name, entry in _entry_points().items()}
    lines = ["usage: sciml WORD ...", "", "Watched stochastic optimisation for inverse problems.", "", _rows(rows), ""]
    return "\n".join([*lines, "More about a word: sciml WORD --help"])


def _description(entry: importlib.metadata.EntryPoint) -> str:
    """First line of the docstring of a command's module, read from its source: importing it could cost seconds."""
    package, *inner = entry.module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in (Path(folder, *inner).with_suffix(".py"), Path(folder, *inner, "__init__.py")):
            if file.is_file():
                return _first_line(ast.get_docstring(ast.parse(file.read_text())))
    return ""


def _first_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0] if lines else ""


def _rows(rows: Mapping[str, str]) -> str:
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _unknown(prog: str, word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=2)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"The words are: {', '.join(known)}."
    return f"`{prog} {word}` is not a command. {hint}"
