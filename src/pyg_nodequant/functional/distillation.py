r"""The list-wise loss that teaches a model another one's rankings.

It is the Kullback-Leibler divergence of `"Distilling the Knowledge in a Neural
Network" <https://arxiv.org/abs/1503.02531>`_ over a user's whole ranking.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.pairs import pairs_between

# Far below any score, but its differences are numbers.
_NEVER = -1e6


def _float(x: Tensor) -> Tensor:
    # What autocast made narrower; float32 and float64 stay what they are.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kl_and_gradient(scores: Tensor, teacher_scores: Tensor,
                     temperature: float) -> tuple[Tensor, Tensor]:
    # The sum over rows of T^2 KL, and its gradient in the scores,
    # T (softmax(s / T) - softmax(t / T)). Both matrices are users x items,
    # the largest tensors of a training step: work is done in place.
    log_q = scores / temperature
    log_q -= log_q.logsumexp(-1, keepdim=True)
    log_p = teacher_scores / temperature
    log_p -= log_p.logsumexp(-1, keepdim=True)
    p = log_p.exp()
    loss = log_p.sub_(log_q).mul_(p).sum() * temperature**2
    return loss, log_q.exp_().sub_(p).mul_(temperature)


class _ListwiseKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, teacher_scores: Tensor,
                temperature: float) -> Tensor:
        rows = max(scores.size(0), 1)
        loss, gradient = _kl_and_gradient(scores, teacher_scores, temperature)
        ctx.save_for_backward(gradient.div_(rows))
        return loss / rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grads[0], None, None


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, teacher_users: Tensor,
                teacher_items: Tensor, temperature: float,
                excluded: Optional[Tensor], chunk_scores: int) -> Tensor:
        count = max(users.size(0), 1)
        loss = users.new_zeros(())
        grad_users, grad_items = torch.empty_like(users), torch.zeros_like(
            items)
        step = max(1, chunk_scores // max(items.size(0), 1))
        for start in range(0, users.size(0), step):
            part = slice(start, start + step)
            scores = users[part] @ items.t()
            wanted = teacher_users[part] @ teacher_items.t()
            if excluded is not None:
                at = pairs_between(excluded, start, start + step)
                scores[at], wanted[at] = _NEVER, _NEVER
            value, gradient = _kl_and_gradient(scores, wanted, temperature)
            loss += value / count
            gradient /= count
            grad_users[part] = gradient @ items
            grad_items.addmm_(gradient.t(), users[part])
        ctx.save_for_backward(grad_users, grad_items)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Optional[Tensor], ...]:
        grad_users, grad_items = ctx.saved_tensors
        return (grad_users * grads[0], grad_items * grads[0], None, None,
                None, None, None)


def distillation_loss(
    users: Tensor,
    items: Tensor,
    teacher_users: Tensor,
    teacher_items: Tensor,
    temperature: float = 1.0,
    chunk_scores: int = 2**22,
    excluded: Optional[Tensor] = None,
) -> Tensor:
    r"""The :func:`listwise_kl_loss` of inner-product scores, in bounded
    memory: users are taken in chunks, and the gradients are formed on the
    way, so that no matrix of all users by all items ever exists. It is
    computed in float32 (float64 for float64 rows), even under autocast.

    Args:
        users (Tensor): Student's rows of the users to distil, :math:`(B, d)`.
        items (Tensor): Student's rows of all items, :math:`(I, d)`.
        teacher_users (Tensor): Teacher's rows of the users, :math:`(B, d')`.
        teacher_items (Tensor): Teacher's rows of all items,
            :math:`(I, d')`.
        temperature (float, optional): :math:`T > 0`. (default: :obj:`1.0`)
        chunk_scores (int, optional): Scores that are held at a time.
        excluded (Tensor, optional): Rows of :obj:`users` and items that are
            left out of both rankings, *e.g.*, what a user has seen, which is
            never recommended: :math:`(2, M)`, sorted by user.

    Example:
        >>> users, items = torch.eye(2), torch.ones(3, 2)
        >>> float(distillation_loss(users, items, users, items)) < 1e-6
        True
    """
    tables = map(_float, (users, items, teacher_users, teacher_items))
    with torch.autocast(users.device.type, enabled=False):
        loss: Tensor = _Distillation.apply(  # type: ignore[no-untyped-call]
            *tables, temperature, excluded, chunk_scores)
        return loss


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
    with torch.autocast(scores.device.type, enabled=False):
        loss: Tensor = _ListwiseKL.apply(  # type: ignore[no-untyped-call]
            _float(scores), _float(teacher_scores), temperature)
        return loss
