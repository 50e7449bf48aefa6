r"""Reads a file of user or item ids, with the standard library."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_ids(path: str, column: str) -> list[Any]:
    r"""Returns the ids of a file in order, each once.

    Args:
        path (str): Plain text with one id a line, or a table with a header
            (`.csv`, `.tsv`, `.parquet`).
        column (str): The column of a table to read; its first column if
            there is none of this name.

    Raises:
        ValueError: If there is no id in it.
        OSError: If it cannot be read.
    """
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".parquet":
            ids = read_parquet(path, column)
        elif suffix in DELIMITERS:
            ids = read_delimited(path, column, DELIMITERS[suffix])
        else:
            with open(path, encoding="utf-8-sig") as file:
                ids = [line.strip() for line in file]
    except csv.Error as error:
        raise ValueError(f"'{path}' cannot be read as a table: "
                         f"{error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' needs to be text in UTF-8: {error.reason}"
                         f" at byte {error.start}") from error
    ids = list(dict.fromkeys(one for one in ids if one not in ("", None)))
    if not ids:
        raise ValueError(f"'{path}' holds no {column.replace('_', ' ')}")
    return ids


def read_delimited(path: str, column: str, delimiter: str) -> list[Any]:
    r"""Returns a column of a table in text form."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        header = next(rows, [])
        place = header.index(column) if column in header else 0
        return [row[place].strip() for row in rows if len(row) > place]


def read_parquet(path: str, column: str) -> list[Any]:
    r"""Returns a column of a Parquet table."""
    import polars

    with open(path, "rb"):  # polars' own errors for a folder mislead
        pass
    try:
        names = polars.read_parquet_schema(path)
        name = column if column in names else next(iter(names))
        ids = polars.read_parquet(path, columns=[name])[name]
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException,
            StopIteration) as error:
        raise ValueError(f"'{path}' cannot be read as a Parquet table: "
                         f"{error}") from error
    if ids.dtype.is_nested() or ids.dtype == polars.Binary:
        raise ValueError(f"the column '{name}' of '{path}' needs to hold "
                         f"integers or text (got {ids.dtype})")
    return ids.to_list()
