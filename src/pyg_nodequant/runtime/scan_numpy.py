r"""The scan of :mod:`~pyg_nodequant.runtime.scan` in numpy alone, for where
nothing can be compiled. Same bounds, same answers.
"""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

from pyg_nodequant.runtime.query_plan import ClassTables, QueryPlans

Array = np.ndarray[Any, Any]


def scan_numpy(
    rows: Any,
    classes: ClassTables,
    tiles: Array,
    queries: Array,
    plans: QueryPlans,
    limits: Any,
    read: Callable[[Array], Array],
    best_scores: Array,
    best_ids: Array,
) -> None:
    r"""Puts the best rows of some tiles into the lists of queries, which are
    read and left as heaps; see :func:`~pyg_nodequant.runtime.scan.scan`.
    """
    for c, begin, end in tiles.tolist():
        count = end - begin
        position = int(rows.first[c]) + begin
        ids = np.arange(position, position + count)
        if len(rows.order):
            ids = rows.order[ids].astype(np.int64)
        scale = _stored(rows.scale, position, count)
        offset = (_stored(rows.offset, position, count)
                  if len(rows.offset) else None)
        weights = None
        if len(rows.weights):
            weights = rows.weights[position:position + count]
            scale = scale * weights
            offset = None if offset is None else offset * weights
        strings = _strings(rows, classes, c, begin, end)
        for q in range(len(queries)):
            sums = _sums(strings, plans, classes, q, c)
            constant, delta, margin, turn, slack = (
                plans.terms[q, c].astype(np.float64).tolist())
            bound = scale * (constant + delta * sums) + np.abs(scale) * margin
            if offset is not None:
                bound += offset * turn + np.abs(offset) * slack
            # In double precision, so the margin for single covers this too.
            worst = best_scores[q, 0] / plans.norms[q]
            limit = worst - abs(worst) * 2.0**-22 - 1e-36
            passed = bound >= (-np.inf if np.isneginf(worst) else limit)
            if len(limits.allowed):
                passed &= limits.allowed[ids]
            excluded = limits.indices[limits.indptr[q]:limits.indptr[q + 1]]
            if len(excluded):
                passed &= ~np.isin(ids, excluded)
            chosen = ids[passed]
            if len(chosen):
                score = _exact(queries[q], read(chosen))
                if weights is not None:
                    score *= weights[passed]
                _merge(score, chosen, best_scores[q], best_ids[q])


def _stored(values: Array, position: int, count: int) -> Array:
    if len(values) == 1:
        part = np.broadcast_to(values, count)
    else:
        part = values[position:position + count]
    if part.dtype == np.uint16:
        part = np.ascontiguousarray(part).view(np.float16)
    return part.astype(np.float64)


def _strings(rows: Any, classes: ClassTables, c: int, begin: int,
             end: int) -> Array:
    # The bytes of a tile's rows, byte by byte: [size, rows].
    size = int(classes.sizes[c])
    if size == 0:
        return np.zeros((0, end - begin), dtype=np.uint8)
    start = int(rows.starts[c]) + begin * size
    whole = (end - begin) // 64 * 64
    blocks = rows.codes[start:start + whole * size].reshape(-1, size, 64)
    rest = rows.codes[start + whole * size:start + (end - begin) * size]
    return np.concatenate([blocks.transpose(1, 0, 2).reshape(size, whole),
                           rest.reshape(size, end - begin - whole)], axis=1)


def _sums(strings: Array, plans: QueryPlans, classes: ClassTables, q: int,
          c: int) -> Array:
    size, at = int(classes.sizes[c]), int(classes.entries[c])
    entries = plans.tables[q, at:at + 64 * size].astype(np.int64)
    low, high = entries.reshape(2, size, 2, 16)
    table = low + 256 * high if plans.high[q, c] else low
    whole = table[:, 0, None, :] + table[:, 1, :, None]  # high half, low half
    total = np.zeros(strings.shape[1], dtype=np.int64)
    for b, codes in enumerate(strings):
        total += whole[b].reshape(256)[codes]
    return total


def _exact(query: Array, x: Array) -> Array:
    total = np.zeros(len(x))
    for k in range(len(query)):  # in the order of the reference score
        total += query[k] * x[:, k]
    return total


def _merge(score: Array, ids: Array, scores: Array, best: Array) -> None:
    every = np.concatenate([scores, score])
    numbers = np.concatenate([best, ids])
    order = np.lexsort((numbers, -every))[:len(scores)][::-1]
    scores[:], best[:] = every[order], numbers[order]
