r"""From any form of adjacency PyG accepts to one fit for fast propagation."""

from __future__ import annotations

import weakref
from typing import Any, Optional

import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.typing import Adj, OptTensor
from torch_geometric.utils import (
    is_sparse,
    is_torch_sparse_tensor,
    to_edge_index,
)

from pyg_nodequant.functional import Adjacency, build_adjacency


def check_edge_weight(edge_index: Adj, edge_weight: OptTensor) -> None:
    r"""Raises :class:`ValueError` if a sparse adjacency comes with an
    :obj:`edge_weight`, which PyG would silently ignore.
    """
    if edge_weight is not None and is_sparse(edge_index):
        raise ValueError("'edge_weight' needs to be None with a sparse "
                         "adjacency: put the weights in its values")


def to_adjacency(
    edge_index: Adj,
    num_nodes: int,
    edge_weight: OptTensor = None,
    normalize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Adjacency:
    r"""Builds the matrix that one :class:`~torch_geometric.nn.conv.LGConv`
    multiplies with, from an edge list, an
    :class:`~torch_geometric.EdgeIndex` or a torch sparse tensor.

    As everywhere in PyG a sparse tensor is the transposed adjacency
    :obj:`adj_t`: row :math:`i` holds what node :math:`i` receives.

    Raises:
        ValueError: If a sparse adjacency comes with an :obj:`edge_weight`,
            which PyG would silently ignore, or has another shape than
            :math:`(N, N)`.
    """
    check_edge_weight(edge_index, edge_weight)
    if isinstance(edge_index, Tensor) and is_torch_sparse_tensor(edge_index):
        if tuple(edge_index.shape) != (num_nodes, num_nodes):
            raise ValueError(f"a sparse adjacency needs shape "
                             f"[{num_nodes}, {num_nodes}] "
                             f"(got {list(edge_index.shape)})")
        adj_t, value = to_edge_index(edge_index)  # row = target
        return build_adjacency(adj_t.flip(0), num_nodes, value, normalize,
                               dtype)
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    return build_adjacency(edge_index, num_nodes, edge_weight, normalize,
                           dtype)


class AdjacencyCache:
    r"""Remembers the matrix of the last graph that was propagated over.

    A graph is the same if it is the same tensor object, not written to since.
    Only weak references are held, so the cache never keeps a graph alive.
    """

    def __init__(self) -> None:
        self._key: Optional[tuple[Any, ...]] = None
        self._value: Optional[Adjacency] = None

    @staticmethod
    def _version(x: Optional[Tensor]) -> int:
        # A tensor of inference mode does not count what is written to it.
        return -1 if x is None or x.is_inference() else x._version

    def get(
        self,
        edge_index: Tensor,
        num_nodes: int,
        edge_weight: OptTensor,
        normalize: bool,
        dtype: torch.dtype = torch.float32,
    ) -> Adjacency:
        r"""Returns the matrix of this graph, building it if it is new."""
        graph = (edge_index, edge_weight, normalize, dtype)
        if self._key is None or not self._same(self._make_key(*graph)):
            self._value = to_adjacency(edge_index, num_nodes, edge_weight,
                                       normalize, dtype)
            # Afterwards, as reading a COO tensor counts as writing to it.
            self._key = self._make_key(*graph)
        assert self._value is not None
        return self._value

    def _make_key(
        self,
        edge_index: Tensor,
        edge_weight: OptTensor,
        normalize: bool,
        dtype: torch.dtype,
    ) -> tuple[Any, ...]:
        return (weakref.ref(edge_index), self._version(edge_index),
                None if edge_weight is None else weakref.ref(edge_weight),
                self._version(edge_weight), normalize, dtype)

    def _same(self, key: tuple[Any, ...]) -> bool:
        assert self._key is not None
        for old, new in zip(self._key, key, strict=True):
            if isinstance(new, weakref.ref):
                # Comparing live references would compare tensors by value.
                if not isinstance(old, weakref.ref) or old() is not new():
                    return False
            elif isinstance(old, weakref.ref) or old != new:
                return False
        return True

    # A cache is no state: copies and pickles start empty.
    def __deepcopy__(self, memo: dict[int, Any]) -> AdjacencyCache:
        return AdjacencyCache()

    def __reduce__(self) -> tuple[Any, ...]:
        return AdjacencyCache, ()


def fast_path_obstacle(convs: Any, edge_index: Adj, edge_weight: OptTensor,
                       alpha: OptTensor = None) -> Optional[str]:
    r"""Returns why message passing cannot be replaced by a product with one
    fixed matrix and fixed layer weights :obj:`alpha`, or :obj:`None` if it
    can.
    """
    from torch_geometric.nn import LGConv
    if not isinstance(edge_index, Tensor):
        return f"the adjacency is a {type(edge_index).__name__}"
    if torch.compiler.is_compiling():
        return "the model is being compiled"
    if edge_weight is not None and edge_weight.requires_grad:
        return "'edge_weight' needs a gradient"
    if is_torch_sparse_tensor(edge_index) and edge_index.requires_grad:
        return "the adjacency needs a gradient"
    if alpha is not None and alpha.requires_grad:
        return "'alpha' needs a gradient"
    for conv in convs:
        if type(conv) is not LGConv:
            return f"a layer is a {type(conv).__name__}"
        hooked = any(value for name, value in vars(conv).items()
                     if name.endswith("_hooks"))
        if conv.explain or hooked:
            return "a layer is being explained or hooked"
        if conv.normalize != convs[0].normalize:
            return "its layers normalise differently"
        if conv.flow != "source_to_target" or conv.aggr != "add":
            return f"flow='{conv.flow}', aggr='{conv.aggr}'"
    return None
