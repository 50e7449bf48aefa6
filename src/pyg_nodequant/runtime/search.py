r"""Runs a scan: which engine, which rows first, on how many threads."""

from __future__ import annotations

import os
from copy import copy
from typing import Any, Callable, Optional

import numpy as np

from pyg_nodequant.runtime._jit import num_threads, run_ranges
from pyg_nodequant.runtime.csr import CSR
from pyg_nodequant.runtime.layout import RowLayout
from pyg_nodequant.runtime.query_plan import (
    QueryPlans,
    class_tables,
    make_plans,
    plan_bytes,
)
from pyg_nodequant.runtime.row_classes import RowClasses
from pyg_nodequant.runtime.row_scales import RowScales
from pyg_nodequant.runtime.scan import (
    PEAK,
    TILE_ROWS,
    Limits,
    StoredRows,
    answer,
    scan,
)
from pyg_nodequant.runtime.scan_numpy import scan_numpy
from pyg_nodequant.runtime.topk import NOTHING, sort_heaps, top_rows
from pyg_nodequant.runtime.vector_code import find_shuffle

Array = np.ndarray[Any, Any]

#: What can scan, best first: shuffles in vector registers, the same tables
#: looked up one at a time, and numpy without compiled code.
ENGINES = ("shuffle", "lookup", "numpy")

# Tiles that are scanned first, evenly spread: after them the bar is nearly as
# high as it gets, whatever the order of rows.
_SAMPLE_TILES = 32
# Memory of the plans of one group of queries, and the most queries in one.
_PLAN_BYTES = 1 << 24
_GROUP = 256
_NOTHING_EXCLUDED = np.zeros(0, dtype=np.int32)
_NO_MASK = np.zeros(0, dtype=np.bool_)
# Bytes below which one query is not worth a second thread.
_SPLIT_BYTES = 1 << 22


def default_engine() -> str:
    r"""Returns the engine that :obj:`NODEQUANT_ENGINE` names, or the best
    that this processor has.

    Raises:
        ValueError: If the variable names none.
    """
    name = os.environ.get("NODEQUANT_ENGINE", "")
    if name:
        return check_engine(name, "NODEQUANT_ENGINE")
    return "shuffle" if find_shuffle() is not None else "lookup"


def check_engine(name: str, what: str = "engine") -> str:
    r"""Raises :class:`ValueError` unless :obj:`name` is an engine that this
    processor has.
    """
    if name not in ENGINES:
        raise ValueError(f"'{what}' needs to be one of {', '.join(ENGINES)} "
                         f"(got '{name}')")
    if name == "shuffle" and find_shuffle() is None:
        raise ValueError(f"'{what}' needs to be one of "
                         f"{', '.join(ENGINES[1:])} on a processor without a "
                         f"byte shuffle (got '{name}')")
    return name


