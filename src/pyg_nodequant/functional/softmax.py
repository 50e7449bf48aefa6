r"""The softmax loss over items, and the cosine scores it is used with."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.chunked import chunked_loss
from pyg_nodequant.functional.pairs import pairs_between


def cosine_rows(x: Tensor, temperature: float) -> Tensor:
    r"""Rows whose inner products are cosines over a temperature,

    .. math::
        \hat{x}_i = \frac{x_i}{\sqrt{\tau} \, \lVert x_i \rVert}, \qquad
        \hat{x}_u^{\top} \hat{x}_i = \frac{\cos(x_u, x_i)}{\tau} .

    A row of zeros stays one.

    Args:
        x (Tensor): Rows of shape :math:`(B, d)`.
        temperature (float): :math:`\tau > 0`.

    Example:
        >>> x = cosine_rows(torch.tensor([[3.0, 4.0]]), 0.25)
        >>> x
        tensor([[1.2000, 1.6000]])
        >>> x @ x.t()
        tensor([[4.]])
    """
    out: Tensor = torch.nn.functional.normalize(x, dim=-1)
    return out / math.sqrt(temperature)


def softmax_loss(
    users: Tensor,
    items: Tensor,
    pairs: Tensor,
    power: float = 0.5,
    log_weight: Optional[Tensor] = None,
    chunk_scores: int = 2**22,
) -> Tensor:
    r"""The softmax (list-wise cross-entropy) loss of a batch of users with
    items :math:`\mathcal{N}(u)`,

    .. math::
        \mathcal{L} = \frac{\sum_{u} |\mathcal{N}(u)|^p \, \ell_u}
        {\sum_{u} |\mathcal{N}(u)|^p}, \qquad
        \ell_u = \ln \sum_{j} w_j e^{s_{uj}} - \frac{1}{|\mathcal{N}(u)|}
        \sum_{i \in \mathcal{N}(u)} s_{ui}, \qquad
        s_{ui} = x_u^{\top} x_i .

    Interactions count alike at :math:`p = 1`, users at :math:`p = 0`.

    With cosine scores (:func:`cosine_rows`) it is the loss that `"On the
    Effectiveness of Sampled Softmax Loss for Item Recommendation"
    <https://arxiv.org/abs/2201.02327>`_ finds best for LightGCN. Where the
    columns are a sample of a large catalogue, :math:`w_j` is how many items
    column :math:`j` stands for, and the sum estimates the one over all items
    without bias.

    Args:
        users (Tensor): User rows of shape :math:`(B, d)`.
        items (Tensor): Rows of the items that compete, :math:`(I, d)`.
        pairs (Tensor): Rows of :obj:`users` and of :obj:`items` that belong
            together, :math:`(2, M)`, sorted by user. Users without a pair do
            not count.
        power (float, optional): The exponent :math:`p`.
            (default: :obj:`0.5`)
        log_weight (Tensor, optional): :math:`\ln w_j` of each item,
            :math:`(I)`. (default: :obj:`None`, all 0)
        chunk_scores (int, optional): Scores that are held at a time.

    Example:
        >>> pairs = torch.tensor([[0, 1], [0, 1]])
        >>> softmax_loss(torch.zeros(2, 3), torch.zeros(4, 3), pairs)
        tensor(1.3863)
    """
    count = torch.bincount(pairs[0], minlength=users.size(0)).to(users.dtype)
    # What a user counts: nothing without items.
    active = torch.where(count > 0, count.clamp(min=1)**power, 0)
    active /= active.sum().clamp(min=1)
    weight = active / count.clamp(min=1)  # what one of its items counts

    def rule(start: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        stop = start + scores.size(0)
        at = pairs_between(pairs, start, stop)
        share = weight[start:stop][at[0]]
        loss = -(scores[at] * share).sum()
        if log_weight is not None:
            scores += log_weight
        total = scores.logsumexp(-1, keepdim=True)
        counts = active[start:stop].unsqueeze(-1)
        loss += (total * counts).sum()
        gradient = scores.sub_(total).exp_().mul_(counts)
        gradient.index_put_(at, -share, accumulate=True)
        return loss, gradient

    return chunked_loss(users, items, rule, chunk_scores)
