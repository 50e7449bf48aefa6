r"""Torch modules: parameters, shapes and repr; the maths is in functional."""

from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.embedding import NodeAwareQuantEmbedding
from pyg_nodequant.nn.faiss_index import to_faiss
from pyg_nodequant.nn.graph_quantizer import GraphQuantizer
from pyg_nodequant.nn.lightgcn import QuantLightGCN
from pyg_nodequant.nn.packed import PackedEmbedding
from pyg_nodequant.nn.packed_index import PackedMIPSIndex
from pyg_nodequant.nn.packed_topk import packed_topk
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer, RowCodes
from pyg_nodequant.nn.soft_axis_rows import SoftAxisRows
from pyg_nodequant.nn.stored_scale import StoredScale
from pyg_nodequant.nn.stored_table import stored_table
from pyg_nodequant.nn.transform_rows import AxisCodes, TransformRows
from pyg_nodequant.nn.weight import NodeAwareQuantWeight

__all__ = [
    "AxisCodes",
    "BitWidthController",
    "GraphQuantizer",
    "NodeAwareQuantEmbedding",
    "NodeAwareQuantWeight",
    "NodeAwareQuantizer",
    "PackedEmbedding",
    "PackedMIPSIndex",
    "QuantLightGCN",
    "RowCodes",
    "SoftAxisRows",
    "StoredScale",
    "TransformRows",
    "packed_topk",
    "stored_table",
    "to_faiss",
]
