r"""The losses: Bayesian personalised ranking, L2, and list-wise distillation.

BPR is `"BPR: Bayesian Personalized Ranking from Implicit Feedback"
<https://arxiv.org/abs/1205.2618>`_; the list-wise loss is the Kullback-Leibler
divergence of `"Distilling the Knowledge in a Neural Network"
<https://arxiv.org/abs/1503.02531>`_ over a user's whole ranking.
"""

from __future__ import annotations

from typing import Any

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


class _ListwiseKL(torch.autograd.Function):
    # The two score matrices are the largest tensors of a training step, so
    # their softmaxes are formed in place and the gradient, which needs them
    # anyway, right away: T (softmax(s / T) - softmax(t / T)) / B.
    @staticmethod
    def forward(ctx: Any, scores: Tensor, teacher_scores: Tensor,
                temperature: float) -> Tensor:
        log_q = scores / temperature
        log_q -= log_q.logsumexp(-1, keepdim=True)
        log_p = teacher_scores / temperature
        log_p -= log_p.logsumexp(-1, keepdim=True)
        p = log_p.exp()
        rows = max(scores.size(0), 1)
        loss = log_p.sub_(log_q).mul_(p).sum() * (temperature**2 / rows)
        ctx.save_for_backward(log_q.exp_().sub_(p).mul_(temperature / rows))
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grads[0], None, None


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
    temperature :math:`T`. The teacher receives no gradient.

    Args:
        scores (Tensor): Student's scores of all items, :math:`(B, I)`.
        teacher_scores (Tensor): Teacher's scores, same shape.
        temperature (float, optional): :math:`T > 0`. (default: :obj:`1.0`)

    Example:
        >>> scores = torch.tensor([[1.0, 2.0, 3.0]])
        >>> float(listwise_kl_loss(scores, scores).abs()) < 1e-6
        True
    """
    loss: Tensor = _ListwiseKL.apply(  # type: ignore[no-untyped-call]
        scores, teacher_scores, temperature)
    return loss
