"""From rows of ids to checked, disjoint, counted :class:`Interactions`."""

from __future__ import annotations

from typing import Mapping, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import SPLITS, Interactions
from pyg_nodequant.data.split import carve

Edges = tuple[np.ndarray, np.ndarray]


def compact(*parts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    r"""Numbers the distinct ids of several arrays 0, 1, ... in sorted order.

    Args:
        *parts (np.ndarray): Integer ids, with gaps or not.

    Returns:
        The distinct ids, ascending, and each part as row numbers.

    Example:
        >>> ids, (a, b) = compact(np.array([7, 3]), np.array([3, 9]))
        >>> ids.tolist(), a.tolist(), b.tolist()
        ([3, 7, 9], [1, 0], [0, 2])
    """
    joined = np.concatenate(parts)
    if joined.size and 0 <= joined.min() and joined.max() < 4 * joined.size:
        # Nearly dense ids, the usual case: mark them, O(E) without a sort.
        present = np.zeros(int(joined.max()) + 1, dtype=bool)
        present[joined] = True
        ids = np.flatnonzero(present)
        rows = (np.cumsum(present) - 1)[joined]
    else:
        ids, rows = np.unique(joined, return_inverse=True)
    ends = np.cumsum([part.size for part in parts])[:-1]
    return ids, np.split(rows, ends)


def edge_arrays(edges: Tensor, name: str) -> Edges:
    r"""Returns the user rows and the item rows of an edge tensor.

    Raises:
        DataError: If it is not an integer tensor of shape :obj:`[2, E]`.

    Example:
        >>> edge_arrays(torch.tensor([[0, 1], [4, 5]]), "train")[1].tolist()
        [4, 5]
    """
    if not isinstance(edges, Tensor):
        raise DataError(f"'{name}' needs to be an integer tensor of shape "
                        f"[2, E] (got {type(edges).__name__})")
    if (edges.dim() != 2 or edges.size(0) != 2 or edges.is_floating_point()
            or edges.dtype == torch.bool):
        raise DataError(f"'{name}' needs to be an integer tensor of shape "
                        f"[2, E] (got {edges.dtype} of shape "
                        f"{list(edges.shape)})")
    users, items = edges.cpu().numpy()
    return users, items


def assemble(
    parts: Mapping[str, Edges],
    user_ids: np.ndarray,
    item_ids: np.ndarray,
    *,
    times: Optional[np.ndarray] = None,
    item_titles: Optional[list[str]] = None,
    split: str = "random",
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    counts: Optional[Mapping[str, int]] = None,
    name: str = "interactions",
) -> Interactions:
    r"""Sorts, removes duplicates and overlaps, carves what is absent, counts.

    Args:
        parts (Mapping[str, Edges]): User rows and item rows of
            :obj:`"train"` and, where they exist, :obj:`"val"` and
            :obj:`"test"`. An edge of two parts stays in the first of train,
            val and test. A part that is absent is carved from train.
        user_ids (np.ndarray): Original user ids by row.
        item_ids (np.ndarray): Original item ids by row.
        times (np.ndarray, optional): One time a row of :obj:`"train"`; of
            duplicates the earliest counts.
        item_titles (list[str], optional): Titles by item row.
        split (str): :obj:`"random"`, or :obj:`"time"` for the latest edges.
        test_fraction (float): Share of all edges held out for testing.
        val_fraction (float): Share of the rest held out for validation.
        split_seed (int): Seed of the random choice.
        counts (Mapping[str, int], optional): What the reader counted.
        name (str): Name of the data set.

    Raises:
        DataError: If a row is out of range, a split by time has no times, no
            training edge is left, or a setting is not allowed.

    Example:
        >>> ids = np.arange(3)
        >>> data = assemble({"train": (ids, ids), "test": (ids, ids[::-1])},
        ...                 ids, ids, val_fraction=0.0)
        >>> data.test.tolist(), data.counts["overlap_removed"]
        ([[0, 2], [2, 0]], 1)
    """
    if "train" not in parts or not set(parts) <= set(SPLITS):
        raise DataError(f"'parts' needs 'train' and may have 'val' and 'test' "
                        f"(got {', '.join(parts) or 'none'})")
    if times is not None and len(times) != parts["train"][0].size:
        raise DataError(f"'times' needs one time for each of the "
                        f"{parts['train'][0].size} rows of 'train' "
                        f"(got {len(times)})")
    if split not in ("random", "time"):
        raise DataError(f"'data.split' needs to be one of random, time "
                        f"(got '{split}')")
    if split == "time" and times is None:
        raise DataError(f"'data.split' = time needs a time for every "
                        f"interaction, and {name} has none (use random, or "
                        f"name the column in 'data.time_column')")
    if split == "time" and "test" in parts:
        raise DataError(f"'data.split' = time cannot be used with {name}, "
                        f"which brings its own test split (use random)")
    num_users, num_items = len(user_ids), len(item_ids)
    keys = {
        part: _keys(parts[part], num_users, num_items, part)
        for part in SPLITS if part in parts
    }
    tally = {"interactions_read": sum(map(len, keys.values())),
             "duplicates_removed": 0, "overlap_removed": 0}
    if tally["interactions_read"] == 0:
        raise DataError(f"{name} holds no interactions")
    by_time = times if split == "time" else None
    taken = np.empty(0, dtype=np.int64)
    for part in keys:
        unique, by_time_here = _unique(keys[part],
                                       by_time if part == "train" else None)
        if part == "train":
            by_time = by_time_here
        tally["duplicates_removed"] += keys[part].size - unique.size
        if part == "train":
            keys[part] = taken = unique
            continue
        fresh = unique[~_contains(taken, unique)]
        tally["overlap_removed"] += unique.size - fresh.size
        keys[part] = fresh
        taken = np.sort(np.concatenate([taken, fresh]), kind="stable")
    train = keys["train"]
    for part, fraction in (("test", test_fraction), ("val", val_fraction)):
        if part in keys:
            continue
        held_out = carve(train.size, fraction, part, split_seed=split_seed,
                         times=by_time)
        keys[part], train = train[held_out], train[~held_out]
        if by_time is not None:
            by_time = by_time[~held_out]
        tally[f"{part}_carved"] = keys[part].size
    if train.size == 0:
        raise DataError(f"{name} holds no training interactions")
    keys["train"] = train
    users = np.bincount(train // num_items, minlength=num_users)
    items = np.bincount(train % num_items, minlength=num_items)
    tally["users_without_train"] = int((users == 0).sum())
    tally["items_without_train"] = int((items == 0).sum())
    return Interactions(
        num_users=num_users,
        num_items=num_items,
        train=_edges(keys["train"], num_items),
        val=_edges(keys["val"], num_items),
        test=_edges(keys["test"], num_items),
        user_ids=user_ids,
        item_ids=item_ids,
        item_titles=item_titles,
        counts={**(counts or {}), **tally},
        name=name,
    )


def _keys(edges: Edges, num_users: int, num_items: int,
          part: str) -> np.ndarray:
    users, items = edges
    if users.size != items.size:
        raise DataError(f"'{part}' needs as many users as items "
                        f"(got {users.size} and {items.size})")
    for label, rows, count in (("user", users, num_users),
                               ("item", items, num_items)):
        if rows.size and not 0 <= rows.min() <= rows.max() < count:
            raise DataError(f"the {label} rows of '{part}' need to be in "
                            f"[0, {count - 1}] (got {rows.min()} to "
                            f"{rows.max()})")
    keys: np.ndarray = users.astype(np.int64) * num_items + items
    return keys


def _unique(
    keys: np.ndarray, times: Optional[np.ndarray]
) -> tuple[np.ndarray, Optional[np.ndarray]]:
    """Returns the distinct keys, ascending, and the earliest time of each."""
    if times is None:
        keys = np.sort(keys)
    else:
        order = np.lexsort((times, keys))
        keys, times = keys[order], times[order]
    first = np.ones(keys.size, dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first], None if times is None else times[first]


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if sorted_keys.size == 0:
        return np.zeros(keys.size, dtype=bool)
    place = np.searchsorted(sorted_keys, keys)
    place[place == sorted_keys.size] = 0
    found: np.ndarray = sorted_keys[place] == keys
    return found


def _edges(keys: np.ndarray, num_items: int) -> Tensor:
    users = keys // num_items
    return torch.from_numpy(np.stack([users, keys - users * num_items]))