class Searcher:
    r"""Searches one packed table.

    Args:
        classes (RowClasses): Its classes.
        layout (RowLayout): Where its rows lie.
        codes (array): Its codes.
        scales (RowScales): Its scales.
        offsets (RowScales, optional): Its offsets.
        read (callable): Gives rows as :obj:`float64`.
    """

    def __init__(
        self,
        classes: RowClasses,
        layout: RowLayout,
        codes: Array,
        scales: RowScales,
        offsets: Optional[RowScales],
        read: Callable[[Array], Array],
    ) -> None:
        self.engine = default_engine()
        self.classes = class_tables(classes)
        self.read = read
        no_offsets = np.zeros(0, dtype=np.float32)
        no_order = np.zeros(0, dtype=np.uint32)
        self.rows = StoredRows(
            _frozen(codes), _frozen(scales.scanned),
            _frozen(no_offsets if offsets is None else offsets.values),
            _frozen(no_order if layout.is_sorted else layout.order),
            layout.starts, layout.counts, layout.first, np.zeros(0))
        self.size = layout.size
        self.tiles = _tiles(layout.counts)
        self.largest = max(scales.largest,
                           0.0 if offsets is None else offsets.largest)

    def weighted(self, weights: Array, largest: float) -> Searcher:
        r"""A searcher of the same rows whose scores are multiplied with
        weights.

        Args:
            weights (array): A weight for each position, :obj:`float64`.
            largest (float): A bound of the magnitudes of weighted scales and
                offsets.
        """
        out = copy(self)
        out.rows = self.rows._replace(weights=_frozen(weights))
        out.largest = largest
        return out

    def search(
        self,
        queries: Array,
        k: int,
        exclude: Optional[CSR] = None,
        allowed: Optional[Array] = None,
    ) -> Optional[tuple[Array, Array]]:
        r"""Returns the best rows of queries, or :obj:`None` if their sums
        could overflow in single precision.

        Args:
            queries (array): Finite queries :obj:`[B, d]`.
            k (int): How many rows a query gets.
            exclude (tuple, optional): The rows each query must not get, as
                lists that ascend.
            allowed (array, optional): The only rows that queries get.
        """
        batch = len(queries)
        queries = np.ascontiguousarray(queries, dtype=np.float64)
        mask = _NO_MASK
        if allowed is not None:
            mask = np.zeros(self.size, dtype=np.bool_)
            mask[allowed] = True
        scores = np.empty((batch, k))
        ids = np.empty((batch, k), dtype=np.int64)
        if batch == 1:
            small = self.rows.codes.nbytes < _SPLIT_BYTES
            workers = 1 if small else num_threads()
            limits = _limits(mask, exclude, 0, 1)
            if workers > 1:
                safe = self._share(queries, limits, workers, scores, ids)
            else:
                safe = self._answer(queries, limits, scores, ids)
            return (scores, ids) if safe else None
        group = max(1, min(_GROUP, _PLAN_BYTES //
                           max(1, plan_bytes(self.classes)),
                           -(-batch // num_threads())))
        unsafe = []

        def work(begin: int, end: int) -> None:
            limits = _limits(mask, exclude, begin, end)
            if not self._answer(queries[begin:end], limits,
                                scores[begin:end], ids[begin:end]):
                unsafe.append(begin)

        run_ranges(work, batch, group)
        return None if unsafe else (scores, ids)

    def _answer(self, queries: Array, limits: Limits, scores: Array,
                ids: Array) -> bool:
        if self.engine != "numpy":
            return bool(answer(self.rows, self.classes, self.tiles, queries,
                               limits, self.engine == "shuffle", self.largest,
                               scores, ids))
        plans = make_plans(queries, self.classes)
        if not self._is_safe(plans):
            return False
        scores[:], ids[:] = -np.inf, NOTHING
        self._scan(self.tiles, queries, plans, limits, scores, ids)
        sort_heaps(scores, ids, NOTHING)
        return True

    def _is_safe(self, plans: QueryPlans) -> bool:
        return bool((plans.peaks * max(self.largest, 1.0) < PEAK).all())

    def _scan(self, tiles: Array, queries: Array, plans: QueryPlans,
              limits: Limits, scores: Array, ids: Array) -> None:
        if self.engine == "numpy":
            scan_numpy(self.rows, self.classes, tiles, queries, plans, limits,
                       self.read, scores, ids)
        else:
            scan(self.rows, self.classes, tiles, queries, plans, limits,
                 self.engine == "shuffle", scores, ids)

    def _share(self, query: Array, limits: Limits, workers: int,
               scores: Array, ids: Array) -> bool:
        # One query is spread over threads by rows; each fills a heap.
        plans = make_plans(query, self.classes)
        if not self._is_safe(plans):
            return False
        k = scores.shape[1]
        heaps = [(np.full((1, k), -np.inf),
                  np.full((1, k), NOTHING, dtype=np.int64))
                 for _ in range(workers)]

        def work(begin: int, end: int) -> None:
            self._scan(self.tiles[begin::workers], query, plans, limits,
                       *heaps[begin])

        run_ranges(work, workers, 1)
        every = np.concatenate([heap[0][0] for heap in heaps])
        numbers = np.concatenate([heap[1][0] for heap in heaps])
        best = np.lexsort((numbers, -every))[:k]
        scores[0], ids[0] = every[best], numbers[best]
        ids[ids == NOTHING] = -1
        return True


def _frozen(array: Array) -> Array:
    # Kernels are compiled for arrays that cannot be written, as mapped ones.
    view = array.view()
    view.setflags(write=False)
    return view


def _tiles(counts: Array) -> Array:
    parts = []
    for number, count in enumerate(counts.tolist()):
        begin = np.arange(0, count, TILE_ROWS, dtype=np.int64)
        end = np.minimum(begin + TILE_ROWS, count)
        parts.append(np.stack([np.full(len(begin), number), begin, end], 1))
    tiles = np.concatenate(parts)
    sample = np.unique(np.linspace(0, max(len(tiles) - 1, 0), _SAMPLE_TILES,
                                   dtype=np.int64))[:len(tiles)]
    return np.concatenate([tiles[sample],
                           np.delete(tiles, sample, axis=0)])


def _limits(mask: Array, exclude: Optional[CSR], begin: int,
            end: int) -> Limits:
    if exclude is None:
        return Limits(mask, np.zeros(end - begin + 1, dtype=np.int64),
                      _NOTHING_EXCLUDED)
    return Limits(mask, exclude[0][begin:end + 1], exclude[1])


def search_table(
    searcher: Searcher,
    queries: Array,
    k: int,
    exclude: Optional[CSR],
    allowed: Optional[Array],
    candidates: Callable[[], Array],
) -> tuple[Array, Array]:
    r"""Returns the best rows of queries by the cheapest way there is: a scan
    of all codes, or, where few rows may be answers or many are asked for, by
    reading the rows of :obj:`candidates`.
    """
    size = searcher.size
    few = allowed is not None and 256 * len(allowed) < size
    if not (few or 4 * k > size):
        found = searcher.search(queries, k, exclude, allowed)
        if found is not None:
            return found
    return top_rows(searcher.read, candidates(), queries, k, exclude)
