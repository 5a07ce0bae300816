"""Threads that compute with torch beside each other, and how many threads each of them has within torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


@contextlib.contextmanager
def torch_workers(count: int, name: str = "", *, within: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads; at the end those that wait for their turn are dropped, and those at work awaited.

    A thread that sets torch's number of threads sets it for all that come later: at the end it is what it was.

    Args:
        within: threads that torch uses in each; this thread's own, shared out, where none is given.
    """
    own = torch.get_num_threads()
    each = max(1, own // count) if within is None else within
    pool = ThreadPoolExecutor(count, name, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(own)
