r"""The losses: Bayesian personalised ranking, L2, and list-wise distillation.

BPR is `"BPR: Bayesian Personalized Ranking from Implicit Feedback"
<https://arxiv.org/abs/1205.2618>`_; the list-wise loss is the Kullback-Leibler
divergence of `"Distilling the Knowledge in a Neural Network"
<https://arxiv.org/abs/1503.02531>`_ over a user's whole ranking.
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


def listwise_kl_loss(
    scores: Tensor,
    teacher_scores: Tensor,
    temperature: float = 1.0,
) -> Tensor:
    r"""The list-wise distillation loss

    .. math::
        \mathcal{L} = \frac{T^2}{B} \sum_{b} \mathrm{KL} \big(
        \mathrm{softmax}(t_b / T) \,\Vert\, \mathrm{softmax}(s_b / T) \big),

    where :math:`T^2` keeps the gradients' size independent of the
    temperature :math:`T`.

    Args:
        scores (Tensor): Student's scores of all items, :math:`(B, I)`.
        teacher_scores (Tensor): Teacher's scores, same shape.
        temperature (float, optional): :math:`T > 0`. (default: :obj:`1.0`)

    Example:
        >>> scores = torch.tensor([[1.0, 2.0, 3.0]])
        >>> float(listwise_kl_loss(scores, scores).abs()) < 1e-6
        True
    """
    loss = F.kl_div(
        F.log_softmax(scores / temperature, dim=-1),
        F.log_softmax(teacher_scores / temperature, dim=-1),
        reduction="batchmean", log_target=True)
    return loss * temperature**2
