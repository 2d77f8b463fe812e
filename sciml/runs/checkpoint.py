"""Atomic checkpoints: tensors in safetensors, numbers as JSON in the header of the same file, a hash over both.

The newest two are kept. The tensors may be numpy arrays; torch is then not imported.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sciml import distributed
from sciml.runs.files import write_atomic

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a computation.

    Attributes:
        tensors: named tensors of torch, or named numpy arrays.
        numbers: a tree that JSON can hold. Floats keep every bit, integers may have any length.
    """

    tensors: dict[str, Any]
    numbers: dict[str, Any]


def write(folder: Path, number: int, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically and delete all but the newest two.

    Args:
        folder: where the checkpoints lie; it exists.
        number: increases from one checkpoint to the next; it becomes the file's name.
        checkpoint: the state.

    Raises:
        OSError: it cannot be written; the older ones stay.
    """
    path = folder / f"{number:012d}.safetensors"
    if not distributed.leader():
        return path
    # Python's JSON keeps every float64 bit; NaN and infinities are written in Python's own way and read back
    text = json.dumps(checkpoint.numbers)
    write_atomic(path, _packed(checkpoint.tensors, text))
    for old in sorted(folder.glob("*.safetensors"))[:-KEEP]:
        old.unlink()
    return path


def read(path: Path, framework: Literal["pt", "numpy"] = "pt") -> Checkpoint | None:
    """A checkpoint, or None if the file is damaged (cut short, changed, not a checkpoint).

    Args:
        path: the file.
        framework: what the tensors are read as: torch ("pt") or numpy.
    """
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework=framework) as file:
            metadata = file.metadata() or {}
            # copied: a tensor mapped from the file may be aligned otherwise, and then vector sums round otherwise
            tensors = {name: _copy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(tensors, metadata["numbers"]):
            return None
        return Checkpoint(tensors, json.loads(metadata["numbers"]))
    except Exception:
        return None


def newest(folder: Path, framework: Literal["pt", "numpy"] = "pt") -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint of a folder (None if there is none), and the damaged ones passed over."""
    damaged = []
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        checkpoint = read(path, framework)
        if checkpoint is not None:
            return checkpoint, damaged
        damaged.append(path)
    return None, damaged


def _packed(tensors: Mapping[str, Any], text: str) -> bytes:
    """The file: tensors, numbers, and the hash over both."""
    torch = sys.modules.get("torch")
    plain: dict[str, Any]
    if torch is not None and any(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        from safetensors.torch import save

        plain = {name: t.detach().cpu().contiguous().reshape(t.shape) for name, t in tensors.items()}
    else:
        from safetensors.numpy import save

        plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return save(plain, metadata={"numbers": text, "sha256": _digest(plain, text)})


def _digest(tensors: Mapping[str, Any], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(_bytes(tensor))
    return state.hexdigest()


def _bytes(tensor: Any) -> bytes:
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).tobytes()
    import torch

    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _copy(tensor: Any) -> Any:
    return tensor.copy() if isinstance(tensor, np.ndarray) else tensor.clone()
