"""The errors a caller can provoke, and nothing else."""


class InputError(ValueError):
    """What the caller gave cannot be used: a bad file, a missing column, an impossible option.

    The message is one sentence or two: what was given, what is allowed, what to do. The command line prints it
    without a traceback and exits with 2.
    """


class ConvergenceError(RuntimeError):
    """A solve ended without converging and the caller asked for an exception (`solve(..., throw=True)`)."""
