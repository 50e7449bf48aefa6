r"""Rows of cold nodes: users and items without a training interaction.

No gradient but that of sampled negatives reaches them, so what training leaves
there is mostly the accident of an initial value. Here they get rows by rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Directions of the items with less than this share of the largest variance
# count as empty: popularity says nothing along them.
_RANK = 1e-10


@torch.no_grad()
def popularity_row(items: Tensor, degree: Tensor) -> Tensor:
    r"""The user row whose scores rank items by their popularity best: with
    degrees :math:`d_i`,

    .. math::
        p = \arg \min_p \min_c \sum_i d_i \big( q_i^{\top} p + c - \ln d_i
        \big)^2 ,

    the shortest one if there are several. The constant :math:`c` changes no
    ranking and no softmax, so :math:`\mathrm{softmax}(q_i^{\top} p)` comes
    near to the items' shares of all interactions. Every interaction counts
    once; items without one do not take part.

    Args:
        items (Tensor): Item rows :math:`q` of shape :math:`(I, d)`.
        degree (Tensor): Their degrees, shape :math:`(I)`, at least 0.

    Returns:
        The row :math:`p`, shape :math:`(d)`; zeros if no two items differ in
        popularity.

    Raises:
        ValueError: If there is not one degree for each item.

    Example:
        >>> items = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
        >>> degree = torch.tensor([1.0, 2.0, 4.0, 0.0])
        >>> popularity_row(items, degree)  # ln 2 more with each step
        tensor([0.6931])
    """
    if degree.shape != items.shape[:1]:
        raise ValueError(f"'degree' needs one entry for each of the "
                         f"{items.size(0)} items (got {list(degree.shape)})")
    warm = degree > 0
    x, count = items[warm].double(), degree[warm].double()
    if count.numel() == 0:
        return items.new_zeros(items.size(1))
    share = (count / count.sum()).unsqueeze(1)
    y = count.log().unsqueeze(1)
    x, y = x - (share * x).sum(0), y - (share * y).sum(0)
    inverse = torch.linalg.pinv(x.t() @ (share * x), rtol=_RANK,
                                hermitian=True)
    out: Tensor = (inverse @ (x.t() @ (share * y))).squeeze(1)
    return out.to(items.dtype)


@torch.no_grad()
def settle_cold_rows(rows: Tensor, degree: Tensor, num_users: int) -> Tensor:
    r"""Replaces the rows of nodes of degree 0.

    * A cold *user* gets the :func:`popularity_row`: who is not known is shown
      what most people choose.
    * A cold *item* gets zeros, so it scores 0 with everyone: no user and no
      error of quantization can lift it, and what a user likes comes before.
      Without interactions, L2 alone speaks for a row, and it asks for zeros.

    Args:
        rows (Tensor): The rows that are scored, users before items,
            :math:`(N, d)`.
        degree (Tensor): Training degrees, shape :math:`(N)`.
        num_users (int): How many of the rows are users.

    Returns:
        New rows :math:`(N, d)`; those of other nodes are the same.

    Raises:
        ValueError: If there is not one degree for each row.

    Example:
        >>> rows = torch.tensor([[5.0], [7.0], [1.0], [2.0], [8.0]])
        >>> degree = torch.tensor([3, 0, 1, 2, 0])
        >>> settle_cold_rows(rows, degree, 2).flatten()
        tensor([5.0000, 0.6931, 1.0000, 2.0000, 0.0000])
    """
    if degree.shape != rows.shape[:1]:
        raise ValueError(f"'degree' needs one entry for each of the "
                         f"{rows.size(0)} rows (got {list(degree.shape)})")
    out, cold = rows.clone(), degree == 0
    out[num_users:][cold[num_users:]] = 0
    if bool(cold[:num_users].any()):
        out[:num_users][cold[:num_users]] = popularity_row(
            rows[num_users:], degree[num_users:])
    return out
