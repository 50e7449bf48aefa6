r"""Plain-text tables and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (0, ),
) -> str:
    r"""Returns aligned text, one line a row.

    Titles and ids come from files of others, so what would move the cursor
    or begin another line shows as a blank.

    Args:
        headers (list): Column names; all empty leaves the line out.
        rows (list): The cells.
        left (list, optional): Columns that align left. (default: the first)

    Example:
        >>> print(format_table(["", "bits"], [["mean", "2.0"]]))
              bits
        mean   2.0
    """
    table = [[printable(cell) for cell in row]
             for row in ([headers, *rows] if any(headers) else rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(headers))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def printable(text: str) -> str:
    r"""Returns text with a blank for each character that is not to be seen.

    Example:
        >>> printable("one\ntwo\x1b[31m")
        'one two [31m'
    """
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else " " for mark in text)


def format_count(value: float) -> str:
    r"""Returns a count with thousands separated."""
    return f"{int(value):,}"


def format_bytes(value: float) -> str:
    r"""Returns a size in a unit that reads well, and exactly.

    Example:
        >>> format_bytes(50400)
        '49.2 KiB (50,400 bytes)'
        >>> format_bytes(12)
        '12 bytes'
    """
    exact = f"{int(value):,} bytes"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.1f} {unit} ({exact})"
    return exact


def bar(value: float, largest: float, width: int = 40) -> str:
    r"""Returns a bar of :obj:`value`, full width being :obj:`largest`.

    Example:
        >>> bar(1, 4, width=8)
        '##'
    """
    if value <= 0 or largest <= 0:
        return ""
    return "#" * max(1, round(width * value / largest))
