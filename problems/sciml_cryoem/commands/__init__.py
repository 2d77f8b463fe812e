"""Single-particle cryo-EM: check particles, reconstruct a density, simulate particles, compare maps."""

import importlib

from sciml.command_line.console import dispatch

COMMANDS = ("check", "fsc", "simulate", "reconstruct", "abinitio", "refine", "postprocess")
"""Each is a module here, with `Options` and `run`."""


def main(arguments: list[str]) -> int:
    """Run a command: the arguments after `sciml cryoem`.

    Raises:
        InputError: an unknown command, or a fault in what was given.
        SystemExit: wrong options (2) or `--help` (0).
    """
    asked = [name for name in COMMANDS if arguments and arguments[0] == name]
    modules = {name: importlib.import_module(f"sciml_cryoem.commands.{name}") for name in asked or COMMANDS}
    commands = {name: (module.Options, module.run) for name, module in modules.items()}
    return dispatch("sciml cryoem", commands, arguments)
