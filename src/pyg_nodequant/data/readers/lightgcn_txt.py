"""The text format of the LightGCN and NGCF data sets."""

from __future__ import annotations

from typing import Optional

import numpy as np

from pyg_nodequant.data.assemble import assemble, compact
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers.files import PathLike, existing_folder
from pyg_nodequant.data.readers.integers import read_integers

_FILES = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}


def read_lightgcn_txt(
    path: PathLike,
    *,
    test_fraction: float = 0.2,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    name: Optional[str] = None,
) -> Interactions:
    r"""Reads a folder with ``train.txt`` and, where they exist, ``test.txt``
    and ``valid.txt``; what is absent is carved from ``train.txt``.

    Each line is a user and the items of this user, ``user item item ...``,
    all integers from 0. Ids may have gaps: rows are numbered without gaps and
    the original ids are kept. A user may have no items and may have several
    lines; every user that a line names is counted.

    Args:
        path (str or Path): The folder.
        test_fraction (float): Share held out for testing without
            ``test.txt``.
        val_fraction (float): Share of the rest held out for validation
            without ``valid.txt``.
        split_seed (int): Seed of what is carved.
        name (str, optional): Default: the name of the folder.

    Raises:
        DataError: If a file is absent, empty or holds anything but
            non-negative integers.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "train.txt").write_text("0 10 30\n5 30\n")
        >>> _ = (folder / "test.txt").write_text("5 10\n")
        >>> data = read_lightgcn_txt(folder, val_fraction=0, name="tiny")
        >>> data
        Interactions('tiny', 2 users, 2 items, train=3, val=0, test=1)
        >>> data.user_ids.tolist(), data.item_ids.tolist()
        ([0, 5], [10, 30])
    """
    folder = existing_folder(path)
    if not (folder / "train.txt").is_file():
        raise DataError(f"the folder '{folder}' has no train.txt (needed: "
                        f"train.txt, and test.txt and valid.txt where they "
                        f"exist)")
    lines: list[np.ndarray] = []  # the user of each line, even without items
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    parts = [part for part, file in _FILES.items()
             if (folder / file).is_file()]
    for part in parts:
        here = _read_lists(folder / _FILES[part])
        lines.append(here[0])
        users.append(here[1])
        items.append(here[2])
    if items[0].size == 0:
        raise DataError(f"'{folder / 'train.txt'}' holds no interactions")
    user_ids, user_rows = compact(*users, *lines)
    item_ids, item_rows = compact(*items)
    return assemble(
        {part: (user_rows[i], item_rows[i]) for i, part in enumerate(parts)},
        user_ids,
        item_ids,
        test_fraction=test_fraction,
        val_fraction=val_fraction,
        split_seed=split_seed,
        name=folder.resolve().name if name is None else name,
    )


def _read_lists(
        path: PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, lines = read_integers(path)
    is_user = np.ones(values.size, dtype=bool)
    is_user[1:] = lines[1:] != lines[:-1]
    place = np.flatnonzero(is_user)
    num_items = np.diff(place, append=values.size) - 1
    line_users = values[place]
    return line_users, np.repeat(line_users, num_items), values[~is_user]
