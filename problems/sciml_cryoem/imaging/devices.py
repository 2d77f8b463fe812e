"""The torch device of an engine, and work in parts that fit into the memory of a GPU."""

import contextlib
import logging
import threading
from collections.abc import Callable

import torch

from sciml.errors import InputError

_log = logging.getLogger(__name__)


def torch_device(name: str) -> torch.device:
    """The torch device of `ImageSettings.device`, whose "torch" means torch on the CPU."""
    return torch.device("cpu" if name == "torch" else name)


def warm_up(name: str) -> threading.Thread | None:
    """Start a GPU in a thread, because it takes seconds. Errors are ignored: they come again at the first real use.

    Returns:
        The thread; None for a CPU, and for a GPU that is already started.
    """
    place = torch_device(name)
    if place.type == "cpu" or torch.cuda.is_initialized():
        return None
    thread = threading.Thread(target=_start, args=(place,), daemon=True)
    thread.start()
    return thread


def _start(place: torch.device) -> None:
    with contextlib.suppress(RuntimeError, AssertionError):
        square = torch.ones((64, 64), device=place)
        torch.exp(square @ square).max(1)
        torch.cuda.synchronize(place)


def in_parts(count: int, step: int, work: Callable[[slice], None]) -> None:
    """Work on items 0 ... count - 1 in parts. Where the memory of a GPU runs out, the part is halved and done again.

    Args:
        count: number of items.
        step: items in a part at first.
        work: called with each part; it must change nothing before it has allocated all its memory.

    Raises:
        InputError: the memory does not hold one item.
    """
    start = 0
    while start < count:
        part = slice(start, min(start + step, count))
        try:
            work(part)
        except torch.cuda.OutOfMemoryError as error:
            if step == 1:
                raise InputError(
                    f"the GPU's memory does not hold the work on one image ({_first_line(error)}); free some of it, "
                    "or use --device cpu."
                ) from None
        else:
            start = part.stop
            continue
        # Outside the handler: its traceback would keep the tensors alive whose memory is needed.
        step = max(1, min(step, part.stop - part.start) // 2)
        _log.warning("the GPU's memory does not hold %d images at once: %d at a time", part.stop - part.start, step)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error) or "out of memory").splitlines()[0].rstrip(".")


def memory_budget(place: torch.device, on_gpu: int, on_cpu: int) -> int:
    """Bytes that a part may take: the number given, but on a GPU at most half of what is free."""
    if place.type == "cpu":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(place)
    unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return min(on_gpu, (free + unused) // 2)
