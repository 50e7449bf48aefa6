r"""The training graph of a recommender whose layer-0 rows are packed."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyg_nodequant.runtime._jit import jit, run_ranges
from pyg_nodequant.runtime.csr import (
    CSR,
    check_csr,
    has_repeats,
    smallest_unsigned,
)
from pyg_nodequant.runtime.file_format import Container

Array = np.ndarray[Any, Any]

MAX_LAYERS = 64
_BLOCK_ROWS = 8192


@jit
def _transpose(indptr: Array, indices: Array, out_indptr: Array,
               out_indices: Array) -> None:
    # out_indptr comes as zeros; rows come out ascending.
    for j in indices:
        out_indptr[j + 1] += 1
    for j in range(len(out_indptr) - 1):
        out_indptr[j + 1] += out_indptr[j]
    place = out_indptr[:-1].copy()
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            out_indices[place[j]] = i
            place[j] += 1


@jit
def _gather(indptr: Array, indices: Array, weight: Array, other_weight: Array,
            start: Array, rows: Array, out: Array, begin: int,
            end: int) -> None:
    # out_i = start_i + w_i sum_j w_j rows_j, each row summed in float64.
    total = np.empty(rows.shape[1])
    for i in range(begin, end):
        total[:] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            j = indices[e]
            for k in range(len(total)):
                total[k] += other_weight[j] * rows[j, k]
        for k in range(len(total)):
            out[i, k] = start[i, k] + weight[i] * total[k]


class PackedGraph:
    r"""The bipartite training graph and how often rows are propagated on it.

    Args:
        indptr (array): Where the items of each user begin, of shape
            :obj:`[num_users + 1]`.
        indices (array): The item rows, user by user, distinct.
        num_items (int): The number of items.
        num_layers (int): The number of propagation steps :math:`L`, in
            [0, 64].

    Raises:
        ValueError: If these are not such a graph.

    Example:
        >>> graph = PackedGraph([0, 1, 2], [0, 0], num_items=1, num_layers=1)
        >>> graph
        PackedGraph(2, 1, num_edges=2, num_layers=1)
    """

    def __init__(self, indptr: Any, indices: Any, num_items: int,
                 num_layers: int) -> None:
        whole = (isinstance(num_layers, (int, np.integer))
                 and not isinstance(num_layers, bool))
        if not whole or not 0 <= num_layers <= MAX_LAYERS:
            raise ValueError(f"'num_layers' needs to be an integer in "
                             f"[0, {MAX_LAYERS}] (got {num_layers})")
        rows = max(0, len(indptr) - 1)
        self.indptr, self.indices = check_csr("graph", (indptr, indices), rows,
                                              num_items)
        if has_repeats((self.indptr, self.indices)):
            raise ValueError("'graph' needs distinct items for each user "
                             "(got one twice)")
        self.num_items = int(num_items)
        self.num_layers = int(num_layers)

    @property
    def num_users(self) -> int:
        r"""The number of users."""
        return len(self.indptr) - 1

    @property
    def num_edges(self) -> int:
        r"""The number of user-item pairs."""
        return len(self.indices)

    def propagate(self, users: Array, items: Array) -> tuple[Array, Array]:
        r"""Returns the mean of the rows over layers 0 to :math:`L`,

        .. math::
            \bar{x} = \frac{1}{L + 1} \sum_{l=0}^{L} x^{(l)}, \quad
            x_u^{(l+1)} = \sum_{i \in N(u)}
            \frac{x_i^{(l)}}{\sqrt{d_u d_i}}

        and alike for items. A node without edges keeps :math:`x / (L + 1)`.

        Args:
            users (array): Layer-0 rows of shape :obj:`[num_users, d]`.
            items (array): Layer-0 rows of shape :obj:`[num_items, d]`.

        Returns:
            The rows of users and items, :obj:`float32`. Rows are summed in
            :obj:`float64` and rounded once a layer, whatever the number of
            threads.
        """
        start = (np.ascontiguousarray(users, dtype=np.float32),
                 np.ascontiguousarray(items, dtype=np.float32))
        forward = (self.indptr, self.indices)
        backward = (np.zeros(self.num_items + 1, dtype=np.int64),
                    np.empty(self.num_edges, dtype=np.int32))
        _transpose(*forward, *backward)
        weights = _inverse_roots(forward), _inverse_roots(backward)
        # Horner's form: x + A (x + A (x + ...)) needs no sum of layers.
        rows = start
        for _ in range(self.num_layers):
            rows = (_layer(forward, *weights, start[0], rows[1]),
                    _layer(backward, *weights[::-1], start[1], rows[0]))
        factor = np.float32(1 / (self.num_layers + 1))
        return rows[0] * factor, rows[1] * factor

    def encode(self) -> tuple[str, dict[str, Array]]:
        r"""Returns the header field and the arrays that hold the graph."""
        degree = smallest_unsigned(np.diff(self.indptr))
        return str(self.num_layers), {
            "g.degree": degree,
            "g.item": smallest_unsigned(self.indices),
        }

    @classmethod
    def decode(cls, content: Container, num_users: int,
               num_items: int) -> PackedGraph:
        r"""Reads what :meth:`encode` returned."""
        layers = content.field("layers")
        indptr, indices = read_lists(content, "g", num_users)
        try:
            number = int(layers) if layers.isdigit() else -1
            return cls(indptr, indices, num_items, number)
        except ValueError as error:
            content.fail(str(error))

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({self.num_users}, {self.num_items}, "
                f"num_edges={self.num_edges}, num_layers={self.num_layers})")


def _inverse_roots(lists: CSR) -> Array:
    degree = np.diff(lists[0]).astype(np.float64)
    return 1 / np.sqrt(np.maximum(degree, 1))


def _layer(lists: CSR, weight: Array, other_weight: Array, start: Array,
           rows: Array) -> Array:
    out = np.empty_like(start)

    def work(begin: int, end: int) -> None:
        _gather(*lists, weight, other_weight, start, rows, out, begin, end)

    run_ranges(work, len(start), _BLOCK_ROWS)
    return out


def read_lists(content: Container, prefix: str, rows: int) -> CSR:
    r"""Reads the lists stored as :obj:`PREFIX.degree` and
    :obj:`PREFIX.item`; :meth:`check_csr` is still to be called.
    """
    unsigned = ["U8", "U16", "U32"]
    degree = content.take(f"{prefix}.degree", unsigned, (rows, ))
    indptr = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(degree, out=indptr[1:])
    indices = content.take(f"{prefix}.item", unsigned, (int(indptr[-1]), ))
    return indptr, indices
