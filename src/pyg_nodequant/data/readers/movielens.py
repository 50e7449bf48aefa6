"""The original files of MovieLens 100K and 1M."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np

from pyg_nodequant.data.assemble import assemble, compact
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers.files import (
    PathLike,
    existing_folder,
    read_bytes,
)
from pyg_nodequant.data.readers.integers import read_integer_columns

# ratings, what separates them, titles, what separates those
_FORMS = (
    ("u.data", b"", "u.item", "|"),
    ("ratings.dat", b":", "movies.dat", "::"),
)


def read_movielens(
    path: PathLike,
    *,
    min_rating: Optional[float] = None,
    name: Optional[str] = None,
    **split: Any,
) -> Interactions:
    r"""Reads ``u.data`` (100K) or ``ratings.dat`` (1M) of a folder, with the
    titles of ``u.item`` or ``movies.dat`` where they are.

    Every rating is a positive interaction, whatever its value.

    Args:
        path (str or Path): The folder.
        min_rating (float, optional): Lower ratings are dropped and counted.
        name (str, optional): Default: the name of the folder.
        **split (optional): :obj:`split`, :obj:`test_fraction`,
            :obj:`val_fraction` and :obj:`split_seed` as in
            :func:`~pyg_nodequant.data.readers.read_table`.

    Raises:
        DataError: If the files are absent or broken.
    """
    folder = existing_folder(path)
    found = [form for form in _FORMS if (folder / form[0]).is_file()]
    if not found:
        raise DataError(f"the folder '{folder}' has neither u.data nor "
                        f"ratings.dat")
    ratings, mark, titles, title_mark = found[0]
    table = read_integer_columns(folder / ratings, 4, mark,
                                 "user item rating time")
    counts = {"rows_read": len(table)}
    if min_rating is not None:
        keep = table[:, 2] >= min_rating
        counts["ratings_below_min"] = int((~keep).sum())
        if not keep.any():
            raise DataError(f"'data.min_rating' needs to leave interactions: "
                            f"the largest rating in '{folder / ratings}' is "
                            f"{table[:, 2].max()} (got {min_rating:g})")
        table = table[keep]
    user_ids, (users, ) = compact(table[:, 0])
    item_ids, (items, ) = compact(table[:, 1])
    return assemble(
        {"train": (users, items)}, user_ids, item_ids, times=table[:, 3],
        item_titles=_titles(folder / titles, title_mark, item_ids),
        counts=counts,
        name=folder.resolve().name if name is None else name, **split)


def _titles(path: Path, mark: str,
            item_ids: np.ndarray) -> Optional[list[str]]:
    if not path.is_file():
        return None
    titles: dict[int, str] = {}
    # These files are from before UTF-8 was common; Latin-1 never fails.
    # Split by hand, as Latin-1 has a character that `splitlines` splits at.
    for line in read_bytes(path).decode("latin-1").split("\n"):
        number, _, rest = line.partition(mark)
        if number.isascii() and number.isdigit():
            titles[int(number)] = rest.partition(mark)[0].rstrip("\r")
    return [titles.get(item, "") for item in item_ids.tolist()]
