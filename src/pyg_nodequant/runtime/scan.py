r"""Exact top-k of a packed table by scanning its codes as they lie.

The scan forms an upper bound of each row's score from the plan of the query
(:mod:`~pyg_nodequant.runtime.query_plan`), 64 rows at a time, and compares it
with the bar: the k-th largest *lower* bound so far. The few rows that pass
wait; the bar rises with the scan, and the rows that are still above it in the
end, hardly more than k, are scored exactly. No array of scores is ever made,
and the answer is that of brute force over the dequantized rows, whatever the
order of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyg_nodequant.runtime._jit import jit
from pyg_nodequant.runtime.blocks import row_start
from pyg_nodequant.runtime.query_plan import (
    ClassTables,
    QueryPlans,
    make_plans,
)
from pyg_nodequant.runtime.row_codes import decode_number
from pyg_nodequant.runtime.tile_bounds import (
    Terms,
    as_float32,
    lowest_bit,
    tile_bounds,
)
from pyg_nodequant.runtime.topk import (
    NOTHING,
    contains,
    sink,
    sort_heaps,
    worse,
)

Array = np.ndarray[Any, Any]

#: Rows whose scales are read at once; a multiple of a block.
TILE_ROWS = 2048

#: Sums above this could overflow in single precision.
PEAK = 1e37

# Rows that may wait to be scored, by query.
_WAITING = 1024
# Longer lists keep no lower bounds: their bar is the worst of the scores.
_LONG = 4096


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
def _limit(floor: Any, worst: Any, norm: Any) -> Any:
    # The bound that a row needs, a little low: comparing is single precision
    # and the smallest numbers may be flushed to 0.
    bar = max(floor, worst / norm)
    if bar == -np.inf:
        return np.float32(-np.inf)
    return np.float32(bar - abs(bar) * 2.0**-22 - 1e-36)


@jit
def _bounds(codes: Array, start: int, blocks: int, size: int, tables: Array,
            first: int, planes: int, scale: Array, offset: Array, terms: Terms,
            limit: float, out: Array, passed: Array, shuffle: bool) -> int:
    if shuffle:
        return tile_bounds(codes, start, blocks, size, tables, first, planes,
                           scale, offset, terms, limit, out, passed)
    return lookup_bounds(codes, start, blocks, size, tables, first, planes,
                         scale, offset, terms, limit, out, passed)


@jit
def _reference(string: Array, bits: Array, widths: Array, steps: Array,
               offsets: Array, uses_offset: Array, scale: float, shift: float,
               query: Array) -> float:
    # The reference score of a row: the products of its numbers and those of a
    # query, added up from the first on.
    total = 0.0
    for k in range(len(query)):
        x = decode_number(string, bits[k], widths[k], steps[k], offsets[k],
                          uses_offset[k], scale, shift)
        total += query[k] * x
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
def _raise_floor(floors: Array, value: float) -> None:
    # Takes the least lower bound out of its heap and puts a larger one in.
    place = 0
    while True:
        child = 2 * place + 1
        if child >= len(floors):
            break
        if child + 1 < len(floors) and floors[child + 1] < floors[child]:
            child += 1
        if floors[child] >= value:
            break
        floors[place] = floors[child]
        place = child
    floors[place] = value


@jit
def _score_waiting(rows: StoredRows, classes: ClassTables, query: Array,
                   norm: float, floor: float, bounds: Array, positions: Array,
                   class_ids: Array, string: Array, scores: Array,
                   ids: Array) -> None:
    # Scores the waiting rows of a query that may still be an answer.
    codes, stored, shifts = rows.codes, rows.scale, rows.offset
    order, weights = rows.order, rows.weights
    for i in range(len(bounds)):
        if not bounds[i] >= _limit(floor, scores[0], norm):
            continue
        position, c = positions[i], class_ids[i]
        number = int(position)
        if len(order) > 0:
            number = int(order[position])
        at = 0 if len(stored) == 1 else position
        r, o = np.float64(as_float32(stored[at])), 0.0
        if len(shifts) > 0:
            o = np.float64(shifts[position])
        score = 0.0
        if r != 0 or len(shifts) > 0:
            size = classes.sizes[c]
            first, apart = row_start(position - rows.first[c], rows.counts[c],
                                     size)
            first += rows.starts[c]
            for b in range(size):
                string[b] = codes[first + b * apart]
            string[size] = 0
            score = _reference(string, classes.bits[c], classes.widths[c],
                               classes.steps[c], classes.offsets[c],
                               classes.uses_offset[c], r, o, query)
            if len(weights) > 0:
                score *= weights[position]
        if worse(scores[0], ids[0], score, number):
            scores[0], ids[0] = score, number
            sink(scores, ids, 0, len(scores))


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
    starts = rows.starts
    tables, plan_size = plans.tables.reshape(-1), plans.tables.shape[1]
    all_terms, high = plans.terms, plans.high
    has_offset, k = len(shifts) > 0, best_scores.shape[1]
    longest = sizes.max()
    padded = np.zeros(64 * longest, np.uint8)
    string = np.zeros(longest + 2, np.uint8)
    # Scales and offsets are read where they lie, or else from here.
    direct = len(stored) > 1 and len(weights) == 0
    scale = np.zeros(64 if direct else TILE_ROWS, np.float32)
    offset = np.zeros(len(scale) if has_offset else 0, np.float32)
    bounds = np.empty(TILE_ROWS, np.float32)
    passed = np.empty(TILE_ROWS // 64, np.uint64)
    one = np.uint64(1)
    # The k largest lower bounds, as heaps, for queries of a norm of 1.
    floors = np.full((queries.shape[0], k if k <= _LONG else 1), -np.inf)
    # The rows that wait.
    waiting = np.zeros(queries.shape[0], np.int64)
    wait_bounds = np.empty((queries.shape[0], _WAITING), np.float32)
    wait_rows = np.empty((queries.shape[0], _WAITING), np.uint32)
    wait_classes = np.empty((queries.shape[0], _WAITING), np.uint8)
    for tile in range(tiles.shape[0]):
        c, begin, end = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2]
        size, start, position = sizes[c], starts[c], firsts[c] + begin
        short = (end - begin) & 63
        whole = end - begin - short
        away = whole if direct else 0  # the rows that are not read from here
        if len(stored) == 1:
            scale[:end - begin] = as_float32(stored[0])
        else:
            _read(stored[position + away:position + end - begin], scale)
        if has_offset:
            _read(shifts[position + away:position + end - begin], offset)
        if len(weights) > 0:
            _multiply(weights[position:position + end - begin], scale)
            if has_offset:
                _multiply(weights[position:position + end - begin], offset)
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
            limit = _limit(floors[q, 0], best_scores[q, 0], norms[q])
            at = start + begin * size
            if direct:
                found = _bounds(codes, at, whole // 64, size, tables, entry,
                                planes, stored[position:], shifts[position:],
                                terms, limit, bounds, passed, shuffle)
            else:
                found = _bounds(codes, at, whole // 64, size, tables, entry,
                                planes, scale, offset, terms, limit, bounds,
                                passed, shuffle)
            if short:
                last = _bounds(padded, 0, 1, size, tables, entry, planes,
                               scale[whole - away:], offset[whole - away:],
                               terms, limit, bounds[whole:],
                               passed[whole // 64:], shuffle)
                found |= last << (whole // 64)
                passed[whole // 64] &= (one << np.uint64(short)) - one
            blocks = np.uint64(found)
            while blocks != 0:
                block = lowest_bit(blocks)
                blocks &= blocks - one
                left = passed[block]
                while left != 0:
                    j = 64 * block + lowest_bit(left)
                    left &= left - one
                    if not bounds[j] >= limit:
                        continue
                    if len(allowed) > 0 or indptr[q] < indptr[q + 1]:
                        number = int(position + j)
                        if len(order) > 0:
                            number = int(order[position + j])
                        if len(allowed) > 0 and not allowed[number]:
                            continue
                        if contains(indices, indptr[q], indptr[q + 1],
                                    number):
                            continue
                    at = waiting[q]
                    wait_bounds[q, at] = bounds[j]
                    wait_rows[q, at] = position + j
                    wait_classes[q, at] = c
                    waiting[q] = at + 1
                    if k <= _LONG:
                        if direct:
                            r = abs(as_float32(stored[position + j]))
                        else:
                            r = abs(scale[j])
                        error = np.float64(r) * terms[2]
                        if has_offset:
                            o = shifts[position + j] if direct else offset[j]
                            error += abs(np.float64(o)) * terms[4]
                        lower = bounds[j] - 2 * error - 1e-36
                        if lower > floors[q, 0]:
                            _raise_floor(floors[q], lower)
                    if at + 1 == _WAITING:
                        _score_waiting(rows, classes, queries[q], norms[q],
                                       floors[q, 0], wait_bounds[q],
                                       wait_rows[q], wait_classes[q], string,
                                       best_scores[q], best_ids[q])
                        waiting[q] = 0
                    limit = _limit(floors[q, 0], best_scores[q, 0], norms[q])
    for q in range(queries.shape[0]):
        at = waiting[q]
        _score_waiting(rows, classes, queries[q], norms[q], floors[q, 0],
                       wait_bounds[q, :at], wait_rows[q, :at],
                       wait_classes[q, :at], string, best_scores[q],
                       best_ids[q])


@jit
def answer(
    rows: StoredRows,
    classes: ClassTables,
    tiles: Array,
    queries: Array,
    limits: Limits,
    shuffle: bool,
    largest: float,
    scores: Array,
    ids: Array,
) -> bool:
    r"""Fills in the lists of queries, best first; see :func:`scan`.

    Args:
        rows (StoredRows): The table.
        classes (ClassTables): Its classes.
        tiles (array): All its tiles.
        queries (array): Finite queries :obj:`[Q, d]`, :obj:`float64`.
        limits (Limits): What may be an answer.
        shuffle (bool): Whether vector shuffles are used.
        largest (float): A bound of the magnitudes of scales and offsets.
        scores (array): The scores, :obj:`[Q, k]`.
        ids (array): The rows they belong to, -1 where there are none.

    Returns:
        Whether no sum could overflow in single precision; else nothing is
        scanned.
    """
    plans = make_plans(queries, classes)
    for q in range(len(queries)):
        if not plans.peaks[q] * max(largest, 1.0) < PEAK:
            return False
    scores[:], ids[:] = -np.inf, NOTHING
    scan(rows, classes, tiles, queries, plans, limits, shuffle, scores, ids)
    sort_heaps(scores, ids, NOTHING)
    return True
