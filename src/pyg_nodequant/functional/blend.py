r"""Rows whose scores are made of those of others: a mean of two models, and a
discount of what is popular.

Both only put columns beside columns, so that inner products stay what is
ranked by, and all that is made for rows goes for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Tables = tuple[Tensor, Tensor]


@torch.no_grad()
def score_spread(users: Tensor, items: Tensor) -> Tensor:
    r"""Returns how far apart a user's scores are, the mean over users of
    their standard deviations over items,

    .. math::
        \sigma = \frac{1}{U} \sum_u \sqrt{x_u^{\top} C x_u}, \qquad
        C = \frac{1}{I} \sum_i (y_i - \bar{y})(y_i - \bar{y})^{\top} ,

    without a single score being formed.

    Args:
        users (Tensor): User rows of shape :math:`(U, d)`.
        items (Tensor): Item rows of shape :math:`(I, d)`.

    Example:
        >>> score_spread(torch.tensor([[2.0]]), torch.tensor([[1.], [3.]]))
        tensor(2.)
    """
    centred = (items - items.mean(0)).double()
    covariance = centred.t() @ centred / max(items.size(0), 1)
    x = users.double()
    variance = ((x @ covariance) * x).sum(-1)
    return variance.clamp(min=0).sqrt().mean().to(users.dtype)


@torch.no_grad()
def blend_rows(first: Tables, second: Tables, share: float) -> Tables:
    r"""Returns rows whose scores are a weighted mean of two models' scores,
    the second's brought to the spread (:func:`score_spread`) of the first's,

    .. math::
        s_{ui} = (1 - w) \, s^{(1)}_{ui} + w \, \frac{\sigma_1}{\sigma_2} \,
        s^{(2)}_{ui} .

    Args:
        first (tuple): User and item rows :math:`(U, d)`, :math:`(I, d)`.
        second (tuple): Those of the other model, of any width :math:`d'`.
        share (float): The second model's share :math:`w`, from 0 to 1.

    Returns:
        User and item rows of :math:`d + d'` columns.

    Raises:
        ValueError: If the models are not of the same users and items, or the
            share is outside its range.

    Example:
        >>> one = torch.tensor([[1.0]]), torch.tensor([[1.0], [3.0]])
        >>> two = torch.tensor([[1.0]]), torch.tensor([[8.0], [4.0]])
        >>> users, items = blend_rows(one, two, 0.5)
        >>> users @ items.t()  # (1 + 4) / 2 and (3 + 2) / 2
        tensor([[2.5000, 2.5000]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"'share' needs to be a number in [0, 1] "
                         f"(got {share})")
    for name, a, b in zip(("users", "items"), first, second, strict=True):
        if a.size(0) != b.size(0):
            raise ValueError(f"both models need the same {name} "
                             f"(got {a.size(0)} and {b.size(0)})")
    spread = score_spread(*second)
    # A model that scores all items alike has nothing to say.
    ratio = float(score_spread(*first) / spread) if spread > 0 else 0.0
    own, other = math.sqrt(1 - share), math.sqrt(share * ratio)
    users, items = (torch.cat([own * a, other * b], dim=1)
                    for a, b in zip(first, second, strict=True))
    return users, items


@torch.no_grad()
def discount_popularity(users: Tensor, items: Tensor, degree: Tensor,
                        discount: float) -> Tables:
    r"""Returns rows whose scores are lower the more popular an item is,

    .. math::
        s'_{ui} = s_{ui} + \gamma \Big( \frac{1}{|W|} \sum_{j \in W} \ln d_j
        - \ln d_i \Big) ,

    with :math:`W` the items that have interactions: `"Long-tail Learning via
    Logit Adjustment" <https://arxiv.org/abs/2007.07314>`_ after training. The
    mean changes no ranking; items without interactions keep their scores.

    Args:
        users (Tensor): User rows of shape :math:`(U, d)`.
        items (Tensor): Item rows of shape :math:`(I, d)`.
        degree (Tensor): Interactions of each item, :math:`(I)`.
        discount (float): What a factor of :math:`e` in popularity costs,
            :math:`\gamma \geq 0`, in the unit of the scores.

    Returns:
        User and item rows of one column more.

    Raises:
        ValueError: If there is not one degree for each item, or the discount
            is negative.

    Example:
        >>> users, items = torch.ones(1, 1), torch.zeros(2, 1)
        >>> degree = torch.tensor([1.0, 2.0])
        >>> users, items = discount_popularity(users, items, degree, 1.0)
        >>> users @ items.t()  # ln 2 apart
        tensor([[ 0.3466, -0.3466]])
    """
    if degree.shape != items.shape[:1]:
        raise ValueError(f"'degree' needs one entry for each of the "
                         f"{items.size(0)} items (got {list(degree.shape)})")
    if discount < 0:
        raise ValueError(f"'discount' needs to be at least 0 "
                         f"(got {discount})")
    warm = degree > 0
    count = degree[warm].to(items.dtype).log()
    column = items.new_zeros(items.size(0), 1)
    # Users are given the square root too: columns of like size on both sides.
    root = math.sqrt(discount)
    column[warm, 0] = root * (count.mean() - count)
    return (torch.cat([users, users.new_full((users.size(0), 1), root)], 1),
            torch.cat([items, column], 1))
