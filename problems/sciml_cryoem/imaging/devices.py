"""Where torch computes, and work in parts that the memory of a GPU holds."""

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
    """Start a GPU, which takes seconds, while something else is done; what fails here fails again where it matters.

    Returns:
        The thread that does; None for a CPU, and for a GPU that has been started.
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
    """Do the work on items 0 ... count - 1, `step` at a time; half as many, and that part again, when a GPU's memory
    runs out.

    Args:
        count: of items. step: how many at first.
        work: done on a part; must change nothing before the last of its memory is allotted.

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
        # Not in the handler: the traceback would keep the tensors that are to be given back.
        step = max(1, min(step, part.stop - part.start) // 2)
        _log.warning("the GPU's memory does not hold %d images at once: %d at a time", part.stop - part.start, step)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error) or "out of memory").splitlines()[0].rstrip(".")


def memory_budget(place: torch.device, on_gpu: int, on_cpu: int) -> int:
    """Bytes that a part may take: as given, but of a GPU at most half of what is free."""
    if place.type == "cpu":
        return on_cpu
    free, _ = torch.cuda.mem_get_info(place)
    unused = torch.cuda.memory_reserved(place) - torch.cuda.memory_allocated(place)
    return min(on_gpu, (free + unused) // 2)
