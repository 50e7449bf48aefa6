r"""Exact top-k of inner products, block by block.

Scores in single precision screen the candidates; those that could still enter
a query's list are scored again in one fixed order of summation. The answer is
that of brute force over

.. math::
    s_{qi} = \sum_{k=0}^{d-1} q_k x_{ik}

added up in this order in :obj:`float64`, ties to the lowest number: equal rows
have equal scores wherever they lie. The screening is safe because its error is
at most :math:`(d + 8) u \lVert q \rVert \lVert x_i \rVert` with :math:`u =
2^{-24}`, or :math:`2^{-53}` where single precision could overflow.

The products are formed here and not by a BLAS, whose own threads would stand
in the way of those that share the queries.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np

from pyg_nodequant.runtime._jit import jit, jit_fused, run_ranges
from pyg_nodequant.runtime.csr import CSR

Array = np.ndarray[Any, Any]

# Numbers of one block of rows, and queries that are scored against it at once:
# they bound the memory whatever the batch and the table are.
_BLOCK_NUMBERS = 1 << 18
_BLOCK_QUERIES = 256
# Scores that are summed at once: they stay in the fastest cache.
_TILE = 512
# Partial sums below this do not overflow in single precision.
_SINGLE_LIMIT = 1e37
#: The row number of a place in a list that is still free.
NOTHING = np.iinfo(np.int64).max


@jit
def dot(query: Array, row: Array) -> float:
    r"""The reference score: products added up from the first on."""
    total = 0.0
    for k in range(len(query)):
        total += query[k] * row[k]
    return total


@jit
def dot_rows(queries: Array, rows: Array, out: Array) -> None:
    r"""The reference scores of pairs of rows."""
    for i in range(len(out)):
        out[i] = dot(queries[i], rows[i])


@jit_fused
def _screen(queries: Array, columns: Array, out: Array, tile: int) -> None:
    # out [Q, M] = queries [Q, d] times columns [d, M], four columns at a time.
    dim, size = columns.shape
    whole = dim - dim % 4
    for begin in range(0, size, tile):
        end = min(begin + tile, size)
        for i in range(queries.shape[0]):
            row = out[i, begin:end]
            row[:] = 0
            for k in range(0, whole, 4):
                a, b = queries[i, k], queries[i, k + 1]
                c, d = queries[i, k + 2], queries[i, k + 3]
                w, x = columns[k, begin:end], columns[k + 1, begin:end]
                y, z = columns[k + 2, begin:end], columns[k + 3, begin:end]
                for j in range(len(row)):
                    row[j] = (row[j] + a * w[j] + b * x[j] + c * y[j] +
                              d * z[j])
            for k in range(whole, dim):
                a, w = queries[i, k], columns[k, begin:end]
                for j in range(len(row)):
                    row[j] += a * w[j]


@jit
def worse(score: float, index: int, than: float, than_index: int) -> bool:
    r"""Whether a score ranks below another: ties go to the lowest number."""
    return score < than or (score == than and index > than_index)


@jit
def sink(scores: Array, indices: Array, place: int, size: int) -> None:
    r"""Restores the heap whose root is the worst of the best, from a place
    on.
    """
    score, index = scores[place], indices[place]
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and worse(scores[child + 1], indices[child + 1],
                                       scores[child], indices[child]):
            child += 1
        if not worse(scores[child], indices[child], score, index):
            break
        scores[place], indices[place] = scores[child], indices[child]
        place = child
    scores[place], indices[place] = score, index


@jit
def contains(values: Array, start: int, stop: int, value: int) -> bool:
    r"""Whether a value is among those from start to stop, which ascend."""
    while start < stop:
        middle = (start + stop) // 2
        if values[middle] < value:
            start = middle + 1
        elif values[middle] > value:
            stop = middle
        else:
            return True
    return False


@jit
def _scan(
    screen: Array,
    queries: Array,
    rows: Array,
    numbers: Array,
    margins: Array,
    first: int,
    indptr: Array,
    indices: Array,
    best_scores: Array,
    best_numbers: Array,
) -> None:
    # screen [Q, M] are the screened scores of queries [Q, d], which are those
    # from `first` on in the lists, and rows [M, d], whose ids are `numbers`.
    size = best_scores.shape[1]
    for i in range(screen.shape[0]):
        q = first + i
        limit = best_scores[q, 0] - margins[q]
        for j in range(screen.shape[1]):
            if screen[i, j] < limit:
                continue
            number = numbers[j]
            if contains(indices, indptr[q], indptr[q + 1], number):
                continue
            score = dot(queries[i], rows[j])
            if worse(best_scores[q, 0], best_numbers[q, 0], score, number):
                best_scores[q, 0] = score
                best_numbers[q, 0] = number
                sink(best_scores[q], best_numbers[q], 0, size)
                limit = best_scores[q, 0] - margins[q]


@jit
def sort_heaps(scores: Array, numbers: Array, nothing: int) -> None:
    r"""Turns each heap into a list, best first; free places become -1."""
    for q in range(scores.shape[0]):
        for size in range(scores.shape[1] - 1, 0, -1):
            last, index = scores[q, size], numbers[q, size]
            scores[q, size] = scores[q, 0]
            numbers[q, size] = numbers[q, 0]
            scores[q, 0], numbers[q, 0] = last, index
            sink(scores[q], numbers[q], 0, size)
        for j in range(scores.shape[1]):
            if numbers[q, j] == nothing:
                numbers[q, j] = -1


def top_rows(
    decode: Callable[[Array], Array],
    candidates: Array,
    queries: Array,
    k: int,
    exclude: Optional[CSR] = None,
) -> tuple[Array, Array]:
    r"""Returns the rows of largest inner product with each query.

    Args:
        decode (callable): Gives the rows of some numbers as :obj:`float64`.
        candidates (array): The numbers of the rows to search, distinct, in
            the order in which they are read best.
        queries (array): Finite queries of shape :obj:`[B, d]`.
        k (int): How many rows a query gets.
        exclude (tuple, optional): :obj:`(indptr, indices)`: the row numbers
            each query must not get, ascending.

    Returns:
        Scores (:obj:`float64`) and row numbers (:obj:`int64`) of shape
        :obj:`[B, k]`, best first, filled up with :obj:`-inf` and -1.
    """
    batch, dim = queries.shape
    if exclude is None:
        exclude = (np.zeros(batch + 1, dtype=np.int64),
                   np.zeros(0, dtype=np.int32))
    indptr, indices = exclude
    scores = np.full((batch, k), -np.inf)
    numbers = np.full((batch, k), NOTHING, dtype=np.int64)
    lengths = _norms(queries)
    longest = float(lengths.max()) if batch else 0.0
    step = max(1, min(4096, _BLOCK_NUMBERS // dim))
    for start in range(0, len(candidates), step):
        block = candidates[start:start + step]
        rows = decode(block)
        length = float(_norms(rows).max())
        single = longest * length < _SINGLE_LIMIT
        dtype = np.float32 if single else np.float64
        columns = np.ascontiguousarray(rows.T, dtype=dtype)
        # The error of the screening, and of the list's own scores; small
        # products may be lost in single precision.
        unit = 2.0**-24 if single else 2.0**-53
        margins = lengths * (length * (dim + 8) * unit * 2.125)
        margins += dim * 2.0**-125 if single else 0.0

        def search(begin: int, end: int, block: Array = block,
                   rows: Array = rows, columns: Array = columns,
                   margins: Array = margins) -> None:
            part = np.ascontiguousarray(queries[begin:end], dtype=np.float64)
            screen = np.empty((len(part), len(block)), dtype=columns.dtype)
            _screen(part.astype(columns.dtype), columns, screen, _TILE)
            _scan(screen, part, rows, block, margins, begin, indptr, indices,
                  scores, numbers)

        run_ranges(search, batch, _BLOCK_QUERIES)
    sort_heaps(scores, numbers, NOTHING)
    return scores, numbers


def _norms(rows: Array) -> Array:
    lengths: Array = np.sqrt(
        np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return lengths


def check_k(k: Any, top: int, what: str) -> int:
    r"""Returns :obj:`k` as an integer.

    Raises:
        ValueError: If it is not an integer in [1, :obj:`top`].
    """
    whole = isinstance(k, (int, np.integer)) and not isinstance(k, bool)
    if not whole or not 1 <= k <= top:
        raise ValueError(f"'k' needs to be an integer in [1, {top}], the "
                         f"number of {what} (got {k})")
    return int(k)
