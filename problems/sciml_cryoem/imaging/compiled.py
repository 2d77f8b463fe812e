"""How the loops are compiled: by numba, serial, kept on disk where that is possible."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiler(fastmath: bool | set[str]) -> Callable[[Loop], Loop]:
    """A decorator that compiles a loop at its first call, and keeps the machine code on disk for the next process.

    Without a folder to keep it in (a read-only installation and no home), or once that is full, every process compiles
    anew, which takes it seconds to a minute.

    Args:
        fastmath: which rounding rules the compiler may give up, in LLVM's words.
    """

    def decorate(function: Loop) -> Loop:
        options: dict[str, Any] = {"nogil": True, "fastmath": fastmath}
        try:
            loop: Any = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # numba found no folder
            loop = numba.njit(**options)(function)
            return loop
        loop._cache = _Lenient(loop._cache)
        return loop

    return decorate


compiled = compiler({"contract", "arcp", "nsz"})


class _Lenient:
    """A cache of numba's that may fail.

    Args:
        cache: numba's own.
    """

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def load_overload(self, *words: Any) -> Any:
        """The kept code; None where there is none, or it cannot be read."""
        with contextlib.suppress(OSError):
            return self.cache.load_overload(*words)
        return None

    def save_overload(self, *words: Any) -> None:
        """Keep code if that is possible."""
        with contextlib.suppress(OSError):
            self.cache.save_overload(*words)
