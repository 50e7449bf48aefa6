r"""Torch modules: parameters, shapes and repr; the maths is in functional."""

from pyg_nodequant.nn.controller import BitWidthController
from pyg_nodequant.nn.embedding import NodeAwareQuantEmbedding
from pyg_nodequant.nn.lightgcn import QuantLightGCN
from pyg_nodequant.nn.quantizer import NodeAwareQuantizer, RowCodes

__all__ = [
    "BitWidthController",
    "NodeAwareQuantEmbedding",
    "NodeAwareQuantizer",
    "QuantLightGCN",
    "RowCodes",
]
