"""From settings to interactions."""

from __future__ import annotations

from typing import Any

from pyg_nodequant.config import DataConfig
from pyg_nodequant.data.datasets import NAMED_SETS, load_named
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers import (
    read_lightgcn_txt,
    read_recbole,
    read_table,
)
from pyg_nodequant.data.readers.table import Columns
from pyg_nodequant.data.synthetic import synthetic_interactions

_NEEDED = {
    "csv": "a CSV, TSV or Parquet file",
    "lightgcn_txt": "a folder with train.txt",
    "recbole": "a .inter file",
}
DATA_NAMES = ("synthetic", *_NEEDED, *NAMED_SETS)


def load_interactions(config: DataConfig) -> Interactions:
    r"""Reads, downloads or makes up what :obj:`config` asks for.

    Args:
        config (DataConfig): The settings; :obj:`config.name` chooses.

    Raises:
        DataError: If the data cannot be used, or a setting does not fit the
            data.

    Example:
        >>> load_interactions(DataConfig(num_users=20, num_items=30,
        ...                              num_interactions=200)).num_nodes
        50
    """
    name = config.name
    if name not in DATA_NAMES:
        raise DataError(f"'data.name' needs to be one of "
                        f"{', '.join(DATA_NAMES)} (got '{name}')")
    if name in _NEEDED and not config.path:
        raise DataError(f"'data.path' needs to name {_NEEDED[name]} for "
                        f"'data.name' = {name} (got {config.path!r})")
    if name not in _NEEDED and config.path:
        raise DataError(f"'data.path' cannot be used with 'data.name' = "
                        f"{name} (use csv, lightgcn_txt or recbole to read "
                        f"'{config.path}')")
    fractions: dict[str, Any] = {
        "test_fraction": config.test_fraction,
        "val_fraction": config.val_fraction,
        "split_seed": config.split_seed,
    }
    if name == "synthetic":
        if config.min_rating is not None:
            raise DataError("'data.min_rating' cannot be used with "
                            "synthetic, which has no ratings")
        return synthetic_interactions(
            config.num_users, config.num_items, config.num_interactions,
            data_seed=config.data_seed, split=config.split, **fractions)
    if name in NAMED_SETS:
        return load_named(name, config.root, config.cache_dir,
                          min_rating=config.min_rating, split=config.split,
                          **fractions)
    path = str(config.path)
    if name == "lightgcn_txt":
        if config.split != "random":
            raise DataError(f"'data.split' needs to be random for "
                            f"lightgcn_txt, which has no times "
                            f"(got '{config.split}')")
        if config.min_rating is not None:
            raise DataError("'data.min_rating' cannot be used with "
                            "lightgcn_txt, which has no ratings")
        return read_lightgcn_txt(path, **fractions)
    columns = Columns(config.user_column, config.item_column,
                      config.rating_column, config.time_column,
                      config.title_column)
    read = read_table if name == "csv" else read_recbole
    return read(path, columns, min_rating=config.min_rating,
                separator=config.separator, split=config.split, **fractions)
