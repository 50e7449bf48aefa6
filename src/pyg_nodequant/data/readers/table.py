"""CSV, TSV and Parquet tables with named columns."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from pyg_nodequant.data.assemble import assemble
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers.files import (
    PathLike,
    check_utf8,
    existing_file,
    read_bytes,
)

if TYPE_CHECKING:
    import polars as pl

_PARQUET = (".parquet", ".pq")
_TAB_SEPARATED = (".tsv", ".tab", ".inter")
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"  # what int and back leaves as it is


@dataclass(frozen=True)
class Columns:
    r"""Which column of a table says what."""

    user: str = "user_id"
    item: str = "item_id"
    rating: Optional[str] = None
    time: Optional[str] = None
    title: Optional[str] = None

    def named(self) -> dict[str, str]:
        r"""Returns the columns in use, by what they say."""
        return {key: column for key, column in vars(self).items()
                if column is not None}


DEFAULT_COLUMNS = Columns()


def read_table(
    path: PathLike,
    columns: Columns = DEFAULT_COLUMNS,
    *,
    min_rating: Optional[float] = None,
    separator: Optional[str] = None,
    split: str = "random",
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    name: Optional[str] = None,
) -> Interactions:
    r"""Reads a table with one interaction a row.

    A column of integers gives integer ids; anything else stays the text that
    it is (``007`` is not ``7``). Which rows come first in the file changes
    nothing.

    Args:
        path (str or Path): A ``.parquet`` file, or delimited text in UTF-8
            with a header line (compressed by gzip or not).
        columns (Columns): The names of the columns.
        min_rating (float, optional): Rows with a lower rating are dropped and
            counted.
        separator (str, optional): One character between the columns of a
            text. Default: a tab for ``.tsv``, else what the header line
            shows: tab, comma, semicolon or bar.
        split (str): :obj:`"random"`, or :obj:`"time"` to hold out the latest
            rows.
        test_fraction (float): Share of the interactions held out for testing.
        val_fraction (float): Share of the rest held out for validation.
        split_seed (int): Seed of the random split.
        name (str, optional): Default: the file's name without its ending.

    Raises:
        DataError: If the file, a column or a value cannot be used.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "tiny.csv"
        >>> _ = file.write_text("user_id,item_id\nann,tea\nbob,tea\n")
        >>> data = read_table(file, test_fraction=0, val_fraction=0)
        >>> data
        Interactions('tiny', 2 users, 1 items, train=2, val=0, test=0)
        >>> data.user_ids.tolist()
        ['ann', 'bob']
    """
    path = existing_file(path)
    if path.suffix.lower() in _PARQUET:
        frame = _read_parquet(path, columns)
    else:
        frame = read_delimited(path, columns,
                               _separator(path, separator), quote='"')
    return table_interactions(
        frame, path, columns, min_rating=min_rating, split=split,
        test_fraction=test_fraction, val_fraction=val_fraction,
        split_seed=split_seed, name=path.stem if name is None else name)


def table_interactions(
    frame: pl.DataFrame,
    path: Path,
    columns: Columns,
    *,
    min_rating: Optional[float],
    name: str,
    **split: Any,
) -> Interactions:
    r"""Turns a frame with columns ``user``, ``item``, and where they are
    named ``rating``, ``time`` and ``title``, into interactions.
    """
    if min_rating is not None and columns.rating is None:
        raise DataError("'data.min_rating' needs 'data.rating_column' to say "
                        "which column holds the ratings")
    if frame.height == 0:
        raise DataError(f"'{path}' holds no rows")
    named = columns.named()
    counts = {"rows_read": frame.height}
    frame = frame.with_columns(
        _plain(frame[key], key, path, column)
        for key, column in named.items())
    for key in ("user", "item"):
        _refuse(_missing(frame[key]), path,
                f"the {key} id is missing or NaN (column '{named[key]}')")
        if frame[key].dtype.is_float():
            _refuse(frame[key].is_infinite(), path,
                    f"the {key} id is infinite (column '{named[key]}')")
    times = titles = None
    if columns.time is not None:  # of all rows, so that errors count them
        times = _times(frame["time"], path, columns.time)
    if columns.rating is not None:
        ratings = _numbers(frame["rating"], path, columns.rating)
        if min_rating is not None:
            keep = ratings >= min_rating
            counts["ratings_below_min"] = int((~keep).sum())
            frame = frame.filter(keep)
            times = None if times is None else times[keep]
            if frame.height == 0:
                raise DataError(f"'data.min_rating' needs to leave "
                                f"interactions: the largest rating in "
                                f"'{path}' is {ratings.max():g} (got "
                                f"{min_rating:g})")
    user_ids, users = _number(frame["user"], path, named["user"])
    item_ids, items = _number(frame["item"], path, named["item"])
    if columns.title is not None:
        titles = _titles(frame["title"], items, len(item_ids))
    return assemble({"train": (users, items)}, user_ids, item_ids,
                    times=times, item_titles=titles, counts=counts,
                    name=name, **split)


def read_delimited(
    path: Path,
    columns: Columns,
    separator: str,
    quote: Optional[str],
    plain_name: Callable[[str], str] = str,
) -> pl.DataFrame:
    r"""Reads the named columns of a delimited text, all of them as text.

    Args:
        path (Path): The file.
        columns (Columns): The names of the columns.
        separator (str): One character between the columns.
        quote (str, optional): The character around fields that hold a
            separator; :obj:`None` if fields are never quoted.
        plain_name (Callable): Maps a name in the header to the name that
            :obj:`columns` uses.
    """
    import polars as pl

    options: dict[str, Any] = {"separator": separator, "quote_char": quote,
                               "infer_schema": False}
    try:
        header = pl.read_csv(path, n_rows=0, **options).columns
        try:
            wanted = _select(header, columns, path, plain_name)
        except DataError:
            check_utf8(path, _text(path))  # the better reason, if it is one
            raise
        # All columns are read, although few are kept: polars notices a row
        # of too many fields, whose ids would be shifted, only then.
        frame = pl.read_csv(path, **options)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _explain(path, separator, quote, error) from error
    frame = frame.select(pl.col(column).alias(key)
                         for column, key in wanted.items())
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if blank.any():
        keep = ~_blank_rows(path, separator, quote, frame.height)
        frame = frame.filter(keep)
    return frame


def _read_parquet(path: Path, columns: Columns) -> pl.DataFrame:
    import polars as pl

    try:
        wanted = _select(list(pl.read_parquet_schema(path)), columns, path)
        frame = pl.read_parquet(path, columns=list(wanted))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException,
            OSError) as error:
        reason = (str(error).splitlines() or ["broken"])[0]
        raise DataError(f"'{path}' cannot be read as Parquet "
                        f"({reason})") from error
    return frame.select(pl.col(column).alias(key)
                        for column, key in wanted.items())


def _select(
    header: list[str],
    columns: Columns,
    path: Path,
    plain_name: Callable[[str], str] = str,
) -> dict[str, str]:
    """Returns the column in the file for each use, as {column: use}."""
    plain = {plain_name(column): column for column in header}
    # polars renames the second column of a name.
    twice = Counter(plain_name(column.removesuffix("_duplicated_0"))
                    for column in header)
    wanted: dict[str, str] = {}
    for key, column in columns.named().items():
        if column in plain and twice[column] > 1:
            raise DataError(f"'data.{key}_column' needs to be one column of "
                            f"'{path}', which has several of this name (got "
                            f"'{column}')")
        if column not in plain:
            raise DataError(f"'data.{key}_column' needs to be a column of "
                            f"'{path}', which has: {', '.join(plain)} "
                            f"(got '{column}')")
        if plain[column] in wanted:
            raise DataError(f"'data.{key}_column' and "
                            f"'data.{wanted[plain[column]]}_column' need to "
                            f"be different columns (got '{column}')")
        wanted[plain[column]] = key
    return wanted


def check_separator(separator: str) -> str:
    r"""Returns the character that :obj:`data.separator` means.

    Raises:
        DataError: If it is not one character of one byte.
    """
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator.encode()) != 1 or separator in '"\r\n':
        raise DataError(f"'data.separator' needs to be one character, "
                        f"such as , or ; or \\t (got '{separator}')")
    return separator


def _separator(path: Path, separator: Optional[str]) -> str:
    if separator is not None:
        return check_separator(separator)
    if path.suffix.lower() in _TAB_SEPARATED:
        return "\t"
    header = _text(path).partition(b"\n")[0]
    counts = {mark: header.count(mark.encode()) for mark in "\t,;|"}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else ","


def _blank_rows(path: Path, separator: str, quote: Optional[str],
                num_rows: int) -> np.ndarray:
    # A blank line reads as a row of nothing, and so does a line like ",,5"
    # whose ids are missing. Only the text tells them apart.
    blank = np.zeros(num_rows, dtype=bool)
    rows = _records(path, separator, quote)
    try:
        next(rows, None)
        for number, row in enumerate(rows):
            if number < num_rows:
                blank[number] = not row
    except csv.Error as error:
        raise DataError(f"'{path}', line {rows.line_num}: cannot be read as "
                        f"delimited text ({error})") from error
    return blank


def _text(path: Path) -> bytes:
    content = read_bytes(path)
    if content.startswith(b"\x1f\x8b"):
        try:
            return gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"'{path}' is a broken gzip file "
                            f"({error})") from error
    return content


def _records(path: Path, separator: str, quote: Optional[str]) -> Any:
    text = io.StringIO(check_utf8(path, _text(path)), newline="")
    if quote is None:
        return csv.reader(text, delimiter=separator, quoting=csv.QUOTE_NONE)
    return csv.reader(text, delimiter=separator, quotechar=quote)


def _explain(path: Path, separator: str, quote: Optional[str],
             error: Exception) -> DataError:
    # Read the text once more, slowly, to say in which line it breaks.
    if path.stat().st_size == 0:
        return DataError(f"'{path}' is empty (needed: a header line and one "
                         f"interaction a row)")
    try:
        rows = _records(path, separator, quote)
        width = len(next(rows, []))
        for row in rows:
            if len(row) > width:
                return DataError(f"'{path}', line {rows.line_num}: has "
                                 f"{len(row)} fields, but the header has "
                                 f"{width}")
    except DataError as found:
        return found
    except csv.Error:
        pass
    reason = str(error).splitlines()[0]
    return DataError(f"'{path}' cannot be read as delimited text ({reason})")


def _plain(series: pl.Series, key: str, path: Path,
           column: str) -> pl.Series:
    """Returns a column, categories as text, if its type can say what it is
    for.
    """
    import polars as pl

    kind = series.dtype
    if kind in (pl.Categorical, pl.Enum):
        return series.cast(pl.String)
    wanted = {"rating": "numbers", "time": "numbers or dates"}.get(
        key, "integers or text")
    is_date = kind in (pl.Date, pl.Datetime) and key != "rating"
    if not (kind in (pl.String, pl.Boolean, pl.Null) or kind.is_numeric()
            or is_date):
        raise DataError(f"'data.{key}_column' needs to be a column of "
                        f"{wanted} (got '{column}' of '{path}', of type "
                        f"{kind})")
    return series


def _missing(series: pl.Series) -> pl.Series:
    import polars as pl

    missing = series.is_null()
    if series.dtype.is_float():
        return missing | series.is_nan().fill_null(True)
    if series.dtype == pl.String:
        text = series.str.strip_chars().str.to_lowercase()
        return missing | text.is_in(["", "nan"]).fill_null(True)
    return missing


def _refuse(bad: pl.Series, path: Path, sentence: str) -> None:
    if bad.any():
        row = bad.arg_true()[0] + 1
        raise DataError(f"'{path}', data row {row}: {sentence}")


def _number(series: pl.Series, path: Path,
            column: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct ids, ascending, and the row number of each."""
    import polars as pl

    if series.dtype == pl.String:
        series = series.str.strip_chars()
        distinct = series.unique()
        if distinct.str.contains(_INTEGER).all():
            series = series.cast(pl.Int64)
    elif series.dtype.is_float():
        whole = (series == series.round()) & (series.abs() < 2.0**63)
        series = series.cast(pl.Int64 if whole.all() else pl.String,
                             strict=False)
    elif series.dtype.is_integer():
        number = series.cast(pl.Int64, strict=False)
        fits = number.null_count() == 0
        series = number if fits else series.cast(pl.String)
    else:
        series = series.cast(pl.String)
    if series.dtype == pl.Int64:
        numbers = series.to_numpy()
        if numbers.min() < 0:
            row = int(np.argmax(numbers < 0))
            raise DataError(f"'{path}': integer ids need to be 0 or above "
                            f"(got {numbers[row]} in column '{column}')")
        ids, rows = np.unique(numbers, return_inverse=True)
        return ids, rows
    distinct = series.unique().sort()
    rows = series.cast(pl.Enum(distinct)).to_physical().to_numpy()
    return np.array(distinct.to_list(), dtype=object), rows.astype(np.int64)


