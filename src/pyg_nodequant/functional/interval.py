r"""Ranges that lean on the graph: a row's scale, and its neighbours'."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_nodequant.functional.propagate import Adjacency


@torch.no_grad()
def neighbour_log_scale(
    log_scale: Tensor,
    adjacency: Adjacency,
    mix: float,
    num_layers: int,
) -> Tensor:
    r"""What the graph says about the scale of each row,
    :math:`m_i^{(L)}`, by message passing

    .. math::
        m_i^{(l)} = \frac{\sum_j \hat{A}_{ij} \, \rho_j^{(l - 1)}}
        {\sum_j \hat{A}_{ij}}, \qquad
        \rho_i^{(l)} = (1 - \gamma) \rho_i + \gamma \, m_i^{(l)}, \qquad
        \rho_i^{(0)} = \rho_i,

    so that :math:`\rho_i^{(L)} = (1 - \gamma) \rho_i + \gamma \, m_i^{(L)}`
    is the refined logarithm (`arXiv 2508.16516
    <https://arxiv.org/abs/2508.16516>`_). The scale of a node with few
    interactions is itself a noisy estimate; its neighbours' mean steadies it.

    A layer mixes with the row's own :math:`\rho_i`, not with the layer before
    it: repeated averaging alone takes all rows of a component to one scale,
    while here the share :math:`1 - \gamma` of the own scale is kept whatever
    the number of layers. Rows of zeros, whose logarithm is
    :math:`-\infty`, say nothing to their neighbours; a row none of whose
    neighbours says anything keeps its own scale.

    Args:
        log_scale (Tensor): :math:`\rho = \ln` of the scales, shape
            :math:`(N)`.
        adjacency (Adjacency): The normalised matrix of :math:`N` nodes.
        mix (float): :math:`\gamma` in :math:`[0, 1]`.
        num_layers (int): :math:`L \ge 1`.

    Returns:
        :math:`m^{(L)}`, shape :math:`(N)`, without a gradient.

    Example:
        >>> from pyg_nodequant.functional import build_adjacency
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> neighbour_log_scale(torch.tensor([1.0, 2.0, 5.0]),
        ...                     build_adjacency(path, 3), 0.5, 1)
        tensor([2., 3., 2.])
    """
    known = log_scale.isfinite()
    own = torch.where(known, log_scale, torch.zeros_like(log_scale))
    matrix = adjacency.matrix
    weight = known.to(matrix.dtype).unsqueeze(-1)
    total = matrix @ weight
    has_any = total > 0
    start = own.to(matrix.dtype).unsqueeze(-1)
    refined = mean = start
    for _ in range(num_layers):
        mean = (matrix @ (refined * weight)) / total.clamp(min=1e-30)
        mean = torch.where(has_any, mean, start)
        refined = (1 - mix) * start + mix * mean
    out: Tensor = mean.squeeze(-1).to(log_scale.dtype)
    return out


def mix_scale(scale: Tensor, neighbours: Tensor, mix: float) -> Tensor:
    r"""The refined scale :math:`\sigma_i^{1 - \gamma} \exp(\gamma m_i)`: the
    exponential of :math:`(1 - \gamma) \ln \sigma_i + \gamma m_i`. A scale of 0
    stays 0; the gradient is that of the row's own part.

    Args:
        scale (Tensor): Own scales :math:`\sigma \ge 0`, shape
            :math:`(B, 1)`.
        neighbours (Tensor): :func:`neighbour_log_scale` of the same rows,
            shape :math:`(B)`.
        mix (float): :math:`\gamma` in :math:`[0, 1]`.

    Example:
        >>> mix_scale(torch.tensor([[4.0]]), torch.tensor([0.0]), 0.5)
        tensor([[2.]])
    """
    used = scale > 0
    safe = torch.where(used, scale, torch.ones_like(scale))
    factor = (mix * (neighbours.detach().unsqueeze(-1) - safe.log())).exp()
    return torch.where(used, safe * factor, torch.zeros_like(scale))
