r"""How near a scan comes to the memory: bytes scanned a second over the
bandwidth of a copy, one thread.

    python benchmarks/bench_bandwidth.py --items 10000000
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial

import numpy as np

from pyg_nodequant.app.bench import bind_processors
from pyg_nodequant.runtime import PackedTable


def timed(call, repeat):
    """Median seconds of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ask(table, queries):
    """Answers the next query."""
    table.topk(next(queries), 20)


def main():
    """Prints a line for each row size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    bind_processors(1)
    source = np.ones(1 << 27, dtype=np.uint8)
    target = np.zeros_like(source)
    seconds = timed(lambda: np.copyto(target, source), options.repeat)
    # A copy reads and writes each byte.
    copied = 2 * source.nbytes / seconds
    read = source.view(np.uint64)
    summed = source.nbytes / timed(lambda: read.max(), options.repeat)
    print(f"copy {copied / 1e9:.1f} GB/s (read and write), "
          f"largest of 64-bit words {summed / 1e9:.1f} GB/s (read)")
    rng = np.random.default_rng(0)
    for size in (8, 10, 16):
        codes = rng.integers(0, 2, (options.items, 8 * size), dtype=np.uint8)
        table = PackedTable.from_codes(
            codes, np.ones(options.items, int),
            scale=np.exp(0.3 * rng.normal(size=options.items)), centered=True)
        del codes
        queries = iter(rng.normal(size=(options.repeat + 1, 8 * size)))
        seconds = timed(partial(ask, table, queries), options.repeat)
        scanned = options.items * (size + 2)  # strings and half scales
        print(f"{size:2d} + 2 bytes a row, {options.items:,} rows: "
              f"{1e3 * seconds:.2f} ms a query, "
              f"{scanned / seconds / 1e9:.1f} GB/s, "
              f"{scanned / seconds / copied:.2f} of the copy's")


if __name__ == "__main__":
    main()
