r"""Search in packed rows, for models written in torch."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn.pool.knn import KNNOutput

from pyg_nodequant.config import check_choice, check_number
from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.runtime.csr import check_range


class PackedMIPSIndex:
    r"""Exact maximum inner product search in packed rows, used like
    :class:`torch_geometric.nn.MIPSKNNIndex`: no :obj:`faiss`, and no upper
    limit of :obj:`k`.

    Scores are those of the rows as they are stored, added up in double
    precision; ties go to the lowest index. Lists that run short are filled
    with a score of :obj:`-inf` and an index of :obj:`-1`.

    Args:
        emb (torch.Tensor or PackedTable, optional): The data points to add.
            (default: :obj:`None`)
        bits (int, optional): The width at which floats are quantized, in
            bits. (default: :obj:`8`)
        range (str, optional): Their range, :obj:`"symmetric"` or
            :obj:`"minmax"`. (default: :obj:`"symmetric"`)

    Raises:
        ValueError: If :obj:`bits` or :obj:`range` is not allowed.

    Example:
        >>> index = PackedMIPSIndex(torch.tensor([[1., 0.], [0., 1.]]))
        >>> index.search(torch.tensor([[0., 1.]]), k=3).index
        tensor([[ 1,  0, -1]])
    """

    def __init__(
        self,
        emb: Optional[Union[Tensor, PackedTable]] = None,
        bits: int = 8,
        range: str = "symmetric",
    ) -> None:
        check_number("bits", bits, 1, 8, integer=True)
        check_choice("range", range, ("symmetric", "minmax"))
        self.bits = bits
        self.range = range
        self._tables: list[PackedTable] = []
        if emb is not None:
            self.add(emb)

    @property
    def numel(self) -> int:
        r"""The number of data points to search in."""
        return sum(len(table) for table in self._tables)

    @property
    def nbytes(self) -> int:
        r"""The bytes that the data points occupy in memory."""
        return sum(table.resident_bytes for table in self._tables)

    def add(self, emb: Union[Tensor, PackedTable]) -> None:
        r"""Adds data points; they are numbered on from those there.

        Args:
            emb (torch.Tensor or PackedTable): The data points to add; floats
                of shape :math:`(N, d)` are quantized.

        Raises:
            ValueError: If they are not of two dimensions, not finite, or of
                another size than those there.
        """
        if isinstance(emb, Tensor):
            _check_matrix(emb)
            emb = PackedTable.from_float(emb.detach().float().cpu().numpy(),
                                         self.bits, self.range)
        if self._tables and emb.dim != self._tables[0].dim:
            raise ValueError(f"'emb' needs {self._tables[0].dim} numbers a "
                             f"row (got {emb.dim})")
        self._tables.append(emb)

    def search(
        self,
        emb: Tensor,
        k: int,
        exclude_links: Optional[Tensor] = None,
    ) -> KNNOutput:
        r"""Searches for the :obj:`k` data points of largest inner product.

        Args:
            emb (torch.Tensor): Queries of shape :math:`(B, d)`.
            k (int): The number of data points to return.
            exclude_links (torch.Tensor, optional): Links :math:`(2, M)` not
                to return: :obj:`exclude_links[0]` refers to rows of
                :obj:`emb`, :obj:`exclude_links[1]` to the data points.

        Returns:
            Scores in float32 and indices, each of shape :math:`(B, k)`, best
            first, on the device of :obj:`emb`.

        Raises:
            RuntimeError: If there are no data points yet.
            ValueError: If an argument is not of this form.
        """
        tables = self._filled()
        _check_matrix(emb)
        check_number("k", k, 1, integer=True)
        queries = emb.detach().float().cpu().numpy()
        links = self._links(exclude_links, len(queries))
        scores, ids, first = [], [], 0
        for table in tables:
            if len(table) > 0:
                last = first + len(table)
                inside = (links[1] >= first) & (links[1] < last)
                exclude = _to_csr(links[0][inside], links[1][inside] - first,
                                  len(queries))
                score, index = table.topk(queries, min(k, len(table)), exclude)
                scores.append(score)
                ids.append(np.where(index >= 0, index + first, -1))
                first = last
        # What is excluded scores -inf; the wide columns fill short lists.
        scores.append(np.full((len(queries), k), -np.inf))
        ids.append(np.full((len(queries), k), -1))
        score, index = np.hstack(scores), np.hstack(ids)
        # Tables are in order of their ids: a stable sort keeps ties so.
        best = np.argsort(-score, axis=1, kind="stable")[:, :k]
        return KNNOutput(
            torch.from_numpy(np.take_along_axis(score, best, 1)).to(
                emb.device, torch.float32),
            torch.from_numpy(np.take_along_axis(index, best, 1)).to(
                emb.device))

    def get_emb(self) -> Tensor:
        r"""Returns the data points as floats, of shape :math:`(N, d)`."""
        return torch.cat([torch.from_numpy(table.dequantize())
                          for table in self._filled()])

    def _filled(self) -> list[PackedTable]:
        if not self._tables:
            raise RuntimeError(f"'{self.__class__.__name__}' is not yet "
                               f"initialized. Please call `add(...)` first.")
        return self._tables

    def _links(self, links: Optional[Tensor], num_queries: int) -> Any:
        if links is None:
            return np.zeros((2, 0), dtype=np.int64)
        if links.dim() != 2 or links.size(0) != 2:
            raise ValueError(f"'exclude_links' needs shape [2, num_links] "
                             f"(got {list(links.shape)})")
        array = links.detach().cpu().numpy().astype(np.int64)
        check_range("exclude_links[0]", array[0], num_queries)
        check_range("exclude_links[1]", array[1], self.numel)
        return array

    def __repr__(self) -> str:
        dim = self._tables[0].dim if self._tables else None
        return f"{self.__class__.__name__}({self.numel}, {dim})"


def _check_matrix(emb: Tensor) -> None:
    if emb.dim() != 2:
        raise ValueError(f"'emb' needs to be two-dimensional "
                         f"(got {emb.dim()} dimensions)")


def _to_csr(row: Any, col: Any, num_rows: int) -> tuple[Any, Any]:
    order = np.argsort(row, kind="stable")
    indptr = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=num_rows), out=indptr[1:])
    return indptr, col[order]
