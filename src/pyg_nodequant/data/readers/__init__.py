"""Readers: from files to :class:`~pyg_nodequant.data.Interactions`."""

from __future__ import annotations

from pyg_nodequant.data.readers.lightgcn_txt import read_lightgcn_txt
from pyg_nodequant.data.readers.movielens import read_movielens
from pyg_nodequant.data.readers.recbole import read_recbole
from pyg_nodequant.data.readers.table import read_table

__all__ = [
    "read_lightgcn_txt",
    "read_movielens",
    "read_recbole",
    "read_table",
]
