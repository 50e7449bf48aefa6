"""Public data sets, by name."""

from __future__ import annotations

from pyg_nodequant.data.datasets.named import NAMED_SETS, load_named

__all__ = ["NAMED_SETS", "load_named"]
