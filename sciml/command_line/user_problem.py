"""Imports a problem of the user's own: `my_pde.py:Beam` or `package.module:Beam`."""

import contextlib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sciml.errors import ConvergenceError, InputError


def load(target: str) -> Any:
    """Import the module and make the problem.

    Args:
        target: `FILE.py:NAME` or `package.module:NAME`. NAME is a subclass of `sciml.Problem` that can be made without
            arguments, or an instance of one.

    Raises:
        InputError: the string, the file or the class cannot be used.
    """
    place, name = _parts(target)
    digest(target)  # says it if there is no such file
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    return _make(module, name, place)


def digest(target: str) -> str | None:
    """SHA-256 of the file of a problem, which a run records; None for an installed module. Nothing is executed.

    Raises:
        InputError: the string names no problem, or the file is missing.
    """
    place, _ = _parts(target)
    if not place.endswith(".py"):
        return None
    if not Path(place).is_file():
        raise InputError(f"{place}: no such file.")
    return hashlib.sha256(Path(place).read_bytes()).hexdigest()


@contextlib.contextmanager
def framed(target: str, run: Path) -> Iterator[None]:
    """Turn an exception in the user's file into a message that says where, and how to go on.

    Args:
        target: of `load`.
        run: folder of the run.

    Raises:
        InputError: the exception passed through a line of the file. Others are faults of this program.
    """
    try:
        yield
    except (InputError, ConvergenceError, OSError):
        raise
    except Exception as error:
        file = Path(_parts(target)[0])
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        if not frames:
            raise
        raise InputError(
            f"{file}, line {frames[-1].lineno}, in {frames[-1].name}: {type(error).__name__}: {error}\n"
            f"The newest checkpoint is kept. Repair the file, then go on with: "
            f"sciml resume {run} --accept-changed-source"
        ) from error


def _parts(target: str) -> tuple[str, str]:
    """File or module, and class."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(f"{target!r} names no problem; give FILE.py:CLASS or package.module:CLASS.")
    return place, name


def model_of(problem: Any) -> Any:
    """The network of a problem: what its method `model()` returns.

    Raises:
        InputError: there is no such method, or it does not return a `torch.nn.Module`.
    """
    import torch

    name = type(problem).__name__
    factory = getattr(problem, "model", None)
    if not callable(factory):
        raise InputError(
            f"{name} does not say which network to train: give it a method `def model(self)` that returns a "
            "torch.nn.Module, for example `return sciml.pde.MLP(1, 1).double()`."
        )
    model = factory()
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{name}.model() returned {type(model).__name__}; it must return a torch.nn.Module.")
    return model


def _make(module: ModuleType, name: str, place: str) -> Any:
    from sciml.problem import Problem

    found = getattr(module, name, None)
    if isinstance(found, Problem):
        return found
    if not (isinstance(found, type) and issubclass(found, Problem)):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Problem)]
        known = [key for key in known if key != "Problem"]
        what = "is not there" if found is None else "is not a subclass of sciml.Problem"
        raise InputError(f"{place}: {name} {what}. Problems in it: {', '.join(known) or 'none'}.")
    try:
        return found()
    except TypeError as error:  # an abstract method is missing, or the constructor wants arguments
        raise InputError(f"{place}: {name} cannot be made without arguments ({error}).") from None


def _import_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be imported as Python.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses and typing look their module up there
    sys.path.insert(0, str(file.resolve().parent))  # its neighbours can be imported, as when Python runs the file
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"{error.filename or file}, line {error.lineno}: {error.msg}.") from None
    except InputError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        place = f"{file}, line {lines[-1]}" if lines else str(file)
        raise InputError(f"{place}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{name} cannot be imported: {error}. For a file, give its name with .py.") from None
