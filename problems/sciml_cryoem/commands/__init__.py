"""Single-particle cryo-EM: check particles, reconstruct a density, simulate particles, compare maps."""

import importlib

from sciml.command_line.console import dispatch

WORDS = ("check", "fsc", "simulate", "reconstruct", "abinitio", "refine", "postprocess")
"""Each is a module here, with `Options` and `run`."""


def main(arguments: list[str]) -> int:
    """Serve the words after `sciml cryoem`.

    Raises:
        InputError: an unknown word, or a fault in what was given.
        SystemExit: wrong options (2) or `--help` (0).
    """
    asked = [word for word in WORDS if arguments and arguments[0] == word]
    modules = {word: importlib.import_module(f"sciml_cryoem.commands.{word}") for word in asked or WORDS}
    commands = {word: (module.Options, module.run) for word, module in modules.items()}
    return dispatch("sciml cryoem", commands, arguments)
