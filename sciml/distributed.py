"""Several processes that share the work of one run: `torchrun --nproc-per-node 4 -m sciml ...`, or any script.

Every process runs the same program, draws the same batches, works on its share of the items, and a sum over all
processes (an all-reduce) makes the results equal everywhere, bit for bit. Process 0 leads: it alone writes and speaks,
and its clock decides. Without torchrun there is one process; then nothing here costs anything, and torch is not
imported.

Sums travel by gloo, through the memory of the host, also those of a GPU: what is summed is a gradient or a map, small
beside the work that made it, and two processes may then use one GPU.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Union

from sciml.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Array = Union["np.ndarray", "Tensor"]
Value = TypeVar("Value")

TIMEOUT = 600.0
"""Seconds that a process waits for another one, which may be reading from a slow disk. One that died is noticed at
once."""
LARGE = 1 << 18
"""Numbers from which an array is summed where it lies; smaller ones are packed together first."""
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankError(ConnectionError):
    """Another process of the run ended or did not answer, or the processes no longer do the same."""


def size() -> int:
    """Number of processes; 1 unless torchrun started this one."""
    environment = os.environ
    if any(name not in environment for name in _VARIABLES):
        return 1
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Number of this process, from 0."""
    return _number("RANK", 0) if size() > 1 else 0


def _number(name: str, least: int) -> int:
    """A whole number from the environment.

    Raises:
        InputError: the variable holds something else.
    """
    text = os.environ[name]
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise InputError(
            f"the environment has {name}={text}; allowed is a whole number of at least {least}. torchrun sets "
            "it; for a single process: unset WORLD_SIZE RANK"
        )
    return int(text)


def leader() -> bool:
    """Whether this process is the one that writes and speaks: process 0."""
    return rank() == 0


def speaks_for_its_machine() -> bool:
    """Whether this process leads, or is the first on another machine, whose errors nobody else would tell."""
    return leader() or os.environ.get("LOCAL_RANK") == "0"


def share(count: int, block: int = 1) -> slice:
    """Which of `count` items are this process's: neighbors, the shares of all processes of nearly equal size.

    Args:
        count: of items.
        block: shares begin at multiples of it. Where items are worked on in blocks, or vectors of a processor, a result
            may depend in its last bit on an item's place in its block; so it does not depend on the processes.
    """
    here, all_of_them, blocks = rank(), size(), -(-count // block)
    first, last = (blocks * number // all_of_them * block for number in (here, here + 1))
    return slice(min(first, count), min(last, count))


def take_gpu() -> None:
    """Let "cuda" mean a GPU of this process's own. If there are too few, processes share them in turn."""
    if size() > 1:
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank())) % torch.cuda.device_count())


def add(*arrays: Array) -> None:
    """Replace each array by its sum over the processes, in place; the same bits everywhere.

    Args:
        *arrays: numpy arrays and tensors on any device, of any numeric kind, of the same shapes in every process.

    Raises:
        RankError: another process is gone.
    """
    if size() == 1:
        return
    import torch

    small: dict[Any, list[Tensor]] = {}
    for array in arrays:
        tensor = array.detach() if isinstance(array, torch.Tensor) else torch.from_numpy(array)
        plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if plain.numel() >= LARGE and plain.is_contiguous() and plain.device.type == "cpu":
            _reduce(plain.view(-1))
        else:
            small.setdefault(plain.dtype, []).append(plain)
    for tensors in small.values():
        packed = torch.cat([tensor.reshape(-1).cpu() for tensor in tensors])
        _reduce(packed)
        parts = packed.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def gather(rows: slice, *arrays: "np.ndarray") -> None:
    """Complete arrays in place, of which each process has filled only its own rows.

    Args:
        rows: this process's `share`. What it holds in the other rows is ignored.
        *arrays: the arrays, of the same shapes in every process.

    Raises:
        RankError: another process is gone.
    """
    if size() == 1:
        return
    for array in arrays:
        array[: rows.start] = 0
        array[rows.stop :] = 0
    add(*arrays)


def copy_from_leader(*tensors: "Tensor") -> None:
    """Overwrite tensors, in every process, by what process 0 holds in them."""
    if size() == 1:
        return
    for tensor in tensors:
        there = tensor.detach().cpu().contiguous()
        _call(lambda group, there=there: _dist().broadcast(there, 0, group=group))
        tensor.detach().copy_(there)


