r"""Search in packed rows, for models written in torch."""

from __future__ import annotations

from typing import Any, Optional, Union

import numpy as np
import torch
from torch import Tensor
from torch_geometric.nn.pool.knn import KNNOutput

from pyg_nodequant.config import check_choice, check_number
from pyg_nodequant.nn.faiss_index import to_faiss
from pyg_nodequant.nn.packed import PackedEmbedding
from pyg_nodequant.nn.packed_topk import packed_topk
from pyg_nodequant.runtime import PackedTable
from pyg_nodequant.runtime.csr import check_range


class PackedMIPSIndex:
    r"""Exact maximum inner product search in packed rows, used like
    :class:`torch_geometric.nn.MIPSKNNIndex`: no :obj:`faiss`, and no upper
    limit of :obj:`k`.

    Scores are those of the rows as they are stored, added up in double
    precision; ties go to the lowest index. Lists that run short are filled
    with a score of :obj:`-inf` and an index of :obj:`-1`; all are of length
    :obj:`k`, also where PyG cuts them to the number of data points.

    Queries on a CUDA device are answered there
    (:func:`~pyg_nodequant.nn.packed_topk`), from a packed copy of the data
    points that the first search makes; all others are answered by the
    kernels of :class:`PackedTable <pyg_nodequant.PackedTable>`. The answers
    are the same.

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
        self._copies: dict[tuple[int, torch.device], PackedEmbedding] = {}
        self._device = torch.device("cpu")
        if emb is not None:
            self.add(emb)

    @property
    def numel(self) -> int:
        r"""The number of data points to search in."""
        return sum(len(table) for table in self._tables)

    @property
    def nbytes(self) -> int:
        r"""The bytes that the data points occupy in memory, without copies on
        other devices.
        """
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
            device = emb.device
            emb = PackedTable.from_float(emb.detach().float().cpu().numpy(),
                                         self.bits, self.range)
        else:
            device = torch.device("cpu")
        if self._tables and emb.dim != self._tables[0].dim:
            raise ValueError(f"'emb' needs {self._tables[0].dim} numbers a "
                             f"row (got {emb.dim})")
        if not self._tables:
            self._device = device
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
        links = self._links(exclude_links, len(emb))
        scores, ids, first = [], [], 0
        for number, table in enumerate(tables):
            if len(table) > 0:
                last = first + len(table)
                inside = (links[1] >= first) & (links[1] < last)
                exclude = _to_csr(links[0][inside], links[1][inside] - first,
                                  len(emb))
                score, index = self._topk(number, emb.detach(),
                                          min(k, len(table)), exclude)
                scores.append(score)
                ids.append(torch.where(index >= 0, index + first, -1))
                first = last
        # What is excluded scores -inf; the wide columns fill short lists.
        device = scores[0].device if scores else torch.device("cpu")
        scores.append(torch.full((len(emb), k), -torch.inf, device=device))
        ids.append(torch.full((len(emb), k), -1, device=device))
        # Tables are in order of their ids: a stable sort keeps ties so.
        score, order = torch.cat(scores, dim=1).sort(dim=1, descending=True,
                                                     stable=True)
        index = torch.cat(ids, dim=1).gather(1, order[:, :k])
        return KNNOutput(score[:, :k].to(torch.float32).to(emb.device),
                         index.to(emb.device))

    def _topk(self, number: int, queries: Tensor, k: int,
              exclude: Any) -> tuple[Tensor, Tensor]:
        # The best rows of one table, where the queries are if they can be
        # answered there.
        table = self._tables[number]
        if not _is_fast(queries.device):
            score, index = table.topk(queries.float().cpu().numpy(), k,
                                      exclude)
            return torch.from_numpy(score), torch.from_numpy(index)
        key = number, queries.device
        if key not in self._copies:
            self._copies[key] = PackedEmbedding(table).to(queries.device)
        return packed_topk(self._copies[key], queries, k, exclude)

    def get_emb(self) -> Tensor:
        r"""Returns the data points as floats, of shape :math:`(N, d)`, on the
        device of the first that were added.
        """
        return torch.cat([torch.from_numpy(table.dequantize())
                          for table in self._filled()]).to(self._device)

    def to_faiss(self, fast_scan: bool = False) -> Any:
        r"""Returns the data points as a :obj:`faiss` index, see
        :func:`~pyg_nodequant.nn.to_faiss`; those added in several steps as
        an :obj:`IndexFlatIP`.

        Args:
            fast_scan (bool, optional): Whether to return an approximate
                :obj:`IndexPQFastScan`. (default: :obj:`False`)

        Raises:
            ImportError: If :obj:`faiss` is not installed.
            RuntimeError: If there are no data points yet.
            ValueError: If :obj:`fast_scan` is set and the data points do not
                allow it.
        """
        return to_faiss(*self._filled(), fast_scan=fast_scan)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine may lack the device; copies are made again.
        return {**self.__dict__, "_copies": {}, "_device": torch.device("cpu")}

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


def _is_fast(device: torch.device) -> bool:
    # Elsewhere the kernels of the runtime are faster, or the only ones.
    return device.type == "cuda"


def _check_matrix(emb: Tensor) -> None:
    if emb.dim() != 2:
        raise ValueError(f"'emb' needs to be two-dimensional "
                         f"(got {emb.dim()} dimensions)")


def _to_csr(row: Any, col: Any, num_rows: int) -> tuple[Any, Any]:
    order = np.argsort(row, kind="stable")
    indptr = np.zeros(num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=num_rows), out=indptr[1:])
    return indptr, col[order]
