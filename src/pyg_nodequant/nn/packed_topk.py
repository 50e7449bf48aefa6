r"""Exact top-k of packed rows on any device of torch, block by block.

Rows are unpacked some at a time and scored by one matrix product in single
precision. What could still enter a query's list is scored again in the order
of the reference,

.. math::
    s_{qi} = \sum_{k=0}^{d-1} q_k x_{ik}

added up from the first product on in :obj:`float64`, in which a product of
two :obj:`float32` is exact: so the scores are those of
:meth:`PackedTable.topk <pyg_nodequant.PackedTable.topk>` to the last bit,
whatever the device. The screening is safe because its error is at most
:math:`(d + 8) u \lVert q \rVert \lVert x_i \rVert` with :math:`u = 2^{-24}`,
in whatever order a BLAS adds up. It runs in :obj:`float64` where single
precision could overflow, or where torch is told to multiply in less than
single precision (TF32, bfloat16).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant.config import check_number
from pyg_nodequant.nn.packed import PackedEmbedding
from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.runtime.csr import CSR, check_csr, check_range, integers
from pyg_nodequant.runtime.topk import check_k

Lists = tuple[Any, Any]

# Bytes of what is held at a time at most: for each number that is unpacked,
# for each pair of a query and a row, for each place in the lists, and for
# each number of a pair that is scored again.
_NUMBER_BYTES = 56
_PAIR_BYTES = 88
_PLACE_BYTES = 112
_RESCORE_BYTES = 24
# Queries that are scored at once at most; more would leave few rows a block.
_MAX_QUERIES = 512
# Products below this do not overflow in single precision when added up.
_SINGLE_LIMIT = 1e37


class _Sizes(NamedTuple):
    queries: int
    rows: int
    rescored: int


def packed_topk(
    table: Union[PackedTable, PackedEmbedding],
    queries: Tensor,
    k: int,
    exclude: Optional[Lists] = None,
    allow: Optional[Any] = None,
    *,
    max_bytes: int = 1 << 28,
) -> tuple[Tensor, Tensor]:
    r"""Returns the packed rows of largest inner product with each query, on
    any device that has :obj:`float64`: exactly the answer of
    :meth:`PackedTable.topk <pyg_nodequant.PackedTable.topk>`.

    The table stays packed: no more than a block of rows is unpacked at a
    time. On a CPU, :meth:`PackedTable.topk
    <pyg_nodequant.PackedTable.topk>` is faster.

    Args:
        table (PackedTable or PackedEmbedding): The rows. A table is moved to
            the device anew by each call; a module that lies there is not. The
            row :obj:`padding_idx` of a module is zero.
        queries (torch.Tensor): Queries of shape :math:`(B, d)`, or one of
            shape :math:`(d)`; read as :obj:`float32`.
        k (int): How many rows a query gets, in [1, number of rows].
        exclude (tuple, optional): :obj:`(indptr, indices)`, arrays or
            tensors: the row numbers each query must not get.
            (default: :obj:`None`)
        allow (array or torch.Tensor, optional): The only row numbers that any
            query gets. (default: :obj:`None`)
        max_bytes (int, optional): A bound of the memory taken on the device
            beside the arguments, the answer and what BLAS keeps for itself;
            one query and one row at a time are scored in any case.
            (default: 256 MiB)

    Returns:
        Scores (:obj:`float64`) and row numbers (:obj:`int64`) of shape
        :math:`(B, k)`, best first, ties to the lowest number, or :math:`(k)`
        for a single query. Short lists are filled up with :obj:`-inf` and -1.

    Raises:
        ValueError: If an argument is not of this form.

    Example:
        >>> table = PackedTable.from_float([[1.0, -1.0], [0.5, 2.0]], 8)
        >>> scores, ids = packed_topk(table, torch.tensor([0.0, 1.0]), k=2)
        >>> ids
        tensor([1, 0])
    """
    if isinstance(table, PackedTable):
        table = PackedEmbedding(table).to(queries.device)
    size, dim = table.num_embeddings, table.embedding_dim
    k = check_k(k, size, "rows")
    check_number("max_bytes", max_bytes, 1, integer=True)
    if queries.device != table.codes.device:
        raise ValueError(f"'queries' needs to be on the device of 'table', "
                         f"{table.codes.device} (got {queries.device})")
    single = queries.dim() == 1
    if queries.dim() not in {1, 2} or queries.size(-1) != dim:
        raise ValueError(f"'queries' needs {dim} numbers a row "
                         f"(got a shape of {list(queries.shape)})")
    queries = queries.detach().float().view(-1, dim)
    if not bool(torch.isfinite(queries).all()):
        raise ValueError("'queries' needs to be finite (got an infinite or "
                         "undefined value)")
    batch = len(queries)
    hidden = None
    if exclude is not None:
        if isinstance(exclude, (tuple, list)):
            exclude = tuple(_to_host(part) for part in exclude)
        hidden = check_csr("exclude", exclude, batch, size)
    allowed = None
    if allow is not None:
        allowed = integers("allow", _to_host(allow))
        check_range("allow", allowed, size)
        allowed = np.unique(allowed)
    scores = queries.new_full((batch, k), -torch.inf, dtype=torch.float64)
    ids = queries.new_full((batch, k), -1, dtype=torch.long)
    sizes = _plan(batch, size, dim, k, max_bytes)
    # Autocast would turn the product into one of half precision.
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        for begin in range(0, batch, sizes.queries):
            end = min(begin + sizes.queries, batch)
            found = _search(table, queries[begin:end].double(), k,
                            _hidden(hidden, begin, end, allowed), allowed,
                            sizes)
            scores[begin:end], ids[begin:end] = found
    return (scores[0], ids[0]) if single else (scores, ids)


def _to_host(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    return values


def _plan(batch: int, size: int, dim: int, k: int, max_bytes: int) -> _Sizes:
    # An eighth for the lists, a quarter for rows, half for pairs, an eighth
    # for what is scored again.
    queries = max_bytes // 8 // (16 * dim + _PLACE_BYTES * k)
    queries = max(1, min(queries, _MAX_QUERIES, batch))
    rows = min(max_bytes // 4 // (_NUMBER_BYTES * dim),
               max_bytes // 2 // (_PAIR_BYTES * queries), size)
    rescored = max_bytes // 8 // (_RESCORE_BYTES * dim)
    return _Sizes(queries, max(1, rows), max(1, rescored))


def _hidden(csr: Optional[CSR], begin: int, end: int,
            allowed: Any) -> Any:
    # Pairs of a query, counted from `begin`, and the place of a row that it
    # must not get among those searched; by ascending places.
    if csr is None:
        return np.zeros((2, 0), dtype=np.int64)
    indptr, indices = csr
    place = indices[indptr[begin]:indptr[end]].astype(np.int64)
    query = np.repeat(np.arange(end - begin), np.diff(indptr[begin:end + 1]))
    if allowed is not None:
        kept = np.isin(place, allowed)
        query, place = query[kept], np.searchsorted(allowed, place[kept])
    order = np.argsort(place, kind="stable")
    return np.stack([query[order], place[order]])


def _search(table: PackedEmbedding, queries: Tensor, k: int, hidden: Any,
            allowed: Any, sizes: _Sizes) -> tuple[Tensor, Tensor]:
    # The lists of some queries. Blocks ascend, so that of equal scores those
    # in the list are of the lower numbers.
    scores = queries.new_full((len(queries), k), -torch.inf)
    ids = queries.new_full((len(queries), k), -1, dtype=torch.long)
    lengths = torch.linalg.vector_norm(queries, dim=1)
    longest = float(lengths.max())
    full = _single_is_full()
    for first, numbers in _blocks(table, allowed, sizes.rows):
        rows = table.read(numbers)
        length = float(torch.linalg.vector_norm(rows, dim=1).max())
        single = full and longest * length < _SINGLE_LIMIT
        dtype = torch.float32 if single else torch.float64
        screen = queries.to(dtype) @ rows.to(dtype).t()
        low, high = np.searchsorted(hidden[1], [first, first + len(numbers)])
        pairs = torch.from_numpy(hidden[:, low:high]).to(queries.device)
        screen[pairs[0], pairs[1] - first] = -torch.inf
        chosen = _candidates(screen, scores[:, -1],
                             _margins(lengths, length, rows.size(1), single),
                             k)
        counts = chosen.sum(dim=1)
        query, place = chosen.nonzero(as_tuple=True)
        del screen, chosen
        if len(query) > 0:
            exact = _rescore(queries, rows, query, place, sizes.rescored)
            scores, ids = _merge(scores, ids, query, exact, numbers[place],
                                 counts)
    return scores, ids


def _blocks(table: PackedEmbedding, allowed: Any,
            step: int) -> Iterator[tuple[int, Tensor]]:
    # The place of the first row and the numbers of the rows of each block.
    device = table.codes.device
    size = table.num_embeddings if allowed is None else len(allowed)
    for begin in range(0, size, step):
        end = min(begin + step, size)
        if allowed is None:
            yield begin, torch.arange(begin, end, device=device)
        else:
            yield begin, torch.from_numpy(allowed[begin:end]).to(device)


def _single_is_full() -> bool:
    # Whether a product of float32 is one of single precision everywhere. The
    # settings of old and new releases are read, and distrusted if they are
    # in conflict.
    try:
        if (torch.get_float32_matmul_precision() != "highest"
                or torch.backends.cuda.matmul.allow_tf32):
            return False
    except RuntimeError:
        return False
    backends: Any = torch.backends
    places = (backends, backends.cuda.matmul,
              getattr(backends.mkldnn, "matmul", None))
    return all(getattr(place, "fp32_precision", "none") in {"none", "ieee"}
               for place in places)


def _margins(lengths: Tensor, length: float, dim: int,
             single: bool) -> Tensor:
    # The error of the screening, and that of the reference itself.
    unit = 2.0**-24 if single else 2.0**-53
    margins = lengths * (length * (dim + 8) * unit * 2.125)
    if single:  # small products, and small factors, may be lost
        margins += 2.0**-125 * (dim + math.sqrt(dim) * (lengths + length))
    return margins


def _candidates(screen: Tensor, bar: Tensor, margins: Tensor,
                k: int) -> Tensor:
    # Which screened scores could be of rows that enter the lists, whose last
    # scores are `bar`.
    chosen = _above(screen, bar - margins)
    if k < screen.size(1) and int(chosen.sum()) > k * len(screen):
        # k rows of the block itself may raise the bar.
        best = screen.topk(k, dim=1, sorted=False).values.amin(dim=1)
        bar = torch.maximum(bar, best.double() - margins)
        chosen = _above(screen, bar - margins)
    return chosen


def _above(screen: Tensor, limit: Tensor) -> Tensor:
    # Limits are rounded down; what is hidden, at -inf, is never above.
    down = torch.full_like(limit, -torch.inf, dtype=screen.dtype)
    limit = torch.nextafter(limit.to(screen.dtype), down)
    limit = limit.clamp(min=torch.finfo(screen.dtype).min)
    return screen >= limit.unsqueeze(1)


def _rescore(queries: Tensor, rows: Tensor, query: Tensor, place: Tensor,
             step: int) -> Tensor:
    # The reference scores of pairs of rows.
    total = queries.new_zeros(len(query))
    for begin in range(0, len(query), step):
        part = slice(begin, begin + step)
        products = queries.t()[:, query[part]]
        products *= rows.t()[:, place[part]]
        for product in products:
            total[part] += product
    return total


def _merge(scores: Tensor, ids: Tensor, query: Tensor, score: Tensor,
           number: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    # Lists beside the candidates of their queries, which are in the order of
    # their numbers: a stable sort leaves equal scores so.
    k = scores.size(1)
    column = torch.arange(k, k + len(query), device=query.device)
    column -= (counts.cumsum(0) - counts)[query]
    shape = (len(scores), k + int(counts.max()))
    every = scores.new_full(shape, -torch.inf)
    every[:, :k] = scores
    every[query, column] = score
    score, order = every.sort(dim=1, descending=True, stable=True)
    del every
    numbers = ids.new_full(shape, -1)
    numbers[:, :k] = ids
    numbers[query, column] = number
    return score[:, :k].clone(), numbers.gather(1, order[:, :k])