def _numbers(series: pl.Series, path: Path, column: str) -> np.ndarray:
    import polars as pl

    _refuse(_missing(series), path,
            f"the rating is missing or NaN (column '{column}')")
    if series.dtype == pl.String:
        series = series.str.strip_chars()
    values = series.cast(pl.Float64, strict=False)
    _refuse(~values.is_finite().fill_null(False), path,
            f"the rating is not a number (column '{column}')")
    return values.to_numpy()


def _times(series: pl.Series, path: Path, column: str) -> np.ndarray:
    import polars as pl

    _refuse(_missing(series), path,
            f"the time is missing or NaN (column '{column}')")
    if series.dtype == pl.String:
        text = series.str.strip_chars()
        for kind in (pl.Int64, pl.Float64):
            series = text.cast(kind, strict=False)
            if series.null_count() == 0:
                break
        else:  # what reads most of the rows tells which one is wrong
            series = min((series, _dates(text)),
                         key=lambda read: read.null_count())
    elif series.dtype.is_temporal():
        series = series.cast(pl.Datetime("us")).to_physical()
    else:
        kind = pl.Int64 if series.dtype.is_integer() else pl.Float64
        series = series.cast(kind, strict=False)
    bad = series.is_null()
    if series.dtype.is_float():
        bad = ~series.is_finite().fill_null(False)
    _refuse(bad, path, f"the time is neither a number nor a date "
            f"(column '{column}')")
    return series.to_numpy()


def _dates(text: pl.Series) -> pl.Series:
    import polars as pl

    try:
        dates = text.str.to_datetime(time_unit="us", strict=False)
    except pl.exceptions.PolarsError:  # no date format fits any row
        return pl.Series(values=[None] * len(text), dtype=pl.Int64)
    return dates.to_physical()


def _titles(series: pl.Series, items: np.ndarray,
            num_items: int) -> list[str]:
    import polars as pl

    titles = [""] * num_items
    # The smallest of an item's titles: the order of rows must not matter.
    best = (pl.DataFrame({"item": items, "title": series.cast(pl.String)})
            .drop_nulls().group_by("item").agg(pl.col("title").min()))
    for item, title in best.iter_rows():
        titles[item] = title
    return titles
