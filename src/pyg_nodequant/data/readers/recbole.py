"""RecBole's atomic ``.inter`` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers.files import PathLike, existing_file
from pyg_nodequant.data.readers.table import (
    DEFAULT_COLUMNS,
    Columns,
    check_separator,
    read_delimited,
    table_interactions,
)


def read_recbole(
    path: PathLike,
    columns: Columns = DEFAULT_COLUMNS,
    *,
    min_rating: Optional[float] = None,
    separator: Optional[str] = None,
    name: Optional[str] = None,
    **split: Any,
) -> Interactions:
    r"""Reads a RecBole ``.inter`` file, or the only one of a folder.

    The header names each column with its type, ``user_id:token``, and the
    columns are separated by tabs; :obj:`columns` uses the names without the
    types.

    Args:
        path (str or Path): The file, or a folder with one such file.
        columns (Columns): The names of the columns.
        min_rating (float, optional): Rows with a lower rating are dropped and
            counted.
        separator (str, optional): One character between the columns instead
            of a tab.
        name (str, optional): Default: the file's name without its ending.
        **split (optional): :obj:`split`, :obj:`test_fraction`,
            :obj:`val_fraction` and :obj:`split_seed` as in
            :func:`~pyg_nodequant.data.readers.read_table`.

    Raises:
        DataError: If the file, its header, a column or a value cannot be
            used.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "tiny.inter"
        >>> _ = file.write_text("user_id:token\titem_id:token\n1\ta\n2\ta\n")
        >>> read_recbole(file, test_fraction=0, val_fraction=0)
        Interactions('tiny', 2 users, 1 items, train=2, val=0, test=0)
    """
    path = _inter_file(Path(path))
    _check_header(path)
    mark = "\t" if separator is None else check_separator(separator)
    frame = read_delimited(path, columns, mark, quote=None,
                           plain_name=_plain_name)
    return table_interactions(
        frame, path, columns, min_rating=min_rating,
        name=path.stem if name is None else name, **split)


def _inter_file(path: Path) -> Path:
    if not path.is_dir():
        return existing_file(path)
    files = sorted(path.glob("*.inter"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"the folder '{path}' needs to hold one .inter file, "
                        f"or 'data.path' needs to name it (found: {found})")
    return files[0]


def _plain_name(column: str) -> str:
    return column.partition(":")[0]


def _check_header(path: Path) -> None:
    with path.open("rb") as file:
        header = file.readline(1 << 16)
    if b":" not in header:
        raise DataError(f"'{path}', line 1: a RecBole header names each "
                        f"column with its type, such as user_id:token "
                        f"(got '{header.decode(errors='replace').strip()}')")
