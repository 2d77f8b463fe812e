"""Which device a command computes on."""

import sys
from pathlib import Path
from typing import Literal

from sciml import distributed
from sciml.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
"""The values of the option `--device`."""


def choose_device(device: Device, gpu_pays: bool = True) -> str:
    """The device to compute on, "cpu" or "cuda".

    torch is imported only where a GPU is asked for or may be there.

    Args:
        device: the option. "auto" takes a GPU if there is one and it pays.
        gpu_pays: whether the work is long enough to make up for the start of a GPU, some 3 s.

    Raises:
        InputError: cuda was asked for, and torch finds no GPU.
    """
    if device == "cuda" or (device == "auto" and gpu_pays and _driver_found()):
        import torch

        if torch.cuda.is_available():
            distributed.take_gpu()
            return "cuda"
        if device == "cuda":
            raise InputError("--device cuda: torch finds no GPU here; use --device cpu or auto.")
    return "cpu"


def _driver_found() -> bool:
    """Whether there may be a GPU. Without the device file of a driver there is none, and torch need not be asked."""
    files = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # Linux; its Windows subsystem; AMD
    return not sys.platform.startswith("linux") or any(Path(file).exists() for file in files)
