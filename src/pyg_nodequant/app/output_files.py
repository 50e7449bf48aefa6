r"""Writes a table to a file, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyg_nodequant.runtime.atomic import write_atomic

SUFFIXES = (".csv", ".parquet")


def check_output(path: str) -> None:
    r"""Raises an error if a table cannot be written to :obj:`path`: better
    now than after the work.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"'--output' needs to end in "
                         f"{' or '.join(SUFFIXES)} (got '{path}')")
    if suffix == ".parquet":
        import polars  # noqa: F401
    if Path(path).is_dir():
        raise ValueError(f"'--output' needs to be a file (got the folder "
                         f"'{path}')")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise ValueError(f"'--output' needs to be in an existing folder "
                         f"(got '{path}')")


def write_table(
    path: str,
    columns: Sequence[str],
    batches: Iterable[Sequence[Sequence[Any]]],
) -> None:
    r"""Writes rows that come in batches, never all in memory.

    Args:
        path (str): Ends in `.csv` or `.parquet`.
        columns (list): The header.
        batches (iterable): Lists of rows.

    Raises:
        OSError: If :obj:`path` cannot be written; it is named, not the file
            beside it that is written first.
    """
    try:
        if Path(path).suffix.lower() == ".parquet":
            write_parquet(path, columns, batches)
        else:
            write_atomic(path, csv_chunks(columns, batches))
    except OSError as error:
        raise OSError(error.errno, f"'--output' cannot be written, "
                      f"{error.strerror}", path) from error


def csv_chunks(
    columns: Sequence[str],
    batches: Iterable[Sequence[Sequence[Any]]],
) -> Iterator[bytes]:
    r"""Yields a table as the bytes of a CSV file."""
    yield csv_bytes([columns])
    for batch in batches:
        yield csv_bytes(batch)


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    r"""Returns rows as lines of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def write_parquet(
    path: str,
    columns: Sequence[str],
    batches: Iterable[Sequence[Sequence[Any]]],
) -> None:
    r"""Writes a Parquet table; polars holds it in memory, compactly."""
    import polars

    frames = [
        polars.DataFrame(list(rows), schema=list(columns), orient="row")
        for rows in batches if rows
    ]
    whole = polars.concat(frames) if frames else polars.DataFrame(
        schema=list(columns))
    buffer = io.BytesIO()
    whole.write_parquet(buffer)
    write_atomic(path, [buffer.getbuffer()])
