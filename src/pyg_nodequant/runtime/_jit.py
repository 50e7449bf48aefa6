"""How this package compiles its kernels and spreads them over threads.

Kernels are compiled without numba's own thread pool and release the GIL;
plain Python threads run them side by side. This keeps clear of the two ways
in which numba's pools end a process: OpenMP after a fork, and the work queue
under concurrent callers, such as the threads of a web server.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    r"""Compiles a kernel that releases the GIL, cached on disk if possible.

    Numba caches beside the source file, or in the user's cache folder where
    the package is read-only. Where neither can be written it refuses to
    decorate the function at all; the kernel is then compiled anew in each
    process.
    """
    try:
        return _compile(function, cache=True)
    except RuntimeError:
        return _compile(function, cache=False)


def jit_fused(function: Function) -> Function:
    r"""Like :meth:`jit`, and a product and a sum may be fused into one
    operation: faster, but the last bit depends on the processor.
    """
    try:
        return _compile(function, cache=True, fastmath={"contract"})
    except RuntimeError:
        return _compile(function, cache=False, fastmath={"contract"})


def _compile(function: Function, cache: bool, **options: Any) -> Function:
    kernel: Any = numba.njit(nogil=True, cache=cache, **options)(function)
    return cast(Function, kernel)


def num_threads() -> int:
    r"""Returns how many threads the kernels use: the processors this process
    may run on, or fewer if :obj:`NUMBA_NUM_THREADS` says so.
    """
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    settings: Any = numba.config
    return max(1, min(available, int(settings.NUMBA_NUM_THREADS)))


def run_ranges(
    work: Callable[[int, int], None],
    total: int,
    step: int,
) -> None:
    r"""Calls :obj:`work(start, stop)` over :obj:`range(total)` in ranges of at
    most :obj:`step`, on :meth:`num_threads` threads.

    Args:
        work (callable): What to do for one range; ranges are disjoint.
        total (int): The end of the last range.
        step (int): The length of a range.
    """
    starts = range(0, total, step)
    workers = min(num_threads(), len(starts))
    if workers <= 1:
        for start in starts:
            work(start, min(start + step, total))
        return
    tasks = [_pool(workers).submit(work, start, min(start + step, total))
             for start in starts]
    for task in tasks:
        task.result()


# Threads are started once: a query can be shorter than starting them. They do
# not outlive a fork, so a child begins with none.
_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = threading.Lock()


def _pool(workers: int) -> ThreadPoolExecutor:
    with _POOLS_LOCK:
        if workers not in _POOLS:
            _POOLS[workers] = ThreadPoolExecutor(workers, "nodequant")
        return _POOLS[workers]


def _forget_pools() -> None:
    global _POOLS, _POOLS_LOCK
    _POOLS, _POOLS_LOCK = {}, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)
