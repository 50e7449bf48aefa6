r"""Recommendations from a packed file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional, Union

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.catalogue import Catalogue, IdIndex
from pyg_nodequant.runtime.csr import CSR, check_csr, take_rows
from pyg_nodequant.runtime.file_format import (
    Container,
    encode_container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.graph import PackedGraph
from pyg_nodequant.runtime.table import PackedTable
from pyg_nodequant.runtime.topk import check_k, dot_rows, top_rows

Array = np.ndarray[Any, Any]
Table = Union[PackedTable, FloatTable]

_KIND = "recommender"
# Users whose rows are read at once, in numbers: bounds the memory of a batch.
_BATCH_NUMBERS = 1 << 22

_EMBEDDING_PARTS = {
    "codes": "codes", "scale": "scales", "log": "scales", "offset": "offsets",
    "class": "class_ids", "classes": "class_tables", "rows": "float_rows",
    "degree": "graph", "item": "graph",
}  # yapf: disable
_CATALOGUE_PARTS = {
    "c.user": "ids", "c.user.size": "ids", "c.item": "ids",
    "c.item.size": "ids", "c.title": "titles", "c.title.size": "titles",
    "c.seen.degree": "seen", "c.seen.item": "seen", "c.metadata": "metadata",
}  # yapf: disable


class PackedRecommender:
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
        users: Table,
        items: Table,
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
        self.users = users
        self.items = items
        self.graph = graph
        self.catalogue = catalogue
        self.metadata: dict[str, Any] = dict(metadata or {})
        _encode_metadata(self.metadata)
        self._user_ids = (IdIndex(np.arange(sizes[0]), "user")
                          if catalogue is None else catalogue.users)
        self._item_ids = (IdIndex(np.arange(sizes[1]), "item")
                          if catalogue is None else catalogue.items)
        self.served_users: Table = users
        self.served_items: Table = items
        if graph is not None:
            rows = graph.propagate(users.dequantize(), items.dequantize())
            self.served_users = FloatTable(rows[0])
            self.served_items = FloatTable(rows[1])

    @property
    def num_users(self) -> int:
        r"""The number of users."""
        return len(self.users)

    @property
    def num_items(self) -> int:
        r"""The number of items."""
        return len(self.items)

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
        if exclude is not None:
            exclude = check_csr("exclude", exclude, len(rows), self.num_items)
        allowed = self.served_items.check_allow(allow)
        scores = np.empty((len(rows), k))
        items = np.empty((len(rows), k), dtype=np.int64)
        step = max(1, _BATCH_NUMBERS // self.dim)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            masked = exclude
            if exclude is not None and len(rows) > step:
                masked = take_rows(exclude, np.arange(len(rows))[part])
            scores[part], items[part] = self.served_items.search(
                self.served_users.dequantize(rows[part]), k, masked, allowed)
        return scores, items

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
            if self.catalogue is None or self.catalogue.seen is None:
                raise ValueError("'exclude_seen' needs to be False where "
                                 "there are no seen lists, as in a bare file "
                                 "(got True)")
            seen = take_rows(self.catalogue.seen, rows)
        allowed = None
        if allow is not None:
            allowed = np.unique(_rows(self._item_ids, allow)[1])
        if exclude is not None:
            every = np.arange(self.num_items) if allowed is None else allowed
            allowed = np.setdiff1d(every, _rows(self._item_ids, exclude)[1])
        scores, items = self.topk_rows(rows, k, seen, allowed)
        return _answer(scores, self._item_ids.take(items), single)

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
        scores = np.empty((len(rows), k))
        items = np.empty((len(rows), k), dtype=np.int64)
        step = max(1, _BATCH_NUMBERS // self.dim)
        for start in range(0, len(rows), step):
            part = rows[start:start + step]
            itself = np.arange(len(part) + 1), part
            found = top_rows(self._directions,
                             self.served_items.reading_order(),
                             self._directions(part), k, itself)
            scores[start:start + step], items[start:start + step] = found
        return _answer(scores, self._item_ids.take(items), single)

    def _directions(self, rows: Array) -> Array:
        x = self.served_items.read(rows)
        length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        return np.asarray(x / np.where(length > 0, length, 1.0))

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
        parts = dict.fromkeys([
            "header", *_EMBEDDING_PARTS.values(), "catalogue_header",
            *_CATALOGUE_PARTS.values()
        ], 0)
        bare = self._encode(bare=True)
        full = self._encode(bare=False)
        parts["header"] = len(encode_container(_KIND, *bare)[0])
        parts["catalogue_header"] = (len(encode_container(_KIND, *full)[0]) -
                                     parts["header"])
        for name, array in bare[1].items():
            parts[_EMBEDDING_PARTS[name.split(".")[1]]] += array.nbytes
        embedding_bytes = sum(parts.values()) - parts["catalogue_header"]
        for name, array in full[1].items():
            if name not in bare[1]:
                parts[_CATALOGUE_PARTS[name]] += array.nbytes
        nodes = self.num_users + self.num_items
        bits = (self.users.mean_bits * self.num_users +
                self.items.mean_bits * self.num_items)
        bytes_per_node = embedding_bytes / max(nodes, 1)
        return {
            "file_bytes": sum(parts.values()),
            "embedding_bytes": embedding_bytes,
            "float_bytes": 256 * nodes,
            "bytes_per_node": bytes_per_node,
            "bits_per_parameter": 8 * bytes_per_node / 64,
            "compression_ratio": 256 * nodes / embedding_bytes,
            "mean_bit_width": bits / max(nodes, 1),
            "num_nodes": nodes,
            "parts": parts,
        }

    def save(self, path: PathLike, bare: bool = False) -> None:
        r"""Writes the packed file. The same model gives the same bytes.

        Args:
            path (str or PathLike): The file to write.
            bare (bool): Whether to leave out the catalogue and the metadata.

        Raises:
            PackedFileError: If the file cannot be written.
        """
        write_container(path, _KIND, *self._encode(bare))

    def _encode(self, bare: bool) -> tuple[dict[str, str], dict[str, Array]]:
        fields, arrays = {}, {}
        for prefix, table in (("u", self.users), ("i", self.items)):
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
    def open(cls, path: PathLike, mmap: bool = True,
             verify: bool = True) -> PackedRecommender:
        r"""Opens a packed file.

        Args:
            path (str or PathLike): The file.
            mmap (bool): Whether to map it instead of reading it, as in
                :meth:`PackedTable.open`.
            verify (bool): Whether to check the checksums of its arrays; the
                header and the layout are checked in any case.

        Raises:
            PackedFileError: If the file is missing, truncated, changed,
                foreign or of a newer version.
        """
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
            return cls(users, items, graph=graph, catalogue=catalogue,
                       metadata=metadata)
        except (ValueError, TypeError, RecursionError) as error:
            content.fail(str(error))

    def __repr__(self) -> str:
        return (f"{type(self).__name__}({self.num_users} users, "
                f"{self.num_items} items, dim={self.dim}, "
                f"avg_bits={self.storage()['mean_bit_width']:.2f})")


def _decode_table(content: Container, prefix: str) -> Table:
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
