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
from pyg_nodequant.runtime.row_codes import decode_number
from pyg_nodequant.runtime.tile_bounds import (
    Terms,
    as_float32,
    tile_bounds,
)
from pyg_nodequant.runtime.topk import contains, sink, worse

Array = np.ndarray[Any, Any]

#: Rows whose scales are read at once; a multiple of a block.
TILE_ROWS = 2048


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
def _reference(codes: Array, start: int, place: int, count: int, size: int,
               c: int, bits: Array, widths: Array, steps: Array,
               offsets: Array, uses_offset: Array, scale: float,
               shift: float, queries: Array, q: int,
               string: Array) -> float:
    # The reference score of a row: the products of its numbers and those of a
    # query, added up from the first on.
    first, apart = row_start(place, count, size)
    for b in range(size):
        string[b] = codes[start + first + b * apart]
    string[size] = 0
    total = 0.0
    for k in range(queries.shape[1]):
        x = decode_number(string, bits[c, k], widths[c, k], steps[c, k],
                          offsets[c, k], uses_offset[c, k], scale, shift)
        total += queries[q, k] * x
    return total


@jit
def _read(stored: Array, out: Array) -> None:
    # Over a view, whose numbers lie one after the other for all that the
    # compiler knows; a place added to each index would hide that.
    for j in range(len(stored)):
        out[j] = as_float32(stored[j])


@jit
def _multiply(weights: Array, values: Array) -> None:
    for j in range(len(weights)):
        values[j] *= np.float32(weights[j])


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
    # Taken out of their tuples once: doing so counts references, which costs
    # more than scoring a row.
    codes, stored, shifts = rows.codes, rows.scale, rows.offset
    order, weights, firsts = rows.order, rows.weights, rows.first
    allowed, indptr, indices = limits.allowed, limits.indptr, limits.indices
    norms, sizes, entries = plans.norms, classes.sizes, classes.entries
    bits, widths, steps = classes.bits, classes.widths, classes.steps
    offsets, uses_offset = classes.offsets, classes.uses_offset
    counts, starts = rows.counts, rows.starts
    tables, plan_size = plans.tables.reshape(-1), plans.tables.shape[1]
    all_terms, high = plans.terms, plans.high
    has_offset, k = len(shifts) > 0, best_scores.shape[1]
    longest = sizes.max()
    padded = np.zeros(64 * longest, np.uint8)
    string = np.zeros(longest + 2, np.uint8)
    scale = np.zeros(TILE_ROWS, np.float32)
    offset = np.zeros(TILE_ROWS if has_offset else 0, np.float32)
    bounds = np.empty(TILE_ROWS, np.float32)
    for tile in range(tiles.shape[0]):
        c, begin, end = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2]
        size, count = sizes[c], counts[c]
        start, position = starts[c], firsts[c] + begin
        if len(stored) == 1:
            scale[:end - begin] = as_float32(stored[0])
        else:
            _read(stored[position:position + end - begin], scale)
        if has_offset:
            _read(shifts[position:position + end - begin], offset)
        if len(weights) > 0:
            _multiply(weights[position:position + end - begin], scale)
            if has_offset:
                _multiply(weights[position:position + end - begin], offset)
        short = (end - begin) & 63
        whole = end - begin - short
        if short:  # the last block of a class: filled up
            at = start + (begin + whole) * size
            for b in range(size):
                for j in range(short):
                    padded[64 * b + j] = codes[at + b * short + j]
        for q in range(queries.shape[0]):
            entry = q * plan_size + entries[c]
            planes = 2 if high[q, c] else 1
            terms = (all_terms[q, c, 0], all_terms[q, c, 1],
                     all_terms[q, c, 2], all_terms[q, c, 3],
                     all_terms[q, c, 4])
            limit = _limit(best_scores[q, 0], norms[q])
            found = _bounds(codes, start + begin * size, whole // 64, size,
                            tables, entry, planes, scale, offset, 0, terms,
                            limit, bounds, shuffle)
            if short:
                last = _bounds(padded, 0, 1, size, tables, entry, planes,
                               scale, offset, whole, terms, limit, bounds,
                               shuffle)
                found |= last << (whole // 64)
            block = 0
            while found >> block:
                if not found >> block & 1:
                    block += 1
                    continue
                for j in range(64 * block, min(64 * block + 64, end - begin)):
                    if not bounds[j] >= limit:
                        continue
                    number = int(position + j)
                    if len(order) > 0:
                        number = int(order[position + j])
                    if len(allowed) > 0 and not allowed[number]:
                        continue
                    if contains(indices, indptr[q], indptr[q + 1], number):
                        continue
                    at = 0 if len(stored) == 1 else position + j
                    r, score = np.float64(as_float32(stored[at])), 0.0
                    if r != 0 or has_offset:
                        o = (np.float64(shifts[position + j]) if has_offset
                             else 0.0)
                        score = _reference(codes, start, begin + j, count,
                                           size, c, bits, widths, steps,
                                           offsets, uses_offset, r, o,
                                           queries, q, string)
                        if len(weights) > 0:
                            score *= weights[position + j]
                    if worse(best_scores[q, 0], best_ids[q, 0], score,
                             number):
                        best_scores[q, 0] = score
                        best_ids[q, 0] = number
                        sink(best_scores[q], best_ids[q], 0, k)
                        limit = _limit(best_scores[q, 0], norms[q])
                block += 1
