r"""Lists of (user, item) pairs, taken chunk by chunk."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs_between(pairs: Tensor, start: int,
                  stop: int) -> tuple[Tensor, Tensor]:
    r"""Returns the pairs whose users are in [:obj:`start`, :obj:`stop`), as
    an index into a matrix of those users' scores.

    Args:
        pairs (Tensor): Users and items of shape :math:`(2, M)`, sorted by
            user.
        start (int): The first user.
        stop (int): The first user behind.

    Example:
        >>> pairs_between(torch.tensor([[0, 3, 3, 4], [7, 8, 9, 7]]), 2, 4)
        (tensor([1, 1]), tensor([8, 9]))
    """
    users, items = pairs
    bounds = torch.tensor([start, stop], device=pairs.device)
    first, last = torch.searchsorted(users.contiguous(), bounds).tolist()
    return users[first:last] - start, items[first:last]
