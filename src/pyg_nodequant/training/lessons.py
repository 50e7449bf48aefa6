r"""What a step of fine-tuning takes from a teacher: which items of which
users, and the loss between its rows of them and the student's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.config import NodeQuantConfig
from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime.csr import take_rows
from pyg_nodequant.training.evaluation import torch_topk

#: First items in the teacher's ranking that are known of each user.
TOP_ITEMS = 64
#: Random items that a step compares them with.
RANDOM_ITEMS = 64
# Users ranked at once; a teacher's chunks of scores are smaller still.
_USERS = 2**16
# Keeps the draws of items apart from those of users of the same step.
_STREAM = 2**60


Excluded = Callable[[Tensor], Optional[Tensor]]


class Lesson(NamedTuple):
    r"""A step's share of the teacher.

    Args:
        items (Tensor, optional): Ascending rows of the items whose student
            rows the loss needs; :obj:`None` for all items.
        loss (callable): Maps the student's rows of the users and of these
            items to the loss.
    """

    items: Optional[Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


class Lessons:
    r"""Prepares the lessons of all steps.

    Other than with the softmax over all items, what a step costs does not
    grow with the catalogue: the teacher's first items of each user are found
    here, once, and the rest are drawn at random, by seed and step alone.
    Where the order counts, a user's training items are left out of the first
    ones: they are never recommended. A softmax knows them if
    :obj:`quant.distill_seen` says so.

    Args:
        teacher (Tensor): The teacher's rows, users before items,
            :math:`(N, d')`.
        data (Interactions): What is trained on.
        quant (NodeQuantConfig): The settings.
        seed (int): What is drawn depends on it.
        excluded (callable, optional): Maps users to the positions and items
            that do not count in their softmax.
    """

    def __init__(self, teacher: Tensor, data: Interactions,
                 quant: NodeQuantConfig, seed: int,
                 excluded: Optional[Excluded] = None) -> None:
        self.quant = quant
        self.seed = seed
        self.excluded = excluded or (lambda users: None)
        self.users = teacher[:data.num_users]
        self.items = teacher[data.num_users:]
        self.lists: Optional[Tensor] = None
        if quant.distillation != "listwise":
            self.lists = first_items(self.users, self.items,
                                     data.csr("train"))
        elif 0 < quant.distill_items < data.num_items:
            self.lists = first_items(
                self.users, self.items,
                None if quant.distill_seen else data.csr("train"))

    def lesson(self, step: int, users: Tensor) -> Lesson:
        r"""Returns the lesson of a step for some users, :math:`(B)`."""
        teacher, temperature = self.users[users], self.quant.temperature
        if self.lists is None:
            excluded = self.excluded(users)
            return Lesson(None, lambda own, items: F.distillation_loss(
                own, items, teacher, self.items, temperature,
                excluded=excluded))
        generator = torch.Generator().manual_seed(
            _STREAM + self.seed * 1_000_003 + step)
        lists = self.lists[users].long()
        if self.quant.distillation != "listwise":
            return self._pairs(teacher, lists, generator)
        sample, log_weight = F.sample_items(
            lists, self.items.size(0), self.quant.distill_items, generator)
        among = columns_of(self.excluded(users), sample)
        return Lesson(sample, lambda own, items: F.distillation_loss(
            own, items, teacher, self.items[sample], temperature,
            log_weight=log_weight, excluded=among))

    def _pairs(self, teacher: Tensor, lists: Tensor,
               generator: torch.Generator) -> Lesson:
        random = torch.randint(self.items.size(0), (RANDOM_ITEMS, ),
                               generator=generator).to(lists.device)
        there = lists >= 0
        lists = lists.clamp(min=0)  # any item: its score will not count
        items, place = torch.unique(torch.cat([lists.flatten(), random]),
                                    return_inverse=True)
        top_place = place[:lists.numel()].view_as(lists)
        random_place = place[lists.numel():]
        teacher_top = list_scores(teacher, self.items, lists).masked_fill(
            ~there, -torch.inf)
        # Not by a product of matrices, whose rounding could rank an item
        # above itself.
        teacher_random = list_scores(teacher, self.items,
                                     random.expand(len(lists), -1))

        def loss(own: Tensor, rows: Tensor) -> Tensor:
            top = list_scores(own, rows, top_place)
            others = own @ F.gather_rows(rows, random_place).t()
            if self.quant.distillation == "ranking":
                return F.ranking_distillation_loss(top, others, teacher_top,
                                                   teacher_random)
            if self.quant.distillation == "margin":
                return F.margin_distillation_loss(top, others, teacher_top,
                                                  teacher_random)
            return F.score_distillation_loss(
                torch.cat([top, others], 1),
                torch.cat([teacher_top, teacher_random], 1))

        return Lesson(items, loss)


def columns_of(pairs: Optional[Tensor], sample: Tensor) -> Optional[Tensor]:
    r"""Returns the pairs whose items are in a sample, as columns of it.

    Args:
        pairs (Tensor, optional): Users and items, :math:`(2, M)`.
        sample (Tensor): Ascending items.

    Example:
        >>> columns_of(torch.tensor([[0, 1, 1], [4, 7, 9]]),
        ...            torch.tensor([2, 4, 9]))
        tensor([[0, 1],
                [1, 2]])
    """
    if pairs is None:
        return None
    users, items = pairs
    column = torch.searchsorted(sample, items.contiguous()).clamp(
        max=sample.numel() - 1)
    there = sample[column] == items
    return torch.stack([users[there], column[there]])


def list_scores(users: Tensor, items: Tensor, lists: Tensor) -> Tensor:
    r"""Returns the scores of each user's own list of items.

    Args:
        users (Tensor): Rows of the users, :math:`(B, d)`.
        items (Tensor): Rows of items, :math:`(M, d)`.
        lists (Tensor): Rows of :obj:`items`, :math:`(B, K)`.

    Example:
        >>> list_scores(torch.eye(2), torch.tensor([[1., 2.], [3., 4.]]),
        ...             torch.tensor([[0, 1], [1, 1]]))
        tensor([[1., 3.],
                [4., 4.]])
    """
    return (F.gather_rows(items, lists) * users.unsqueeze(1)).sum(-1)


@torch.no_grad()
def first_items(
    users: Tensor,
    items: Tensor,
    exclude: Optional[tuple[np.ndarray, np.ndarray]] = None,
    count: int = TOP_ITEMS,
) -> Tensor:
    r"""Returns the rows of the items of each user's largest scores, best
    first, int32 of shape :math:`(U, K)`, -1 where there are no more.

    Args:
        users (Tensor): Rows of all users, :math:`(U, d)`.
        items (Tensor): Rows of all items, :math:`(I, d)`.
        exclude (tuple, optional): CSR of items that each user leaves out.
        count (int, optional): How many, :math:`K`.

    Example:
        >>> first_items(torch.eye(2), torch.eye(2), count=3)
        tensor([[ 0,  1, -1],
                [ 1,  0, -1]], dtype=torch.int32)
    """
    num_users = users.size(0)
    if exclude is None:
        exclude = (np.zeros(num_users + 1, dtype=np.int64),
                   np.empty(0, dtype=np.int32))
    topk = torch_topk(users, items)
    parts = []
    for start in range(0, num_users, _USERS):
        ids = np.arange(start, min(start + _USERS, num_users))
        found = topk(ids, count, take_rows(exclude, ids))
        parts.append(torch.from_numpy(found).to(torch.int32))
    return torch.cat(parts).to(users.device)
