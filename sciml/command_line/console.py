"""What every command of `sciml` uses to talk to the person at the terminal: exit codes, options, text, JSON.

`dispatch` serves the subcommands of a problem, `conclude` ends a command that made a run.
"""

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from sciml import distributed
from sciml.errors import InputError
from sciml.findings import by_severity
from sciml.runs.files import to_json
from sciml.runs.run import Run

DONE, BAD_INPUT, NOT_CONVERGED, INPUT_OUTPUT, INTERRUPTED, BROKEN_PIPE, TERMINATED = 0, 2, 3, 74, 130, 141, 143
"""Exit codes; `sciml.command_line.main` says what each means."""

SEEDS = 1 << 53
"""Seeds lie below it: JSON keeps them exactly, and every generator takes them."""

Commands = Mapping[str, tuple[type, Callable[[Any], int]]]
"""Name of a command -> the dataclass of its options, and the function that runs it and returns the exit code."""

Main = Callable[[Sequence[str]], int]
"""`sciml.command_line.main.main`, which serves a whole command line. It is passed to the commands that repeat others:
they cannot import it, because it imports them."""


def dispatch(prog: str, commands: Commands, arguments: Sequence[str]) -> int:
    """Serve the subcommands of one command.

    Args:
        prog: what was typed so far, e.g. `"sciml rod"`.
        commands: the subcommands. The fields of a frozen dataclass of options become flags, and the first line of its
            docstring is what the overview prints.
        arguments: what was typed after `prog`.

    Returns:
        The exit code of the function.

    Raises:
        InputError: there is no such subcommand.
        SystemExit: the options are wrong (2) or `--help` was asked for (0); the message is printed before.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        rows = {name: first_line(options.__doc__) for name, (options, _) in commands.items()}
        print(f"usage: {prog} COMMAND [OPTIONS]\n\n{aligned(rows)}\n\nOptions of a command: {prog} COMMAND --help")
        return DONE if arguments else BAD_INPUT
    name = arguments[0]
    if name not in commands:
        raise unknown_command(prog, name, list(commands))
    options, function = commands[name]
    return function(parse(f"{prog} {name}", options, arguments[1:]))


def parse(prog: str, options: type, arguments: Sequence[str]) -> Any:
    """Fill a dataclass of options from the command line.

    Args:
        prog: the command, as the usage message prints it.
        options: the dataclass.
        arguments: what was typed after `prog`.

    Raises:
        InputError: the seed is out of range.
        SystemExit: the options are wrong (2) or `--help` was asked for (0); the message is printed before.
    """
    import tyro

    parsed = tyro.cli(options, prog=prog, args=list(arguments))
    seed = getattr(parsed, "seed", 0)
    if isinstance(seed, int) and not 0 <= seed < SEEDS:
        raise InputError(f"--seed {seed}: give a whole number from 0 to 2^53 - 1.")
    return parsed


def say(text: str) -> None:
    """Print a message for the person at the terminal on standard error. Only the leading process prints.

    Where standard error cannot be written to, the work goes on in silence.
    """
    if distributed.leader():
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Let all that is and will be printed on a stream come to nothing."""
    with contextlib.suppress(OSError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(value: Any) -> None:
    """Print one JSON object on one line of standard output. Call it last. Only the leading process prints."""
    if distributed.leader():
        print(to_json(value), flush=True)


def conclude(run: Run, summary: Mapping[str, Any], *, json: bool) -> int:
    """End a command: write summary and report, print the numbers.

    Args:
        run: the run; its figures are already written.
        summary: what `--json` prints. Its `result`, if any, decides the exit code. Its `findings`, a list of `Finding`,
            are printed on standard error, the worst first.
        json: whether to print one JSON object instead of a table of the single numbers.

    Returns:
        0 when converged or when there is no `result`, otherwise 3. Only the leading process returns.

    Raises:
        KeyboardInterrupt: the result is INTERRUPTED.
    """
    distributed.followers_leave()
    from sciml.reporting import report

    result = summary.get("result")
    run.write_summary(summary)
    page = report.render([run.path], run.path / "report.html")
    for finding in by_severity(summary.get("findings", [])):
        say(str(finding))
    if json:
        print_json(summary)
    else:
        single = {name: value for name, value in summary.items() if not isinstance(value, list | dict)}
        print(aligned({name: _short(value) for name, value in single.items()}))
        print(f"\nReport: {page}")
    if result == "INTERRUPTED":
        raise KeyboardInterrupt
    if result not in (None, "CONVERGED"):
        say(f"The solve did not converge ({result}). Its outputs are in {run.path}.")
        return NOT_CONVERGED
    return DONE


def aligned(rows: Mapping[str, str]) -> str:
    """Two columns of text: names and what belongs to them."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {text}".rstrip() for name, text in rows.items())


def first_line(text: str | None) -> str:
    """The first line of a docstring; empty where there is none."""
    lines = (text or "").strip().splitlines()
    return lines[0] if lines else ""


def unknown_command(prog: str, name: str, known: Sequence[str]) -> InputError:
    """The error for a command that does not exist. It names the commands that look like it, or else all.

    Args:
        prog: what was typed before it, e.g. `"sciml rod"`.
        name: the command that does not exist.
        known: the commands that do.
    """
    close = difflib.get_close_matches(name, known, n=2)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"The commands are: {', '.join(known)}."
    return InputError(f"`{prog} {name}` is not a command. {hint}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
