"""Interactions: read, downloaded or made up, split, and sampled."""

from __future__ import annotations

from pyg_nodequant.data.assemble import assemble
from pyg_nodequant.data.datasets import NAMED_SETS, load_named
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.hetero import from_hetero, to_hetero
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.load import DATA_NAMES, load_interactions
from pyg_nodequant.data.readers import (
    read_lightgcn_txt,
    read_movielens,
    read_recbole,
    read_table,
)
from pyg_nodequant.data.readers.table import Columns
from pyg_nodequant.data.sampler import BPRSampler
from pyg_nodequant.data.synthetic import synthetic_interactions

__all__ = [
    "DATA_NAMES",
    "NAMED_SETS",
    "BPRSampler",
    "Columns",
    "DataError",
    "Interactions",
    "assemble",
    "from_hetero",
    "load_interactions",
    "load_named",
    "read_lightgcn_txt",
    "read_movielens",
    "read_recbole",
    "read_table",
    "synthetic_interactions",
    "to_hetero",
]
