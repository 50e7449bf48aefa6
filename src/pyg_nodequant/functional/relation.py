r"""Gradients of quantized rows that know of the graph."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.propagate import Adjacency
from pyg_nodequant.functional.quantize import column, num_levels


def rounding_residual(x: Tensor, bits: Tensor, delta: Tensor,
                      mu: Tensor) -> Tensor:
    r"""The rounding errors of values within their range, in half steps,

    .. math::
        t_{ik} = \frac{q_{ik} - x_{ik}}{\Delta_i / (2 s_i)} \in [-1, 1],

    and 0 where a value is clamped: it gets no gradient there, and it is not
    rounding that errs. Without a gradient.

    Args:
        x (Tensor): Latent rows of shape :math:`(B, d)`.
        bits (Tensor): Widths in bits, shape :math:`(B)`.
        delta (Tensor): Ranges :math:`\Delta`, :math:`(B)` or :math:`(B, 1)`.
        mu (Tensor): Offsets :math:`\mu`, same shape.

    Example:
        >>> rounding_residual(torch.tensor([[0.9, 2.5, 3.1]]),
        ...                   torch.tensor([2.0]), torch.tensor([3.0]),
        ...                   torch.tensor([0.0]))
        tensor([[ 0.2000, -1.0000,  0.0000]])
    """
    with torch.no_grad():
        delta, mu, levels = column(delta), column(mu), column(num_levels(bits))
        known = delta > 0
        safe = torch.where(known, delta, torch.ones_like(delta))
        position = (x - mu) / safe
        inside = known & (position >= 0) & (position <= 1)
        value = position * levels
        return torch.where(inside, 2 * (value.round() - value),
                           torch.zeros_like(value))


class _Relation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, residual: Tensor,
                adjacency: Adjacency, weight: float,
                n_id: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(residual, n_id)
        ctx.adjacency, ctx.weight = adjacency, weight
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Optional[Tensor], ...]:
        residual, n_id = ctx.saved_tensors
        extra = relation_term(grads[0], residual, ctx.adjacency, n_id)
        return grads[0], ctx.weight * extra, None, None, None, None


def relation_term(
    gradient: Tensor,
    residual: Tensor,
    adjacency: Adjacency,
    n_id: Optional[Tensor] = None,
) -> Tensor:
    r"""What a row's neighbours add to its gradient,

    .. math::
        t_{ik} \sum_j \hat{A}_{ij} \, t_{jk} \, g_{jk},

    over the nodes :math:`j` of the batch. A node that stands in it several
    times sends the sum of its gradients and gets its term in equal parts.

    Args:
        gradient (Tensor): :math:`g`, shape :math:`(B, d)`.
        residual (Tensor): :func:`rounding_residual` :math:`t`, same shape.
        adjacency (Adjacency): The normalised matrix of :math:`N` nodes.
        n_id (Tensor, optional): The node of each row. (default:
            :obj:`None`, rows are nodes :math:`0, \dots, N - 1`)

    Example:
        >>> from pyg_nodequant.functional import build_adjacency
        >>> pair = build_adjacency(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> relation_term(torch.tensor([[1.0], [2.0]]),
        ...               torch.tensor([[0.5], [-0.5]]), pair)
        tensor([[-0.5000],
                [-0.2500]])
    """
    weighted = gradient * residual
    if n_id is None:
        return residual * (adjacency.matrix @ weighted)
    # As in gather_rows: repeated rows add up in a fixed order.
    table = torch.ops.aten.embedding_dense_backward(
        weighted, n_id, adjacency.num_nodes, -1, False)
    received = adjacency.matrix @ table
    count = torch.bincount(n_id, minlength=adjacency.num_nodes)
    share = count[n_id].to(weighted.dtype).reciprocal().unsqueeze(-1)
    out: Tensor = residual * received[n_id] * share
    return out


def relation_gradient(
    out: Tensor,
    x: Tensor,
    residual: Tensor,
    adjacency: Adjacency,
    weight: float,
    n_id: Optional[Tensor] = None,
) -> Tensor:
    r"""Returns quantized rows :obj:`out` as they are, and adds to the gradient
    of their latent rows what their neighbours' rounding suggests:

    .. math::
        h_i = g_i + \varrho \; t_i \odot \sum_j \hat{A}_{ij} \,
        ( t_j \odot g_j ),

    with :math:`g` the gradient of the quantized rows and :math:`t` their
    rounding errors in half steps.

    *Derivation.* Straight through, each row descends alone: :math:`g` is the
    steepest descent if errors of different rows have nothing to do with each
    other. But rows that are joined by an edge are multiplied with the same
    neighbours and with each other: the score of :math:`(i, j)` is off by
    :math:`r_i^{\top} e_j + e_i^{\top} r_j` for rounding errors :math:`r`, and
    since joined rows are alike, errors of one sign in a component add up and
    those of opposite signs cancel. So take the loss smoothed over moves of
    the rows along their rounding errors, :math:`z_{ik} = \epsilon_{ik} +
    t_{ik} \xi_{ik}`, with :math:`\epsilon` independent and :math:`\xi` a field
    that joined rows share. Its covariance in component :math:`k` is
    :math:`C_k = I + \varrho \, D_k \hat{A} D_k` with :math:`D_k =
    \mathrm{diag}(t_{\cdot k})`, and as with Gaussian smoothing everywhere
    :math:`\mathbb{E}[z \, L(e + z)] = C \, \mathbb{E}[\nabla L]`: the descent
    direction of the smoothed loss is :math:`h = C g`. Neighbours whose errors
    add up follow each other's gradients; where they cancel, a row moves
    against its neighbour's, and they go on cancelling.

    *Stability.* :math:`\lVert \hat{A} \rVert \le 1` and :math:`|t| \le 1`, so
    for a symmetric graph the eigenvalues of :math:`C` lie in :math:`[1 -
    \varrho, 1 + \varrho]`: with :math:`\varrho < 1`, :math:`h^{\top} g \ge
    (1 - \varrho) \lVert g \rVert^2`, a descent direction always, of at most
    :math:`1 + \varrho` times the length.

    The clamp still cuts :math:`g` outside the range, where :math:`t = 0` too;
    ranges and widths get their gradients as ever.

    Args:
        out (Tensor): Quantized rows of shape :math:`(B, d)`.
        x (Tensor): The latent rows they come from, same shape.
        residual (Tensor): :func:`rounding_residual` :math:`t`, same shape.
        adjacency (Adjacency): The normalised matrix of :math:`N` nodes.
        weight (float): :math:`\varrho` in :math:`[0, 1)`.
        n_id (Tensor, optional): The node of each row.

    Example:
        >>> from pyg_nodequant.functional import build_adjacency
        >>> pair = build_adjacency(torch.tensor([[0, 1], [1, 0]]), 2)
        >>> x = torch.tensor([[0.3], [0.4]], requires_grad=True)
        >>> q = relation_gradient(x + 0, x, torch.ones(2, 1), pair, 0.5)
        >>> (q * torch.tensor([[1.0], [2.0]])).sum().backward()
        >>> x.grad
        tensor([[2.0000],
                [2.5000]])
    """
    result: Tensor = _Relation.apply(  # type: ignore[no-untyped-call]
        out, x, residual.detach(), adjacency, weight, n_id)
    return result
