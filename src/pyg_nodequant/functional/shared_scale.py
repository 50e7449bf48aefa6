r"""Scales that groups of rows share, and the groups."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_nodequant.functional.quantize import safe_sqrt


def degree_bins(degree: Tensor, bins: int = 16) -> Tensor:
    r"""Bins of about as many nodes each, by degree: :math:`\lfloor B \, r_i /
    n \rfloor` with :math:`r_i` the number of nodes of lower degree than
    :math:`i`. Nodes of one degree are in one bin.

    Args:
        degree (Tensor): Degrees of shape :math:`(n)`.
        bins (int, optional): The number of bins :math:`B`.

    Returns:
        Bins in :math:`[0, B)`, int64 of shape :math:`(n)`.

    Example:
        >>> degree_bins(torch.tensor([1, 1, 1, 9, 4, 2]), 2)
        tensor([0, 0, 0, 1, 1, 1])
    """
    order = degree.sort().values
    lower = torch.searchsorted(order, degree.contiguous())
    return lower * bins // max(degree.numel(), 1)


def shared_step(step: Tensor, group: Tensor, count: int) -> Tensor:
    r"""The step that the rows of a group share,

    .. math::
        r_g = \sqrt{\tfrac{1}{n_g} \sum_{i \in g} r_i^2} ,

    which for symmetric ranges and one width is the step of their common root
    mean square. Groups without rows get 0.

    Args:
        step (Tensor): The rows' own steps :math:`r_i`, shape :math:`(N, 1)`.
        group (Tensor): Their groups, shape :math:`(N)`.
        count (int): The number of groups :math:`G`.

    Returns:
        :math:`r` of shape :math:`(G, 1)`.

    Example:
        >>> shared_step(torch.tensor([[3.0], [4.0], [1.0]]),
        ...             torch.tensor([0, 0, 2]), 3)
        tensor([[3.5355],
                [0.0000],
                [1.0000]])
    """
    # In double, where the order in which threads add does not show.
    total = torch.zeros(count, 1, dtype=torch.float64, device=step.device)
    total = total.index_add(0, group, step.double().square())
    size = torch.bincount(group, minlength=count).clamp(min=1).unsqueeze(-1)
    return safe_sqrt(total / size).to(step.dtype)
