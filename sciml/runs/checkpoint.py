"""Atomic checkpoints: tensors in safetensors, numbers as JSON in the header of the same file, a hash over both.

The newest two are kept.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from sciml import distributed
from sciml.runs.files import write_atomic

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of a solve.

    Attributes:
        tensors: named tensors.
        numbers: a tree that JSON can hold. Floats keep every bit, integers may have any length.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def of(self, owner: str, like: Tensor) -> dict[str, Tensor]:
        """The tensors that one owner saved, under its own names, on the device of another tensor."""
        mine = {name: tensor for name, tensor in self.tensors.items() if name.startswith(owner)}
        return {name.removeprefix(owner): tensor.to(like.device) for name, tensor in mine.items()}


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
    tensors = {name: t.detach().cpu().contiguous().reshape(t.shape) for name, t in checkpoint.tensors.items()}
    # Python's JSON keeps every float64 bit; NaN and infinities are written in Python's own way and read back
    text = json.dumps(checkpoint.numbers)
    write_atomic(path, save(tensors, metadata={"numbers": text, "sha256": _digest(tensors, text)}))
    for old in sorted(folder.glob("*.safetensors"))[:-KEEP]:
        old.unlink()
    return path


def read(path: Path) -> Checkpoint | None:
    """A checkpoint, or None if the file is damaged (cut short, changed, not a checkpoint)."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            # cloned: a tensor mapped from the file may be aligned otherwise, and then vector sums round otherwise
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(tensors, metadata["numbers"]):
            return None
        return Checkpoint(tensors, json.loads(metadata["numbers"]))
    except Exception:
        return None


def newest(folder: Path) -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint of a folder (None if there is none), and the damaged ones passed over."""
    damaged = []
    for path in sorted(folder.glob("*.safetensors"), reverse=True):
        checkpoint = read(path)
        if checkpoint is not None:
            return checkpoint, damaged
        damaged.append(path)
    return None, damaged


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    state = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return state.hexdigest()
