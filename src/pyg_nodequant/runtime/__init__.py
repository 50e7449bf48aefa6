r"""Packed rows on disk and in memory, and top-k from them, without torch."""

from pyg_nodequant.runtime.atomic import write_atomic
from pyg_nodequant.runtime.catalogue import Catalogue, UnknownIdError
from pyg_nodequant.runtime.file_format import (
    PackedFileError,
    PackedFormatError,
)
from pyg_nodequant.runtime.float_table import FloatTable
from pyg_nodequant.runtime.graph import PackedGraph
from pyg_nodequant.runtime.recommender import PackedRecommender
from pyg_nodequant.runtime.row_classes import RowClasses
from pyg_nodequant.runtime.table import PackedTable

__all__ = [
    "Catalogue",
    "FloatTable",
    "PackedFileError",
    "PackedFormatError",
    "PackedGraph",
    "PackedRecommender",
    "PackedTable",
    "RowClasses",
    "UnknownIdError",
    "write_atomic",
]
