r"""From what is stored of rows to a packed table."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from torch import Tensor

from pyg_nodequant.nn.quantizer import RowCodes
from pyg_nodequant.runtime import PackedTable


def stored_table(stored: RowCodes,
                 rows: Optional[slice] = None) -> PackedTable:
    r"""Packs what a :class:`~pyg_nodequant.NodeAwareQuantizer` stores.

    Args:
        stored (RowCodes): The rows.
        rows (slice, optional): Those to pack. (default: :obj:`None`, all)

    Raises:
        ValueError: If their scales are logarithms on several grids: a table
            has one.

    Example:
        >>> import torch
        >>> from pyg_nodequant import NodeAwareQuantizer
        >>> quantizer = NodeAwareQuantizer(3, 4).eval()
        >>> x = torch.randn(3, 4)
        >>> table = stored_table(quantizer.encode(x))
        >>> torch.allclose(torch.tensor(table.dequantize()), quantizer(x))
        True
    """
    part = slice(None) if rows is None else rows

    def array(values: Optional[Tensor]) -> Any:
        return None if values is None else values[part].cpu().numpy()

    grids, log = array(stored.grids), None
    if grids is not None and len(grids):
        log = grids[0]
        if not np.array_equal(grids, np.broadcast_to(log, grids.shape)):
            raise ValueError("a table needs scales on one grid (got rows of "
                             "several groups, each with its own)")
    # Rows of width 0 read the shared row if their scale says so.
    centre = stored.centre
    if centre is not None:
        reads = (stored.widths[part] == 0) & (stored.scale[part] != 0)
        centre = centre if bool(reads.any()) else None
    return PackedTable.from_codes(
        array(stored.codes), array(stored.widths), scale=array(stored.scale),
        offset=array(stored.offset), centered=stored.offset is None,
        scale_dtype="float16" if grids is None else "log8",
        groups=array(stored.groups), log=log,
        centre=None if centre is None else centre.cpu().numpy())
