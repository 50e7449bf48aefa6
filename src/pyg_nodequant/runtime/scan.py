r"""Exact top-k of a packed table by scanning its codes as they lie.

The scan forms an upper bound of each row's score from the plan of the query
(:mod:`~pyg_nodequant.runtime.query_plan`), 64 rows at a time, and compares it
with the score that is to be beaten. The few rows that pass are scored exactly,
at once: so the bar rises with the scan, no array of scores is ever made, and
the answer is that of brute force over the dequantized rows, whatever the order
of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.blocks import row_start
from pyg_nodequant.runtime.query_plan import ClassTables, QueryPlans
from pyg_nodequant.runtime.row_codes import decode_row
from pyg_nodequant.runtime.tile_bounds import (
    Terms,
    as_float32,
    tile_bounds,
)
from pyg_nodequant.runtime.topk import contains, dot, sink, worse

Array = np.ndarray[Any, Any]

#: Rows whose scales are read at once; a multiple of a block.
TILE_ROWS = 1024


class StoredRows(NamedTuple):
    r"""The rows of a table as kernels read them."""

    codes: Array  #: uint8, the blocks of all classes
    scale: Array  #: by position: uint16 halves or float32; one if shared
    offset: Array  #: float32 by position; empty if there are none
    order: Array  #: uint32, the row at each position; empty if it is the same
    starts: Array  #: [C] int64, where the blocks of a class begin
    counts: Array  #: [C] int64, its rows
    first: Array  #: [C] int64, the position of its first row
    weights: Array
    r"""float64 by position: what scores are multiplied with; empty if they
    are not."""


class Limits(NamedTuple):
    r"""What may be an answer."""

    allowed: Array  #: bool by row; empty if all are
    indptr: Array  #: int64, where a query's excluded rows begin
    indices: Array  #: int32, the excluded rows, ascending


class Work(NamedTuple):
    r"""What a scan writes on its way."""

    padded: Array  #: uint8, a short block filled up to 64 rows
    string: Array  #: uint8, the bit string of a row
    row: Array  #: float64, the row
    scale: Array  #: float32, the scales of a tile
    offset: Array  #: float32, its offsets; empty if there are none
    bounds: Array  #: float32, of the scores of a tile


lookup_bounds = jit(tile_bounds)  # without vector instructions


@jit
def _limit(worst: Any, norm: Any) -> Any:
    # The bound that a row needs, a little low: comparing is single precision
    # and the smallest numbers may be flushed to 0.
    if worst == -np.inf:
        return np.float32(-np.inf)
    share = worst / norm
    return np.float32(share - abs(share) * 2.0**-22 - 1e-36)


@jit
def _bounds(codes: Array, start: int, blocks: int, size: int, tables: Array,
            first: int, planes: int, scale: Array, offset: Array, row: int,
            terms: Terms, limit: float, out: Array, shuffle: bool) -> int:
    if shuffle:
        return tile_bounds(codes, start, blocks, size, tables, first, planes,
                           scale, offset, row, terms, limit, out)
    return lookup_bounds(codes, start, blocks, size, tables, first, planes,
                         scale, offset, row, terms, limit, out)


@jit
def _take(rows: StoredRows, classes: ClassTables, c: int, begin: int,
          block: int, count: int, query: Array, limits: Limits, q: int,
          norm: float, work: Work, best_scores: Array,
          best_ids: Array) -> None:
    # Scores the rows of a tile's block whose bounds are high enough, and puts
    # them into the heap of a query.
    limit = _limit(best_scores[0], norm)
    size = classes.sizes[c]
    has_offset = len(rows.offset) > 0
    for j in range(block, block + count):
        if not work.bounds[j] >= limit:
            continue
        position = rows.first[c] + begin + j
        number = int(position)
        if len(rows.order) > 0:
            number = int(rows.order[position])
        if len(limits.allowed) > 0 and not limits.allowed[number]:
            continue
        if contains(limits.indices, limits.indptr[q], limits.indptr[q + 1],
                    number):
            continue
        score = 0.0
        shared = len(rows.scale) == 1
        scale = np.float64(as_float32(rows.scale[0 if shared else position]))
        if scale != 0 or has_offset:
            shift = np.float64(rows.offset[position]) if has_offset else 0.0
            first, apart = row_start(begin + j, rows.counts[c], size)
            first += rows.starts[c]
            for b in range(size):
                work.string[b] = rows.codes[first + b * apart]
            work.string[size] = 0
            decode_row(work.string, classes.bits[c], classes.widths[c],
                       classes.steps[c], classes.offsets[c],
                       classes.uses_offset[c], scale, shift, work.row)
            score = dot(query, work.row)
            if len(rows.weights) > 0:
                score *= rows.weights[position]
        if worse(best_scores[0], best_ids[0], score, number):
            best_scores[0] = score
            best_ids[0] = number
            sink(best_scores, best_ids, 0, len(best_scores))
            limit = _limit(best_scores[0], norm)


@jit
def _read(stored: Array, out: Array) -> None:
    # Over a view, whose numbers lie one after the other for all that the
    # compiler knows; a place added to each index would hide that.
    for j in range(len(stored)):
        out[j] = as_float32(stored[j])


@jit
def scan(
    rows: StoredRows,
    classes: ClassTables,
    tiles: Array,
    queries: Array,
    plans: QueryPlans,
    limits: Limits,
    shuffle: bool,
    best_scores: Array,
    best_ids: Array,
) -> None:
    r"""Puts the best rows of some tiles into the heaps of queries.

    Args:
        rows (StoredRows): The table.
        classes (ClassTables): Its classes.
        tiles (array): Class, first place and end of each tile, a place being
            the number of a row within its class: :obj:`[T, 3]`.
        queries (array): Queries :obj:`[Q, d]`, :obj:`float64`.
        plans (QueryPlans): Their plans.
        limits (Limits): What may be an answer.
        shuffle (bool): Whether vector shuffles are used.
        best_scores (array): Heaps of the best scores so far :obj:`[Q, k]`.
        best_ids (array): The rows they belong to.
    """
    longest = classes.sizes.max()
    has_offset = len(rows.offset) > 0
    work = Work(
        np.zeros(64 * longest, np.uint8), np.zeros(longest + 2, np.uint8),
        np.empty(queries.shape[1]), np.zeros(TILE_ROWS, np.float32),
        np.zeros(TILE_ROWS if has_offset else 0, np.float32),
        np.empty(TILE_ROWS, np.float32))
    scale, offset, bounds = work.scale, work.offset, work.bounds
    tables = plans.tables.reshape(-1)
    for tile in range(tiles.shape[0]):
        c, begin, end = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2]
        size = classes.sizes[c]
        start = rows.starts[c] + begin * size
        position = rows.first[c] + begin
        if len(rows.scale) == 1:
            scale[:end - begin] = as_float32(rows.scale[0])
        else:
            _read(rows.scale[position:position + end - begin], scale)
        if has_offset:
            _read(rows.offset[position:position + end - begin], offset)
        if len(rows.weights) > 0:
            weights = rows.weights[position:position + end - begin]
            for j in range(len(weights)):
                scale[j] *= np.float32(weights[j])
            for j in range(min(len(weights), len(offset))):
                offset[j] *= np.float32(weights[j])
        short = (end - begin) & 63
        whole = end - begin - short
        if short:  # the last block of a class: filled up
            at = start + whole * size
            for b in range(size):
                for j in range(short):
                    work.padded[64 * b + j] = rows.codes[at + b * short + j]
        for q in range(queries.shape[0]):
            first = q * plans.tables.shape[1] + classes.entries[c]
            planes = 2 if plans.high[q, c] else 1
            terms = (plans.terms[q, c, 0], plans.terms[q, c, 1],
                     plans.terms[q, c, 2], plans.terms[q, c, 3],
                     plans.terms[q, c, 4])
            limit = _limit(best_scores[q, 0], plans.norms[q])
            found = _bounds(rows.codes, start, whole // 64, size, tables,
                            first, planes, scale, offset, 0, terms, limit,
                            bounds, shuffle)
            if short:
                last = _bounds(work.padded, 0, 1, size, tables, first, planes,
                               scale, offset, whole, terms, limit, bounds,
                               shuffle)
                found |= last << (whole // 64)
            block = 0
            while found >> block:
                if found >> block & 1:
                    _take(rows, classes, c, begin, 64 * block,
                          min(64, end - begin - 64 * block), queries[q],
                          limits, q, plans.norms[q], work, best_scores[q],
                          best_ids[q])
                block += 1
