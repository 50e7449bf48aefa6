r"""What quantized tables cost the rankings, beside what they could cost."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from pyg_nodequant.functional.distillation import listwise_kl_loss
from pyg_nodequant.functional.pairs import pairs_between
from pyg_nodequant.functional.rate_distortion import (
    curved_errors,
    directional_curvature,
    sampled_bound,
)

# The score of what does not count: finite, so that 0 times it is 0.
_NEVER = -1e9


class ScoreDistortion(NamedTuple):
    r"""Three numbers in nats a user.

    Args:
        kl (float): The list-wise KL itself.
        quadratic (float): To second order, for errors that are uncorrelated
            (:func:`~pyg_nodequant.functional.quadratic_distortion`).
        bound (float): The least that could be at the same rate
            (:func:`~pyg_nodequant.functional.distortion_bound`).
    """

    kl: float
    quadratic: float
    bound: float


@torch.no_grad()
def score_distortion(
    users: Tensor,
    items: Tensor,
    quantized_users: Tensor,
    quantized_items: Tensor,
    rate: float,
    temperature: float = 1.0,
    num_users: Optional[int] = None,
    chunk_scores: int = 2**22,
    excluded: Optional[Tensor] = None,
) -> ScoreDistortion:
    r"""Compares what is served with the float rows it stands for: with
    :math:`p_u` and :math:`\hat{p}_u` the softmax of user :math:`u`'s scores
    over all items,

    .. math::
        \mathrm{kl} = \frac{T^2}{U} \sum_u \mathrm{KL}
        \big( p_u \,\Vert\, \hat{p}_u \big),

    its second order and its bound. The curvature that the last two need is
    formed once.

    .. note::
        The quadratic form knows no more than errors that are small and
        uncorrelated. Rows that were fine-tuned by the KL have errors that make
        up for each other, so their KL is often below it, and may be below the
        bound: that binds codes whose errors are independent.

    Args:
        users (Tensor): Float user rows of shape :math:`(S, d)`.
        items (Tensor): Float item rows of shape :math:`(I, d)`.
        quantized_users (Tensor): What is served of the users, same shape and
            axes.
        quantized_items (Tensor): What is served of the items, likewise.
        rate (float): Bits of all users and items together.
        temperature (float, optional): :math:`T`, divides the scores.
            (default: :obj:`1.0`)
        num_users (int, optional): How many users there are, of which those
            given are a random sample. (default: :obj:`None`, those given)
        chunk_scores (int, optional): Scores that are held at a time.
        excluded (Tensor, optional): Users and items that do not count in a
            ranking, :math:`(2, M)`, sorted by user.
            (default: :obj:`None`)

    Raises:
        ValueError: If a quantized table has another shape, there are more
            users than :obj:`num_users`, or the rate is not allowed.

    Example:
        >>> users, items = torch.tensor([[1.0, 1.0]]), torch.eye(2)
        >>> out = score_distortion(users, items, users, 0.5 * items, 7.0)
        >>> [round(value, 6) for value in out]
        [0.0, 0.0625, 0.09375]
    """
    tables = {"users": (users, quantized_users),
              "items": (items, quantized_items)}
    for name, (x, quantized) in tables.items():
        if quantized.shape != x.shape:
            raise ValueError(f"'quantized_{name}' needs to have the shape "
                             f"{tuple(x.shape)} of '{name}' "
                             f"(got {tuple(quantized.shape)})")
    count = users.size(0)
    num_users = count if num_users is None else num_users
    if num_users < count:
        raise ValueError(f"'num_users' needs to be at least {count}, the "
                         f"number of users given (got {num_users})")
    kl = 0.0
    step = max(1, chunk_scores // max(items.size(0), 1))
    for start in range(0, count, step):
        part = slice(start, start + step)
        scores = quantized_users[part] @ quantized_items.t()
        target = users[part] @ items.t()
        if excluded is not None:
            at = pairs_between(excluded, start, start + step)
            scores[at] = target[at] = _NEVER
        loss = listwise_kl_loss(scores, target, temperature)
        kl += float(loss) * users[part].size(0) / count
    curvature = directional_curvature(users, items, temperature, chunk_scores,
                                      excluded)
    return ScoreDistortion(
        max(kl, 0.0), curved_errors(curvature, list(tables.values())),
        sampled_bound(curvature, users, items, rate, num_users))