def agreed(value: Value) -> Value:
    """What process 0 holds for a value. The value passes through JSON: numbers, texts, and lists and dicts of them."""
    if size() == 1:
        return value
    import torch

    text = json.dumps(value).encode() if leader() else b""
    length = torch.tensor([len(text)])
    _call(lambda group: _dist().broadcast(length, 0, group=group))
    content = torch.frombuffer(bytearray(text), dtype=torch.uint8) if leader() else None
    content = torch.empty(int(length), dtype=torch.uint8) if content is None else content
    _call(lambda group: _dist().broadcast(content, 0, group=group))
    return json.loads(content.numpy().tobytes())


def led(work: Callable[[], Value]) -> Value:
    """Let process 0 do some work. All processes return its answer, or raise the `InputError` or `OSError` it met."""
    if size() == 1:
        return work()
    outcome: dict[str, Any] = {}
    if leader():
        try:
            outcome = {"value": work()}
        except InputError as error:
            outcome = {"refused": str(error)}
        except OSError as error:
            outcome = {"failed": str(error)}
    outcome = agreed(outcome)
    if "refused" in outcome:
        raise InputError(outcome["refused"])
    if "failed" in outcome:
        raise OSError(outcome["failed"])
    return outcome["value"]


@contextmanager
def together() -> Iterator[None]:
    """Raise an `InputError` of one process in all of them. For work in which processes look at different data.

    Nothing inside may wait for other processes.
    """
    if size() == 1:
        yield
        return
    import numpy as np

    refused = None
    try:
        yield
    except InputError as error:
        refused = str(error)
    first = np.full(size(), 0, np.int64)
    first[rank()] = 0 if refused is None else len(refused.encode())
    add(first)
    if not first.any():
        return
    text = np.zeros(int(first.max()), np.uint8)
    if refused is not None and rank() == int(np.argmax(first > 0)):
        content = refused.encode()
        text[: len(content)] = np.frombuffer(content, np.uint8)
    add(text)
    raise InputError(text.tobytes().rstrip(b"\0").decode())


def in_step(flags: Sequence[bool], fingerprint: int = 0) -> list[bool]:
    """Which flags at least one process has raised.

    Args:
        flags: as many in every process.
        fingerprint: of what must be equal everywhere, below 2**20.

    Raises:
        RankError: the fingerprints differ, or another process is gone.
    """
    if size() == 1:
        return list(flags)
    import numpy as np

    numbers = np.array([*flags, fingerprint, fingerprint**2], np.float64)
    add(numbers)
    check_equal(numbers[-2], numbers[-1])
    return [bool(number) for number in numbers[:-2]]


def check_equal(total: float, squares: float) -> None:
    """Check that a fingerprint is the same in every process.

    Both sums are exact in float64, and for equal fingerprints the inequality of Cauchy and Schwarz is an equality.

    Args:
        total: sum of the fingerprints over the processes.
        squares: sum of their squares.

    Raises:
        RankError: they are not the same.
    """
    if size() * squares != total * total:
        raise RankError(
            "the processes of this run no longer hold the same parameters: something in the problem, the model or the "
            "machines is not deterministic (torch's global generator is not shared: draw from the given one)"
        )


def barrier() -> None:
    """Wait until every process has come here."""
    if size() > 1:
        in_step([])


def followers_leave() -> None:
    """End every process but the leader, which has only writing left to do.

    Raises:
        SystemExit: with 0, in processes that do not lead.
    """
    if not leader():
        raise SystemExit(0)


def fingerprint(vector: "Tensor") -> int:
    """A number below 2**20 made of all bits of a vector of floating-point numbers."""
    import torch

    kinds = {8: torch.int64, 4: torch.int32, 2: torch.int16}
    return int(vector.detach().view(kinds[vector.element_size()]).sum(dtype=torch.int64)) % (1 << 20)


def _reduce(flat: "Tensor") -> None:
    _call(lambda group: _dist().all_reduce(flat, group=group))


def _dist() -> Any:
    import torch.distributed

    return torch.distributed


@functools.cache
def _group() -> Any:
    """The processes, connected; a group that the caller's script has made already is used."""
    import atexit

    dist = _dist()
    if dist.is_initialized():
        return dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT))
    atexit.register(_close)
    return dist.group.WORLD


def _close() -> None:
    """Close the connections while the interpreter is still whole: their threads must end before it does."""
    _group.cache_clear()
    if _dist().is_initialized():
        _dist().destroy_process_group()


def _call(collective: Callable[[Any], Any]) -> None:
    """A collective operation; whatever goes wrong in it is another process's fault, or the network's."""
    try:
        collective(_group())
    except RuntimeError as error:
        time.sleep(0.05)  # a Ctrl-C that ended the other process is on its way to this one: it is raised here
        first = str(error).strip().splitlines()[0][:200]
        raise RankError(
            f"process {rank()} of {size()}: another process of this run ended, or did not answer for "
            f"{TIMEOUT:g} s; its own message says why ({first})"
        ) from error
