"""Batches for Bayesian personalized ranking, with true negatives."""

from __future__ import annotations

from typing import Iterator

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pyg_nodequant.data.counter_random import draw_below, stream_key
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.grouping import group_order, index_pointer

_ORDER, _NEGATIVE = 0, 1  # random streams of an epoch


@njit(cache=True)
def _shuffle(key: np.uint64, order: np.ndarray) -> None:
    """Fills `order` with a permutation of its indices (Fisher-Yates)."""
    for i in range(order.shape[0]):
        j = draw_below(key, i, i + 1)
        order[i] = order[j]
        order[j] = i


@njit(cache=True)
def _fill_batch(
    key: np.uint64,
    first: int,
    order: np.ndarray,
    users: np.ndarray,
    items: np.ndarray,
    indptr: np.ndarray,
    num_items: int,
    out_user: np.ndarray,
    out_positive: np.ndarray,
    out_negative: np.ndarray,
) -> None:
    for b in range(out_user.shape[0]):
        edge = order[first + b]
        user = users[edge]
        low, high = indptr[user], indptr[user + 1]
        start = low
        # Among the num_items - degree unseen items, take number `rank`: it is
        # `rank` plus the seen items before it. Entry p of the sorted row has
        # items[p] - (p - start) unseen items before it.
        rank = draw_below(key, first + b, num_items - (high - low))
        while low < high:
            middle = (low + high) // 2
            if items[middle] - (middle - start) <= rank:
                low = middle + 1
            else:
                high = middle
        out_user[b] = user
        out_positive[b] = items[edge]
        out_negative[b] = rank + (low - start)


class BPRSampler:
    r"""Draws triples (user, positive item, negative item).

    Every training edge comes once an epoch, in a random order, and its
    negative is uniform over the items that the user does not have in train:

    .. math::
        j^{-} \sim \mathcal{U}\left(\mathcal{I} \setminus \mathcal{I}_u
        \right)

    It is found without rejection: a uniform rank among the
    :math:`|\mathcal{I}| - |\mathcal{I}_u|` unseen items, then one binary
    search in the user's sorted row. Randomness is a hash of (seed, epoch,
    position), so a batch depends on nothing that happened before it.

    Args:
        edges (Tensor): Training edges, int64 :obj:`[2, E]`: user rows and
            item rows, each edge once, in any order.
        num_users (int): Number of users.
        num_items (int): Number of items.
        batch_size (int): Edges in a batch; the last of an epoch may be
            smaller.
        seed (int): Seed of order and negatives.

    Attributes:
        steps_per_epoch (int): Batches in an epoch.
        num_edges (int): Edges in an epoch.
        num_skipped (int): Edges left out since their users have every item,
            so that there is no negative.

    Raises:
        DataError: If an edge is out of range or given twice, or none is left.
        ValueError: If :obj:`batch_size` or :obj:`seed` is not allowed.

    Example:
        >>> edges = torch.tensor([[0, 0, 1], [0, 1, 2]])
        >>> sampler = BPRSampler(edges, 2, 3, batch_size=2)
        >>> sampler
        BPRSampler(3 edges, batch_size=2, steps_per_epoch=2, seed=0)
        >>> [len(user) for user, positive, negative in sampler.epoch(0)]
        [2, 1]
    """

    def __init__(self, edges: Tensor, num_users: int, num_items: int,
                 batch_size: int, seed: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"'batch_size' needs to be at least 1 "
                             f"(got {batch_size})")
        self.batch_size = batch_size
        self.seed = seed
        self.num_items = num_items
        stream_key(seed)  # raises when the seed is not allowed
        users, items = self._sorted(edges, num_users, num_items)
        self._indptr = index_pointer(users, num_users)
        has_unseen = np.diff(self._indptr) < num_items
        # Positions in the sorted edges, which are the rows of `_indptr` too.
        self._kept = np.flatnonzero(has_unseen[users]).astype(np.int32)
        self._users = users.astype(np.int32)
        self._items = items.astype(np.int32)
        self.num_edges = self._kept.size
        self.num_skipped = users.size - self.num_edges
        if self.num_edges == 0:
            raise DataError(f"no training edge has a negative item: of "
                            f"{users.size} edges, {self.num_skipped} belong "
                            f"to users who have every item")
        self.steps_per_epoch = -(-self.num_edges // batch_size)

    @staticmethod
    def _sorted(edges: Tensor, num_users: int,
                num_items: int) -> tuple[np.ndarray, np.ndarray]:
        users, items = edges.cpu().numpy()
        for label, rows, count in (("user", users, num_users),
                                   ("item", items, num_items)):
            if rows.size and not 0 <= rows.min() <= rows.max() < count:
                raise DataError(f"the {label} rows of 'edges' need to be in "
                                f"[0, {count - 1}] (got {rows.min()} to "
                                f"{rows.max()})")
        keys = users * num_items + items
        if np.any(keys[1:] <= keys[:-1]):
            order = group_order(items, num_items)
            order = order[group_order(users[order], num_users)]
            users, items, keys = users[order], items[order], keys[order]
            if np.any(keys[1:] == keys[:-1]):
                raise DataError("'edges' needs to hold each edge once (use "
                                "Interactions.from_edges to remove "
                                "duplicates)")
        return users, items

    def epoch(self, epoch: int, start_step: int = 0
              ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        r"""Yields the batches of an epoch, from :obj:`start_step` on.

        Args:
            epoch (int): The epoch, from 0.
            start_step (int): The first batch wanted: after a restart, the
                number of batches already used.

        Returns:
            User rows, positive item rows and negative item rows, int64
            :obj:`[B]` each.

        Raises:
            ValueError: If :obj:`epoch` is negative or :obj:`start_step` is
                not in :obj:`[0, steps_per_epoch]`.
        """
        if epoch < 0:
            raise ValueError(f"'epoch' needs to be at least 0 (got {epoch})")
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"'start_step' needs to be in "
                             f"[0, {self.steps_per_epoch}] "
                             f"(got {start_step})")
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int
                 ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = np.empty(self.num_edges, dtype=np.int32)
        _shuffle(stream_key(self.seed, _ORDER, epoch), order)
        if self.num_skipped:
            order = self._kept[order]
        key = stream_key(self.seed, _NEGATIVE, epoch)
        for step in range(start_step, self.steps_per_epoch):
            first = step * self.batch_size
            size = min(self.batch_size, self.num_edges - first)
            batch = np.empty((3, size), dtype=np.int64)
            _fill_batch(key, first, order, self._users, self._items,
                        self._indptr, self.num_items, *batch)
            user, positive, negative = torch.from_numpy(batch)
            yield user, positive, negative

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({self.num_edges} edges, "
                f"batch_size={self.batch_size}, "
                f"steps_per_epoch={self.steps_per_epoch}, seed={self.seed})")
