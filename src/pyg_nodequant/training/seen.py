r"""The items that users have seen, by user."""

from __future__ import annotations

import torch
from torch import Tensor


class SeenItems:
    r"""Pairs of users and items, to be asked for by user.

    Args:
        edges (Tensor): Users and items of shape :math:`(2, M)`.
        num_users (int): The number of users.

    Example:
        >>> seen = SeenItems(torch.tensor([[2, 0, 2], [5, 1, 3]]), 3)
        >>> seen.pairs(torch.tensor([2, 1]))
        tensor([[0, 0],
                [3, 5]])
    """

    def __init__(self, edges: Tensor, num_users: int) -> None:
        users, items = edges
        order = torch.sort(items, stable=True).indices
        order = order[torch.sort(users[order], stable=True).indices]
        self.items = items[order]
        self.count = torch.bincount(users, minlength=num_users)
        self.start = self.count.cumsum(0) - self.count

    def pairs(self, users: Tensor) -> Tensor:
        r"""Returns positions in :obj:`users` and item ids, shape
        :math:`(2, M')`, sorted by position, then item.
        """
        count = self.count[users]
        position = torch.repeat_interleave(
            torch.arange(users.numel(), device=users.device), count)
        first = count.cumsum(0) - count
        offset = torch.arange(position.numel(), device=users.device)
        offset = offset - first[position] + self.start[users][position]
        return torch.stack([position, self.items[offset]])

    def to(self, device: torch.device) -> SeenItems:
        r"""Moves the lists."""
        self.items = self.items.to(device)
        self.count = self.count.to(device)
        self.start = self.start.to(device)
        return self
