"""Work on many items in threads, one a core: compiled loops and matrix products release the interpreter lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use, at most OMP_NUM_THREADS where that is set."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(there, int(allowed)) if allowed.isdigit() and int(allowed) > 0 else there


def in_threads(count: int, least: int, work: Callable[[slice], Result], block: int = 1) -> list[Result]:
    """Work on items 0 ... count - 1 in parts, one a thread.

    Args:
        count: number of items.
        least: items for which a thread of their own pays.
        work: called with each part; with one core, or few items, once with all of them.
        block: every part begins at a multiple of it.

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
