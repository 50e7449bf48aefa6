r"""LightGCN propagation as one fused, memory-free autograd operation.

LightGCN averages the layers of :math:`X^{(l+1)} = \hat{A} X^{(l)}`. Written in
Horner's form,

.. math::
    \sum_{l=0}^{L} \alpha_l \hat{A}^l X
    = \alpha_0 X + \hat{A} (\alpha_1 X + \hat{A} (\alpha_2 X + \dots)),

it needs :math:`L` sparse products and no intermediate layer. Its gradient is
the same polynomial in :math:`\hat{A}^{\top}`, so nothing but the matrix is
kept for the backward pass.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Adjacency:
    r"""A normalised adjacency matrix ready for propagation.

    Args:
        matrix (Tensor): Sparse CSR matrix of shape :math:`(N, N)`; entry
            :math:`(i, j)` weighs the message from node :math:`j` to
            :math:`i`.
        transposed (Tensor, optional): Its transpose as CSR, or :obj:`None`
            if the matrix is symmetric.
    """

    matrix: Tensor
    transposed: Optional[Tensor] = None

    @property
    def num_nodes(self) -> int:
        r"""The number of rows :math:`N`."""
        return int(self.matrix.size(0))

    @property
    def is_symmetric(self) -> bool:
        r"""Whether the backward pass may reuse the forward matrix."""
        return self.transposed is None

    def to(self, device: torch.device) -> Adjacency:
        r"""Returns the same matrix on :obj:`device`."""
        if self.matrix.device == device:
            return self
        back = None if self.transposed is None else self.transposed.to(device)
        return Adjacency(self.matrix.to(device), back)


def csr_from_coo(
    row: Tensor,
    col: Tensor,
    value: Tensor,
    num_nodes: int,
) -> Tensor:
    r"""Builds a sparse CSR matrix in :math:`O(E \log E)` without densifying.

    Duplicate entries are kept as they are: a product adds them up, exactly
    as message passing over duplicate edges does.

    Args:
        row (Tensor): Row of each entry, shape :math:`(E)`.
        col (Tensor): Column of each entry, shape :math:`(E)`.
        value (Tensor): Value of each entry, shape :math:`(E)`.
        num_nodes (int): The number of rows and columns :math:`N`.

    Example:
        >>> row, col = torch.tensor([1, 0]), torch.tensor([0, 1])
        >>> csr_from_coo(row, col, torch.ones(2), 2).to_dense()
        tensor([[0., 1.],
                [1., 0.]])
    """
    key = row * num_nodes + col
    if bool((key[1:] < key[:-1]).any()):
        order = key.argsort()
        row, col, value = row[order], col[order], value[order]
    crow = torch.zeros(num_nodes + 1, dtype=torch.long, device=row.device)
    torch.cumsum(torch.bincount(row, minlength=num_nodes), 0, out=crow[1:])
    # Half the index traffic, and MKL's product with int32 is the faster one.
    if max(num_nodes, col.numel()) < 2**31:
        crow, col = crow.int(), col.int()
    with warnings.catch_warnings():  # "CSR support is in beta"
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(crow, col.contiguous(),
                                       value.contiguous(),
                                       size=(num_nodes, num_nodes),
                                       check_invariants=False)


def _same_matrix(a: Tensor, b: Tensor) -> bool:
    return (torch.equal(a.crow_indices(), b.crow_indices())
            and torch.equal(a.col_indices(), b.col_indices())
            and torch.allclose(a.values(), b.values(), rtol=1e-6, atol=0.0))


def build_adjacency(
    edge_index: Tensor,
    num_nodes: int,
    edge_weight: Optional[Tensor] = None,
    normalize: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Adjacency:
    r"""Builds :math:`\hat{A} = D^{-1/2} A D^{-1/2}` from an edge list.

    As in :class:`torch_geometric.nn.conv.LGConv`, :math:`D` is the weighted
    in-degree, an edge :math:`(j, i)` carries a message from :math:`j` to
    :math:`i`, and no self-loops are added. Degree-zero nodes have empty rows.

    Args:
        edge_index (Tensor): Edges of shape :math:`(2, E)`.
        num_nodes (int): The number of nodes :math:`N`.
        edge_weight (Tensor, optional): One weight an edge, shape
            :math:`(E)`. (default: :obj:`None`, every edge weighs 1)
        normalize (bool, optional): If :obj:`False`, the weights are used as
            they are. (default: :obj:`True`)
        dtype (torch.dtype, optional): Type of the values.

    Raises:
        ValueError: If an edge names a node outside :math:`[0, N)`.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> build_adjacency(edge_index, 3).is_symmetric
        True
    """
    if edge_index.numel() > 0:
        low, high = int(edge_index.min()), int(edge_index.max())
        if low < 0 or high >= num_nodes:
            raise ValueError(f"'edge_index' needs to hold nodes in "
                             f"[0, {num_nodes - 1}] (got [{low}, {high}])")
    source, target = edge_index[0], edge_index[1]
    if edge_weight is None:
        value = torch.ones(source.numel(), dtype=dtype,
                           device=edge_index.device)
    else:
        value = edge_weight.detach().to(dtype)
    if normalize:
        degree = torch.zeros(num_nodes, dtype=dtype, device=value.device)
        degree.scatter_add_(0, target, value)
        scale = degree.pow(-0.5)
        scale = torch.where(degree > 0, scale, torch.zeros_like(scale))
        value = scale[source] * value * scale[target]
    matrix = csr_from_coo(target, source, value, num_nodes)
    back = csr_from_coo(source, target, value, num_nodes)
    return Adjacency(matrix, None if _same_matrix(matrix, back) else back)


def _horner(matrix: Tensor, x: Tensor, alpha: Sequence[float]) -> Tensor:
    if len(alpha) == 1:
        return x * alpha[0]
    # Two buffers take turns: a fresh one a layer costs as much in page faults
    # as the addition itself.
    out, spare = x, torch.empty_like(x)
    scale = alpha[-1]
    if all(a == scale for a in alpha):  # scale once, in the last product
        for _ in alpha[2:]:
            spare = torch.addmm(x, matrix, out, out=spare)
            out, spare = spare, torch.empty_like(x) if out is x else out
        return torch.addmm(x, matrix, out, beta=scale, alpha=scale, out=spare)
    for a in reversed(alpha[:-1]):
        spare = torch.addmm(x, matrix, out, beta=a, alpha=scale, out=spare)
        out, spare = spare, torch.empty_like(x) if out is x else out
        scale = 1.0
    return out


class _Propagate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        adjacency: Adjacency,
        alpha: tuple[float, ...],
    ) -> Tensor:
        ctx.adjacency, ctx.alpha = adjacency, alpha
        return _horner(adjacency.matrix, x, alpha)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        adjacency = ctx.adjacency
        matrix = (adjacency.matrix if adjacency.is_symmetric
                  else adjacency.transposed)
        out = _horner(matrix, grad[0].contiguous(), ctx.alpha)
        return out, None, None


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    r"""Returns rows :obj:`x[index]`. Unlike plain indexing, its gradient adds
    up repeated rows in a fixed order, whatever the number of threads.

    Args:
        x (Tensor): Table of shape :math:`(N, d)`.
        index (Tensor): Row ids of any shape :math:`(*)`.

    Example:
        >>> gather_rows(torch.tensor([[1.], [2.]]), torch.tensor([1, 1]))
        tensor([[2.],
                [2.]])
    """
    return torch.nn.functional.embedding(index, x)


def propagate(
    x: Tensor,
    adjacency: Adjacency,
    alpha: Sequence[float],
) -> Tensor:
    r"""Computes :math:`\sum_{l=0}^{L} \alpha_l \hat{A}^l X`, LightGCN's
    encoder (`"LightGCN: Simplifying and Powering Graph Convolution Network
    for Recommendation" <https://arxiv.org/abs/2002.02126>`_).

    Args:
        x (Tensor): Layer-0 embeddings of shape :math:`(N, d)`.
        adjacency (Adjacency): The normalised matrix of :math:`N` nodes.
        alpha (sequence of float): One weight a layer, :math:`L + 1` numbers.

    Returns:
        Propagated embeddings of shape :math:`(N, d)`, in float32 even under
        autocast.

    Example:
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> adjacency = build_adjacency(edge_index, 2)
        >>> propagate(torch.tensor([[1.], [3.]]), adjacency, [0.5, 0.5])
        tensor([[2.],
                [2.]])
    """
    with torch.autocast(x.device.type, enabled=False):
        values = adjacency.matrix.values()
        out: Tensor = _Propagate.apply(  # type: ignore[no-untyped-call]
            x.to(values.dtype), adjacency, tuple(float(a) for a in alpha))
        return out
