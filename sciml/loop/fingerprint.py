"""What a problem is, as hashes that a checkpoint keeps: a run that goes on must solve the same problem."""

import enum
import hashlib
import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch

from sciml.errors import InputError
from sciml.problem import Problem
from sciml.runs.run import served

DEPTH = 4
"""How deep attributes of attributes are looked at."""
SOURCE = "source"
PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)


def fingerprint(problem: Problem, model: torch.nn.Module) -> dict[str, str]:
    """Hashes by name: the source of the class, each of its attributes, and the layers of the model.

    Attributes that are neither plain values, arrays, functions nor objects made of these count by their class alone.
    A problem says what cannot be seen in `Problem.fingerprint`. One with a `gradient` of its own says all there.

    Args:
        problem: to be solved.
        model: its layers count, not its parameters.
    """
    found = {"problem": _hash(_name(type(problem))), "model": _hash(repr(model)), "stated": _hash(problem.fingerprint)}
    if type(problem).gradient is not Problem.gradient:
        return found
    found[SOURCE] = _hash([_source(kind) for kind in type(problem).__mro__ if kind.__module__ != Problem.__module__])
    lazy = {
        name
        for kind in type(problem).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, cached_property)
    }
    attributes = {name: value for name, value in vars(problem).items() if name not in lazy}
    return found | {f"attribute {name}": _hash(value) for name, value in sorted(attributes.items())}


def check_same(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another solve.

    Args:
        folder: that holds it.
        there: what it says of its solve; `problem` is a fingerprint.
        here: the same of the present one.

    Raises:
        InputError: they differ; the message says in what.
    """
    line = served.get()
    ignored = {SOURCE} if line is not None and line.accepts_changed_source else set()
    for name, value in here.items():
        known = there.get(name)
        what = f"with {name} {known}, not {value}" if known != value else ""
        if name == "problem":
            before = known if isinstance(known, dict) else {}
            names = sorted(key for key in (before.keys() | value.keys()) - ignored if before.get(key) != value.get(key))
            what = f"of another problem ({', '.join(names)} differ)" if names else ""
        if what:
            raise InputError(
                f"{folder} holds a checkpoint {what}; use the same settings to go on, or another folder to start anew"
            )


def _hash(value: Any) -> str:
    digest = hashlib.sha256()
    _feed(digest, value, DEPTH)
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any, depth: int) -> None:
    """Add a value, each kind marked by its class."""
    digest.update(f"<{_name(type(value))}>".encode())
    if value is None or isinstance(
        value, (bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device)
    ):
        digest.update(repr(value).encode())
    elif isinstance(value, torch.Tensor):
        _feed(
            digest,
            value.detach().cpu().resolve_conj().resolve_neg().numpy() if value.layout == torch.strided else 0,
            depth,
        )
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes() if value.dtype != object else b"")
    elif isinstance(value, type):
        digest.update(_name(value).encode())
    elif isinstance(value, FunctionType):
        digest.update(_source(value).encode())
        for cell in value.__closure__ or ():
            _feed(digest, _content(cell), depth - 1)
    elif depth == 0:
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _feed(digest, key, depth - 1)
            _feed(digest, item, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(digest, item, depth - 1)
    elif isinstance(value, torch.nn.Module):
        _feed(digest, dict(value.state_dict()), depth)
    elif not isinstance(value, (torch.Generator, np.random.Generator)) and hasattr(value, "__dict__"):
        _feed(digest, dict(vars(value)), depth - 1)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed at a prompt
        return thing.__qualname__


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
