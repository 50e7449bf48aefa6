r"""The measurements of `nodequant bench serve`."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pyg_nodequant.runtime import PackedTable, RowClasses
from pyg_nodequant.runtime.row_codes import num_levels

Array = np.ndarray[Any, Any]
#: Takes queries [B, d] and returns row numbers [B, k].
Method = Callable[[Array], Array]

_CHUNK = 1 << 20
# Queries that a method is timed on before the next one's turn, and those that
# come before: the first find the caches full of another method's rows.
_TURN, _WARM = 3, 3


def _mixed(rng: np.random.Generator, items: int) -> PackedTable:
    # Widths of a node-aware model: 2.2 bits a number at d = 64.
    widths = rng.choice([1, 2, 3, 4, 8], items, p=[.3, .4, .2, .07, .03])
    codes = rng.integers(0, 256, (items, 64), dtype=np.uint8)
    codes &= num_levels(widths).astype(np.uint8)[:, None]
    scale = np.exp(0.3 * rng.normal(size=items)) / (num_levels(widths) + 1)
    return PackedTable.from_codes(codes, widths, scale=scale, centered=True)


def _transform(rng: np.random.Generator, items: int) -> PackedTable:
    # 68 bits over 96 principal axes in 8 classes, a scale and a class id:
    # 10 bytes a row.
    weight = 1 / np.sqrt(1 + np.arange(96))
    classes = np.zeros((8, 96), dtype=np.int64)
    for number, row in enumerate(classes):
        tilt = weight**(0.6 + 0.1 * number)
        for _ in range(68):
            row[np.argmax(np.where(row < 6, tilt / 2.0**row, 0))] += 1
    steps = weight / (num_levels(classes) + 1)
    table = RowClasses(classes, steps, -steps * num_levels(classes) / 2)
    ids = rng.integers(0, 8, items)
    codes = rng.integers(0, 256, (items, 96), dtype=np.uint8)
    for start in range(0, items, _CHUNK):
        part = slice(start, start + _CHUNK)
        codes[part] &= num_levels(classes[ids[part]]).astype(np.uint8)
    return PackedTable.from_classes(codes, ids, table, np.exp(
        0.3 * rng.normal(size=items)), scale_dtype="log8")


def _axes(rng: np.random.Generator, items: int) -> PackedTable:
    # 32 axes of 4 bits and a scale: 17 bytes a row.
    codes = rng.integers(0, 16, (items, 32), dtype=np.uint8)
    return PackedTable.from_codes(
        codes, np.full(items, 4), scale=np.exp(0.3 * rng.normal(size=items)),
        centered=True, scale_dtype="log8")


def _narrow(rng: np.random.Generator, items: int) -> PackedTable:
    # 64 axes of 1 bit and a scale: 9 bytes a row.
    codes = rng.integers(0, 2, (items, 64), dtype=np.uint8)
    return PackedTable.from_codes(
        codes, np.ones(items, int), scale=np.exp(
            0.3 * rng.normal(size=items)), centered=True, scale_dtype="log8")


FORMS: dict[str, Callable[[np.random.Generator, int], PackedTable]] = {
    "mixed": _mixed, "transform": _transform, "axes": _axes,
    "narrow": _narrow,
}  # yapf: disable
r"""The synthetic tables: node-only widths of a mean of 2.2 bits at 64
dimensions; 10-byte rows of 96 dimensions in 8 classes; 17-byte rows of 32
dimensions of 4 bits; 9-byte rows of 64 dimensions of 1 bit."""


def synthetic_table(form: str, items: int) -> PackedTable:
    r"""Returns a seeded table of one of the :obj:`FORMS`."""
    return FORMS[form](np.random.default_rng(0), items)


class Rows:
    r"""The rows that rivals search, as floats, made once.

    Args:
        table (PackedTable): The table to compare with.
        dim (int, optional): Search other rows, normal numbers of so many
            dimensions: those of a float model, say.
    """

    def __init__(self, table: PackedTable, dim: Optional[int] = None) -> None:
        self.size = len(table)
        self.nbytes = table.nbytes
        self.dim = dim or table.dim
        self._table = None if dim else table
        self._floats: Optional[Array] = None

    @property
    def floats(self) -> Array:
        r"""All rows, :obj:`float32`."""
        if self._floats is None:
            if self._table is not None:
                self._floats = self._table.dequantize()
            else:
                rng = np.random.default_rng(2)
                self._floats = rng.standard_normal((self.size, self.dim),
                                                   dtype=np.float32)
        return self._floats


def _torch(rows: Rows, k: int, threads: int) -> Iterator[
        tuple[str, Method, float]]:
    import torch as torch_

    torch: Any = torch_  # not all of it has types
    torch.set_num_threads(threads)
    items = torch.from_numpy(rows.floats)
    # Scores of a block of queries are at most 256 MiB.
    block = max(1, (1 << 26) // len(rows.floats))

    def search(queries: Array) -> Array:
        parts = [torch.topk(part @ items.T if len(part) > 1 else
                            (items @ part[0])[None], k).indices
                 for part in torch.split(torch.from_numpy(queries), block)]
        return np.asarray(torch.cat(parts).numpy())

    yield "torch float32 + topk", search, 4 * rows.dim


def _faiss(rows: Rows, k: int, threads: int) -> Iterator[
        tuple[str, Method, float]]:
    import faiss as faiss_

    faiss: Any = faiss_  # its types differ between versions
    faiss.omp_set_num_threads(threads)
    dim = rows.dim
    product = faiss.METRIC_INNER_PRODUCT
    size = rows.nbytes / max(1, rows.size)
    found = [("IndexFlatIP", faiss.IndexFlatIP(dim), 4.0 * dim),
             ("SQ8", faiss.IndexScalarQuantizer(
                 dim, faiss.ScalarQuantizer.QT_8bit, product), 1.0 * dim),
             ("SQ4", faiss.IndexScalarQuantizer(
                 dim, faiss.ScalarQuantizer.QT_4bit, product), dim / 2)]
    # The product quantizer of the most equal bytes: half a byte a part.
    parts = [m for m in range(1, dim + 1) if dim % m == 0 and m % 2 == 0]
    if parts:
        m = min(parts, key=lambda m: abs(m / 2 - size))
        found.append((f"IndexPQFastScan {m}x4",
                      faiss.IndexPQFastScan(dim, m, 4, product), m / 2))
    for name, index, nbytes in found:
        if not index.is_trained:
            index.train(rows.floats[:200_000])
        index.add(rows.floats)

        def search(queries: Array, index: Any = index) -> Array:
            return np.asarray(index.search(queries, k)[1])

        yield f"faiss {name}", search, nbytes


RIVALS: dict[str, Any] = {"torch": _torch, "faiss": _faiss}


def compare(
    table: PackedTable,
    users: Optional[PackedTable] = None,
    *,
    k: int = 20,
    repeat: int = 9,
    batch: int = 1,
    threads: int = 1,
    engines: Optional[list[str]] = None,
    rivals: Optional[list[str]] = None,
    rival_dim: Optional[int] = None,
) -> dict[str, Any]:
    r"""Measures all methods on the same queries, in turn.

    Args:
        table (PackedTable): The items.
        users (PackedTable, optional): Rows to take the queries from; normal
            numbers by default.
        k (int): How many items a query gets.
        repeat (int): How often each method is timed, on other queries each
            time; the median counts.
        batch (int): How many queries are asked at once.
        threads (int): How many threads the rivals may use; ours uses the
            processors that this process may run on.
        engines (list, optional): Engines of ours; the default one if not
            given.
        rivals (list, optional): Keys of :obj:`RIVALS`; those that are not
            installed are left out.
        rival_dim (int, optional): The rivals search other rows, of so many
            dimensions (:class:`Rows`): only their time is measured then.
    """
    rng = np.random.default_rng(1)
    count = batch * (repeat + 1)
    if users is None:
        queries = rng.normal(size=(count, table.dim)).astype(np.float32)
    else:
        queries = users.dequantize(rng.integers(0, len(users), count))
    rounds = queries.reshape(repeat + 1, batch, table.dim)
    other = rounds
    if rival_dim:
        other = rng.standard_normal((repeat + 1, batch, rival_dim),
                                    dtype=np.float32)
    rows = Rows(table, rival_dim)
    methods: list[tuple[str, Method, float]] = []
    size = table.nbytes / max(1, len(table))
    for name in engines or [table.engine]:
        methods.append((f"ours, {name}", _ours(table, name, k), size))
    ours = len(methods)
    for rival in rivals or []:
        try:
            methods.extend(RIVALS[rival](rows, k, threads))
        except ImportError:
            continue
    asked = [rounds if place < ours else other
             for place in range(len(methods))]
    # Once to warm up, which also shows what each method finds.
    found = [search(each[0]) for (_, search, _), each in zip(
        methods, asked, strict=True)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    times: list[list[float]] = [[] for _ in methods]
    for begin in range(1, repeat + 1, _TURN):
        for place, (_, search, _) in enumerate(methods):
            for one in range(_WARM):
                search(asked[place][(begin - 1 - one) % (repeat + 1)])
            for one in asked[place][begin:begin + _TURN]:
                start = time.perf_counter()
                search(one)
                times[place].append(time.perf_counter() - start)
    medians = [1000 * statistics.median(each) / batch for each in times]
    recalls = [float(np.mean([len(np.intersect1d(a, b)) / k for a, b in
                              zip(found[0], one, strict=True)]))
               for one in found]
    return {
        "items": len(table), "dim": table.dim, "mean_bits": table.mean_bits,
        "bytes": table.nbytes, "k": k, "batch": batch, "threads": threads,
        "repeat": repeat, "processor": processor(), "load": load,
        "methods": [{
            "method": name, "ms_per_query": median,
            "times_ours": median / medians[0], "bytes_per_item": nbytes,
            "dim": table.dim if place < ours else rows.dim,
            "recall": None if rival_dim and place >= ours else recall,
            "exact": recall == 1.0,
        } for place, ((name, _, nbytes), median, recall) in enumerate(zip(
            methods, medians, recalls, strict=True))],
    }


def _ours(table: PackedTable, engine: str, k: int) -> Method:
    def search(queries: Array) -> Array:
        if table.engine != engine:
            table.engine = engine
        return table.topk(queries, k)[1]

    return search


def processor() -> str:
    r"""Returns the name of the processor, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines()
             if line.startswith("model name")]
    return names[0] if names else platform.machine()
