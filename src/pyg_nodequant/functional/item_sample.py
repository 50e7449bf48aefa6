r"""A sample of a catalogue that stands for all of it in a softmax."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_items(
    lists: Tensor,
    num_items: int,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Draws the items that a softmax over the catalogue is formed of, for a
    batch of users together (importance sampling as in `"On Using Very Large
    Target Vocabulary for Neural Machine Translation"
    <https://arxiv.org/abs/1412.2007>`_).

    Half of them at most are the first items of the users, :math:`F`: all
    users' first ones, then all second ones, until there are enough. The rest
    :math:`R` are drawn uniformly, without replacement, from all others. Items
    of :math:`F` stand for themselves, :math:`w_i = 1`, those of :math:`R` for
    :math:`w_i = (I - |F|) / |R|` items each, and so

    .. math::
        \mathbb{E} \sum_{i \in F \cup R} w_i f_i = \sum_{i=1}^{I} f_i

    for any :math:`f`. The cost does not depend on :math:`I`. If :math:`n \ge
    I`, all items are taken, and :math:`w = 1`.

    Args:
        lists (Tensor): The first items of each user, best first, -1 for
            none, :math:`(B, K)`.
        num_items (int): The number of items :math:`I`.
        count (int): How many to take, :math:`n`.
        generator (torch.Generator): What is drawn depends on it alone; on
            the CPU.

    Returns:
        Ascending item rows :math:`(\min(n, I))`, and :math:`\ln w` of each.

    Example:
        >>> lists = torch.tensor([[7, 5], [7, 2]])
        >>> items, log_weight = sample_items(
        ...     lists, 100, 4, torch.Generator().manual_seed(0))
        >>> {5, 7} <= set(items.tolist()), items.numel()
        (True, 4)
        >>> round(float(log_weight.exp().sum()), 3)
        100.0
    """
    device = lists.device
    if count >= num_items:
        items = torch.arange(num_items, device=device)
        return items, torch.zeros(num_items, device=device)
    first = _first(lists, count // 2)
    return with_others(first, num_items, count - first.numel(), generator)


def with_others(
    first: Tensor,
    num_items: int,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Adds items of which each stands for several others: those of
    :obj:`first` count once, and :obj:`count` of all others, drawn uniformly
    without replacement, for as many as there are, as in
    :func:`sample_items`.

    Args:
        first (Tensor): Ascending different items, :math:`(P)`.
        num_items (int): The number of items :math:`I`.
        count (int): How many of the others are drawn, if there are so many.
        generator (torch.Generator): What is drawn depends on it alone; on
            the CPU.

    Returns:
        Ascending items, and :math:`\ln w` of each.

    Example:
        >>> items, log_weight = with_others(torch.tensor([1]), 5, 2,
        ...                                 torch.Generator().manual_seed(0))
        >>> items.numel(), log_weight.exp().sum()
        (3, tensor(5.))
    """
    others = num_items - first.numel()
    number = min(count, others)
    drawn = _distinct(others, number, generator).to(first.device)
    # Number x among those not in `first` follows as many of `first` as have
    # at most x others before them.
    before = first - torch.arange(first.numel(), device=first.device)
    drawn = drawn + torch.searchsorted(before, drawn, right=True)
    weight = torch.ones(first.numel() + number, dtype=torch.float64,
                        device=first.device)
    weight[first.numel():] = others / max(number, 1)
    items, order = torch.cat([first, drawn]).sort()
    return items, weight[order].log().float()


def _first(lists: Tensor, most: int) -> Tensor:
    # Ascending different items: as many as there are and may be, taken
    # position by position.
    flat = lists.t().reshape(-1).long()
    return _in_order(flat[flat >= 0])[:most].sort().values


def _distinct(population: int, count: int,
              generator: torch.Generator) -> Tensor:
    # Different numbers below `population`, each set of them as likely: the
    # first ones in the order of drawing, so that none is favoured by its
    # size.
    if 2 * count > population:
        return torch.randperm(population, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.long)
    while drawn.numel() < count:
        more = torch.randint(population, (2 * count, ), generator=generator)
        drawn = _in_order(torch.cat([drawn, more]))
    return drawn[:count]


def _in_order(x: Tensor) -> Tensor:
    # The different entries, in the order of their first occurrences.
    different, inverse = torch.unique(x, return_inverse=True)
    place = torch.full_like(different, x.numel()).scatter_reduce(
        0, inverse, torch.arange(x.numel(), device=x.device), "amin")
    out: Tensor = different[place.argsort()]
    return out
