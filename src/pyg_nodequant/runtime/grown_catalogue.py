r"""A catalogue to which users and items were added, and from which some were
removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Optional

import numpy as np

from pyg_nodequant.runtime.catalogue import Catalogue, IdIndex
from pyg_nodequant.runtime.csr import CSR, take_rows

Array = np.ndarray[Any, Any]


class GrownIds(IdIndex):
    r"""Ids of a base, then of appended rows; those of removed rows are not
    known any more and may be given to new rows.

    Args:
        base (IdIndex): The ids of the base.

    Example:
        >>> ids = GrownIds(IdIndex([10, 20], "item"))
        >>> ids.remove([0]); ids.append([30, 10])
        >>> ids.rows([20, 10]).tolist()
        [1, 3]
    """

    def __init__(self, base: IdIndex) -> None:
        self.what = base.what
        self.base = base
        self.removed = np.zeros(0, dtype=np.int64)
        r"""The rows that were removed, ascending."""
        self._added: Array = np.zeros(0, dtype=np.int64)
        self._live: Optional[tuple[IdIndex, Array]] = None
        self._all: Optional[Array] = None

    def __len__(self) -> int:
        return len(self.base) + len(self._added)

    @property
    def ids(self) -> Array:  # type: ignore[override]
        r"""The ids of all rows, also of those that were removed."""
        if self._all is None:
            parts = [part for part in (self.base.ids, self._added)
                     if len(part)]
            self._all = np.concatenate(parts) if parts else self._added
        return self._all

    @property
    def are_strings(self) -> bool:
        r"""Whether the ids are strings."""
        ids = self.base.ids if len(self.base) else self._added
        return bool(ids.dtype.kind == "O")

    def live(self) -> Array:  # noqa: D102 (documented by IdIndex)
        return np.delete(np.arange(len(self)), self.removed)

    def added_from(self, row: int) -> Array:
        r"""The ids of the appended rows from some number on."""
        return self._added[row - len(self.base):]

    def check_new(self, ids: Any) -> Array:
        r"""Returns ids that may be appended, in the type of the others.

        Raises:
            ValueError: If one is known, comes twice, or is of another type.
        """
        fresh = list(ids.tolist() if isinstance(ids, np.ndarray) else ids)
        if len(self):
            kind = _as_text if self.are_strings else _as_number
            fresh = [kind(one) for one in fresh]
        array = IdIndex(fresh, self.what).ids
        if not len(array):
            return self._added[:0]
        if len(self) and (array.dtype.kind == "O") != self.are_strings:
            names = "strings" if self.are_strings else "integers"
            raise ValueError(f"'{self.what}_ids' needs to hold {names}, as "
                             f"those that are there (got {fresh[0]!r})")
        known = self.find(array) >= 0
        if known.any():
            raise ValueError(f"'{self.what}_ids' needs to hold new "
                             f"{self.what}s (got "
                             f"{fresh[int(np.argmax(known))]!r}, which is "
                             f"there)")
        return array

    def check_change(self, ids: Array, gone: Array) -> None:
        r"""Raises :class:`ValueError` unless ids can be appended and rows,
        which may be among the appended ones, removed then.
        """
        twice = among(gone, self.removed)
        if twice.any():
            raise ValueError(f"it removes {self.what} row {gone[twice][0]} a "
                             f"second time")
        if len(self) and len(ids) and (
                (ids.dtype.kind == "O") != self.are_strings):
            raise ValueError(f"its {self.what} ids are not of the type of "
                             f"those that are there")
        kept = np.delete(ids, gone[gone >= len(self)] - len(self))
        if len(kept):
            rows = self.find(IdIndex(kept, self.what).ids)
            known = (rows >= 0) & ~among(rows, gone)
            if known.any():
                raise ValueError(f"its {self.what} '{kept[known][0]}' is "
                                 f"there already")

    def append(self, ids: Any) -> None:
        r"""Adds ids that :meth:`check_new` returned."""
        if len(ids):
            parts = [self._added, np.asarray(ids)]
            self._added = np.concatenate(parts[not len(self._added):])
            self._live = self._all = None

    def remove(self, rows: Any) -> None:
        r"""Forgets the ids of some rows."""
        self.removed = np.union1d(self.removed,
                                  np.asarray(rows, dtype=np.int64))
        self._live = None

    def find(self, ids: Any) -> Array:  # noqa: D102 (documented by IdIndex)
        rows = (self.base.find(ids) if len(self.base) else np.full(
            len(ids), -1, dtype=np.int64))
        rows[among(rows, self.removed)] = -1
        if not len(self._added) or (rows >= 0).all():
            return rows
        if self._live is None:
            places = self.live()
            places = places[np.searchsorted(places, len(self.base)):]
            index = IdIndex(self._added[places - len(self.base)], self.what)
            self._live = index, places
        index, places = self._live
        if len(index):
            found = index.find(ids)
            use = (rows < 0) & (found >= 0)
            rows[use] = places[found[use]]
        return rows

    def take(self, rows: Array) -> Array:
        r"""Returns the ids of rows, -1 or :obj:`None` for row -1."""
        size = len(self.base)
        new = rows >= size
        if size and not new.any():
            return self.base.take(rows)
        out = np.full(rows.shape, None if self.are_strings else -1,
                      dtype=object if self.are_strings else np.int64)
        old = (rows >= 0) & ~new
        if old.any():
            out[old] = self.base.ids[rows[old]]
        out[new] = self._added[rows[new] - size]
        return out

    def _unknown(self, one: Any) -> NoReturn:
        # The example in the message is an id that can be asked for.
        IdIndex(self.ids[self.live()], self.what)._unknown(one)


def _as_text(one: Any) -> Any:
    whole = isinstance(one, (int, np.integer)) and not isinstance(one, bool)
    return str(one) if whole else one


def _as_number(one: Any) -> Any:
    try:
        return int(one) if isinstance(one, str) else one
    except ValueError:
        return one


def among(rows: Array, ascending: Array) -> Array:
    r"""Returns which rows are in a sorted array.

    Example:
        >>> among(np.array([4, 0, 9]), np.array([0, 4])).tolist()
        [True, True, False]
    """
    if not len(ascending):
        return np.zeros(len(rows), dtype=np.bool_)
    place = np.searchsorted(ascending, rows)
    place[place == len(ascending)] = 0
    return np.asarray(ascending[place] == rows)


class SeenPairs:
    r"""Pairs of users and items that were added to seen lists.

    Example:
        >>> pairs = SeenPairs()
        >>> pairs.add([4, 1, 4], [7, 2, 0])
        >>> [part.tolist() for part in pairs.lists(np.array([4, 0]))]
        [[0, 2, 2], [0, 7]]
    """

    def __init__(self) -> None:
        # One number a pair, ascending: the user above, the item below.
        self._keys = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, users: Any, items: Any) -> None:
        r"""Adds pairs of rows."""
        keys = (np.asarray(users, dtype=np.int64) << 32) | np.asarray(
            items, dtype=np.int64)
        self._keys = np.union1d(self._keys, keys)

    @property
    def users(self) -> Array:
        r"""The users of the pairs, ascending."""
        return self._keys >> 32

    @property
    def items(self) -> Array:
        r"""The items of the pairs, ascending for each user."""
        return self._keys & 0xFFFFFFFF

    def lists(self, users: Array) -> CSR:
        r"""The items of some users, ascending."""
        begin = np.searchsorted(self._keys, users << 32)
        end = np.searchsorted(self._keys, users << 32 | 0xFFFFFFFF, "right")
        bounds = np.concatenate([[0], np.cumsum(end - begin)])
        place = np.repeat(begin - bounds[:-1], end - begin)
        place += np.arange(bounds[-1])
        return bounds, self.items[place].astype(np.int32)


class GrownCatalogue(Catalogue):
    r"""A catalogue that grows: rows number on after those of the base.

    Args:
        base (Catalogue): The catalogue of the base.

    Example:
        >>> catalogue = GrownCatalogue(Catalogue(["ann"], [7, 9]))
        >>> catalogue.add_items([8], ["Eight"])
        >>> catalogue.titles([9, 8])
        ['', 'Eight']
    """

    users: GrownIds
    items: GrownIds

    def __init__(self, base: Catalogue) -> None:
        self.base = base
        self.users = GrownIds(base.users)
        self.items = GrownIds(base.items)
        self.item_titles = base.item_titles
        self.added = SeenPairs()
        self._seen = base.seen

    def add_items(self, ids: Any,
                  titles: Optional[Sequence[Optional[str]]] = None) -> None:
        r"""Adds items, whose ids were checked, and their titles."""
        old, count = len(self.items), len(ids)
        self.items.append(ids)
        if titles is None and self.item_titles is None:
            return
        before = self.item_titles or [""] * old
        if self.item_titles is self.base.item_titles:
            before = list(before)  # the base keeps its own
        before.extend("" if title is None else str(title)
                      for title in titles or [""] * count)
        self.item_titles = before

    @property
    def has_seen(self) -> bool:
        r"""Whether there are seen lists."""
        return self._seen is not None

    @property
    def seen(self) -> Optional[CSR]:
        r"""The item rows that each user has seen, also those of removed
        users and items.
        """
        if self._seen is None:
            return None
        return self.seen_by(np.arange(len(self.users)))

    def seen_by(self, rows: Array) -> Optional[CSR]:  # noqa: D102
        if self._seen is None:
            return None
        size = len(self._seen[0]) - 1
        first = rows < size
        known = take_rows(self._seen, rows[first])
        counts = np.zeros(len(rows), dtype=np.int64)
        counts[first] = np.diff(known[0])
        more = self.added.lists(rows)
        # Rows are only ever added at the end: known lists go before.
        indptr = np.concatenate([[0], np.cumsum(counts + np.diff(more[0]))])
        indices = np.empty(indptr[-1], dtype=np.int32)
        owner = np.repeat(np.arange(len(rows)), counts)
        begin = np.concatenate([[0], np.cumsum(counts)])
        indices[indptr[owner] + np.arange(begin[-1]) - begin[owner]] = known[1]
        owner = np.repeat(np.arange(len(rows)), np.diff(more[0]))
        indices[indptr[owner] + counts[owner] + np.arange(more[0][-1]) -
                more[0][owner]] = more[1]
        return indptr, indices

    def flat(self) -> Catalogue:
        r"""What is left as an ordinary catalogue, rows numbered anew."""
        users, items = self.users.live(), self.items.live()
        titles = self.item_titles
        seen = self.seen_by(users)
        if seen is not None:
            number = np.full(len(self.items), -1, dtype=np.int64)
            number[items] = np.arange(len(items))
            indices = number[seen[1]]
            kept = indices >= 0
            seen = (np.concatenate([[0], np.cumsum(kept)])[seen[0]],
                    indices[kept])
        if titles is not None:
            titles = [titles[row] for row in items]
        return Catalogue(self.users.ids[users], self.items.ids[items], titles,
                         seen)

    def encode(self) -> dict[str, Array]:
        r"""Returns the arrays that hold what is left."""
        return self.flat().encode()
