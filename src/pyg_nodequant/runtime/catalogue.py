r"""What a packed file knows of its users and items besides their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Optional

import numpy as np

from pyg_nodequant.runtime.csr import (
    CSR,
    check_csr,
    check_range,
    smallest_unsigned,
    take_rows,
)
from pyg_nodequant.runtime.file_format import Container
from pyg_nodequant.runtime.graph import read_lists

Array = np.ndarray[Any, Any]

_SIGNED = ("I8", "I16", "I32", "I64")


class UnknownIdError(ValueError):
    r"""A user or item is not in the catalogue; says which."""


class IdIndex:
    r"""Original ids, and the rows they stand for.

    Args:
        ids (sequence): Distinct ids, all integers or all strings.
        what (str): What they name, for errors: :obj:`"user"` or
            :obj:`"item"`.

    Raises:
        ValueError: If ids repeat, or are neither integers nor strings.

    Example:
        >>> IdIndex([30, 10, 20], "user").rows(["10", 30]).tolist()
        [1, 0]
    """

    def __init__(self, ids: Any, what: str) -> None:
        self.what = what
        self.ids = _normalise(ids, what)
        self._sorted: Optional[Array] = None
        self._order: Optional[Array] = None
        self._places: Optional[dict[str, int]] = None
        if len(self.ids) != len(np.unique(self.ids)):
            raise ValueError(f"'{what}_ids' needs to be distinct (got one "
                             f"twice)")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_strings(self) -> bool:
        r"""Whether the ids are strings."""
        return bool(self.ids.dtype.kind == "O")

    def rows(self, ids: Any) -> Array:
        r"""Returns the rows of ids; text may stand for an integer id and an
        integer for a text id.

        Args:
            ids (sequence): Original ids.

        Raises:
            UnknownIdError: If an id is not known.
        """
        rows = self.find(ids)
        if (rows < 0).any():
            one = list(ids)[int(np.argmax(rows < 0))]
            number = None if self.are_strings else _integer(one)
            self._unknown(one if number is None else number)
        return rows

    def find(self, ids: Any) -> Array:
        r"""Returns the rows of ids as :meth:`rows` does, -1 for those that
        are not known.
        """
        given = np.asarray(ids)
        if given.ndim != 1:
            raise ValueError(f"'{self.what}_ids' needs one dimension "
                             f"(got {given.ndim})")
        if not len(given):
            return np.zeros(0, dtype=np.int64)
        if self.are_strings:
            return self._string_rows(ids)
        known = np.ones(len(given), dtype=np.bool_)
        if given.dtype.kind == "i":
            wanted = given
        else:
            numbers = [_integer(one) for one in list(ids)]
            known = np.array([number is not None for number in numbers])
            wanted = np.array([number or 0 for number in numbers],
                              dtype=np.int64)
        if self._sorted is None or self._order is None:
            self._order = np.argsort(self.ids)
            self._sorted = self.ids[self._order]
        place = np.searchsorted(self._sorted, wanted)
        found = known & (place < len(self))
        found[found] = self._sorted[place[found]] == wanted[found]
        rows = np.full(len(given), -1, dtype=np.int64)
        rows[found] = self._order[place[found]]
        return rows

    def _string_rows(self, ids: Any) -> Array:
        if self._places is None:
            self._places = {one: row for row, one in enumerate(self.ids)}
        rows = []
        for one in list(ids):
            text = one if isinstance(one, str) else None
            if _is_integer(one):
                text = str(int(one))
            rows.append(-1 if text is None else self._places.get(text, -1))
        return np.array(rows, dtype=np.int64)

    def _unknown(self, one: Any) -> NoReturn:
        shown = f"'{one}'" if isinstance(one, str) else f"{one}"
        if not len(self):
            raise UnknownIdError(f"unknown {self.what} {shown}: the file has "
                                 f"no {self.what}s")
        if self.are_strings:
            like = f"strings such as '{self.ids[0]}'"
        else:
            like = f"integers such as {self.ids[0]}"
        raise UnknownIdError(f"unknown {self.what} {shown}: the ids of the "
                             f"{len(self)} {self.what}s are {like}")

    def live(self) -> Array:
        r"""Returns the rows that ids stand for, ascending."""
        return np.arange(len(self))

    def take(self, rows: Array) -> Array:
        r"""Returns the ids of rows, -1 or :obj:`None` for row -1."""
        if not len(self):
            return np.full(rows.shape, -1, dtype=np.int64)
        out = self.ids[rows]
        out[rows < 0] = None if self.are_strings else -1
        return out

    def encode(self, name: str) -> dict[str, Array]:
        r"""Returns the arrays that hold the ids."""
        return encode_ids(name, self.ids)

    @classmethod
    def decode(cls, content: Container, name: str, what: str,
               count: int) -> IdIndex:
        r"""Reads what :meth:`encode` returned."""
        ids: Any
        if f"{name}.size" in content.arrays:
            ids = decode_strings(content, name, count)
        else:
            ids = content.take(name, _SIGNED, (count, ))
        try:
            return cls(ids, what)
        except ValueError as error:
            content.fail(str(error))


class Catalogue:
    r"""Original ids, titles, and what users have seen.

    Args:
        user_ids (sequence): Distinct original ids, integers or strings.
        item_ids (sequence): Likewise for items.
        item_titles (sequence, optional): A title for each item.
        seen (tuple, optional): :obj:`(indptr, indices)`: the item rows that
            each user has seen.

    Raises:
        ValueError: If an argument is not of this form.

    Example:
        >>> catalogue = Catalogue(["ann", "bob"], [7, 9], ["One", "Two"])
        >>> catalogue.users.rows(["bob"]).tolist(), catalogue.titles([9, 7])
        ([1], ['Two', 'One'])
    """

    def __init__(
        self,
        user_ids: Any,
        item_ids: Any,
        item_titles: Optional[Sequence[Optional[str]]] = None,
        seen: Optional[CSR] = None,
    ) -> None:
        self.users = IdIndex(user_ids, "user")
        self.items = IdIndex(item_ids, "item")
        self.item_titles: Optional[list[str]] = None
        if item_titles is not None:
            titles = list(item_titles)
            if len(titles) != len(self.items):
                raise ValueError(f"'item_titles' needs {len(self.items)} "
                                 f"titles, one an item (got {len(titles)})")
            self.item_titles = ["" if title is None else str(title)
                                for title in titles]
        self._seen: Optional[CSR] = None
        if seen is not None:
            self._seen = check_csr("seen", seen, len(self.users),
                                   len(self.items))

    @property
    def seen(self) -> Optional[CSR]:
        r"""The item rows that each user has seen, ascending, as
        :obj:`(indptr, indices)`.
        """
        return self._seen

    def seen_by(self, rows: Array) -> Optional[CSR]:
        r"""The item rows that some users have seen, likewise."""
        return None if self._seen is None else take_rows(self._seen, rows)

    @property
    def user_ids(self) -> Array:
        r"""The original ids of users, by row."""
        return self.users.ids

    @property
    def item_ids(self) -> Array:
        r"""The original ids of items, by row."""
        return self.items.ids

    def titles(self, item_ids: Any) -> list[str]:
        r"""Returns the titles of items, empty where there are none.

        Raises:
            UnknownIdError: If an item is not known.
        """
        rows = self.items.rows(item_ids)
        if self.item_titles is None:
            return [""] * len(rows)
        return [self.item_titles[row] for row in rows]

    @property
    def resident_bytes(self) -> int:
        r"""The bytes its arrays hold in memory (strings as UTF-8)."""
        return sum(array.nbytes for array in self.encode().values())

    def encode(self) -> dict[str, Array]:
        r"""Returns the arrays that hold the catalogue."""
        arrays = {**self.users.encode("c.user"), **self.items.encode("c.item")}
        if self.item_titles is not None:
            arrays.update(encode_strings("c.title", self.item_titles))
        if self.seen is not None:
            arrays["c.seen.degree"] = smallest_unsigned(np.diff(self.seen[0]))
            arrays["c.seen.item"] = smallest_unsigned(self.seen[1])
        return arrays

    @classmethod
    def decode(cls, content: Container, num_users: int,
               num_items: int) -> Catalogue:
        r"""Reads what :meth:`encode` returned."""
        users = IdIndex.decode(content, "c.user", "user", num_users)
        items = IdIndex.decode(content, "c.item", "item", num_items)
        titles = seen = None
        if "c.title" in content.arrays:
            titles = decode_strings(content, "c.title", num_items)
        if "c.seen.degree" in content.arrays:
            seen = read_lists(content, "c.seen", num_users)
            try:
                check_range("c.seen.item", seen[1], num_items)
            except ValueError as error:
                content.fail(str(error))
        catalogue = cls.__new__(cls)
        catalogue.users, catalogue.items = users, items
        catalogue.item_titles = titles
        catalogue._seen = seen and check_csr("seen", seen, num_users,
                                             num_items)
        return catalogue

    def __repr__(self) -> str:
        seen = 0 if self.seen is None else len(self.seen[1])
        return (f"{type(self).__name__}({len(self.users)}, "
                f"{len(self.items)}, seen={seen})")


def _is_integer(one: Any) -> bool:
    return (isinstance(one, (int, np.integer))
            and not isinstance(one, (bool, np.bool_)))


def _integer(one: Any) -> Optional[int]:
    number = None
    if _is_integer(one) or (isinstance(one, (float, np.floating))
                            and float(one).is_integer()):
        number = int(one)
    elif isinstance(one, str):
        text = one.strip()
        if text.lstrip("+-").isdecimal() and len(text) < 20:
            try:
                number = int(text)
            except ValueError:
                pass
    return None if number is None or abs(number) >= 2**63 else number


def _normalise(ids: Any, what: str) -> Array:
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"'{what}_ids' needs one dimension "
                         f"(got {array.ndim})")
    if array.dtype.kind == "i" or not len(array):
        return array.astype(np.int64)
    # Through objects: numpy would turn a mixture into strings silently.
    values = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    if all(_is_integer(one) for one in values):
        if max(values) >= 2**63 or min(values) < -2**63:
            raise ValueError(f"'{what}_ids' needs integers of at most 64 "
                             f"bits: pass them as strings")
        return np.array(values, dtype=np.int64)
    if all(isinstance(one, str) for one in values):
        out = np.empty(len(values), dtype=object)
        out[:] = [str(one) for one in values]
        return out
    raise ValueError(f"'{what}_ids' needs to hold integers only or strings "
                     f"only (got {array.dtype})")


def _smallest_signed(values: Array) -> Array:
    low, high = ((int(values.min()), int(values.max())) if len(values) else
                 (0, 0))
    for dtype in (np.int8, np.int16, np.int32):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return values.astype(dtype)
    return values.astype(np.int64)


def encode_ids(name: str, ids: Array) -> dict[str, Array]:
    r"""Returns the arrays that hold ids, integers or strings."""
    if ids.dtype.kind == "O":
        return encode_strings(name, ids)
    return {name: _smallest_signed(ids)}


def encode_strings(name: str, strings: Any) -> dict[str, Array]:
    r"""Returns the arrays that hold strings: their bytes and lengths."""
    parts = [one.encode("utf-8", "surrogatepass") for one in strings]
    sizes = np.array([len(part) for part in parts], dtype=np.int64)
    return {
        name: np.frombuffer(b"".join(parts), dtype=np.uint8),
        f"{name}.size": smallest_unsigned(sizes),
    }


def decode_strings(content: Container, name: str, count: int) -> list[str]:
    r"""Reads what :meth:`encode_strings` returned."""
    sizes = content.take(f"{name}.size", ["U8", "U16", "U32"], (count, ))
    ends = np.cumsum(sizes, dtype=np.int64)
    total = int(ends[-1]) if count else 0
    data = content.take(name, ["U8"], (total, )).tobytes()
    starts = (ends - sizes).tolist()
    try:
        return [
            data[start:end].decode("utf-8", "surrogatepass")
            for start, end in zip(starts, ends.tolist(), strict=True)
        ]
    except UnicodeDecodeError:
        content.fail(f"the strings of '{name}' are not UTF-8")
