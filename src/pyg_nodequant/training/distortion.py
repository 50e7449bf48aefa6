r"""How far a run's rankings are from its float model's, and how close they
could be.
"""

from __future__ import annotations

from typing import Optional, Union

import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.training.seen import SeenItems

#: Products that scores may take, users times items times dimensions; beyond
#: that, users are sampled. Some seconds on one core.
MOST_PRODUCTS = 2**33


@torch.no_grad()
def measure_distortion(
    exact: Tensor,
    served: Tensor,
    num_users: int,
    num_bytes: int,
    seed: int = 0,
    temperature: float = 1.0,
    seen: Optional[SeenItems] = None,
) -> dict[str, Union[int, float]]:
    r"""The :func:`~pyg_nodequant.functional.score_distortion` of what is
    served, at the size of its file.

    It is measured in the principal axes of the float model's scores, where
    the bound is lowest: turned alike, users and items give the same scores in
    all axes, but only there do a few of them carry most. So recipes that
    quantize one float model have one bound at one size.

    Args:
        exact (Tensor): The float rows that the served ones stand for, in
            their axes, users before items, :math:`(N, d)`.
        served (Tensor): The served rows, :math:`(N, d')`, :math:`d' \le d`;
            axes that are left out read zeros.
        num_users (int): How many of the rows are users.
        num_bytes (int): Bytes of the embedding part: all of them count as
            rate.
        seed (int, optional): Of the sample of users, where all would take too
            long.
        temperature (float, optional): Of the softmaxes.
            (default: :obj:`1.0`)
        seen (SeenItems, optional): What does not count in a user's ranking.
            (default: :obj:`None`, nothing)

    Returns:
        dict: :obj:`kl`, :obj:`quadratic` and :obj:`bound` in nats a user,
        the :obj:`bits` a node that they are at, and the number of
        :obj:`users` that were looked at.
    """
    exact, served = exact.float(), served.float()
    left_out = exact.size(1) - served.size(1)
    served = torch.nn.functional.pad(served, (0, left_out))
    parts = [slice(0, num_users), slice(num_users, None)]
    maps = F.principal_maps(exact[parts[0]], exact[parts[1]], exact.size(1))
    users, items, served_users, served_items = (
        (x[part].double() @ turn).float() for x in (exact, served)
        for part, turn in zip(parts, maps, strict=True))
    count = max(1, MOST_PRODUCTS // max(items.numel(), 1))
    chosen = torch.arange(num_users, device=exact.device)
    if count < num_users:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(num_users, generator=generator)
        chosen = order[:count].sort().values.to(exact.device)
    found = F.score_distortion(
        users[chosen], items, served_users[chosen], served_items,
        8 * num_bytes, temperature, num_users,
        excluded=None if seen is None else seen.pairs(chosen))
    return {**found._asdict(), "bits": 8 * num_bytes / max(len(exact), 1),
            "users": chosen.numel()}
