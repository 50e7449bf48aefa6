r"""Users and items that come and go while a recommender is served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.catalogue import Catalogue, IdIndex
from pyg_nodequant.runtime.delta import Delta
from pyg_nodequant.runtime.file_format import Container
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.fold_in import (
    FIT_ROWS,
    ItemFold,
    Lengths,
    UserFold,
    combine,
    degrees,
    spread,
)
from pyg_nodequant.runtime.graph import PackedGraph
from pyg_nodequant.runtime.grown_catalogue import GrownCatalogue
from pyg_nodequant.runtime.grown_table import GrownTable
from pyg_nodequant.runtime.row_fit import choose_bits, fit_rows
from pyg_nodequant.runtime.table import PackedTable

Array = np.ndarray[Any, Any]
StoredTable = Union[PackedTable, FloatTable]
Table = Union[StoredTable, GrownTable]


class LivingRows:
    r"""The users and items of a recommender, and how they change.

    Appended rows number on after the others, in the form of their table;
    removed rows keep their numbers, which then stand for nothing. The tables
    of the file are not touched, they stay mapped. A recommender must not be
    changed while another thread asks it.

    :class:`~pyg_nodequant.runtime.PackedRecommender` inherits these methods.
    """

    users: Table
    items: Table
    graph: Optional[PackedGraph]
    catalogue: Optional[Catalogue]
    served_users: Table
    served_items: Table

    def _start(self) -> None:
        # Called once the parts are set; nothing has changed yet.
        self._index()
        self._folds: dict[str, Any] = {}
        # The file that was opened, the last delta, and what both hold.
        self._base: Optional[str] = None
        self._last: Optional[str] = None
        self._first = self._saved = _Mark(len(self.users), len(self.items))
        self._chain: list[PathLike] = []

    def _index(self) -> None:
        if self.catalogue is None:
            self._user_ids = IdIndex(np.arange(len(self.users)), "user")
            self._item_ids = IdIndex(np.arange(len(self.items)), "item")
        else:
            self._user_ids = self.catalogue.users
            self._item_ids = self.catalogue.items

    @property
    def num_users(self) -> int:
        r"""The number of users, without removed ones."""
        return _count(self.users)

    @property
    def num_items(self) -> int:
        r"""The number of items, without removed ones."""
        return _count(self.items)

    def fold_in(self, item_ids: Any, weights: Any = None) -> Array:
        r"""Returns the row of a new user from a handful of items,

        .. math::
            x_u \propto \left(G + \lambda I\right)^{-1} \sum_i w_i x_i, \quad
            G = \sum_i x_i x_i^\top, \quad
            \lambda = \frac{1}{2 d} \operatorname{tr} G,

        as long as the rows of users of as many items are
        (:class:`~pyg_nodequant.runtime.fold_in.UserFold`). The same items
        give the same row, in any order.

        Args:
            item_ids (sequence): Original ids; one that is given twice counts
                twice.
            weights (sequence, optional): A finite weight :math:`w_i` for
                each, 1 by default.

        Returns:
            The row of shape :obj:`[dim]` and type :obj:`float32`.

        Raises:
            UnknownIdError: If an item is not known.
            ValueError: If there is no item, or weights are not of this form.

        Example:
            >>> from pyg_nodequant.runtime import PackedRecommender
            >>> rows = FloatTable([[1.0, 0.0], [0.0, 1.0]])
            >>> PackedRecommender(rows, rows).fold_in([1])
            array([0., 1.], dtype=float32)
        """
        rows, amounts = self._one_list("item_ids", self._item_ids, item_ids,
                                       weights)
        return np.asarray(self._user_fold(rows, amounts))

    def fold_in_item(self, user_ids: Any, weights: Any = None) -> Array:
        r"""Returns the row of a new item from its users,

        .. math::
            x_i \propto \sum_u \frac{w_u x_u}{\sqrt{d_u}},

        as long as the rows of items of as many users are
        (:class:`~pyg_nodequant.runtime.fold_in.ItemFold`), with the number
        :math:`d_u` of items that a user has seen, 1 where there are no seen
        lists.

        Args:
            user_ids (sequence): Original ids, as in :meth:`fold_in`.
            weights (sequence, optional): A weight :math:`w_u` for each.

        Returns:
            The row of shape :obj:`[dim]` and type :obj:`float32`.

        Raises:
            UnknownIdError: If a user is not known.
            ValueError: If there is no user, or weights are not of this form.
        """
        rows, amounts = self._one_list("user_ids", self._user_ids, user_ids,
                                       weights)
        return np.asarray(self._item_fold(rows, amounts))

    def append_users(
        self,
        ids: Any,
        item_lists: Optional[Sequence[Any]] = None,
        weights: Optional[Sequence[Any]] = None,
        *,
        rows: Any = None,
        width: Optional[int] = None,
    ) -> None:
        r"""Adds users, whose rows are folded in from their items or given.

        Args:
            ids (sequence): Their ids, of the type of the others.
            item_lists (sequence, optional): The item ids of each, which they
                have seen then; needed unless :obj:`rows` are given.
            weights (sequence, optional): Weights beside :obj:`item_lists`, as
                in :meth:`fold_in`.
            rows (array, optional): Their rows as floats.
            width (int, optional): The width of the new rows, one that the
                table has; by default, that of rows of as many items. Each row
                gets the class of that width that fits it best.

        Raises:
            UnknownIdError: If an item is not known.
            ValueError: If an argument is not of this form, an id is there
                already, or the rows are propagated on a graph.

        Example:
            >>> from pyg_nodequant.runtime import PackedRecommender
            >>> table = FloatTable([[1.0, 0.0], [0.0, 1.0]])
            >>> model = PackedRecommender(
            ...     table, table, catalogue=Catalogue(["ann", "bob"], [7, 9]))
            >>> model.append_users(["eve"], [[9]])
            >>> model.recommend("eve", 1, exclude_seen=False)[1].tolist()
            [9]
        """
        catalogue = self._may_grow()
        lists = _Lists("item_lists", "item_ids", catalogue.items, item_lists,
                       weights)
        new = catalogue.users.check_new(ids)
        floats = self._new_rows(lists, len(new), rows, self._fold_user)
        table = self._fit(self.users, floats, width, self._degrees[0], lists)
        count = len(self.users)
        self._grow(Delta("", "", count, len(self.items), users=table,
                         user_ids=new, seen_users=count + lists.owners,
                         seen_items=lists.rows))

    def append_items(
        self,
        ids: Any,
        user_lists: Optional[Sequence[Any]] = None,
        weights: Optional[Sequence[Any]] = None,
        *,
        rows: Any = None,
        titles: Optional[Sequence[Optional[str]]] = None,
        width: Optional[int] = None,
    ) -> None:
        r"""Adds items, whose rows are folded in from their users or given.

        Args:
            ids (sequence): Their ids, of the type of the others.
            user_lists (sequence, optional): The user ids of each, who have
                seen it then; needed unless :obj:`rows` are given.
            weights (sequence, optional): Weights beside :obj:`user_lists`, as
                in :meth:`fold_in_item`.
            rows (array, optional): Their rows as floats.
            titles (sequence, optional): Their titles.
            width (int, optional): As in :meth:`append_users`.

        Raises:
            UnknownIdError: If a user is not known.
            ValueError: As in :meth:`append_users`.
        """
        catalogue = self._may_grow()
        lists = _Lists("user_lists", "user_ids", catalogue.users, user_lists,
                       weights)
        new = catalogue.items.check_new(ids)
        names = None
        if titles is not None:
            names = ["" if one is None else str(one) for one in titles]
            if len(names) != len(new):
                raise ValueError(f"'titles' needs {len(new)} titles, one an "
                                 f"item (got {len(names)})")
        floats = self._new_rows(lists, len(new), rows, self._fold_item)
        table = self._fit(self.items, floats, width, self._degrees[1], lists)
        count = len(self.items)
        self._grow(Delta("", "", len(self.users), count, items=table,
                         item_ids=new, titles=names, seen_users=lists.rows,
                         seen_items=count + lists.owners))

    def remove(self, user_ids: Any = None, item_ids: Any = None) -> None:
        r"""Removes users and items: they are never returned any more, and
        not known. Their ids may be appended again.

        Args:
            user_ids (sequence, optional): Original ids.
            item_ids (sequence, optional): Original ids.

        Raises:
            UnknownIdError: If one is not known; nothing is removed then.
            ValueError: If the rows are propagated on a graph.
        """
        catalogue = self._may_grow()
        gone = [np.unique(index.rows([] if ids is None else ids))
                for index, ids in ((catalogue.users, user_ids),
                                   (catalogue.items, item_ids))]
        self._grow(Delta("", "", len(self.users), len(self.items),
                         removed_users=gone[0], removed_items=gone[1]))

    def _may_grow(self) -> GrownCatalogue:
        if self.graph is not None:
            raise ValueError("a recommender whose rows are propagated on a "
                             "graph (where='input') cannot be changed: "
                             "export one of served rows (where='output')")
        if isinstance(self.catalogue, GrownCatalogue):
            return self.catalogue
        plain = self.catalogue or Catalogue(np.arange(len(self.users)),
                                            np.arange(len(self.items)))
        return GrownCatalogue(plain)

    def _grow(self, change: Delta) -> None:
        # The one place where anything changes; what it gets is checked.
        catalogue = self._may_grow()
        users, items = GrownTable.of(self.users), GrownTable.of(self.items)
        if change.users is not None and len(change.users):
            users = users.with_rows(change.users)
        if change.items is not None and len(change.items):
            items = items.with_rows(change.items)
        catalogue.users.append(change.user_ids)
        catalogue.add_items(change.item_ids, change.titles)
        catalogue.users.remove(change.removed_users)
        catalogue.items.remove(change.removed_items)
        if catalogue.has_seen:
            catalogue.added.add(change.seen_users, change.seen_items)
        self.users = self.served_users = users.without(change.removed_users)
        self.items = self.served_items = items.without(change.removed_items)
        self.catalogue = catalogue
        self._index()
        self._folds = {}

    def _since(self, mark: _Mark) -> Delta:
        # What changed since a point.
        delta = Delta(self._base or "", self._last or "", mark.num_users,
                      mark.num_items)
        catalogue = self.catalogue
        if not isinstance(catalogue, GrownCatalogue):
            return delta
        users, items = GrownTable.of(self.users), GrownTable.of(self.items)
        if len(users) > mark.num_users:
            delta.users = users.tail_from(mark.num_users)
            delta.user_ids = catalogue.users.added_from(mark.num_users)
        if len(items) > mark.num_items:
            delta.items = items.tail_from(mark.num_items)
            delta.item_ids = catalogue.items.added_from(mark.num_items)
            if catalogue.item_titles is not None:
                delta.titles = catalogue.item_titles[mark.num_items:]
        delta.removed_users = np.setdiff1d(users.removed, mark.removed_users)
        delta.removed_items = np.setdiff1d(items.removed, mark.removed_items)
        pairs = catalogue.added
        # A pair was added together with its user or its item.
        new = (pairs.users >= mark.num_users) | (pairs.items >=
                                                 mark.num_items)
        delta.seen_users = pairs.users[new]
        delta.seen_items = pairs.items[new]
        return delta

    def _mark(self) -> _Mark:
        users, items = GrownTable.of(self.users), GrownTable.of(self.items)
        return _Mark(len(users), len(items), users.removed, items.removed)

    def _follow(self, path: PathLike, mmap: bool, verify: bool) -> None:
        # Opens a delta and applies it.
        delta, content = Delta.read(path, self._base or "", self._last or "",
                                    _base(self.users), _base(self.items),
                                    mmap, verify)
        if (delta.num_users, delta.num_items) != (len(self.users),
                                                  len(self.items)):
            content.fail("its field 'rows' does not match the files before "
                         "it")
        try:
            catalogue = self._may_grow()
            catalogue.users.check_change(delta.user_ids, delta.removed_users)
            catalogue.items.check_change(delta.item_ids, delta.removed_items)
        except ValueError as error:
            content.fail(str(error))
        self._grow(delta)
        self._passed(path, content)

    def _passed(self, path: PathLike, content: Container) -> None:
        # A file was opened: what comes is what changes after it.
        self._last = content.fields["checksum"]
        self._base = self._base or self._last
        self._chain.append(path)
        self._saved = self._mark()

    def _new_rows(self, lists: _Lists, count: int, rows: Any,
                  fold: Any) -> Array:
        if lists.given and len(lists) != count:
            raise ValueError(f"'{lists.name}' needs {count} lists, one an id "
                             f"(got {len(lists)})")
        dim = self.users.dim
        if rows is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                floats = np.asarray(rows, dtype=np.float32)
            if floats.shape != (count, dim):
                raise ValueError(f"'rows' needs a shape of [{count}, {dim}] "
                                 f"(got {list(floats.shape)})")
            if not np.isfinite(floats).all():
                raise ValueError("'rows' needs to be finite float32 (got an "
                                 "infinite or undefined value)")
            return floats
        if not lists.given:
            raise ValueError(f"'{lists.name}' or 'rows' needs to be given "
                             f"(got neither)")
        out = np.zeros((count, dim), dtype=np.float32)
        for place in range(count):
            out[place] = fold(*lists.one(place))
        return out

    def _fit(self, table: Table, rows: Array, width: Optional[int],
             known: Optional[Array], lists: _Lists) -> StoredTable:
        sample = spread(live_rows(table), FIT_ROWS)
        like = None
        if known is not None and lists.given:
            like = known[sample], np.diff([0, *lists.ends])
        bits = choose_bits(_base(table), table.widths[sample], len(rows),
                           width, like)
        return fit_rows(_base(table), rows, bits)

    def _one_list(self, name: str, index: IdIndex, ids: Any,
                  weights: Any) -> tuple[Array, Array]:
        lists = _Lists(name, name, index, [ids],
                       None if weights is None else [weights])
        return lists.one(0)

    def _fold_user(self, rows: Array, weights: Array) -> Array:
        return np.asarray(self._user_fold(rows, weights))

    def _fold_item(self, rows: Array, weights: Array) -> Array:
        return np.asarray(self._item_fold(rows, weights))

    @property
    def _user_fold(self) -> UserFold:
        if "user" not in self._folds:
            lengths = Lengths(self.served_users, live_rows(self.users),
                              self._degrees[0])
            self._folds["user"] = UserFold(self.served_items,
                                           live_rows(self.items), lengths)
        fold: UserFold = self._folds["user"]
        return fold

    @property
    def _item_fold(self) -> ItemFold:
        if "item" not in self._folds:
            lengths = Lengths(self.served_items, live_rows(self.items),
                              self._degrees[1])
            self._folds["item"] = ItemFold(self.served_users,
                                           self._degrees[0], lengths)
        fold: ItemFold = self._folds["item"]
        return fold

    @property
    def _degrees(self) -> tuple[Optional[Array], Optional[Array]]:
        if "degrees" not in self._folds:
            seen = None if self.catalogue is None else self.catalogue.seen
            self._folds["degrees"] = (None, None) if seen is None else (
                degrees(seen, live_rows(self.users), live_rows(self.items),
                        len(self.items)))
        found: tuple[Optional[Array], Optional[Array]]
        found = self._folds["degrees"]
        return found


class _Mark:
    # What a file and those before it hold.

    def __init__(self, num_users: int, num_items: int,
                 removed_users: Any = (), removed_items: Any = ()) -> None:
        self.num_users = num_users
        self.num_items = num_items
        self.removed_users = np.asarray(removed_users, dtype=np.int64)
        self.removed_items = np.asarray(removed_items, dtype=np.int64)


class _Lists:
    # Lists of ids as lists of rows, with their weights.

    def __init__(self, name: str, what: str, index: IdIndex,
                 lists: Optional[Sequence[Any]],
                 weights: Optional[Sequence[Any]]) -> None:
        self.name = name
        self.given = lists is not None
        parts = [_as_list(what, ids) for ids in lists or []]
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        self.ends = np.cumsum(sizes)
        self.begins = self.ends - sizes
        self.owners = np.repeat(np.arange(len(parts)), sizes)
        self.rows = index.rows([one for part in parts for one in part])
        self.weights = np.ones(len(self.rows))
        if weights is None:
            return
        if not self.given:
            raise ValueError(f"'weights' needs '{name}' beside it (got none)")
        amounts = [np.asarray(part, dtype=np.float64) for part in weights]
        if [part.shape for part in amounts] != [(size, ) for size in sizes]:
            raise ValueError("'weights' needs one number an id")
        self.weights = np.concatenate([np.zeros(0), *amounts])
        if not np.isfinite(self.weights).all():
            raise ValueError("'weights' needs to be finite (got an infinite "
                             "or undefined value)")

    def __len__(self) -> int:
        return len(self.ends)

    def one(self, place: int) -> tuple[Array, Array]:
        part = slice(self.begins[place], self.ends[place])
        if not len(self.rows[part]):
            raise ValueError(f"'{self.name}' needs at least one id to fold "
                             f"in (got none)")
        return combine(self.rows[part], self.weights[part])


def _as_list(name: str, ids: Any) -> list[Any]:
    if isinstance(ids, str) or np.ndim(ids) != 1:
        raise ValueError(f"'{name}' needs to be a list of ids (got {ids!r})")
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def _base(table: Table) -> StoredTable:
    return table.base if isinstance(table, GrownTable) else table


def live_rows(table: Table) -> Array:
    r"""Returns the numbers of the rows of a table that were not removed."""
    if isinstance(table, GrownTable):
        return table.live
    return np.arange(len(table))


def _count(table: Table) -> int:
    return table.num_live if isinstance(table, GrownTable) else len(table)
