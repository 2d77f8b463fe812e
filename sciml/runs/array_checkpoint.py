"""Checkpoints of numpy arrays and numbers: what `sciml.runs.checkpoint` is for tensors, without importing torch.

One safetensors file a checkpoint, a hash over all of it in its header, written atomically; the newest two are kept.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciml import distributed
from sciml.runs.files import write_atomic

KEEP = 2


@dataclass(frozen=True)
class Kept:
    """A state: named arrays and a JSON-able tree of numbers."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any]


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def write(folder: Path, number: int, kept: Kept) -> Path:
    """Write a checkpoint atomically and delete all but the newest two.

    Args:
        folder: where checkpoints lie; it exists.
        number: increases from one to the next; it is the file's name.
        kept: the state. Numbers keep every bit of a float, and integers of any length (states of generators).

    Raises:
        OSError: it cannot be written; the older ones stay.
    """
    from safetensors.numpy import save

    path = folder / f"{number:012d}.safetensors"
    if not distributed.leader():
        return path
    arrays = {name: np.ascontiguousarray(array) for name, array in kept.arrays.items()}
    text = json.dumps(kept.numbers)
    write_atomic(path, save(arrays, metadata={"numbers": text, "sha256": _digest(arrays, text)}))
    for old in sorted(folder.glob("*.safetensors"))[:-KEEP]:
        old.unlink()
    return path


def read(path: Path) -> Kept | None:
    """A checkpoint, or None if the file is damaged (cut short, changed, not a checkpoint)."""
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(arrays, metadata["numbers"]):
            return None
        return Kept(arrays, json.loads(metadata["numbers"]))
    except Exception:
        return None


def newest(folder: Path) -> tuple[Kept | None, list[Path]]:
    """The newest sound checkpoint of a folder (None if there is none), and the damaged ones passed over."""
    damaged = []
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        kept = read(path)
        if kept is not None:
            return kept, damaged
        damaged.append(path)
    return None, damaged
