"""The same function on many items, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def mapped(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """function(item) in the order of items; the function is one of a module, items are pickled.

    Processes are spawned: a fork of a process with threads (torch's) may hang.
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, items, chunksize=max(1, len(items) // (8 * workers)))
