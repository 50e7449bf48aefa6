r"""Delta files: what changed in a recommender since a file was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Union

import numpy as np

from pyg_nodequant.runtime.atomic import PathLike
from pyg_nodequant.runtime.catalogue import (
    Array,
    decode_strings,
    encode_ids,
    encode_strings,
)
from pyg_nodequant.runtime.csr import check_range, smallest_unsigned
from pyg_nodequant.runtime.file_format import (
    Container,
    read_container,
    write_container,
)
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.table import PackedTable

Table = Union[PackedTable, FloatTable]

KIND = "delta"
# What the rows of a delta share with those of its base.
_SHARED = ("classes", "log", "log4")
_UNSIGNED = ("U8", "U16", "U32")


def _none() -> Array:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Delta:
    r"""Appended rows, removed rows and what users have seen since a file.

    Args:
        base (str): The checksum of the base file.
        after (str): The checksum of the file that it follows: the base, or
            another delta.
        num_users (int): The rows of users there are in that file, and before
            it.
        num_items (int): The rows of items, likewise.
        users (PackedTable or FloatTable, optional): Appended rows of users,
            in the form of the base's.
        items (PackedTable or FloatTable, optional): Appended rows of items.
        user_ids (array): The ids of appended users.
        item_ids (array): The ids of appended items.
        titles (list, optional): The titles of appended items.
        removed_users (array): Removed rows of users, ascending; they may be
            among the appended ones.
        removed_items (array): Removed rows of items.
        seen_users (array): Rows of users that have seen
        seen_items (array): these rows of items; sorted.
    """

    base: str
    after: str
    num_users: int
    num_items: int
    users: Optional[Table] = None
    items: Optional[Table] = None
    user_ids: Array = field(default_factory=_none)
    item_ids: Array = field(default_factory=_none)
    titles: Optional[list[str]] = None
    removed_users: Array = field(default_factory=_none)
    removed_items: Array = field(default_factory=_none)
    seen_users: Array = field(default_factory=_none)
    seen_items: Array = field(default_factory=_none)

    def write(self, path: PathLike) -> str:
        r"""Writes the file and returns its checksum.

        Raises:
            PackedFileError: If it cannot be written.
        """
        fields = {"base": self.base, "after": self.after,
                  "rows": f"{self.num_users} {self.num_items}"}
        arrays: dict[str, Array] = {}
        for prefix, table, ids, name in (
            ("u", self.users, self.user_ids, "c.user"),
            ("i", self.items, self.item_ids, "c.item"),
        ):
            if table is None:
                continue
            fields[prefix], part = table.encode(prefix)
            for shared in _SHARED:
                part.pop(f"{prefix}.{shared}", None)
            arrays.update(part)
            arrays.update(encode_ids(name, ids))
        if self.titles is not None:
            arrays.update(encode_strings("c.title", self.titles))
        seers, counts = np.unique(self.seen_users, return_counts=True)
        for name, rows in (("d.user", self.removed_users),
                           ("d.item", self.removed_items),
                           ("d.seen.user", seers),
                           ("d.seen.degree", counts),
                           ("d.seen.item", self.seen_items)):
            if len(rows):
                arrays[name] = smallest_unsigned(rows)
        write_container(path, KIND, fields, arrays)
        return read_container(path, KIND, verify=False).fields["checksum"]

    @classmethod
    def read(
        cls,
        path: PathLike,
        base: str,
        after: str,
        users: Table,
        items: Table,
        mmap: bool = True,
        verify: bool = True,
    ) -> tuple[Delta, Container]:
        r"""Opens a delta of a base.

        Args:
            path (str or PathLike): The file.
            base (str): The checksum of the base file.
            after (str): The checksum of the file that it has to follow.
            users (PackedTable or FloatTable): The users of the base.
            items (PackedTable or FloatTable): The items of the base.
            mmap (bool): As in :meth:`PackedTable.open`.
            verify (bool): Likewise.

        Returns:
            What it holds, and the file, for errors.

        Raises:
            PackedFileError: If the file is missing, damaged, no delta, or one
                that follows other files.
        """
        content = read_container(path, KIND, mmap, verify)
        if content.field("base") != base:
            content.fail(f"it is a delta of another base file (of checksum "
                         f"{content.fields['base']}, this one has {base})")
        if content.field("after") != after:
            content.fail(f"it follows the file of checksum "
                         f"{content.fields['after']}, not the one before it "
                         f"({after}): give the deltas in the order in which "
                         f"they were saved")
        counts = content.field("rows").split(" ")
        if len(counts) != 2 or not all(
                one.isascii() and one.isdigit() and len(one) <= 12
                for one in counts):
            content.fail("its field 'rows' is damaged")
        out = cls(base, after, int(counts[0]), int(counts[1]))
        out.users = _decode_table(content, "u", users)
        out.items = _decode_table(content, "i", items)
        sizes = [0 if table is None else len(table)
                 for table in (out.users, out.items)]
        out.user_ids = _decode_ids(content, "c.user", sizes[0])
        out.item_ids = _decode_ids(content, "c.item", sizes[1])
        if "c.title" in content.arrays:
            out.titles = decode_strings(content, "c.title", sizes[1])
        rows = out.num_users + sizes[0], out.num_items + sizes[1]
        out.removed_users = _decode_rows(content, "d.user", rows[0])
        out.removed_items = _decode_rows(content, "d.item", rows[1])
        seers = _decode_rows(content, "d.seen.user", rows[0])
        degree = _decode_rows(content, "d.seen.degree")
        out.seen_items = _decode_rows(content, "d.seen.item", rows[1], False)
        if len(degree) != len(seers) or degree.sum() != len(out.seen_items):
            content.fail("its arrays 'd.seen.user', 'd.seen.degree' and "
                         "'d.seen.item' do not belong together")
        out.seen_users = np.repeat(seers, degree)
        return out, content


def _decode_table(content: Container, prefix: str,
                  base: Table) -> Optional[Table]:
    if prefix not in content.fields:
        return None
    form, arrays = base.encode(prefix)
    words, own = form.split(" "), content.fields[prefix].split(" ")
    if own[:1] + own[2:] != words[:1] + words[2:]:
        content.fail(f"its table '{prefix}' is not of the form of its base's")
    for shared in _SHARED:
        name = f"{prefix}.{shared}"
        if name in content.arrays:
            content.fail(f"the array '{name}' belongs to its base")
        if name in arrays:
            content.arrays[name] = arrays[name]
    table: Table = (FloatTable if words[0] == "float" else
                    PackedTable).decode(content, prefix)
    for name in ("scale", "offset"):
        old = arrays.get(f"{prefix}.{name}")
        new = content.arrays.get(f"{prefix}.{name}")
        if new is not None and (old is None or old.dtype != new.dtype):
            content.fail(f"the array '{prefix}.{name}' is not of the type of "
                         f"its base's")
    return table


def _decode_ids(content: Container, name: str, count: int) -> Array:
    if f"{name}.size" in content.arrays:
        out = np.empty(count, dtype=object)
        out[:] = decode_strings(content, name, count)
        return out
    if not count and name not in content.arrays:
        return _none()
    return content.take(name, ("I8", "I16", "I32", "I64"),
                        (count, )).astype(np.int64)


def _decode_rows(content: Container, name: str, size: Optional[int] = None,
                 ascends: bool = True) -> Array:
    # Row numbers below `size`, or counts where there is none.
    if name not in content.arrays:
        return _none()
    rows = content.take(name, _UNSIGNED, (None, )).astype(np.int64)
    if size is None:
        return rows
    try:
        check_range(name, rows, size)
    except ValueError as error:
        content.fail(str(error))
    if ascends and (np.diff(rows) <= 0).any():
        content.fail(f"the array '{name}' does not ascend")
    return rows
