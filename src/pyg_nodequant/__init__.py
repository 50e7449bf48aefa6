r"""Node-aware quantized embeddings for PyTorch Geometric recommenders.

The names below are loaded when they are first used, so that
:obj:`import pyg_nodequant`, and everything that only serves a packed file,
works on a machine where torch is not installed.

Example:
    >>> import pyg_nodequant
    >>> "PackedRecommender" in dir(pyg_nodequant)
    True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import NodeQuantConfig as NodeQuantConfig
    from .convert import convert_ as convert_
    from .convert import quantize_ as quantize_
    from .data import Interactions as Interactions
    from .nn import BitWidthController as BitWidthController
    from .nn import NodeAwareQuantEmbedding as NodeAwareQuantEmbedding
    from .nn import NodeAwareQuantizer as NodeAwareQuantizer
    from .nn import PackedEmbedding as PackedEmbedding
    from .nn import PackedMIPSIndex as PackedMIPSIndex
    from .nn import QuantLightGCN as QuantLightGCN
    from .runtime import PackedRecommender as PackedRecommender
    from .runtime import PackedTable as PackedTable
    from .training import Trainer as Trainer

__version__ = "0.1.0"

# Public name -> the module that holds it.
_HOMES = {
    "BitWidthController": "nn",
    "Interactions": "data",
    "NodeAwareQuantEmbedding": "nn",
    "NodeAwareQuantizer": "nn",
    "NodeQuantConfig": "config",
    "PackedEmbedding": "nn",
    "PackedMIPSIndex": "nn",
    "PackedRecommender": "runtime",
    "PackedTable": "runtime",
    "QuantLightGCN": "nn",
    "Trainer": "training",
    "convert_": "convert",
    "quantize_": "convert",
}

__all__ = [
    "BitWidthController",
    "Interactions",
    "NodeAwareQuantEmbedding",
    "NodeAwareQuantizer",
    "NodeQuantConfig",
    "PackedEmbedding",
    "PackedMIPSIndex",
    "PackedRecommender",
    "PackedTable",
    "QuantLightGCN",
    "Trainer",
    "convert_",
    "quantize_",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # found without this function the next time
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
