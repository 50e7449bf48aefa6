"""How this package compiles its kernels and spreads them over threads.

Kernels are compiled without numba's own thread pool and release the GIL;
plain Python threads run them side by side. This keeps clear of the two ways
in which numba's pools end a process: OpenMP after a fork, and the work queue
under concurrent callers, such as the threads of a web server.
"""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, TypeVar, cast

import numba
from numba.core.caching import NullCache

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
    if cache:
        _tie_to_package(kernel)
    return cast(Function, kernel)


def _tie_to_package(kernel: Any) -> None:
    # What numba has on disk is valid while the file of the function is as it
    # was, whatever has changed in those it calls. Here it is valid while the
    # whole folder is as it was. Numba has no public place for this: where it
    # is not the one below, nothing is cached.
    cache = kernel._cache
    if hasattr(getattr(cache, "_cache_file", None), "_source_stamp"):
        cache._cache_file._source_stamp = _package_stamp()
    else:
        kernel._cache = NullCache()


@functools.cache
def _package_stamp() -> tuple[tuple[str, int, int], ...]:
    found = [(path.name, path.stat()) for path in
             sorted(Path(__file__).parent.glob("*.py"))]
    return tuple((name, stat.st_mtime_ns, stat.st_size)
                 for name, stat in found)


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
