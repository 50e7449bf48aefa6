r"""The losses that teach a model, the student, the rankings of another one.

The list-wise one is the Kullback-Leibler divergence of `"Distilling the
Knowledge in a Neural Network" <https://arxiv.org/abs/1503.02531>`_ over a
user's ranking of all items, or of a sample of them. The others look at the
items that the teacher puts first and at items drawn at random: their order
(`"Ranking Distillation" <https://arxiv.org/abs/1809.07428>`_), the differences
between their scores, or the scores themselves.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_nodequant.functional.chunked import chunked_loss
from pyg_nodequant.functional.pairs import pairs_between

# Far below any score, but its differences are numbers.
_NEVER = -1e6


def _float(x: Tensor) -> Tensor:
    # What autocast made narrower; float32 and float64 stay what they are.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kl_and_gradient(
    scores: Tensor,
    teacher_scores: Tensor,
    temperature: float,
    log_weight: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    # The sum over rows of T^2 KL, and its gradient in the scores,
    # T (softmax(s / T + l) - softmax(t / T + l)). Both matrices are users x
    # items, the largest tensors of a training step: work is done in place.
    log_q, log_p = scores / temperature, teacher_scores / temperature
    if log_weight is not None:
        log_q += log_weight
        log_p += log_weight
    log_q -= log_q.logsumexp(-1, keepdim=True)
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


def distillation_loss(
    users: Tensor,
    items: Tensor,
    teacher_users: Tensor,
    teacher_items: Tensor,
    temperature: float = 1.0,
    chunk_scores: int = 2**22,
    log_weight: Optional[Tensor] = None,
    excluded: Optional[Tensor] = None,
) -> Tensor:
    r"""The :func:`listwise_kl_loss` of inner-product scores, in bounded
    memory: users are taken in chunks, and the gradients are formed on the
    way, so that no matrix of all users by all items ever exists. It is
    computed in float32 (float64 for float64 rows), even under autocast.

    The items may be a sample, of which item :math:`i` stands for
    :math:`w_i` items of the catalogue (:func:`sample_items`): both softmaxes
    become

    .. math::
        p_i = \frac{w_i e^{t_i / T}}{\sum_j w_j e^{t_j / T}},

    whose denominator has the expectation of that over all items. (Its
    logarithm, and so the loss, does not: a small sample comes out too low.)

    Args:
        users (Tensor): Student's rows of the users to distil, :math:`(B, d)`.
        items (Tensor): Student's rows of the items, :math:`(I, d)`.
        teacher_users (Tensor): Teacher's rows of the users, :math:`(B, d')`.
        teacher_items (Tensor): Teacher's rows of the items,
            :math:`(I, d')`.
        temperature (float, optional): :math:`T > 0`. (default: :obj:`1.0`)
        chunk_scores (int, optional): Scores that are held at a time.
        log_weight (Tensor, optional): :math:`\ln w` of each item,
            :math:`(I)`. (default: :obj:`None`, zeros)
        excluded (Tensor, optional): Rows of :obj:`users` and items that are
            left out of both rankings, *e.g.*, what a user has seen, which is
            never recommended: :math:`(2, M)`, sorted by user.

    Example:
        >>> users, items = torch.eye(2), torch.ones(3, 2)
        >>> float(distillation_loss(users, items, users, items)) < 1e-6
        True
    """
    users, items, teacher_users, teacher_items = map(
        _float, (users, items, teacher_users, teacher_items))
    count = max(users.size(0), 1)

    def rule(start: int, scores: Tensor) -> tuple[Tensor, Tensor]:
        stop = start + scores.size(0)
        wanted = teacher_users[start:stop] @ teacher_items.t()
        if excluded is not None:
            at = pairs_between(excluded, start, stop)
            scores[at], wanted[at] = _NEVER, _NEVER
        value, gradient = _kl_and_gradient(scores, wanted, temperature,
                                           log_weight)
        return value / count, gradient.div_(count)

    with torch.autocast(users.device.type, enabled=False):
        return chunked_loss(users, items, rule, chunk_scores)


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


def ranking_distillation_loss(
    top: Tensor,
    random: Tensor,
    teacher_top: Tensor,
    teacher_random: Tensor,
    decay: float = 10.0,
) -> Tensor:
    r"""Ranking distillation (`"Ranking Distillation: Learning Compact Ranking
    Models With High Performance for Recommender System"
    <https://arxiv.org/abs/1809.07428>`_), against items drawn at random:

    .. math::
        \mathcal{L} = -\frac{1}{B} \sum_b \sum_{r=1}^{K} w_r \frac{1}{J}
        \sum_{j=1}^{J} [t_{br} > t_{bj}] \ln \sigma (s_{br} - s_{bj}),
        \qquad w_r = \frac{e^{-r / \lambda}}{\sum_{q=1}^{K} e^{-q / \lambda}}

    The paper's loss is :math:`-\sum_r w_r \ln \sigma (s_{br})`, which scores
    without an upper end satisfy best; it leaves it to a loss on the labels to
    hold them down. Here there need not be one, and inner products trained by
    BPR have no zero that a sigmoid could start from, so each score is
    compared with those of random items, where the teacher agrees that they
    rank below.

    Args:
        top (Tensor): Student's scores of the teacher's first items, best
            first, :math:`(B, K)`.
        random (Tensor): Student's scores of random items, :math:`(B, J)`.
        teacher_top (Tensor): Teacher's scores of the former, same shape;
            :math:`-\infty` where there is no such item.
        teacher_random (Tensor): Teacher's scores of the latter.
        decay (float, optional): :math:`\lambda > 0`, how many positions
            down the weight falls to :math:`1 / e` of it. (default:
            :obj:`10.0`)

    Example:
        >>> scores = torch.zeros(1, 1)
        >>> ranking_distillation_loss(scores, scores, scores + 1, scores)
        tensor(0.6931)
    """
    top, random = _float(top), _float(random)
    position = torch.arange(1, top.size(1) + 1, device=top.device,
                            dtype=top.dtype)
    weight = torch.softmax(-position / decay, 0)
    above = teacher_top.unsqueeze(2) > teacher_random.unsqueeze(1)
    gap = random.unsqueeze(1) - top.unsqueeze(2)
    # A pair that does not count takes part with a constant, not with zero
    # times what might be infinite.
    pairs = F.softplus(gap.masked_fill(~above, -torch.inf))
    return (pairs.mean(2) * weight).sum() / max(top.size(0), 1)


def margin_distillation_loss(
    top: Tensor,
    random: Tensor,
    teacher_top: Tensor,
    teacher_random: Tensor,
) -> Tensor:
    r"""The squared errors of the margins by which a user's first items lead
    over random ones,

    .. math::
        \mathcal{L} = \frac{1}{B} \sum_b \frac{1}{K_b J} \sum_{r, j} \big(
        (s_{br} - s_{bj}) - (t_{br} - t_{bj}) \big)^2,

    over the :math:`K_b` first items that there are. A constant added to all
    scores of a user, which changes no ranking, costs nothing. With errors
    :math:`e = s - t` it is :math:`\mathrm{Var}(e_r) + \mathrm{Var}(e_j) +
    (\overline{e_r} - \overline{e_j})^2`, so no pair is formed.

    Args:
        top (Tensor): Student's scores of the teacher's first items,
            :math:`(B, K)`.
        random (Tensor): Student's scores of random items, :math:`(B, J)`.
        teacher_top (Tensor): Teacher's scores of the former, same shape;
            :math:`-\infty` where there is no such item.
        teacher_random (Tensor): Teacher's scores of the latter.

    Example:
        >>> top, random = torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0]])
        >>> margin_distillation_loss(top + 1, random + 1, top, random)
        tensor(0.)
    """
    error, there = _errors(top, teacher_top)
    other, all_there = _errors(random, teacher_random)
    count = there.sum(1).clamp(min=1)
    number = all_there.sum(1).clamp(min=1)
    first, second = error.sum(1) / count, other.sum(1) / number
    # Centred first: the means may be large, and their difference small.
    spread = ((error - first.unsqueeze(1)) * there).square().sum(1) / count
    spread += ((other - second.unsqueeze(1)) * all_there).square().sum(
        1) / number
    paired = there.any(1) & all_there.any(1)
    loss = (spread + (first - second).square()) * paired
    return loss.sum() / max(top.size(0), 1)


def score_distillation_loss(scores: Tensor, teacher_scores: Tensor) -> Tensor:
    r"""The mean squared error of scores,

    .. math::
        \mathcal{L} = \frac{1}{B} \sum_b \frac{1}{M_b} \sum_m
        (s_{bm} - t_{bm})^2,

    over a user's :math:`M_b` items that there are.

    Args:
        scores (Tensor): Student's scores, :math:`(B, M)`.
        teacher_scores (Tensor): Teacher's scores, same shape;
            :math:`-\infty` where there is no such item.

    Example:
        >>> scores = torch.tensor([[1.0, 2.0]])
        >>> score_distillation_loss(scores, scores - 2)
        tensor(4.)
    """
    error, there = _errors(scores, teacher_scores)
    loss = error.square().sum(1) / there.sum(1).clamp(min=1)
    return loss.sum() / max(scores.size(0), 1)


def _errors(scores: Tensor, teacher_scores: Tensor) -> tuple[Tensor, Tensor]:
    # Student minus teacher, zero where there is no item, and where there is.
    there = teacher_scores > -torch.inf
    error = _float(scores) - _float(teacher_scores).masked_fill(~there, 0.0)
    return error.masked_fill(~there, 0.0), there
