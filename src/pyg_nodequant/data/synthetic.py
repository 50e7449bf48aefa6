"""A made-up data set that behaves like a real one and needs no network."""

from __future__ import annotations

import numpy as np

from pyg_nodequant.data.assemble import assemble
from pyg_nodequant.data.counter_random import random_order, random_uniform
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions

# How a user chooses: from the first community, the second, or anywhere.
_FIRST, _SECOND, _ANYWHERE = 0.7, 0.2, 0.1
_USER_EXPONENT, _ITEM_EXPONENT = 3.0, 2.5
_MAX_ROUNDS = 16  # of drawing; who is still short then is filled exactly

# Names of the random streams; drawing round r has stream _ROUND + r.
_USER_WEIGHT, _ITEM_WEIGHT, _SECOND_CHOICE, _USER_ROW, _ITEM_ROW = range(5)
_FILL, _ROUND = 5, 16


def synthetic_interactions(
    num_users: int = 1000,
    num_items: int = 1500,
    num_interactions: int = 40000,
    *,
    data_seed: int = 0,
    split: str = "random",
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
) -> Interactions:
    r"""Makes a bipartite graph with power-law degrees and communities.

    Degrees of users and popularity of items follow
    :math:`p(x) \propto x^{-\gamma}` (:math:`\gamma` 3 and 2.5). Users and
    items live in about :math:`\frac{1}{2}\sqrt{\min(U, I)}` latent
    communities: a user takes 70 % of the items from one, 20 % from another
    and 10 % from anywhere, in each by popularity. So popularity explains a
    part, and the graph much more. Each user and each item has at least one
    interaction before the split, and there are exactly
    :obj:`num_interactions` distinct ones. The same seed gives the same graph
    on every machine.

    Args:
        num_users (int): Number of users.
        num_items (int): Number of items.
        num_interactions (int): Number of distinct interactions.
        data_seed (int): Seed of the graph.
        split (str): :obj:`"random"`; the graph has no times.
        test_fraction (float): Share of the interactions held out for testing.
        val_fraction (float): Share of the rest held out for validation.
        split_seed (int): Seed of the split.

    Raises:
        DataError: If there cannot be so many or so few interactions, or a
            setting is not allowed.

    Example:
        >>> data = synthetic_interactions(20, 30, 200)
        >>> data.train.shape, data.val.shape, data.test.shape
        (torch.Size([2, 144]), torch.Size([2, 16]), torch.Size([2, 40]))
    """
    least, most = max(num_users, num_items), num_users * num_items
    if not least <= num_interactions <= most:
        raise DataError(f"'data.num_interactions' needs to be in [{least}, "
                        f"{most}] so that each of {num_users} users and "
                        f"{num_items} items has one and none comes twice "
                        f"(got {num_interactions})")
    if not 0 <= data_seed < 2**64:
        raise DataError(f"'data.data_seed' needs to be an integer in "
                        f"[0, 2**64) (got {data_seed})")
    num_communities = max(1, round(min(num_users, num_items)**0.5 / 2))
    graph = _Communities(num_users, num_items, num_communities, data_seed)
    keys = graph.draw(num_interactions)
    # Up to here communities are contiguous; rows shall not tell them.
    user_rows = random_order(data_seed, _USER_ROW, num_users)
    item_rows = random_order(data_seed, _ITEM_ROW, num_items)
    titles = [""] * num_items
    for place, row in enumerate(item_rows.tolist()):
        titles[row] = f"Item {row} (community {graph.item_group[place]})"
    return assemble(
        {"train": (user_rows[keys // num_items],
                   item_rows[keys % num_items])},
        np.arange(num_users), np.arange(num_items), item_titles=titles,
        split=split, test_fraction=test_fraction, val_fraction=val_fraction,
        split_seed=split_seed, counts={"communities": num_communities},
        name="synthetic")


class _Communities:
    """The latent structure; users and items are sorted by community."""

    def __init__(self, num_users: int, num_items: int, num_communities: int,
                 seed: int) -> None:
        self.num_users, self.num_items, self.seed = num_users, num_items, seed
        users, items = np.arange(num_users), np.arange(num_items)
        self.first = users * num_communities // num_users
        shift = random_uniform(seed, _SECOND_CHOICE, num_users)
        others = max(num_communities - 1, 1)
        self.second = (self.first + 1 + (shift * others).astype(np.int64)
                       ) % num_communities
        self.item_group = items * num_communities // num_items
        self.user_weight = _pareto(seed, _USER_WEIGHT, num_users,
                                   _USER_EXPONENT)
        self.item_weight = _pareto(seed, _ITEM_WEIGHT, num_items,
                                   _ITEM_EXPONENT)
        # Community g holds items start[g] to start[g + 1].
        self.start = np.searchsorted(self.item_group,
                                     np.arange(num_communities + 1))
        self.mass = np.concatenate([[0.0], np.cumsum(self.item_weight)])

    def draw(self, num_interactions: int) -> np.ndarray:
        """Returns distinct keys user * num_items + item, ascending."""
        keys = self._cover()
        has = np.bincount(keys // self.num_items, minlength=self.num_users)
        quota = has + _share(num_interactions - keys.size, self.user_weight,
                             self.num_items - has)
        for number in range(_MAX_ROUNDS):
            short = quota - np.bincount(keys // self.num_items,
                                        minlength=self.num_users)
            if not short.any():
                return keys
            users = np.repeat(np.arange(self.num_users), short)
            drawn = users * self.num_items + self._items(users, number)
            keys = _merge(keys, drawn)
        return self._fill(keys, quota)

    def _cover(self) -> np.ndarray:
        """Pairs every user and item at least once, community by community."""
        size = max(self.num_users, self.num_items)
        step = np.arange(size)
        users = step * self.num_users // size
        items = step * self.num_items // size
        keys: np.ndarray = users * self.num_items + items
        return keys

    def _items(self, users: np.ndarray, number: int) -> np.ndarray:
        """Draws one item for each of `users` by inverting the cumulated
        popularity of the community that the draw falls into.
        """
        stream = _ROUND + 2 * number
        where = random_uniform(self.seed, stream, users.size)
        place = random_uniform(self.seed, stream + 1, users.size)
        group = np.where(where < _FIRST, self.first[users],
                         self.second[users])
        anywhere = where >= _FIRST + _SECOND
        low = np.where(anywhere, 0, self.start[group])
        high = np.where(anywhere, self.num_items, self.start[group + 1])
        target = self.mass[low] + place * (self.mass[high] - self.mass[low])
        items = np.searchsorted(self.mass, target, side="right") - 1
        chosen: np.ndarray = np.clip(items, low, high - 1)
        return chosen

    def _fill(self, keys: np.ndarray, quota: np.ndarray) -> np.ndarray:
        """Gives each user who is short the missing items by weighted sampling
        without replacement: the smallest of exponential waiting times.
        """
        indptr = np.searchsorted(
            keys, np.arange(self.num_users + 1) * self.num_items)
        short = quota - np.diff(indptr)
        added = [keys]
        for user in np.flatnonzero(short).tolist():
            rate = _ANYWHERE * self.item_weight / self.mass[-1]
            for share, group in ((_FIRST, self.first[user]),
                                 (_SECOND, self.second[user])):
                here = slice(self.start[group], self.start[group + 1])
                rate[here] += (share * self.item_weight[here]
                               / self.item_weight[here].sum())
            # 2**32 streams apart from those of the rounds
            noise = random_uniform(self.seed, (_FILL << 32) + user,
                                   self.num_items)
            wait = -np.log1p(-noise) / rate
            seen = keys[indptr[user]:indptr[user + 1]]
            wait[seen - user * self.num_items] = np.inf
            items = np.argsort(wait, kind="stable")[:short[user]]
            added.append(user * self.num_items + items)
        return np.sort(np.concatenate(added))


def _merge(keys: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the sorted union; `keys` are sorted and distinct."""
    # Two sorted runs: the stable sort merges them in linear time.
    merged = np.concatenate([keys, np.sort(drawn)])
    merged.sort(kind="stable")
    first = np.ones(merged.size, dtype=bool)
    first[1:] = merged[1:] != merged[:-1]
    distinct: np.ndarray = merged[first]
    return distinct


def _pareto(seed: int, stream: int, size: int, exponent: float) -> np.ndarray:
    uniform = random_uniform(seed, stream, size)
    weights: np.ndarray = (1.0 - uniform)**(-1.0 / (exponent - 1.0))
    return weights


def _share(total: int, weights: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Divides `total` by weight into integers, at most `room` each."""
    low, high = 0.0, float(total) + float(room.max()) + 1.0
    for _ in range(100):  # weights are at least 1, so `high` is enough
        scale = (low + high) / 2
        if np.minimum(room, scale * weights).sum() > total:
            high = scale
        else:
            low = scale
    exact = np.minimum(room, low * weights)
    shares: np.ndarray = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    while (rest := total - int(shares.sum())) > 0:
        shares[order[(shares < room)[order]][:rest]] += 1
    return shares
