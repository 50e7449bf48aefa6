r"""Recommendations from a packed file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.catalogue import Catalogue, IdIndex
from pyg_nodequant.runtime.csr import CSR, with_columns
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.graph import PackedGraph
from pyg_nodequant.runtime.grown_catalogue import GrownCatalogue
from pyg_nodequant.runtime.grown_table import GrownTable
from pyg_nodequant.runtime.living import (
    LivingRows,
    StoredTable,
    Table,
    live_rows,
)
from pyg_nodequant.runtime.storage import measure_storage
from pyg_nodequant.runtime.table import PackedTable
from pyg_nodequant.runtime.topk import check_k, dot_rows

Array = np.ndarray[Any, Any]

_KIND = "recommender"
# Lists of excluded items longer than this in all become a mask of the items.
_LIST_NUMBERS = 1 << 20
# Users whose rows are read at once, in numbers: bounds the memory of a batch.
_BATCH_NUMBERS = 1 << 22


class PackedRecommender(LivingRows):
    r"""Answers what a user should see from packed rows.

    The score of user :math:`u` and item :math:`i` is the inner product of
    their rows. With a :obj:`graph`, the given rows are those of layer 0: they
    are propagated once, and the propagated rows are served as floats.

    Args:
        users (PackedTable or FloatTable): The rows of the users.
        items (PackedTable or FloatTable): The rows of the items.
        graph (PackedGraph, optional): The graph to propagate rows on.
        catalogue (Catalogue, optional): Original ids, titles, seen items;
            without it, row numbers are the ids.
        metadata (dict, optional): Anything that JSON can hold; kept with the
            catalogue.

    Raises:
        ValueError: If the parts do not belong together.

    Example:
        >>> users = PackedTable.from_float([[1.0, 0.0], [0.0, 1.0]], 2)
        >>> items = PackedTable.from_float([[1.0, 0.2], [0.2, 1.0]], 2)
        >>> catalogue = Catalogue(["ann", "bob"], [10, 20])
        >>> model = PackedRecommender(users, items, catalogue=catalogue)
        >>> scores, ids = model.recommend("bob", k=1, exclude_seen=False)
        >>> ids.tolist()
        [20]
        >>> model
        PackedRecommender(2 users, 2 items, dim=2, avg_bits=2.00)
    """

    def __init__(
        self,
        users: StoredTable,
        items: StoredTable,
        *,
        graph: Optional[PackedGraph] = None,
        catalogue: Optional[Catalogue] = None,
        metadata: Optional[Mapping[str, Any]] = None,
    ) -> None:
        if users.dim != items.dim:
            raise ValueError(f"'users' and 'items' need equal dimensions "
                             f"(got {users.dim} and {items.dim})")
        sizes = len(users), len(items)
        if graph is not None and (graph.num_users, graph.num_items) != sizes:
            raise ValueError(f"'graph' needs {sizes[0]} users and {sizes[1]} "
                             f"items (got {graph})")
        if catalogue is not None and (len(catalogue.users),
                                      len(catalogue.items)) != sizes:
            raise ValueError(f"'catalogue' needs {sizes[0]} users and "
                             f"{sizes[1]} items (got {catalogue})")
        self.users: Table = users
        self.items: Table = items
        self.graph = graph
        self.catalogue = catalogue
        self.metadata: dict[str, Any] = dict(metadata or {})
        _encode_metadata(self.metadata)
        self.served_users: Table = users
        self.served_items: Table = items
        if graph is not None:
            rows = graph.propagate(users.dequantize(), items.dequantize())
            self.served_users = FloatTable(rows[0])
            self.served_items = FloatTable(rows[1])
        self._start()

    @property
    def dim(self) -> int:
        r"""The number of dimensions of a row."""
        return self.users.dim

    @property
    def resident_bytes(self) -> int:
        r"""The bytes held in memory for scoring: the tables as stored, and,
        with a graph, the graph and the propagated float rows.
        """
        total = self.users.resident_bytes + self.items.resident_bytes
        if self.graph is not None:
            total += self.graph.indptr.nbytes + self.graph.indices.nbytes
            total += self.served_users.resident_bytes
            total += self.served_items.resident_bytes
        return total

    def topk_rows(
        self,
        user_rows: Any,
        k: int,
        exclude: Optional[CSR] = None,
        allow: Any = None,
    ) -> tuple[Array, Array]:
        r"""Returns the best items of users, both by row number.

        The answer is exact: that of brute force in :obj:`float64` over the
        dequantized rows, ties to the lowest row number. Memory beyond the
        answer does not grow with the batch.

        Args:
            user_rows (array): User rows of shape :obj:`[B]`.
            k (int): How many items a user gets, in [1, num_items].
            exclude (tuple, optional): :obj:`(indptr, indices)` over the
                batch: the item rows that each of the :obj:`B` users must not
                get.
            allow (array, optional): The only item rows that users get.

        Returns:
            Scores (:obj:`float64`) and item rows (:obj:`int64`) of shape
            :obj:`[B, k]`, best first, filled up with :obj:`-inf` and -1.

        Raises:
            ValueError: If an argument is not of this form.
        """
        k = check_k(k, self.num_items, "items")
        rows = self.served_users.check_ids(user_rows, "user_rows")
        return self.served_items.topk((self.served_users, rows), k, exclude,
                                      allow)

    def recommend(
        self,
        user_ids: Any,
        k: int = 20,
        *,
        exclude_seen: bool = True,
        exclude: Any = None,
        allow: Any = None,
    ) -> tuple[Array, Array]:
        r"""Returns the best items of users, by original ids.

        Args:
            user_ids (id or sequence): One user, or :obj:`B` of them. Text
                may stand for an integer id.
            k (int): How many items a user gets, in [1, num_items].
            exclude_seen (bool): Whether items that a user has seen are left
                out; needs a catalogue with seen lists.
            exclude (sequence, optional): Item ids that no user gets.
            allow (sequence, optional): The only item ids that users get.

        Returns:
            Scores and item ids of shape :obj:`[B, k]`, or :obj:`[k]` for one
            user, best first. Short lists are filled up with :obj:`-inf` and
            -1 (:obj:`None` where ids are strings).

        Raises:
            UnknownIdError: If a user or an item is not known.
            ValueError: If :obj:`k` is out of range, or there are no seen
                lists to exclude.
        """
        k = check_k(k, self.num_items, "items")
        single, rows = _rows(self._user_ids, user_ids)
        seen = None
        if exclude_seen:
            if self.catalogue is not None:
                seen = self.catalogue.seen_by(rows)
            if seen is None:
                raise ValueError("'exclude_seen' needs to be False where "
                                 "there are no seen lists, as in a bare file "
                                 "(got True)")
        allowed = None
        if allow is not None:
            allowed = np.unique(_rows(self._item_ids, allow)[1])
        if exclude is not None:
            gone = np.unique(_rows(self._item_ids, exclude)[1])
            if allowed is None and len(gone) * len(rows) <= _LIST_NUMBERS:
                seen = with_columns(seen, gone, len(rows))
            else:
                every = live_rows(self.items) if allowed is None else allowed
                allowed = np.setdiff1d(every, gone)
        scores, items = self.topk_rows(rows, k, seen, allowed)
        return _answer(scores, self._item_ids.take(items), single)

    def recommend_for(
        self,
        item_ids: Any,
        k: int = 20,
        weights: Any = None,
        exclude: bool = True,
        allow: Any = None,
    ) -> tuple[Array, Array]:
        r"""Returns the best items of a new user, known by a handful of items
        (:meth:`fold_in`).

        Args:
            item_ids (sequence): The items.
            k (int): How many items the user gets, in [1, num_items].
            weights (sequence, optional): A weight for each item.
            exclude (bool): Whether these items are left out.
            allow (sequence, optional): The only item ids the user gets.

        Returns:
            Scores and item ids of shape :obj:`[k]`, as in :meth:`recommend`.

        Raises:
            UnknownIdError: If an item is not known.
            ValueError: If :obj:`k` is out of range, or :meth:`fold_in`
                raises it.

        Example:
            >>> rows = FloatTable([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
            >>> PackedRecommender(rows, rows).recommend_for([0], k=1)[1]
            array([1])
        """
        k = check_k(k, self.num_items, "items")
        row = self.fold_in(item_ids, weights)
        masked = allowed = None
        if exclude:
            own = np.unique(self._item_ids.rows(item_ids))
            masked = np.array([0, len(own)]), own
        if allow is not None:
            allowed = np.unique(_rows(self._item_ids, allow)[1])
        scores, items = self.served_items.topk(row[None], k, masked, allowed)
        return scores[0], self._item_ids.take(items[0])

    def similar_items(self, item_ids: Any, k: int = 20) -> tuple[Array, Array]:
        r"""Returns the items of largest cosine similarity with each item,

        .. math::
            \cos(i, j) = \frac{x_i \cdot x_j}{\lVert x_i \rVert
            \lVert x_j \rVert},

        without the item itself; the cosine with a zero row is 0. Cosine and
        not the inner product, so that popular items of long rows are not
        similar to everything.

        Args:
            item_ids (id or sequence): One item, or :obj:`B` of them.
            k (int): How many items each gets, in [1, num_items].

        Returns:
            Cosines and item ids of shape :obj:`[B, k]`, or :obj:`[k]` for one
            item, best first, filled up like those of :meth:`recommend`.

        Raises:
            UnknownIdError: If an item is not known.
            ValueError: If :obj:`k` is out of range.
        """
        k = check_k(k, self.num_items, "items")
        single, rows = _rows(self._item_ids, item_ids)
        scores, items = self.served_items.similar(rows, k)
        return _answer(scores, self._item_ids.take(items), single)

    def score(self, user_ids: Any, item_ids: Any) -> Any:
        r"""Returns the scores of pairs of users and items.

        Args:
            user_ids (id or sequence): :obj:`B` users, or one for all items.
            item_ids (id or sequence): :obj:`B` items, or one for all users.

        Returns:
            Scores of shape :obj:`[B]`, or one float for two single ids.

        Raises:
            UnknownIdError: If a user or an item is not known.
            ValueError: If there are not as many users as items.
        """
        one_user, users = _rows(self._user_ids, user_ids)
        one_item, items = _rows(self._item_ids, item_ids)
        size = len(items) if one_user else len(users)
        if not one_item and len(items) != size:
            raise ValueError(f"'item_ids' needs {size} items, one a user "
                             f"(got {len(items)})")
        users = np.broadcast_to(users, size)
        items = np.broadcast_to(items, size)
        out = np.empty(size)
        step = max(1, _BATCH_NUMBERS // self.dim)
        for start in range(0, size, step):
            part = slice(start, start + step)
            dot_rows(self.served_users.read(users[part]),
                     self.served_items.read(items[part]), out[part])
        return float(out[0]) if one_user and one_item else out

    def storage(self) -> dict[str, Any]:
        r"""Returns what the model costs on disk.

        The keys are :obj:`file_bytes` (the whole file), :obj:`embedding_bytes`
        (the bare file: all that scoring by row number needs),
        :obj:`float_bytes` (a float model of 64 dimensions, 256 bytes a node),
        :obj:`bytes_per_node`, :obj:`bits_per_parameter` (8 bytes_per_node /
        64), :obj:`compression_ratio` (float_bytes / embedding_bytes),
        :obj:`mean_bit_width` (code bits of a number, mean over the nodes),
        :obj:`num_nodes` and :obj:`parts`, the bytes of each part, which add
        up to :obj:`file_bytes`.
        """
        flat = self._flat()
        users, items = flat._stored()
        width = users.mean_bits * len(users) + items.mean_bits * len(items)
        return measure_storage(_KIND, flat._encode(bare=True),
                               flat._encode(bare=False),
                               len(users) + len(items), width)

    def save(self, path: PathLike, bare: bool = False) -> None:
        r"""Writes the packed file. The same model gives the same bytes.

        Args:
            path (str or PathLike): The file to write.
            bare (bool): Whether to leave out the catalogue and the metadata.

        Raises:
            PackedFileError: If the file cannot be written.
        """
        write_container(path, _KIND, *self._flat()._encode(bare))

    def compact(self, path: PathLike) -> None:
        r"""Writes one ordinary file of everything that is left, as
        :meth:`save` does too: rows are numbered anew, in the same order, and
        not rounded again, so that its answers are those of this recommender.

        Args:
            path (str or PathLike): The file to write.

        Raises:
            PackedFileError: If the file cannot be written.
        """
        self.save(path)

    def save_delta(self, path: PathLike, since_base: bool = False) -> None:
        r"""Writes what changed since the file that was opened, and since the
        last delta that was opened or saved.

        Args:
            path (str or PathLike): The file to write.
            since_base (bool): Whether to write everything that changed since
                the base file, instead of those deltas.

        Raises:
            PackedFileError: If the file cannot be written.
            ValueError: If the recommender was not opened from a file, or
                :obj:`path` is one of the files that the delta follows.

        Example:
            >>> import tempfile
            >>> folder, rows = tempfile.mkdtemp(), FloatTable([[1.0, 0.0]])
            >>> PackedRecommender(rows, rows).save(f"{folder}/base.nq")
            >>> model = PackedRecommender.open(f"{folder}/base.nq")
            >>> model.append_items([7], rows=[[2.0, 0.0]])
            >>> model.save_delta(f"{folder}/one.nqd")
            >>> PackedRecommender.open(f"{folder}/base.nq",
            ...                        deltas=[f"{folder}/one.nqd"])
            PackedRecommender(1 users, 2 items, dim=2, avg_bits=32.00)
        """
        if self._base is None:
            raise ValueError("a delta needs a recommender that was opened "
                             "from a file: save it, and open that")
        followed = self._chain[:1] if since_base else self._chain
        if any(Path(path).resolve() == Path(one).resolve()
               for one in followed):
            raise ValueError(f"'path' needs to be another file than those "
                             f"that the delta follows (got '{path}')")
        delta = self._since(self._first if since_base else self._saved)
        if since_base:
            delta.after = self._base
        self._last = delta.write(path)
        self._chain = [*followed, path]
        self._saved = self._mark()

    def _stored(self) -> tuple[StoredTable, StoredTable]:
        # The tables of a recommender that did not change since it was made.
        assert not isinstance(self.users, GrownTable)
        assert not isinstance(self.items, GrownTable)
        return self.users, self.items

    def _flat(self) -> PackedRecommender:
        # What is left, without a trace of how it came to be.
        users, items, catalogue = self.users, self.items, self.catalogue
        if isinstance(users, GrownTable) and isinstance(items, GrownTable):
            if isinstance(catalogue, GrownCatalogue):
                catalogue = catalogue.flat()
            return type(self)(users.flat(), items.flat(), catalogue=catalogue,
                              metadata=self.metadata)
        return self

    def _encode(self, bare: bool) -> tuple[dict[str, str], dict[str, Array]]:
        fields, arrays = {}, {}
        for prefix, table in zip("ui", self._stored(), strict=True):
            fields[prefix], part = table.encode(prefix)
            arrays.update(part)
        if self.graph is not None:
            fields["layers"], part = self.graph.encode()
            arrays.update(part)
        if not bare:
            if self.catalogue is not None:
                arrays.update(self.catalogue.encode())
            if self.metadata:
                text = _encode_metadata(self.metadata)
                arrays["c.metadata"] = np.frombuffer(text, dtype=np.uint8)
        return fields, arrays

    @classmethod
    def open(
        cls,
        path: PathLike,
        mmap: bool = True,
        verify: bool = True,
        *,
        deltas: Sequence[PathLike] = (),
    ) -> PackedRecommender:
        r"""Opens a packed file.

        Args:
            path (str or PathLike): The file.
            mmap (bool): Whether to map it instead of reading it, as in
                :meth:`PackedTable.open`.
            verify (bool): Whether to check the checksums of its arrays; the
                header and the layout are checked in any case.
            deltas (sequence): The files that :meth:`save_delta` wrote on top
                of it, in this order.

        Raises:
            PackedFileError: If a file is missing, truncated, changed, foreign
                or of a newer version, or a delta does not follow the files
                before it.
        """
        if isinstance(deltas, (str, os.PathLike)):
            raise ValueError(f"'deltas' needs to be a list of files "
                             f"(got '{deltas}')")
        content = read_container(path, _KIND, mmap, verify)
        users = _decode_table(content, "u")
        items = _decode_table(content, "i")
        graph = catalogue = None
        if "layers" in content.fields:
            graph = PackedGraph.decode(content, len(users), len(items))
        if "c.user" in content.arrays:
            catalogue = Catalogue.decode(content, len(users), len(items))
        try:
            metadata = {}
            if "c.metadata" in content.arrays:
                text = content.take("c.metadata", ["U8"], (None, )).tobytes()
                metadata = json.loads(text.decode())
            opened = cls(users, items, graph=graph, catalogue=catalogue,
                         metadata=metadata)
        except (ValueError, TypeError, RecursionError) as error:
            content.fail(str(error))
        opened._passed(path, content)
        for delta in deltas:
            opened._follow(delta, mmap, verify)
        return opened

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({self.num_users} users, "
                f"{self.num_items} items, dim={self.dim}, "
                f"avg_bits={self.storage()['mean_bit_width']:.2f})")


def _decode_table(content: Container, prefix: str) -> StoredTable:
    if content.field(prefix).startswith("float "):
        return FloatTable.decode(content, prefix)
    return PackedTable.decode(content, prefix)


def _encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False,
                          separators=(",", ":"), allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'metadata' needs to hold what JSON can "
                         f"(got {error})") from None


def _rows(index: IdIndex, ids: Any) -> tuple[bool, Array]:
    # One id or several; anything numpy sees as a single value is one id.
    single = isinstance(ids, str) or np.ndim(ids) == 0
    if single:
        one = ids.item() if isinstance(ids, np.ndarray) else ids
        return True, index.rows([one])
    return False, index.rows(ids)


def _answer(scores: Array, ids: Array, single: bool) -> tuple[Array, Array]:
    return (scores[0], ids[0]) if single else (scores, ids)
