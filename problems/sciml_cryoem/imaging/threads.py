"""Work on many items in threads, one a core: compiled loops and matrix products let go of the interpreter."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

Result = TypeVar("Result")


def cores() -> int:
    """Processors that this process may use; no more than OMP_NUM_THREADS, where that is set, as for other libraries."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else there


def in_threads(count: int, least: int, work: Callable[[slice], Result], block: int = 1) -> list[Result]:
    """Do the work on items 0 ... count - 1 in parts, side by side.

    Args:
        count: of items.
        least: items that make a part worth a thread.
        work: done on each part; called once, with all items, where there is one core or little to do.
        block: parts begin at multiples of it.

    Returns:
        The results of the parts, in their order.
    """
    blocks = -(-count // block)
    parts = max(1, min(cores(), count // max(least, 1), blocks))
    edges = [min(blocks * number // parts * block, count) for number in range(parts + 1)]
    pieces = [slice(first, last) for first, last in pairwise(edges)]
    if parts == 1:
        return [work(pieces[0])]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(work, pieces))
