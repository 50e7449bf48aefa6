r"""The losses of training: Bayesian personalised ranking, and L2.

BPR is `"BPR: Bayesian Personalized Ranking from Implicit Feedback"
<https://arxiv.org/abs/1205.2618>`_.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    r"""The pairwise ranking loss

    .. math::
        \mathcal{L} = - \frac{1}{B} \sum_{b} \ln \sigma
        \big( u_b^{\top} p_b - u_b^{\top} n_b \big).

    Args:
        users (Tensor): User embeddings of shape :math:`(B, d)`.
        positives (Tensor): Embeddings of items they chose, :math:`(B, d)`.
        negatives (Tensor): Embeddings of items they did not, :math:`(B, d)`.

    Example:
        >>> e = torch.ones(1, 2)
        >>> bpr_loss(e, e, e)
        tensor(0.6931)
    """
    return F.softplus(-(users * (positives - negatives)).sum(-1)).mean()


def l2_loss(*rows: Tensor) -> Tensor:
    r"""The L2 penalty :math:`\frac{1}{2B} \sum_b \lVert e_b \rVert^2` summed
    over the given batches of rows, each of shape :math:`(B, d)`.

    Example:
        >>> l2_loss(torch.ones(4, 2), torch.ones(4, 2))
        tensor(2.)
    """
    total = torch.stack([e.square().sum() for e in rows]).sum()
    return total / (2 * max(rows[0].size(0), 1))
