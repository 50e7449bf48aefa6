"""Text that holds nothing but non-negative integers, parsed at once."""

from __future__ import annotations

from typing import Optional

import numpy as np

from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.readers.files import (
    PathLike,
    check_utf8,
    read_bytes,
)

_MAX_DIGITS = 18  # what surely fits into int64
_BLANKS = b" \t\r\n"


def read_integers(path: PathLike,
                  separators: bytes = b"") -> tuple[np.ndarray, np.ndarray]:
    r"""Reads integers separated by blanks, of lines of any length.

    Args:
        path (str or Path): The file.
        separators (bytes): Bytes that separate too, beside blanks.

    Returns:
        The integers and the 0-based lines that they stand in, both int64.

    Raises:
        DataError: If something is not a non-negative integer; the file, the
            line and the word are named.
    """
    content = read_bytes(path)
    if content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    if b"\r" in content:  # a line may end in any of the three ways
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    data = np.frombuffer(content, dtype=np.uint8)
    is_digit = (data >= ord("0")) & (data <= ord("9"))
    known = np.zeros(256, dtype=bool)
    known[list(_BLANKS + separators + b"0123456789")] = True
    if not known[data].all():
        _explain(path, content, separators)
    edge = np.diff(is_digit.astype(np.int8), prepend=0, append=0)
    starts, ends = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
    lengths = ends - starts
    longest = int(lengths.max(initial=0))
    if longest > _MAX_DIGITS:
        _explain(path, content, separators)
    values = np.zeros(starts.size, dtype=np.int64)
    for place in range(longest):
        here = np.flatnonzero(lengths > place)
        digits = data[ends[here] - 1 - place].astype(np.int64) - ord("0")
        values[here] += digits * 10**place
    lines = np.searchsorted(np.flatnonzero(data == ord("\n")), starts)
    return values, lines


def _explain(path: PathLike, content: bytes, separators: bytes) -> None:
    # Only on the way to an error, so it may be slow.
    check_utf8(path, content)
    table = bytes.maketrans(separators, b" " * len(separators))
    for number, line in enumerate(content.split(b"\n"), start=1):
        for word in line.translate(table).split():
            where = f"'{path}', line {number}"
            shown = word.decode()[:40]
            if word.isdigit() and len(word) <= _MAX_DIGITS:
                continue
            if word.isdigit():
                raise DataError(f"{where}: the number {shown} has more than "
                                f"{_MAX_DIGITS} digits")
            if word[:1] == b"-" and word[1:].isdigit():
                raise DataError(f"{where}: ids and ratings need to be 0 or "
                                f"above (got {shown})")
            raise DataError(f"{where}: only integers are allowed here "
                            f"(got '{shown}')")
    raise DataError(f"'{path}' holds characters that are not text")


def read_integer_columns(path: PathLike, columns: int,
                         separators: bytes = b"",
                         what: Optional[str] = None) -> np.ndarray:
    r"""Reads a file with the same number of integers on every line.

    Args:
        path (str or Path): The file.
        columns (int): Integers on a line; blank lines are skipped.
        separators (bytes): Bytes that separate, beside blanks.
        what (str, optional): What the columns are, for the error.

    Returns:
        The integers, int64 :obj:`[lines, columns]`.

    Raises:
        DataError: If a line has more or fewer, or the file has none.
    """
    values, lines = read_integers(path, separators)
    if values.size == 0:
        raise DataError(f"'{path}' is empty")
    lengths = np.bincount(lines)
    wrong = np.flatnonzero((lengths != columns) & (lengths != 0))
    if wrong.size:
        described = f" ({what})" if what else ""
        raise DataError(f"'{path}', line {wrong[0] + 1}: needs {columns} "
                        f"integers{described} (got {lengths[wrong[0]]})")
    return values.reshape(-1, columns)
