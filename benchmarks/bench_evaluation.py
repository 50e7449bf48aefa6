r"""Times the full evaluation of Gowalla's shape: 29,858 users, 40,981 items.

Embeddings and interactions are random. Side by side, the ranking from float
embeddings and the ranking from packed codes at 2 bits, all metrics of
:func:`pyg_nodequant.training.evaluation.evaluate_ranking`; the runs alternate
and the median counts, with the part that is ranking and the part that is
metrics.

.. code-block:: console

    python benchmarks/bench_evaluation.py --threads 2 --repeats 3
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numba
import numpy as np
import torch

from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.runtime.recommender import PackedRecommender
from pyg_nodequant.runtime.table import PackedTable
from pyg_nodequant.training.evaluation import (
    TopK,
    evaluate_ranking,
    packed_topk,
    torch_topk,
)

NUM_USERS, NUM_ITEMS, NUM_EDGES, DIM = 29_858, 40_981, 1_027_370, 64


def make_interactions(seed: int) -> Interactions:
    rng = np.random.default_rng(seed)
    edges = np.unique(rng.integers(0, NUM_USERS * NUM_ITEMS, NUM_EDGES))
    split = rng.choice(3, edges.size, p=[0.71, 0.08, 0.21])
    parts = [
        torch.from_numpy(
            np.stack(np.divmod(edges[split == i], NUM_ITEMS)).astype(np.int64))
        for i in range(3)
    ]
    return Interactions(NUM_USERS, NUM_ITEMS, *parts, np.arange(NUM_USERS),
                        np.arange(NUM_ITEMS))


def timed(
    make: Callable[[], TopK],
    interactions: Interactions,
    full: bool,
) -> tuple[float, float]:
    """Returns the seconds of the evaluation, and of its ranking."""
    start, ranking = time.perf_counter(), 0.0
    topk = make()

    def clocked(users, k, exclude):
        nonlocal ranking
        begin = time.perf_counter()
        items = topk(users, k, exclude)
        ranking += time.perf_counter() - begin
        return items

    evaluate_ranking(clocked, interactions, full=full)
    return time.perf_counter() - start, ranking


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Times the full evaluation of Gowalla's shape.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    numba.set_num_threads(min(args.threads, numba.config.NUMBA_NUM_THREADS))

    interactions = make_interactions(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    emb = torch.randn(NUM_USERS + NUM_ITEMS, DIM, generator=generator)
    users, items = emb[:NUM_USERS], emb[NUM_USERS:]
    packed = PackedRecommender(*(PackedTable.from_float(part.numpy(), 2)
                                 for part in (users, items)))
    # Compiles the kernels before the clock runs:
    packed.topk_rows(np.arange(8), 50)

    variants = {
        "float, all metrics": (lambda: torch_topk(users, items), True),
        "float, recall@20 and ndcg@20":
        (lambda: torch_topk(users, items), False),
        "packed 2 bits, all metrics": (lambda: packed_topk(packed), True),
    }
    seconds: dict[str, list[tuple[float, float]]] = {n: [] for n in variants}
    for _ in range(args.repeats):
        for name, (make, full) in variants.items():
            seconds[name].append(timed(make, interactions, full))

    print(f"machine  {cpu_name()}, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f}")
    print(f"threads  {args.threads} (torch {torch.__version__}, "
          f"numba {numba.__version__})")
    print(f"shape    {NUM_USERS:,} users x {NUM_ITEMS:,} items x {DIM}, "
          f"median of {args.repeats}")
    for name, pairs in seconds.items():
        total, ranking = (statistics.median(column) for column in zip(*pairs))
        spread = [pair[0] for pair in pairs]
        print(f"{name:30s} {total:6.2f} s ({min(spread):.2f} to "
              f"{max(spread):.2f}), of which ranking {ranking:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
