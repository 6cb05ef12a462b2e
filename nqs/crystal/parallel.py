"""The same function on many items, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from nqs.errors import InputError

T = TypeVar("T")
R = TypeVar("R")


def mapped(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """function(item) in the order of items; the function is one of a module, items are pickled.

    Processes are spawned: a fork of a process with threads (torch's) may hang. Raises InputError if
    one of them ends early.
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from pool.map(function, items, chunksize=max(1, len(items) // (8 * workers)))
    except BrokenProcessPool:
        raise InputError(
            f"workers={workers}: one of the processes ended early; use workers=1, more memory, or, "
            "in a script of your own, if __name__ == '__main__':"
        ) from None
