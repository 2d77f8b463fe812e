"""The run-time type checker that the tests put on every function of the packages: beartype, with jaxtyping's shapes.

Hints that exist for type checkers only are left out: `Self`, and names imported under `TYPE_CHECKING` (matplotlib's and
torch's, so that importing a module stays cheap). beartype would refuse the whole function because of them.
"""

import typing
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# As for static type checkers, an int may stand where a float is asked for.
CONFIGURATION = BeartypeConf(is_pep484_tower=True)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and its result checked against their annotations."""
    hints = getattr(function, "__annotations__", None)
    if hints:
        function.__annotations__ = {name: hint for name, hint in hints.items() if _known(hint, function)}
    return beartype(conf=CONFIGURATION)(function)


def _known(hint: Any, function: Callable[..., Any]) -> bool:
    if isinstance(hint, str):
        try:
            eval(hint, getattr(function, "__globals__", {}))
        except (NameError, AttributeError):
            return False
        return "Self" not in hint
    return hint is not typing.Self and typing.Self not in typing.get_args(hint)
